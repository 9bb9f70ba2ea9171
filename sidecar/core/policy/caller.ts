// Callers with the strings that index look-ups need made once: one object per verified peer, not per request.
import type { Caller } from "./call.ts";

class CallerRecord implements Caller {
  readonly authenticated: boolean;
  readonly spiffeId: string;
  readonly trustDomain: string;
  readonly local: boolean;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly kind: string;
  readonly name: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly owner: string | undefined;
  readonly env: string | undefined;
  /** `namespace/serviceAccount`. */
  readonly scopedAccount: string;

  constructor(facts: Caller) {
    this.authenticated = facts.authenticated;
    this.spiffeId = facts.spiffeId;
    this.trustDomain = facts.trustDomain;
    this.local = facts.local;
    this.namespace = facts.namespace;
    this.serviceAccount = facts.serviceAccount;
    this.kind = facts.kind;
    this.name = facts.name;
    this.labels = facts.labels;
    this.owner = facts.owner;
    this.env = facts.env;
    this.scopedAccount = `${facts.namespace}/${facts.serviceAccount}`;
  }
}

/** A caller from verified facts (certificate, and WIT when there is one). */
export function createCaller(facts: Omit<Caller, "authenticated">): Caller {
  return new CallerRecord({ ...facts, authenticated: true });
}

/** A peer without certificate: only rules without `from` on Deny and Audit match it. */
export const plaintextCaller: Caller = Object.freeze(
  new CallerRecord({
    authenticated: false,
    spiffeId: "",
    trustDomain: "",
    local: false,
    namespace: "",
    serviceAccount: "",
    kind: "",
    name: "",
    labels: new Map(),
    owner: undefined,
    env: undefined,
  }),
);

/** `namespace/serviceAccount` of any caller. */
export function scopedAccountOf(caller: Caller): string {
  return caller instanceof CallerRecord
    ? caller.scopedAccount
    : `${caller.namespace}/${caller.serviceAccount}`;
}
