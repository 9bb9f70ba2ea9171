// A gRPC call whose messages name the resource (DOMAIN M5): the first message decides on the call, each later one that
// names another resource is decided on again before the application sees it.
import { type Classified, withResource } from "../core/policy/classified.ts";
import { type Decision, decide } from "../core/policy/decide.ts";
import { stringField } from "../core/policy/protobuf-field.ts";
import { resourceOf } from "../core/policy/resource-value.ts";
import { catchUp, classifyHead, type Refusal } from "./admission.ts";
import type { Enforcement } from "./authorize.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerSide } from "./caller-side.ts";
import { decideCall } from "./decision.ts";
import type { DeniedCall } from "./duties.ts";
import type { InboundServices } from "./services.ts";

/** `refused`: before policy was asked. */
export type MessageVerdict =
  | { readonly kind: "allowed" }
  | { readonly kind: "refused"; readonly refusal: Refusal }
  | ({ readonly kind: "denied" } & DeniedCall);

const ALLOWED: MessageVerdict = { kind: "allowed" };

export class MessageCheck {
  /** As the head was classified: what is pending is the resource. */
  #pending: Classified;
  #value: string | undefined;
  /** What that was classified by. */
  #enforcement: Enforcement | undefined;

  constructor(pending: Classified, enforcement: Enforcement | undefined) {
    this.#pending = pending;
    this.#enforcement = enforcement;
  }

  /**
   * @param message undefined: it cannot be read, and what it names is unknown.
   * @param facts of a call that was admitted; they get the decision.
   */
  look(
    message: Buffer | undefined,
    facts: CallFacts,
    peer: CallerSide,
    services: InboundServices,
  ): MessageVerdict {
    const value = message === undefined ? undefined : this.#read(message);
    const isFirst = facts.decision === undefined;
    if (!isFirst && value === this.#value) return ALLOWED;
    this.#value = value;
    // A table that came meanwhile decides: a stream must not hold on to a withdrawn permission.
    const refusal = catchUp(facts, peer, services) ?? this.#follow(facts, peer);
    if (refusal !== undefined) return { kind: "refused", refusal };
    const { pending } = this.#pending;
    facts.classified =
      pending?.kind === "protobuf"
        ? withResource(this.#pending, resourceOf(pending.type, value))
        : this.#pending;
    const denied = isFirst ? decideCall(facts, peer, services) : decideAgain(facts);
    return denied === undefined ? ALLOWED : { kind: "denied", ...denied };
  }

  /** Another table may have other packs. */
  #follow(facts: CallFacts, peer: CallerSide): Refusal | undefined {
    const { enforcement, port } = facts;
    if (enforcement === this.#enforcement || port === undefined) return undefined;
    const classified = classifyHead(facts, peer, port);
    if (!classified.ok) return { reason: "REQ_MALFORMED", detail: classified.error, ofIdentity: false };
    this.#enforcement = enforcement;
    this.#pending = classified.value;
    return undefined;
  }

  #read(message: Buffer): string | undefined {
    const { pending } = this.#pending;
    return pending?.kind === "protobuf" ? stringField(message, pending.field) : undefined;
  }
}

/** Policy alone: limits and header changes were the call's. */
function decideAgain(facts: CallFacts): { decision: Decision; limited: undefined } | undefined {
  const { program, call, classified } = facts;
  if (program === undefined || call === undefined || classified === undefined) return undefined;
  const { operation, resource, folded } = classified;
  facts.call = { ...call, operation, resource, folded };
  const decision = decide(program, facts.call);
  facts.decision = decision;
  return decision.allowed ? undefined : { decision, limited: undefined };
}
