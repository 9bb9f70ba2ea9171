// One sidecar's stream as a state machine. PURE: messages, changes and time come in, actions come out; the server turns
// actions into bytes. INVARIANT: at most one delta is unacknowledged; what changes meanwhile merges into the next.
import type { CertificateRequest__Output } from "../../proto/gen/countersign/mesh/v1/CertificateRequest.ts";
import type { ControlPlaneMessage } from "../../proto/gen/countersign/mesh/v1/ControlPlaneMessage.ts";
import type { Hello__Output } from "../../proto/gen/countersign/mesh/v1/Hello.ts";
import type { LimitReport__Output } from "../../proto/gen/countersign/mesh/v1/LimitReport.ts";
import type { Nack__Output } from "../../proto/gen/countersign/mesh/v1/Nack.ts";
import type { SidecarMessage__Output } from "../../proto/gen/countersign/mesh/v1/SidecarMessage.ts";
import { PROTOCOL_VERSION } from "../../proto/protocol.ts";
import type { WorkloadTable } from "../resources/build.ts";
import type { TableDelta } from "./delta.ts";
import { tableDelta } from "./delta.ts";

/** Why the control plane ends a stream; `code` of a Refused. */
export type RefusalCode =
  | "version"
  | "identity"
  | "protocol"
  | "timeout"
  | "overload"
  | "shutdown"
  | "replaced";

export type SessionAction =
  | { readonly kind: "send"; readonly message: ControlPlaneMessage }
  | {
      readonly kind: "delta";
      readonly nonce: number;
      readonly revision: number;
      /** Hex digest of the table it applies to; empty: none. */
      readonly base: string;
      readonly digest: string;
      readonly changes: TableDelta;
    }
  | { readonly kind: "issue"; readonly request: CertificateRequest__Output }
  | { readonly kind: "limits"; readonly report: LimitReport__Output }
  | { readonly kind: "acknowledged"; readonly digest: string }
  | { readonly kind: "refused-by-sidecar"; readonly reason: string }
  | { readonly kind: "close"; readonly code: RefusalCode; readonly message: string };

/** What a session looks at; the answers change between calls. */
export interface SessionWorld {
  readonly revision: () => number;
  /** Where the sidecar runs; empty or absent: not known. */
  readonly zone?: string;
  /** Whether all that any replica knew `ms` ago is known here, whatever the number of the last revision. */
  readonly isCurrent: (ms: number) => boolean;
  /** Expected table of this workload; undefined: it is not declared. */
  readonly table: () => WorkloadTable | undefined;
  readonly tableByDigest: (digest: string) => WorkloadTable | undefined;
  /** Service id, or the reason of the denial. */
  readonly resolve: (
    host: string,
    port: number,
  ) => { readonly service: string } | { readonly reason: string };
}

export interface SessionOptions {
  readonly world: SessionWorld;
  readonly softwareVersion: string;
  readonly heartbeatMs: number;
  /** Wait for the Hello and for each ACK. */
  readonly helloTimeoutMs?: number;
  readonly ackTimeoutMs?: number;
}

export interface SessionStatus {
  /** `waiting`: the sidecar is ahead of this replica. */
  readonly phase: "hello" | "waiting" | "open" | "closed";
  readonly hello: Hello__Output | undefined;
  /** Digest the sidecar last reported as active, hex; empty: none. */
  readonly digest: string;
  /** The last refusal, until a later table is acknowledged. */
  readonly nack: { readonly reason: string; readonly resource: string; readonly digest: string } | undefined;
  readonly inFlight: boolean;
}

/** Messages a sidecar may send at once and per second; more ends the stream. */
const MESSAGE_BURST = 400;
const MESSAGES_PER_SECOND = 200;
const MAX_SUBSCRIPTIONS = 1_000;
const NEGATIVE_TTL_MS = 5_000;
/**
 * A sidecar that comes from a replica with a higher number waits for so long at most: numbers are those of the newest
 * change each replica happened to see, and one that has followed everything for this long has what the other had.
 */
const CATCH_UP_MS = 3_000;

const hexOf = (bytes: Buffer): string => bytes.toString("hex");

export class Session {
  readonly #options: SessionOptions;
  #phase: SessionStatus["phase"] = "hello";
  #hello: Hello__Output | undefined;
  /** What the sidecar has active; undefined: nothing, or something this replica does not know. */
  #active: WorkloadTable | undefined;
  #activeDigest = "";
  #inFlight:
    | {
        readonly nonce: number;
        readonly table: WorkloadTable;
        readonly sentAtMs: number;
        readonly full: boolean;
      }
    | undefined;
  #nack: SessionStatus["nack"];
  #lastNonce = 0;
  #startedAtMs: number;
  #nextHeartbeatMs = 0;
  #helloAtMs = 0;
  #credit = MESSAGE_BURST;
  #creditAtMs: number;

  constructor(options: SessionOptions, nowMs: number) {
    this.#options = options;
    this.#startedAtMs = nowMs;
    this.#creditAtMs = nowMs;
  }

  get status(): SessionStatus {
    return {
      phase: this.#phase,
      hello: this.#hello,
      digest: this.#activeDigest,
      nack: this.#nack,
      inFlight: this.#inFlight !== undefined,
    };
  }

  /** A message arrived. */
  receive(message: SidecarMessage__Output, nowMs: number): SessionAction[] {
    if (this.#phase === "closed") return [];
    this.#credit = Math.min(
      MESSAGE_BURST,
      this.#credit + ((nowMs - this.#creditAtMs) / 1000) * MESSAGES_PER_SECOND,
    );
    this.#creditAtMs = nowMs;
    this.#credit -= 1;
    if (this.#credit < 0) return this.#close("overload", "too many messages");
    if (this.#phase === "hello") {
      return message.hello
        ? this.#greet(message.hello, nowMs)
        : this.#close("protocol", "the first message must be a hello");
    }
    if (message.ack) return this.#acknowledge(message.ack.nonce, hexOf(message.ack.digest), nowMs);
    if (message.nack) return this.#refusal(message.nack, nowMs);
    if (message.resolve) return [this.#answer(message.resolve)];
    if (message.certificateRequest) return [{ kind: "issue", request: message.certificateRequest }];
    if (message.subscribe)
      return this.#subscribe(message.subscribe.add.length + message.subscribe.remove.length);
    if (message.limitReport) return [{ kind: "limits", report: message.limitReport }];
    if (message.hello) return this.#close("protocol", "a second hello");
    // Reports, and messages of a later version of the protocol.
    return [];
  }

  /** There may be a newer table or revision. */
  changed(nowMs: number): SessionAction[] {
    if (this.#phase === "waiting" && this.#hasCaughtUp(nowMs)) {
      this.#phase = "open";
      return [this.#heartbeat(nowMs), ...this.#push(nowMs)];
    }
    return this.#phase === "open" ? this.#push(nowMs) : [];
  }

  #hasCaughtUp(nowMs: number): boolean {
    const { world } = this.#options;
    if (world.revision() >= (this.#hello?.tableRevision ?? 0)) return true;
    return nowMs - this.#helloAtMs >= CATCH_UP_MS && world.isCurrent(CATCH_UP_MS);
  }

  /** Time passed; call it at least every heartbeat. */
  tick(nowMs: number): SessionAction[] {
    const { helloTimeoutMs = 10_000, ackTimeoutMs = 30_000 } = this.#options;
    if (this.#phase === "closed") return [];
    if (this.#phase === "hello") {
      return nowMs - this.#startedAtMs > helloTimeoutMs ? this.#close("timeout", "no hello") : [];
    }
    if (this.#inFlight && nowMs - this.#inFlight.sentAtMs > ackTimeoutMs)
      return this.#close("timeout", "a delta was not acknowledged in time");
    if (this.#phase === "waiting" && this.#hasCaughtUp(nowMs)) return this.changed(nowMs);
    return nowMs >= this.#nextHeartbeatMs ? [this.#heartbeat(nowMs)] : [];
  }

  /** Ends the session from this side. */
  end(code: RefusalCode, message: string): SessionAction[] {
    return this.#phase === "closed" ? [] : this.#close(code, message);
  }

  #greet(hello: Hello__Output, nowMs: number): SessionAction[] {
    const { world, softwareVersion, heartbeatMs } = this.#options;
    // Versions N and N-1 work together; there is no version before the first yet.
    if (hello.protocolVersion !== PROTOCOL_VERSION && hello.protocolVersion !== PROTOCOL_VERSION + 1) {
      return this.#close(
        "version",
        `protocol version ${hello.protocolVersion} is not served, use ${PROTOCOL_VERSION}`,
      );
    }
    if (
      hello.node.length > 253 ||
      hello.instance.length > 64 ||
      hello.softwareVersion.length > 64 ||
      hello.features.length > 256
    ) {
      return this.#close("protocol", "hello is out of bounds");
    }
    this.#hello = hello;
    this.#helloAtMs = nowMs;
    this.#activeDigest = hexOf(hello.tableDigest);
    this.#active = this.#activeDigest === "" ? undefined : world.tableByDigest(this.#activeDigest);
    this.#nextHeartbeatMs = nowMs + heartbeatMs;
    this.#phase = world.revision() >= hello.tableRevision ? "open" : "waiting";
    const welcome: SessionAction = {
      kind: "send",
      message: {
        welcome: {
          protocolVersion: PROTOCOL_VERSION,
          softwareVersion,
          serverTimeUnixMs: nowMs,
          heartbeatIntervalMs: heartbeatMs,
          revision: world.revision(),
          zone: world.zone ?? "",
        },
      },
    };
    return this.#phase === "open" ? [welcome, ...this.#push(nowMs)] : [welcome];
  }

  /** Sends what leads to the expected table, unless a delta is under way or the sidecar has (or refused) just that. */
  #push(nowMs: number, full = false): SessionAction[] {
    const { world } = this.#options;
    const table = world.table();
    if (!table) return this.#close("identity", "this workload is not declared any more");
    if (this.#inFlight || table.digest === this.#activeDigest || table.digest === this.#nack?.digest)
      return [];
    const base = full ? undefined : this.#active;
    this.#lastNonce += 1;
    this.#inFlight = { nonce: this.#lastNonce, table, sentAtMs: nowMs, full: base === undefined };
    return [
      {
        kind: "delta",
        nonce: this.#lastNonce,
        revision: world.revision(),
        base: base?.digest ?? "",
        digest: table.digest,
        changes: tableDelta(base, table),
      },
    ];
  }

  #acknowledge(nonce: number, digest: string, nowMs: number): SessionAction[] {
    const sent = this.#inFlight;
    if (!sent || sent.nonce !== nonce)
      return this.#close("protocol", "acknowledgement of a delta that is not under way");
    this.#inFlight = undefined;
    this.#activeDigest = digest;
    if (digest !== sent.table.digest) {
      // The sidecar has something else than what it was told: once more in full, then it is broken.
      this.#active = undefined;
      return sent.full
        ? this.#close("protocol", "the acknowledged digest is not the one that was sent")
        : this.#push(nowMs, true);
    }
    this.#active = sent.table;
    this.#nack = undefined;
    return [{ kind: "acknowledged", digest }, ...this.#push(nowMs)];
  }

  #refusal(nack: Nack__Output, nowMs: number): SessionAction[] {
    const sent = this.#inFlight;
    if (!sent || sent.nonce !== nack.nonce)
      return this.#close("protocol", "refusal of a delta that is not under way");
    this.#inFlight = undefined;
    const digest = hexOf(nack.digest);
    const disagrees = digest !== this.#activeDigest;
    this.#activeDigest = digest;
    if (disagrees) this.#active = digest === "" ? undefined : this.#options.world.tableByDigest(digest);
    if (disagrees && !sent.full) return this.#push(nowMs, true);
    const resource =
      nack.resourceType === "" ? "" : `${nack.resourceType}/${nack.resourceName}`.slice(0, 300);
    const reason = nack.reason.slice(0, 500);
    this.#nack = { reason, resource, digest: sent.table.digest };
    return [{ kind: "refused-by-sidecar", reason }, ...this.#push(nowMs)];
  }

  #answer(question: { readonly id: number; readonly host: string; readonly port: number }): SessionAction {
    const answer =
      question.host.length > 253
        ? { reason: "UNKNOWN_DESTINATION" }
        : this.#options.world.resolve(question.host, question.port);
    const resolved =
      "service" in answer
        ? { id: question.id, service: answer.service }
        : { id: question.id, reason: answer.reason, ttlMs: NEGATIVE_TTL_MS };
    return { kind: "send", message: { resolved } };
  }

  /**
   * What a sidecar may have follows from policy and is in its table already, so a subscription cannot add to it; it is
   * only checked for size.
   */
  #subscribe(count: number): SessionAction[] {
    return count > MAX_SUBSCRIPTIONS ? this.#close("overload", "too many subscriptions") : [];
  }

  #heartbeat(nowMs: number): SessionAction {
    this.#nextHeartbeatMs = nowMs + this.#options.heartbeatMs;
    return {
      kind: "send",
      message: { heartbeat: { serverTimeUnixMs: nowMs, revision: this.#options.world.revision() } },
    };
  }

  #close(code: RefusalCode, message: string): SessionAction[] {
    this.#phase = "closed";
    return [{ kind: "close", code, message }];
  }
}
