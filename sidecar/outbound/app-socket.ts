// A connection of the application to one destination: what is spoken on it, by declaration or by its first bytes, and who
// carries it.
import type { Socket } from "node:net";
import { type Spoken, type SpokenProtocol, sniffSocket } from "../wire/sniff.ts";
import { CREDIT_HIGH_WATER_BYTES, MeshSocket } from "../wire/socket.ts";
import { AppConnection, type AppConnectionDeps } from "./app-connection.ts";
import type { Destination, FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";
import { OutboundTunnel } from "./tunnel.ts";

/** What the listeners know of a connection that they gave away. */
export interface AppConversation {
  /** A request, or the connection itself, is under way. */
  readonly busy: boolean;
  /** Ends what took too long. @param nowMs monotonic. */
  sweep(nowMs: number): void;
  /** Ends what is idle; what is busy ends by itself. */
  drain(): void;
  destroy(): void;
}

export interface ConversationDeps {
  readonly services: OutboundServices;
  readonly fixed: FixedDestination;
  readonly isDraining: () => boolean;
  readonly onClosed: (conversation: AppConversation) => void;
}

/** How long a client may stay silent before it is taken for one that waits for the server. */
export const SNIFF_MS = 100;
/** The same where nothing is carried, so that no server waits to speak: a slow client shall still get the reason in words. */
export const REFUSAL_SNIFF_MS = 1_000;
/** How long a ClientHello may take that has begun. */
export const HELLO_MS = 10_000;

/**
 * What the application speaks to a port.
 *
 * @param socket paused; it stays so, with every byte still to be read.
 * @param isOpaque nothing is looked for where nothing is declared.
 * @returns undefined: not what the port is declared to speak.
 */
export async function spokenTo(
  socket: Socket,
  { port }: Destination,
  isOpaque: boolean,
  { metrics }: OutboundServices,
): Promise<Spoken | undefined> {
  switch (port.protocol) {
    case "http":
    case "tcp":
      return DECLARED[port.protocol];
    case "h2c":
    case "grpc":
      return DECLARED.h2c;
    case "tls": {
      const spoken = await sniffSocket(socket, HELLO_MS);
      return spoken.protocol === "tls" ? spoken : undefined;
    }
    case "auto": {
      const spoken = isOpaque ? DECLARED.tcp : await sniffSocket(socket, SNIFF_MS, HELLO_MS);
      metrics.detected.add(metrics.detected.series(spoken.protocol));
      return spoken;
    }
  }
}

const declared = (protocol: SpokenProtocol): Spoken => ({ protocol, serverName: undefined });
const DECLARED = { http: declared("http"), h2c: declared("h2c"), tcp: declared("tcp") } as const;

/**
 * Gives a connection to what carries its protocol.
 *
 * @param socket paused, made with `allowHalfOpen`.
 */
export function converse(
  socket: Socket,
  spoken: Spoken,
  destination: Destination,
  deps: ConversationDeps,
): AppConversation {
  if (spoken.protocol === "http" || spoken.protocol === "h2c")
    return converseHttp(socket, { ...deps, isHttp2: spoken.protocol === "h2c" });
  const tunnel = new OutboundTunnel(new MeshSocket(socket, CREDIT_HIGH_WATER_BYTES), { ...deps, spoken });
  tunnel.start(destination);
  return tunnel;
}

/** Requests over HTTP/1.1 or HTTP/2, each of which is looked up and answered on its own. */
export function converseHttp(
  socket: Socket,
  deps: Omit<AppConnectionDeps, "onClosed"> & Pick<ConversationDeps, "onClosed">,
): AppConversation {
  const { http2: shared } = deps.services;
  const connection = new AppConnection(new MeshSocket(socket, CREDIT_HIGH_WATER_BYTES, shared), deps);
  socket.resume();
  return connection;
}
