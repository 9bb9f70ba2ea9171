// What one call to a host outside the mesh is, and whether it may be: as the callee's sidecar would say, with ourselves as
// the caller (DOMAIN 2.5 V5 to V9). Asked when the call begins and again while it is under way.
import { joinedField } from "../core/http/headers.ts";
import type { IssuedTo } from "../core/identity/revocations.ts";
import type { Call } from "../core/policy/call.ts";
import { type Classified, withResource } from "../core/policy/classified.ts";
import { type Decision, decide, needsResource } from "../core/policy/decide.ts";
import { stringField } from "../core/policy/protobuf-field.ts";
import { resourceOf } from "../core/policy/resource-value.ts";
import type { SidecarTable } from "../discovery/table.ts";
import type { AppSide } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import type { ExternalDestination } from "./external.ts";
import {
  caveatExpired,
  EXPIRED,
  type ExternalRefusal,
  GONE,
  isTxnExpired,
  NOT_READY,
  refusalOf,
  revokedBy,
  subjectsOf,
  TXN_EXPIRED,
} from "./external-ground.ts";
import { labelOf } from "./operation-label.ts";
import type { OutboundServices } from "./services.ts";

const EMPTY = Buffer.alloc(0);
/** How often what only the time changes is looked at. */
const TIME_STEP_MS = 1_000;

/** How a call begins. */
interface Opening {
  /** No body follows its head. */
  readonly bodyless: boolean;
  readonly isWebSocket: boolean;
}

export class ExternalPermission {
  readonly #services: OutboundServices;
  readonly #app: Pick<AppSide, "lookup">;
  readonly #facts: CallFacts;
  /** As the table tells of it that it was decided by, last: another would keep an old one. */
  #external: ExternalDestination;
  #classified: Classified | undefined;
  #call: Call | undefined;
  #decision: Decision | undefined;
  /** The own certificate that was decided by. */
  #issuedTo: IssuedTo | undefined;
  /** Table that it was decided by, last. */
  #decidedBy: SidecarTable | undefined;
  #askAgainAtMs = Number.POSITIVE_INFINITY;
  /** As the head was classified, of a call whose messages name the resource, and what the last of them named. */
  #unread: Classified | undefined;
  #named: string | undefined;

  constructor(
    services: OutboundServices,
    external: ExternalDestination,
    app: Pick<AppSide, "lookup">,
    facts: CallFacts,
  ) {
    this.#services = services;
    this.#external = external;
    this.#app = app;
    this.#facts = facts;
  }

  get external(): ExternalDestination {
    return this.#external;
  }

  /** undefined: it was refused before it could be decided on. */
  get call(): Call | undefined {
    return this.#call;
  }

  get decision(): Decision | undefined {
    return this.#decision;
  }

  /** Monotonic milliseconds: when a call under way is to be decided on again; infinite before it was decided on. */
  get askAgainAtMs(): number {
    return this.isOutdated ? 0 : this.#askAgainAtMs;
  }

  /** A table has come since it was decided on. */
  get isOutdated(): boolean {
    const table = this.#services.state.directory?.table;
    return this.#decidedBy !== undefined && table !== undefined && table !== this.#decidedBy;
  }

  /** Whether anybody may call at all now; undefined: so it is. */
  barred(): ExternalRefusal | undefined {
    const { state } = this.#services;
    if (state.identity === undefined || state.identityUntilMs === 0) return NOT_READY;
    return this.#facts.nowMs >= state.identityUntilMs ? EXPIRED : undefined;
  }

  /** @returns what must be read of the body before it can be decided on, or why it is refused. */
  classify({ bodyless, isWebSocket }: Opening): "nothing" | "body" | "messages" | ExternalRefusal {
    const { head } = this.#facts;
    const classified = this.#external.classifier.classify({
      method: head.method,
      websocket: isWebSocket,
      target: head.target,
      contentType: joinedField(head.fields, "content-type"),
      hasBody: !bodyless && !isWebSocket,
      header: this.#app.lookup(head.fields),
      corsMethod:
        head.method === "OPTIONS" && this.#facts.header("origin") !== undefined
          ? joinedField(head.fields, "access-control-request-method")
          : undefined,
    });
    if (!classified.ok) return { reason: "REQ_MALFORMED", detail: classified.error };
    this.#know(classified.value);
    const { pending, operation } = classified.value;
    if (pending === undefined) return "nothing";
    if (pending.kind !== "mcp" && !needsResource(this.#external.program, operation)) return "nothing";
    return pending.kind === "protobuf" ? "messages" : "body";
  }

  #know(classified: Classified): void {
    this.#classified = classified;
    this.#facts.classified = classified;
    this.#facts.operation = labelOf(classified);
  }

  /** @param body undefined: it cannot be read, and what it names is unknown. */
  readBody(body: Buffer | undefined): ExternalRefusal | undefined {
    const classified = this.#classified;
    if (classified === undefined) return NOT_READY;
    const { fields } = this.#facts.head;
    const read = this.#external.classifier.withBody(classified, body ?? EMPTY, {
      contentType: joinedField(fields, "content-type"),
      contentEncoding: joinedField(fields, "content-encoding"),
      truncated: body === undefined,
      header: this.#app.lookup(fields),
    });
    if (!read.ok) return { reason: "REQ_MALFORMED", detail: read.error };
    this.#know(read.value);
    return undefined;
  }

  /**
   * The next message of a gRPC call whose messages name the resource (DOMAIN M5): the first decides on the call, each later
   * one that names another resource is decided on again before the host sees it.
   *
   * @param message undefined: it cannot be read, and what it names is unknown.
   */
  readMessage(message: Buffer | undefined): ExternalRefusal | undefined {
    this.#unread ??= this.#classified;
    const unread = this.#unread;
    if (unread?.pending?.kind !== "protobuf") return NOT_READY;
    const { field, type } = unread.pending;
    const named = message === undefined ? undefined : stringField(message, field);
    const call = this.#call;
    if (call !== undefined && named === this.#named) return undefined;
    this.#named = named;
    this.#know(withResource(unread, resourceOf(type, named)));
    const classified = this.#classified;
    if (call === undefined || classified === undefined) return this.decide();
    const { operation, resource, folded } = classified;
    this.#call = { ...call, operation, resource, folded, nowMs: this.#services.meshNowMs() };
    return this.#judge(this.#call);
  }

  /** @returns why it is refused; undefined: it may go on. */
  decide(): ExternalRefusal | undefined {
    const { identity, externals, directory } = this.#services.state;
    const classified = this.#classified;
    if (
      identity === undefined ||
      externals === undefined ||
      directory === undefined ||
      classified === undefined
    )
      return NOT_READY;
    const { caller, issuedTo } = externals.self(identity);
    const { nowMs, chain } = this.#facts;
    this.#issuedTo = issuedTo;
    this.#decidedBy = directory.table;
    this.#askAgainAtMs = this.#services.clock.monotonicMs() + TIME_STEP_MS;
    const revoked = revokedBy(directory.table.revocations, issuedTo, chain);
    if (revoked !== undefined) return revoked;
    if (isTxnExpired(chain, nowMs)) return TXN_EXPIRED;
    const { external, port } = this.#external;
    const subjects = subjectsOf(caller, chain, external.program.maxHops, nowMs);
    if (!subjects.ok) return subjects.error;
    this.#call = {
      ...subjects.value,
      port,
      request: { ...classified.request, host: this.#external.hostOf(this.#facts.head.authority) },
      operation: classified.operation,
      resource: classified.resource,
      folded: classified.folded,
      nowMs,
    };
    return this.#judge(this.#call);
  }

  #judge(call: Call): ExternalRefusal | undefined {
    const decision = decide(this.#external.program, call);
    this.#decision = decision;
    if (decision.would !== undefined) {
      const { dryRun } = this.#services.metrics;
      const { policy, rule, allowed } = decision.would;
      dryRun.add(dryRun.series(policy ?? "", rule ?? "", allowed ? "Allow" : "Deny"));
    }
    return refusalOf(decision, "policy does not allow this call to a host outside the mesh");
  }

  /** Why a call under way is not allowed any more, by the table in force and the time. Of its body nothing is read again. */
  decideAgain(): ExternalRefusal | undefined {
    const { state, clock, meshNowMs } = this.#services;
    const table = state.directory?.table;
    if (table === undefined || this.#call === undefined) return undefined;
    const nowMs = meshNowMs();
    this.#decidedBy = table;
    this.#askAgainAtMs = clock.monotonicMs() + TIME_STEP_MS;
    if (nowMs >= state.identityUntilMs) return EXPIRED;
    const { chain } = this.#facts;
    const lost = caveatExpired(chain, nowMs) ?? revokedBy(table.revocations, this.#issuedTo, chain);
    if (lost !== undefined) return lost;
    const before = this.#external;
    const external = state.externals?.ofId(before.external.id);
    if (external === undefined) return GONE;
    this.#external = external;
    const isSame = external.external.program === before.external.program;
    if (isSame && !external.dependsOnTime) return undefined;
    this.#call = { ...this.#call, nowMs };
    const decision = decide(external.program, this.#call);
    if (decision.allowed) return undefined;
    this.#decision = decision;
    return { reason: decision.reason, detail: "policy does not allow this call any more" };
  }
}
