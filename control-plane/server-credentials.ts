// The certificates of the ports that sidecars and operators reach, renewed while they serve.
import type { Clock } from "../sidecar/core/runtime/clock.ts";
import { messageOf } from "../sidecar/core/runtime/errors.ts";
import type { Logger } from "../sidecar/core/runtime/log.ts";
import type { ServerMaterial } from "../sidecar/core/runtime/server-tls.ts";
import type { CertificateAuthority } from "./ca/root.ts";
import { runServerIdentity, type ServerIdentity } from "./ca/server-identity.ts";
import { LiveCredentials } from "./discovery/credentials.ts";

export interface ServerCredentials {
  readonly discovery: LiveCredentials;
  readonly bootstrap: LiveCredentials;
  /** Of the last renewal. */
  readonly material: ServerMaterial;
  /** Calls the listener with each renewal from now on; one that throws is logged and keeps what it had. */
  onRenewed(listener: (material: ServerMaterial) => void): void;
  readonly done: Promise<void>;
}

/** Resolves with the first certificate. */
export async function startServerCredentials(
  ca: CertificateAuthority,
  { log, clock }: { readonly log: Logger; readonly clock: Clock },
  signal: AbortSignal,
): Promise<ServerCredentials> {
  const first = Promise.withResolvers<ServerMaterial>();
  const listeners: ((material: ServerMaterial) => void)[] = [];
  let material: ServerMaterial | undefined;
  const onIdentity = ({ certificateChainPem, keyPem, caPem }: ServerIdentity): void => {
    const isFirst = material === undefined;
    material = { certificateChainPem, keyPem, rootsPem: caPem };
    if (isFirst) first.resolve(material);
    if (isFirst) return;
    for (const listener of listeners) {
      try {
        listener(material);
      } catch (error) {
        log.error("a port keeps its old certificate", { error: messageOf(error) });
      }
    }
    log.info("server certificate renewed");
  };
  const done = runServerIdentity({ ca, clock, log, random: Math.random, onIdentity }, signal);
  done.catch((error: unknown) => first.reject(error));
  const initial = await first.promise;
  const discovery = new LiveCredentials(initial, true);
  const bootstrap = new LiveCredentials(initial, false);
  listeners.push(
    (next) => discovery.rotate(next),
    (next) => bootstrap.rotate(next),
  );
  return {
    discovery,
    bootstrap,
    get material() {
      return material ?? initial;
    },
    onRenewed: (listener) => void listeners.push(listener),
    done,
  };
}
