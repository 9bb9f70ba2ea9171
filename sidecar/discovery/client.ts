// The sidecar's end of the discovery stream: mutual TLS to the control plane, Hello, deltas into the store, ACK or
// NACK, resolve, certificate renewal, and reconnecting with backoff. Policy decisions are none of its business.
import { backoffMs } from "../core/runtime/backoff.ts";
import type { Clock } from "../core/runtime/clock.ts";
import { MeshError, messageOf, type Result } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import { type CertificateRequestInput, decodeIdentity, type IdentityMessage } from "./identity-message.ts";
import { decodeLease, encodeReport, type SharedLimits } from "./limit-leases.ts";
import { Receiver } from "./receiver.ts";
import { type Resolution, Resolver } from "./resolver.ts";
import type { ResourceStore } from "./store.ts";
import { type ClientCredentials, isForeignCa, openStream, type StreamHandle } from "./stream.ts";
import type { SidecarTable } from "./table.ts";

export interface DiscoveryClientConfig {
  /** `host:port` of the control plane's discovery port. */
  readonly address: string;
  readonly softwareVersion: string;
  /** Features of policies and resources that this build enforces. */
  readonly features: readonly string[];
  readonly node: string;
  readonly meshPort: number;
  /** Random per process, at most 64 characters. */
  readonly instance: string;
}

export interface DiscoveryClientDeps {
  /** Read at each connection attempt, so that a renewed certificate is used from the next one on. */
  readonly credentials: () => ClientCredentials | Promise<ClientCredentials>;
  readonly store: ResourceStore;
  readonly clock: Clock;
  readonly log: Logger;
  /** In [0, 1). */
  readonly random: () => number;
  /** Puts the table in force. An error is sent as NACK and the last good table stays. */
  readonly onTable: (table: SidecarTable) => Result<void, string>;
  /** Limits that are shared with other replicas; undefined: none are. */
  readonly limits?: SharedLimits;
  /** The stream was established (true) or lost (false). */
  readonly onConnection?: (connected: boolean) => void;
  /** The control plane ended the stream, or refused to begin it, with this code (`identity`, `shutdown`, …). */
  readonly onRefused?: (code: string) => void;
  /** What to do about a control plane of another CA, for the log. */
  readonly foreignCaAdvice?: string;
}

export interface DiscoveryClient {
  readonly connected: boolean;
  /** Server time minus own time, milliseconds; 0 before the first message. */
  clockOffsetMs(): number;
  /** Where this sidecar runs, as the control plane last said; empty: not known. */
  zone(): string;
  /**
   * Asks for a destination. Answers from the table and from a negative cache first; waits at most 2 s. The reason is
   * `NOT_READY` when the control plane cannot be asked.
   *
   * @param host without port; a bare name means a service of the own namespace.
   */
  resolve(host: string, port: number): Promise<Resolution>;
  /** Renews the identity over the stream; rejects with MeshError `not_ready`, `timeout` or `csr_rejected`. */
  requestCertificate(request: CertificateRequestInput, signal?: AbortSignal): Promise<IdentityMessage>;
  /** The next attempt follows without back-off: there are new credentials. */
  reconnect(): void;
  /** Resolves when the client has ended after its signal aborted. */
  readonly done: Promise<void>;
}

interface Waiting {
  readonly resolve: (identity: IdentityMessage) => void;
  readonly reject: (error: MeshError) => void;
}

const RECONNECT = { firstMs: 100, maxMs: 10_000 };
const WELCOME_TIMEOUT_MS = 10_000;
const CERTIFICATE_TIMEOUT_MS = 15_000;
const MISSED_HEARTBEATS = 3;
const LIMIT_REPORT_MS = 1_000;
/** A stream that lived this long was good: the next attempt starts over with the shortest delay. */
const GOOD_STREAM_MS = 10_000;

class Client implements DiscoveryClient {
  readonly #config: DiscoveryClientConfig;
  readonly #deps: DiscoveryClientDeps;
  readonly #receiver: Receiver;
  readonly #resolver: Resolver;
  readonly #certificates = new Map<number, Waiting>();
  readonly done: Promise<void>;
  #stream: StreamHandle | undefined;
  #connected = false;
  #offsetMs = 0;
  #zone = "";
  #heartbeatMs = 5_000;
  #lastMessageMs = 0;
  #lastRequestId = 0;
  #pause = new AbortController();

  constructor(config: DiscoveryClientConfig, deps: DiscoveryClientDeps, signal: AbortSignal) {
    this.#config = config;
    this.#deps = deps;
    this.#receiver = new Receiver({ ...deps, onApplied: (table) => this.#resolver.tableChanged(table) });
    this.#resolver = new Resolver({
      clock: deps.clock,
      table: () => deps.store.table,
      ask: (id, host, port) => {
        if (!this.#connected || !this.#stream) return false;
        this.#stream.send({ resolve: { id, host, port } });
        return true;
      },
    });
    this.done = this.#run(signal);
  }

  get connected(): boolean {
    return this.#connected;
  }

  clockOffsetMs(): number {
    return this.#offsetMs;
  }

  zone(): string {
    return this.#zone;
  }

  resolve(host: string, port: number): Promise<Resolution> {
    return this.#resolver.resolve(host, port);
  }

  reconnect(): void {
    this.#pause.abort();
  }

  async requestCertificate(request: CertificateRequestInput, signal?: AbortSignal): Promise<IdentityMessage> {
    const stream = this.#stream;
    if (!this.#connected || !stream)
      throw new MeshError("not_ready", "not connected to the control plane, certificate not renewed");
    this.#lastRequestId += 1;
    const id = this.#lastRequestId;
    const timer = new AbortController();
    const abort = (): void => timer.abort();
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return await new Promise<IdentityMessage>((resolve, reject) => {
        this.#certificates.set(id, { resolve, reject });
        stream.send({
          certificateRequest: {
            id,
            csrDer: request.csrDer,
            tokenJwk: request.tokenJwk,
            tokenKeyProof: request.tokenKeyProof,
          },
        });
        void this.#deps.clock
          .sleep(CERTIFICATE_TIMEOUT_MS, timer.signal)
          .then(() =>
            reject(new MeshError("timeout", "the control plane did not answer the certificate request")),
          );
      });
    } finally {
      this.#certificates.delete(id);
      signal?.removeEventListener("abort", abort);
      timer.abort();
    }
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { clock, log, random } = this.#deps;
    let attempt = 0;
    while (!signal.aborted) {
      const startedMs = clock.monotonicMs();
      const reason = await this.#connect(signal);
      if (signal.aborted) return;
      if (clock.monotonicMs() - startedMs > GOOD_STREAM_MS) attempt = 0;
      const delayMs = backoffMs(attempt, RECONNECT, random());
      attempt += 1;
      log.info("discovery stream lost", {
        address: this.#config.address,
        reason: readableReason(reason, this.#deps.foreignCaAdvice),
        retryInMs: Math.round(delayMs),
      });
      await clock.sleep(delayMs, AbortSignal.any([signal, this.#pause.signal]));
      this.#pause = new AbortController();
    }
  }

  /** One stream from beginning to end. @returns why it ended. */
  async #connect(signal: AbortSignal): Promise<string> {
    const { clock, credentials, store } = this.#deps;
    const ended = new AbortController();
    let reason = "closed by the control plane";
    const end = (why: string): void => {
      if (ended.signal.aborted) return;
      reason = why;
      ended.abort();
    };
    const onAbort = (): void => end("stopping");
    signal.addEventListener("abort", onAbort, { once: true });
    this.#receiver.reset();
    this.#lastMessageMs = clock.monotonicMs();
    try {
      const stream = await openStream(this.#config.address, await credentials(), {
        onMessage: (message) => {
          this.#lastMessageMs = clock.monotonicMs();
          if (message.refused) {
            end(`${message.refused.code}: ${message.refused.message}`);
            this.#deps.onRefused?.(message.refused.code);
          } else this.#receive(message);
        },
        onEnd: end,
      });
      this.#stream = stream;
      this.#deps.limits?.begin(clock.monotonicMs());
      if (!ended.signal.aborted) this.#greet(stream);
      void this.#reportLimits(stream, ended.signal);
      while (!ended.signal.aborted) {
        const limitMs = this.#connected ? this.#heartbeatMs * MISSED_HEARTBEATS : WELCOME_TIMEOUT_MS;
        const leftMs = this.#lastMessageMs + limitMs - clock.monotonicMs();
        if (leftMs <= 0) end(this.#connected ? "no heartbeat" : "no answer to the hello");
        else await clock.sleep(leftMs, ended.signal);
      }
      await stream.close();
    } catch (error) {
      reason = messageOf(error);
    } finally {
      signal.removeEventListener("abort", onAbort);
      this.#lost();
      store.reset();
    }
    return reason;
  }

  /** Says once a second which shared limits are under pressure, until the stream is over. */
  async #reportLimits(stream: StreamHandle, ended: AbortSignal): Promise<void> {
    const { clock, limits } = this.#deps;
    while (limits !== undefined && !ended.aborted) {
      await clock.sleep(LIMIT_REPORT_MS, ended);
      if (ended.aborted || !this.#connected) continue;
      const report = limits.report(clock.monotonicMs());
      if (report !== undefined) stream.send({ limitReport: encodeReport(report) });
    }
  }

  #greet(stream: StreamHandle): void {
    const { store } = this.#deps;
    stream.send({
      hello: {
        protocolVersion: 1,
        softwareVersion: this.#config.softwareVersion,
        features: [...this.#config.features],
        node: this.#config.node,
        meshPort: this.#config.meshPort,
        tableDigest: Buffer.from(store.digest, "hex"),
        tableRevision: store.table?.revision ?? 0,
        instance: this.#config.instance,
      },
    });
  }

  #receive(message: Parameters<Receiver["receive"]>[0]): void {
    const { clock, log } = this.#deps;
    if (message.welcome) {
      this.#offsetMs = message.welcome.serverTimeUnixMs - clock.nowMs();
      this.#zone = message.welcome.zone;
      this.#heartbeatMs = Math.min(600_000, Math.max(50, message.welcome.heartbeatIntervalMs));
      this.#connected = true;
      log.info("discovery stream established", {
        address: this.#config.address,
        revision: message.welcome.revision,
      });
      this.#deps.onConnection?.(true);
    } else if (message.heartbeat) {
      this.#offsetMs = message.heartbeat.serverTimeUnixMs - clock.nowMs();
    } else if (message.limitLease) {
      const answer = this.#deps.limits?.apply(decodeLease(message.limitLease), clock.monotonicMs());
      if (answer !== undefined) this.#stream?.send({ limitReport: encodeReport(answer) });
    } else if (message.resolved) {
      this.#resolver.answered(message.resolved);
    } else if (message.identity) {
      const waiting = this.#certificates.get(message.identity.id);
      const identity = decodeIdentity(message.identity);
      if (identity.ok) waiting?.resolve(identity.value);
      else waiting?.reject(new MeshError("csr_rejected", identity.error));
    } else {
      const answer = this.#receiver.receive(message);
      if (answer) this.#stream?.send(answer);
    }
  }

  #lost(): void {
    const wasConnected = this.#connected;
    this.#connected = false;
    this.#stream = undefined;
    for (const waiting of this.#certificates.values())
      waiting.reject(new MeshError("not_ready", "the discovery stream was lost"));
    this.#certificates.clear();
    this.#resolver.disconnected();
    if (wasConnected) this.#deps.onConnection?.(false);
  }
}

const OTHER_CA_ADVICE =
  "bring its state directory back, or remove the --state-dir here and join again with a new join token";

/** The reason without the words that gRPC puts around it, and what to do where that is known. */
function readableReason(reason: string, foreignCaAdvice = OTHER_CA_ADVICE): string {
  if (isForeignCa(reason))
    return `the control plane's certificate is of another CA than this sidecar's identity; ${foreignCaAdvice}`;
  return /Last error: (?:Error: )?(.*?)\.? ?(?:Resolution note: .*)?$/.exec(reason)?.[1] ?? reason;
}

/** Keeps a stream to the control plane until `signal` aborts. */
export function runDiscoveryClient(
  config: DiscoveryClientConfig,
  deps: DiscoveryClientDeps,
  signal: AbortSignal,
): DiscoveryClient {
  return new Client(config, deps, signal);
}
