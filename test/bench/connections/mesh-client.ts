// Connections to a mesh port as another workload's sidecar makes them, with that workload's identity and our codec.
import tls from "node:tls";
import { loadIdentity } from "../../../sidecar/certs/identity-store.ts";
import { clientTlsOptions } from "../../../sidecar/certs/tls-contexts.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import { FieldCache } from "../../../sidecar/wire/field-cache.ts";
import { Http2Connection } from "../../../sidecar/wire/http2/connection.ts";

const cache = new FieldCache();
const WITHIN_MS = 20_000;

/** @param stateDir of a sidecar that has joined. @throws Error when there is no identity in it. */
export async function identityOf(stateDir: string): Promise<WorkloadIdentity> {
  const identity = await loadIdentity(stateDir, Date.now());
  if (!identity.ok || identity.value === undefined) throw new Error(`no identity in ${stateDir}`);
  return identity.value;
}

/** Options of `tls.connect` as a sidecar has them; the context is made once per identity. */
export function meshTls(client: WorkloadIdentity, server: WorkloadIdentity): tls.ConnectionOptions {
  return clientTlsOptions(client, server.spiffeId, () => Date.now(), ["h2"]);
}

/**
 * One full handshake, believed when the server's first bytes are there (its SETTINGS), then the end.
 *
 * @throws Error when the server refuses, or says nothing for 20 s.
 */
export function shakeHands(port: number, options: tls.ConnectionOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ ...options, port, host: "127.0.0.1" });
    socket.setTimeout(WITHIN_MS, () => socket.destroy(new Error("the server said nothing")));
    socket.on("error", reject);
    socket.on("close", () => reject(new Error("the server closed the connection")));
    socket.once("data", () => {
      resolve();
      socket.destroy();
    });
  });
}

/** A connection that had one `GET` answered and is then left open. @throws Error when the answer is not `status`. */
export function openMeshConnection(
  port: number,
  options: tls.ConnectionOptions,
  path: string,
  status: number,
): Promise<tls.TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ ...options, port, host: "127.0.0.1" });
    const fail = (error: Error): void => {
      reject(error);
      socket.destroy();
    };
    const done = (): void => {
      socket.setTimeout(0);
      resolve(socket);
    };
    socket.setTimeout(WITHIN_MS, () => fail(new Error("no answer")));
    socket.on("error", reject);
    socket.on("close", () => reject(new Error("the server closed the connection")));
    const h2 = new Http2Connection<undefined>({
      role: "client",
      cache,
      nowMs: () => performance.now(),
      write: (bytes) => socket.write(bytes),
      requestFlush: () => setImmediate(() => h2.flush()),
      handler: {
        onHeaders: (_stream, fields, endStream) => {
          if (fields[0]?.value !== String(status)) fail(new Error(`answered ${fields[0]?.value}`));
          else if (endStream) done();
        },
        onInformational: () => {},
        onData: (stream, chunk, endStream) => {
          h2.consumed(stream, chunk.length);
          if (endStream) done();
        },
        onTrailers: () => {},
        onReset: (_stream, code) => fail(new Error(`reset with ${code}`)),
        onWritable: () => {},
        onGoaway: () => {},
        onClosed: () => {},
      },
    });
    socket.on("data", (chunk: Buffer) => h2.receive(chunk));
    socket.once("secureConnect", () => {
      const stream = h2.openStream(undefined);
      if (stream === undefined) return fail(new Error("no stream"));
      h2.beginHeaders(stream);
      for (const [name, value] of [
        [":method", "GET"],
        [":scheme", "https"],
        [":authority", "serving"],
        [":path", path],
        ["countersign-port", "8080"],
      ] as const)
        h2.putField(cache.get(name, value));
      h2.endHeaders(true);
    });
  });
}
