// What the winning rules of an allowed call demand beyond the decision (DOMAIN 3.3): a fresh proof, places among the calls
// that run, room in every limit, a record before anything happens; then what its answer has to tell. Only calls with
// such rules, and calls to models, have one of these.
import type { AuditPayload } from "../audit/payload.ts";
import type { ConcurrencyRule, Ticket, Waiting } from "../balance/concurrency.ts";
import type { HeldLimit } from "../balance/limits.ts";
import { joinedField } from "../core/http/headers.ts";
import type { Call } from "../core/policy/call.ts";
import type { CompiledProgram, Decision } from "../core/policy/decide.ts";
import type { Reason } from "../core/policy/reason.ts";
import { ModelMeter } from "../telemetry/model-meter.ts";
import type { AnswerWriter } from "../wire/answers.ts";
import type { Field } from "../wire/field.ts";
import { refusalDecision } from "./authorize.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerSide, CallerStream } from "./caller-side.ts";
import type { LimitedVerdict } from "./problem-answer.ts";
import { heldLimitFields, limitName } from "./rate-limit-fields.ts";
import type { ReplayProblem } from "./replay.ts";
import type { InboundServices } from "./services.ts";

/** Why a call is not carried out. */
export interface DeniedCall {
  readonly decision: Decision;
  /** The limit that had no room. */
  readonly limited: LimitedVerdict | undefined;
  readonly detail?: string | undefined;
}

/** Who has the duties. Exactly one of these is called for each `begin`, at once or later, unless `end` comes before. */
export interface DutyBearer {
  /** All that had to come first is done: forward. */
  onDutiesMet(): void;
  onDutiesFailed(denied: DeniedCall): void;
  /** Another table came into force while the call waited: decide again. */
  onDutiesStale(): void;
}

/** How long a call waits at most for a place, and for its record to be safe, milliseconds. */
const MAX_WAIT_MS = 5_000;
const GRPC_UNIT_MS: Readonly<Record<string, number>> = { n: 1e-6, u: 1e-3, m: 1, S: 1e3, M: 6e4, H: 36e5 };

/** Operations whose answers say how many tokens they took. */
const MODEL_OPERATIONS: ReadonlySet<string> = new Set([
  "serving.invoke.chat",
  "serving.invoke.complete",
  "serving.invoke.embed",
  "serving.invoke.respond",
]);

const REPLAY_PROBLEMS: Readonly<Record<ReplayProblem, { readonly reason: Reason; readonly detail: string }>> =
  {
    "no proof": { reason: "AUTHN_PROOF_INVALID", detail: "this operation needs a proof token" },
    "used before": {
      reason: "AUTHN_PROOF_INVALID",
      detail: "this operation needs a fresh proof for each request",
    },
    "too old": {
      reason: "AUTHN_PROOF_INVALID",
      detail: "the proof is older than this sidecar's memory of proofs",
    },
    full: { reason: "OVERLOADED", detail: "too many proofs to remember" },
  };

/** Milliseconds that the caller gives the call (`grpc-timeout`). */
function timeoutOf(fields: readonly Field[]): number {
  const match = /^([0-9]{1,8})([numSMH])$/.exec(joinedField(fields, "grpc-timeout") ?? "");
  return match === null ? Number.POSITIVE_INFINITY : Number(match[1]) * (GRPC_UNIT_MS[match[2] ?? ""] ?? 1);
}

interface DutyParts {
  readonly facts: CallFacts;
  readonly peer: CallerSide;
  readonly services: InboundServices;
  readonly program: CompiledProgram;
  readonly call: Call;
  readonly decision: Decision;
  readonly payload: AuditPayload | undefined;
  readonly isModel: boolean;
}

/**
 * The duties of a decided call, or undefined when there are none.
 *
 * @param payload of its audit event, when the level asks for one.
 */
export function dutiesOf(parts: DutyParts): Duties | undefined {
  const { decision, payload, isModel } = parts;
  if (payload !== undefined || isModel || decision.audit?.mode === "Required") return new Duties(parts);
  for (const { with: demands } of decision.winners) {
    if (demands === undefined) continue;
    const { rateLimit, tokenLimit, concurrency, replay } = demands;
    if ((rateLimit ?? tokenLimit ?? concurrency ?? replay) !== undefined) return new Duties(parts);
  }
  return undefined;
}

/** Whether the answer to an operation tells tokens. */
export function isModelOperation(operation: Call["operation"]): boolean {
  return operation.kind === "known" && MODEL_OPERATIONS.has(operation.name);
}

export class Duties implements Waiting {
  readonly #parts: DutyParts;
  #bearer: DutyBearer | undefined;
  #ticket: Ticket | undefined;
  #held: readonly HeldLimit[] = [];
  #meter: ModelMeter | undefined;
  /** Monotonic milliseconds; -1: not forwarded. */
  #metMs = -1;
  /** When the record that the call waits for is given up. */
  #intentUntilMs = Number.POSITIVE_INFINITY;
  #abandoned = false;

  /** Made by `dutiesOf` only. */
  constructor(parts: DutyParts) {
    this.#parts = parts;
  }

  /** @param body what came of the request's body already. */
  begin(bearer: DutyBearer, body: Buffer | undefined): void {
    const { facts, services, program, call, decision, payload } = this.#parts;
    this.#bearer = bearer;
    if (body !== undefined) payload?.requestBody(body);
    if (!this.#isMeasurable() || !this.#useProof()) return;
    const rules: ConcurrencyRule[] = [];
    for (const { policy, rule, with: demands } of decision.winners)
      if (demands?.concurrency !== undefined) rules.push({ policy, rule, limit: demands.concurrency });
    const nowMs = services.clock.monotonicMs();
    if (rules.length === 0) {
      this.#admit(nowMs);
      return;
    }
    // Who has no room in a limit must not wait for a place, nor take one.
    const checked = services.limiter.check(program, decision, call, nowMs);
    if (!checked.allowed) {
      this.#failLimited(checked);
      return;
    }
    const deadlineMs = Math.min(nowMs + MAX_WAIT_MS, facts.startedMs + timeoutOf(facts.head.fields));
    const entered = services.concurrency.enter(rules, this, deadlineMs, nowMs);
    if ("full" in entered) this.#failFull(entered.full);
    else {
      this.#ticket = entered;
      if (entered.state === "running") this.#admit(nowMs);
    }
  }

  onEntered(nowMs: number): void {
    const { facts, services } = this.#parts;
    if (services.state.enforcement === facts.enforcement) this.#admit(nowMs);
    else {
      const bearer = this.#bearer;
      this.end();
      bearer?.onDutiesStale();
    }
  }

  onTurnedAway(): void {
    const gate = this.#ticket?.at ?? this.#ticket?.gates[0];
    if (gate !== undefined) this.#failFull(gate);
  }

  /** Gives up on what takes too long. */
  sweep(nowMs: number): void {
    if (nowMs < this.#intentUntilMs) return;
    this.#intentUntilMs = Number.POSITIVE_INFINITY;
    this.#failUnrecorded();
  }

  requestBody(chunk: Buffer): void {
    this.#parts.payload?.requestBody(chunk);
  }

  /** Adds the fields of the limits to an answer whose head is being written. */
  writeFields(answers: AnswerWriter<CallerStream>): void {
    if (this.#held.length === 0) return;
    const { policy, state } = heldLimitFields(this.#held, this.#parts.services.clock.monotonicMs());
    answers.putPair("ratelimit-policy", policy);
    answers.putPair("ratelimit", state);
  }

  answerHead(status: number, fields: readonly Field[]): void {
    const { payload, isModel } = this.#parts;
    if (payload !== undefined) payload.response.fields = fields;
    if (!isModel && !this.#held.some(({ kind }) => kind === "tokens")) return;
    this.#meter = new ModelMeter();
    this.#meter.head(
      status,
      joinedField(fields, "content-type") ?? "",
      (joinedField(fields, "content-encoding") ?? "").toLowerCase(),
    );
  }

  answerBody(chunk: Buffer): void {
    this.#parts.payload?.responseBody(chunk);
    this.#meter?.body(chunk, this.#parts.services.clock.monotonicMs());
  }

  /** The caller went away before its answer was complete. */
  abandon(): void {
    this.#abandoned = true;
  }

  /** The call is over, whichever way; doing it twice changes nothing. */
  end(): void {
    if (this.#bearer === undefined) return;
    this.#bearer = undefined;
    this.#intentUntilMs = Number.POSITIVE_INFINITY;
    const nowMs = this.#parts.services.clock.monotonicMs();
    this.#ticket?.leave(nowMs);
    if (this.#metMs >= 0) this.#payTokens(nowMs);
  }

  /** Nobody can tell how many tokens the bytes of an upgrade or of TCP are worth. @returns false: it failed. */
  #isMeasurable(): boolean {
    const { facts, decision } = this.#parts;
    if (!facts.head.isOpaque && facts.head.upgrade === "") return true;
    const paid = decision.winners.find((winner) => winner.with?.tokenLimit !== undefined);
    if (paid === undefined) return true;
    const detail = "a rule with a token limit allows no bytes that cannot be counted";
    this.#fail({
      decision: refusalDecision("UNSUPPORTED", paid.policy, paid.rule),
      limited: undefined,
      detail,
    });
    return false;
  }

  /** `replay: Strict`. @returns false: it failed. */
  #useProof(): boolean {
    const { facts, services, decision } = this.#parts;
    const strict = decision.winners.find((winner) => winner.with?.replay === "Strict");
    if (strict === undefined || facts.proofUsed) return true;
    facts.proofUsed = true;
    const problem = services.replays.use(
      facts.identified?.verified,
      services.meshNowMs(),
      services.clock.monotonicMs(),
    );
    if (problem === undefined) return true;
    const { reason, detail } = REPLAY_PROBLEMS[problem];
    const { authnFailures } = services.metrics;
    authnFailures.add(authnFailures.series(facts.enforcement?.self.name ?? "", reason));
    this.#fail({ decision: refusalDecision(reason, strict.policy, strict.rule), limited: undefined, detail });
    return false;
  }

  #admit(nowMs: number): void {
    const { services, program, call, decision } = this.#parts;
    const verdict = services.limiter.admit(program, decision, call, nowMs);
    if (!verdict.allowed) {
      this.#failLimited(verdict);
      return;
    }
    this.#held = verdict.held;
    if (decision.audit?.mode === "Required") this.#intend(nowMs);
    else this.#met(nowMs);
  }

  #intend(nowMs: number): void {
    const { facts, peer, services } = this.#parts;
    this.#intentUntilMs = nowMs + MAX_WAIT_MS;
    facts.intend(services, peer, (ok) => {
      if (this.#bearer === undefined || this.#intentUntilMs === Number.POSITIVE_INFINITY) return;
      this.#intentUntilMs = Number.POSITIVE_INFINITY;
      if (ok) this.#met(services.clock.monotonicMs());
      else this.#failUnrecorded();
    });
  }

  #met(nowMs: number): void {
    this.#metMs = nowMs;
    this.#bearer?.onDutiesMet();
  }

  #failLimited(verdict: LimitedVerdict): void {
    const { policy, rule, limit } = verdict;
    const { limited } = this.#parts.services.metrics;
    limited.add(limited.series(policy, rule, limitName(limit)));
    const reason = limit.kind === "tokens" ? "TOKEN_BUDGET_EXHAUSTED" : "RATE_LIMITED";
    this.#fail({ decision: refusalDecision(reason, policy, rule), limited: verdict });
  }

  #failFull({ policy, rule }: { readonly policy: string; readonly rule: string }): void {
    const { limited } = this.#parts.services.metrics;
    limited.add(limited.series(policy, rule, "concurrency"));
    this.#fail({ decision: refusalDecision("CONCURRENCY_LIMITED", policy, rule), limited: undefined });
  }

  #failUnrecorded(): void {
    const { policy, rule } = this.#parts.decision;
    this.#fail({ decision: refusalDecision("AUDIT_UNAVAILABLE", policy, rule), limited: undefined });
  }

  #fail(denied: DeniedCall): void {
    const bearer = this.#bearer;
    this.end();
    bearer?.onDutiesFailed(denied);
  }

  #payTokens(nowMs: number): void {
    const { facts, services, call, isModel } = this.#parts;
    const meter = this.#meter ?? this.#unanswered();
    const use = meter?.finish(facts.requestBytes);
    if (use === undefined) return;
    facts.modelUse = use;
    for (const held of this.#held) held.charge(use, nowMs);
    if (!isModel) return;
    const { resource } = call;
    const named = resource.kind === "known" ? resource.value : undefined;
    services.metrics.models.observe(use, facts.enforcement?.self.name ?? "", named, this.#metMs);
  }

  /** Who leaves before the answer begins made the model work all the same: the request is charged. */
  #unanswered(): ModelMeter | undefined {
    if (!this.#abandoned || !this.#held.some(({ kind }) => kind === "tokens")) return undefined;
    const meter = new ModelMeter();
    meter.head(200, "", "");
    return meter;
  }
}
