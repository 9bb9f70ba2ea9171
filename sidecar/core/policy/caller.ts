// Callers with room for what index look-ups need of them: one object per verified peer, not per request.
import type { Caller } from "./call.ts";

/**
 * The ids of a caller's strings in one program (symbols.ts); 0: the program never names it. They lie in the caller
 * itself, first, so that a decision reads a line or two of memory of it instead of hashing its strings.
 */
export class CallerKeys {
  /** Whose ids these are; undefined: nobody's yet. */
  keysOf: object | undefined = undefined;
  /** 0: not authenticated, 1: of a foreign trust domain, 2: local. */
  standing = 0;
  nameId = 0;
  namespaceId = 0;
  kindId = 0;
  accountId = 0;
  /** Of `namespace/serviceAccount`. */
  scopedAccountId = 0;
  spiffeIdId = 0;
  trustDomainId = 0;
}

class CallerRecord extends CallerKeys implements Caller {
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
  readonly runAs: string | undefined;
  readonly env: string | undefined;

  constructor(facts: Caller) {
    super();
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
    this.runAs = facts.runAs;
    this.env = facts.env;
  }
}

/** A caller from verified facts (certificate, and WIT when there is one). */
export function createCaller(facts: Omit<Caller, "authenticated">): Caller {
  return new CallerRecord({ ...facts, authenticated: true });
}

/** A peer without certificate: only rules without `from` on Deny and Audit match it. */
export const plaintextCaller: Caller = Object.freeze({
  authenticated: false,
  spiffeId: "",
  trustDomain: "",
  local: false,
  namespace: "",
  serviceAccount: "",
  kind: "",
  name: "",
  labels: new Map<string, string>(),
  owner: undefined,
  env: undefined,
});

/** `namespace/serviceAccount` of any caller. */
export function scopedAccountOf(caller: Caller): string {
  return `${caller.namespace}/${caller.serviceAccount}`;
}
