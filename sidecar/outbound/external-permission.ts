// What one call to a host outside the mesh is, and whether it may be: as the callee's sidecar would say, with ourselves as
// the caller (DOMAIN 2.5 V5 to V9). Asked when the call begins and again while it is under way.
import { joinedField } from "../core/http/headers.ts";
import { checkChain, scopeEntries } from "../core/identity/chain.ts";
import type { ViaHop } from "../core/identity/claims.ts";
import type { IssuedTo, Revocations } from "../core/identity/revocations.ts";
import type { Call } from "../core/policy/call.ts";
import { hopOf, scopeOfTxn, userOfTxn } from "../core/policy/call-subjects.ts";
import type { Classified } from "../core/policy/classified.ts";
import { type Decision, decide, needsResource } from "../core/policy/decide.ts";
import type { Reason } from "../core/policy/reason.ts";
import { intersectScopes } from "../core/policy/scope.ts";
import type { SidecarTable } from "../discovery/table.ts";
import type { AppSide } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import { type ExternalDestination, unmetDemand } from "./external.ts";
import { labelOf } from "./operation-label.ts";
import type { OutboundServices } from "./services.ts";

const EMPTY = Buffer.alloc(0);
const NOT_READY: ExternalRefusal = { reason: "NOT_READY", detail: "no policy or identity yet" };

/** Why a call must not go on. */
export interface ExternalRefusal {
  readonly reason: Reason;
  readonly detail: string;
}

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

  /** A table has come since it was decided on. */
  get isOutdated(): boolean {
    const table = this.#services.state.directory?.table;
    return this.#decidedBy !== undefined && table !== undefined && table !== this.#decidedBy;
  }

  /** Whether anybody may call at all now; undefined: so it is. */
  barred(): ExternalRefusal | undefined {
    const { state } = this.#services;
    if (state.identity === undefined || state.identityUntilMs === 0) return NOT_READY;
    return this.#facts.nowMs >= state.identityUntilMs
      ? { reason: "IDENTITY_EXPIRED", detail: "the own certificate has expired" }
      : undefined;
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
    const txn = chain?.txn;
    // The hops come from a verified proof, whose IDs were parsed (claims.ts).
    const via = (chain?.via ?? []) as readonly ViaHop[];
    const caveat = chain?.caveat;
    this.#issuedTo = issuedTo;
    this.#decidedBy = directory.table;
    const revoked = this.#revokedBy(directory.table.revocations);
    if (revoked !== undefined) return revoked;
    if (txn !== undefined && nowMs >= txn.claims.exp * 1_000)
      return { reason: "AUTHN_TXN_EXPIRED", detail: "the transaction token has expired" };
    const hops = checkChain(via, caller.spiffeId, via.length + 1, this.#external.external.program.maxHops);
    if (!hops.ok) return { reason: hops.error, detail: "the call chain is too deep or loops" };
    if (caveat?.exp !== undefined && nowMs >= caveat.exp * 1_000)
      return { reason: "SCOPE_EXCEEDED", detail: "the caveat of the proof has expired" };
    const limits = caveat?.scope === undefined ? undefined : scopeEntries(caveat.scope);
    this.#call = {
      caller,
      user: txn === undefined ? undefined : userOfTxn(txn),
      via: via.map((hop) => hopOf(hop.s, hop.o)),
      port: this.#external.port,
      request: { ...classified.request, host: this.#external.hostOf(this.#facts.head.authority) },
      operation: classified.operation,
      resource: classified.resource,
      folded: classified.folded,
      sourceIp: txn?.claims.rctx.reqIp,
      scope: intersectScopes(limits, scopeOfTxn(txn)),
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
    if (!decision.allowed)
      return {
        reason: decision.reason,
        detail: "policy does not allow this call to a host outside the mesh",
      };
    const unmet = unmetDemand(decision);
    if (unmet === undefined && decision.audit?.mode !== "Required") return undefined;
    return {
      reason: "UNSUPPORTED",
      detail: `\`${unmet ?? "audit: Required"}\` cannot be met for hosts outside the mesh`,
    };
  }

  /** What of this call's ground is revoked. */
  #revokedBy(revocations: Revocations): ExternalRefusal | undefined {
    const issuedTo = this.#issuedTo;
    if (issuedTo === undefined || revocations.covers(issuedTo))
      return { reason: "REVOKED", detail: "what this workload was issued is revoked" };
    const txn = this.#facts.chain?.txn;
    return txn !== undefined && revocations.coversTxn(txn.claims)
      ? { reason: "REVOKED", detail: "the user or the session is revoked" }
      : undefined;
  }

  /** Why a call under way is not allowed any more by the table in force. Of its body nothing is there to be read again. */
  decideAgain(): ExternalRefusal | undefined {
    const table = this.#services.state.directory?.table;
    if (table === undefined || !this.isOutdated) return undefined;
    this.#decidedBy = table;
    const revoked = this.#revokedBy(table.revocations);
    if (revoked !== undefined) return revoked;
    const { id } = this.#external.external;
    const external = this.#services.state.externals?.ofId(id);
    if (external === undefined || this.#call === undefined)
      return { reason: "UNKNOWN_DESTINATION", detail: "the host is none of the mesh's any more" };
    const isSame = external.external.program === this.#external.external.program;
    this.#external = external;
    if (isSame) return undefined;
    const decision = decide(external.program, { ...this.#call, nowMs: this.#services.meshNowMs() });
    if (decision.allowed) return undefined;
    this.#decision = decision;
    return { reason: decision.reason, detail: "policy does not allow this call any more" };
  }
}
