// Streams that are open are decided on again when the table or the time changes: whoever lost the permission loses the
// stream. In slices, so that thousands of them hold up nobody.
import { type Decision, decide } from "../core/policy/decide.ts";
import type { Reason } from "../core/policy/reason.ts";
import { classifyHead, opaqueProblem, revocationProblem } from "./admission.ts";
import { type Enforcement, refusalDecision } from "./authorize.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerSide, InboundStream } from "./caller-side.ts";
import type { InboundServices } from "./services.ts";

/** Why a stream must not go on. */
export interface LostPermission {
  readonly decision: Decision;
  readonly detail: string;
}

const lost = (reason: Reason, detail: string): LostPermission => ({
  decision: refusalDecision(reason),
  detail,
});

/**
 * Decides on an open call by the table in force and the present time. Rates and places are not asked for again: the call
 * has had its share.
 *
 * @returns why it must end; undefined: it may go on, or it has not been decided on yet.
 */
export function decideAgain(
  facts: CallFacts,
  peer: CallerSide,
  { state, meshNowMs, leaves }: InboundServices,
): LostPermission | undefined {
  const { enforcement, identityUntilMs } = state;
  const { call, decision: before, identified } = facts;
  if (enforcement === undefined || before?.allowed !== true || call === undefined || identified === undefined)
    return undefined;
  const nowMs = meshNowMs();
  if (nowMs >= identityUntilMs) return lost("IDENTITY_EXPIRED", "the own certificate has expired");
  const { verified } = identified;
  if (verified !== undefined) {
    if (!leaves.isCurrent(verified.peer, nowMs))
      return lost("AUTHN_MTLS_REQUIRED", "the caller's certificate has ended, and it has shown no newer one");
    const until = verified.hop?.cav?.exp;
    if (until !== undefined && nowMs >= until * 1_000)
      return lost("SCOPE_EXCEEDED", "the caveat of the proof has expired");
    const revoked = revocationProblem(identified, enforcement.table);
    if (revoked !== undefined) return lost(revoked.reason, revoked.detail);
  }
  if (enforcement === facts.enforcement && !enforcement.dependsOnTime) return undefined;
  if (enforcement !== facts.enforcement) {
    const problem = adopt(facts, peer, enforcement);
    if (problem !== undefined) return problem;
  }
  const { program, classified } = facts;
  if (program === undefined || classified === undefined) return undefined;
  const { operation, resource, folded, request } = classified;
  const again = {
    ...call,
    operation,
    resource,
    folded,
    request: { ...request, host: call.request.host },
    nowMs,
  };
  const decision = decide(program, again);
  if (decision.allowed) return undefined;
  facts.call = again;
  return { decision, detail: "it is not allowed any more" };
}

/** Takes over what a new table says of the call's port. */
function adopt(facts: CallFacts, peer: CallerSide, enforcement: Enforcement): LostPermission | undefined {
  const program = peer.programOf(enforcement);
  if (program === undefined) return lost("AUTHN_MTLS_REQUIRED", "plaintext is refused here");
  const before = facts.port;
  const port = enforcement.ports.get(before?.port ?? 0);
  if (port === undefined || port.protocol !== before?.protocol)
    return lost("REQ_MALFORMED", "the port is not declared like that by this workload any more");
  facts.enforcement = enforcement;
  facts.program = program;
  facts.port = port;
  if (facts.head.isOpaque) {
    const unseen = opaqueProblem(facts, port);
    return unseen === undefined ? undefined : lost(unseen.reason, unseen.detail);
  }
  // Other packs may make it another operation; what stood in its body is not there any more, so a resource may be unknown.
  if (port.packsDigest === before.packsDigest) return undefined;
  const classified = classifyHead(facts, peer, port);
  if (!classified.ok) return lost("REQ_MALFORMED", classified.error);
  facts.classified = classified.value;
  return undefined;
}

/** How long a slice may take, milliseconds; the clock is looked at every so many streams. */
const SLICE_MS = 4;
const LOOK_EVERY = 16;
/** Between passes that only the time asks for. */
const TIME_STEP_MS = 1_000;

export interface RedeciderDeps {
  readonly services: Pick<InboundServices, "state" | "clock">;
  /** Every open stream. */
  readonly streams: () => InboundStream[];
}

export class Redecider {
  readonly #deps: RedeciderDeps;
  /** Token of the enforcement of the last pass, never the enforcement itself: that would keep an old table. */
  #decidedOn: object | undefined;
  #passAtMs = Number.NEGATIVE_INFINITY;
  #queue: InboundStream[] = [];
  #at = 0;
  #scheduled = false;

  constructor(deps: RedeciderDeps) {
    this.#deps = deps;
  }

  /** Begins a pass where one is due; called with each table, and twice a second. */
  check(): void {
    const { state, clock } = this.#deps.services;
    const { enforcement } = state;
    if (enforcement === undefined) return;
    const nowMs = clock.monotonicMs();
    if (enforcement.token === this.#decidedOn && nowMs - this.#passAtMs < TIME_STEP_MS) return;
    this.#decidedOn = enforcement.token;
    this.#passAtMs = nowMs;
    // A pass that is under way decides by the new table from here on; those it has done are done again.
    this.#queue = this.#deps.streams();
    this.#at = 0;
    if (!this.#scheduled) this.#slice();
  }

  #slice(): void {
    this.#scheduled = false;
    const { clock } = this.#deps.services;
    const untilMs = clock.monotonicMs() + SLICE_MS;
    while (this.#at < this.#queue.length) {
      this.#queue[this.#at++]?.redecide();
      if (this.#at % LOOK_EVERY === 0 && clock.monotonicMs() >= untilMs) {
        this.#scheduled = true;
        setImmediate(() => this.#slice());
        return;
      }
    }
    this.#queue = [];
    this.#at = 0;
  }
}
