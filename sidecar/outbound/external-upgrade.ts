// A WebSocket towards a host outside the mesh: which upgrades are carried there, and what is asked for in the words of
// HTTP/1.1, with a key of this hop's own.
import {
  isWebSocketKey,
  upgradeOf,
  WEBSOCKET,
  WEBSOCKET_HOP_FIELDS,
  webSocketAccept,
} from "../core/http/websocket.ts";
import type { Field } from "../wire/field.ts";
import type { OutboundHead } from "./app-side.ts";
import type { HostAnswer } from "./external-place.ts";
import { STRIPPED } from "./mesh-request.ts";

/** The handshake of one WebSocket with its host. */
export interface HostHandshake {
  /** `Sec-WebSocket-Accept` that agrees. */
  readonly accept: string;
  /** Lines of the request's head. */
  readonly lines: string;
}

/** Why a request cannot be carried to a host outside the mesh. */
export interface NotCarried {
  readonly reason: "UNSUPPORTED" | "REQ_MALFORMED";
  readonly detail: string;
}

const CARRIED = "hosts outside the mesh are sent requests and WebSockets (a GET without body)";

/**
 * What a request wants to become.
 *
 * @param keys values of its Sec-WebSocket-Key, as one; of a request over HTTP/2 it does not matter (RFC 8441 section 5).
 * @returns whether it is a WebSocket, or why it is not carried.
 */
export function askedOf(
  { method, upgrade }: Pick<OutboundHead, "method" | "upgrade">,
  request: {
    readonly bodyless: boolean;
    readonly isHttp2: boolean;
    readonly keys: string | undefined;
  },
): boolean | NotCarried {
  const asked = upgradeOf(upgrade);
  if (method === "CONNECT") return unsupported(`${CARRIED}, no tunnels`);
  if (asked === "") return false;
  if (asked !== WEBSOCKET || method !== "GET" || !request.bodyless)
    return unsupported(`${CARRIED}, no other upgrades`);
  return request.isHttp2 || isWebSocketKey(request.keys ?? "")
    ? true
    : { reason: "REQ_MALFORMED", detail: "the handshake has no Sec-WebSocket-Key of 16 bytes" };
}

function unsupported(detail: string): NotCarried {
  return { reason: "UNSUPPORTED", detail };
}

/** @param random 16 bytes. */
export function hostHandshake(random: Buffer): HostHandshake {
  const key = random.toString("base64");
  return {
    accept: webSocketAccept(key),
    lines: `connection: Upgrade\r\nupgrade: ${WEBSOCKET}\r\nsec-websocket-key: ${key}\r\n`,
  };
}

/** The fields of the host's 101 that go on to the application. */
export function agreedFields({ fields, connectionNames }: HostAnswer): readonly Field[] {
  return fields.filter(
    ({ name, flags }) =>
      (flags & STRIPPED) === 0 && !connectionNames.includes(name) && !WEBSOCKET_HOP_FIELDS.has(name),
  );
}
