// Who calls: the peer of a mesh connection from its certificate (once per connection), and each request's tokens, whose
// verified form hangs on the field object, so that a repeated proof costs comparisons, not signatures (DOMAIN 2.5).

import { scopeEntries } from "../core/identity/chain.ts";
import type { HeldTxn } from "../core/identity/held-txn.ts";
import type { ProofVerifier, VerifiedCaller, VerifyInput } from "../core/identity/proofs.ts";
import { workloadOf } from "../core/identity/spiffe-id.ts";
import type { PeerFacts } from "../core/identity/svid.ts";
import type { Caller, Hop, User } from "../core/policy/call.ts";
import { hopOf, scopeOfTxn, userOfTxn } from "../core/policy/call-subjects.ts";
import { createCaller, plaintextCaller } from "../core/policy/caller.ts";
import type { Reason } from "../core/policy/reason.ts";
import { intersectScopes } from "../core/policy/scope.ts";
import { type CallChain, chainOf } from "../telemetry/correlation.ts";
import { type PersonTexts, personTexts } from "../telemetry/person-texts.ts";
import type { Field } from "../wire/field.ts";
import type { Enforcement, InboundEdge } from "./authorize.ts";

/** A caller in the form that decisions, audit and the hop list of the next call need; made once per proof. */
export class IdentifiedCaller {
  /** undefined: a plaintext caller, of whom nothing is known. */
  readonly verified: VerifiedCaller | undefined;
  readonly caller: Caller;
  /** On whose behalf, by a transaction token; undefined: on that of the workloads alone. */
  readonly user: User | undefined;
  readonly txn: HeldTxn | undefined;
  /** What audit events say of the user; undefined without one. */
  readonly person: PersonTexts | undefined;
  readonly via: readonly Hop[];
  readonly viaKey: string;
  /** Operations that the transaction token and the caveat of the proof leave; undefined: unlimited. */
  readonly scope: readonly string[] | undefined;
  readonly #chains = new Map<string, CallChain>();
  #edges = new Map<string, InboundEdge>();
  /** Token of the enforcement the edges are of, never the enforcement itself: that would keep every old table. */
  #edgesOf: object | undefined;

  constructor(verified: VerifiedCaller | undefined, ownTrustDomain: string) {
    this.verified = verified;
    this.caller = verified === undefined ? plaintextCaller : callerOf(verified, ownTrustDomain);
    const via = verified?.via ?? [];
    this.via = via.map((hop) => hopOf(hop.s, hop.o));
    this.txn = verified?.txn;
    this.user = this.txn === undefined ? undefined : userOfTxn(this.txn);
    this.person = this.txn === undefined ? undefined : personTexts(this.txn);
    const scope = verified?.hop?.cav?.scope;
    this.scope = intersectScopes(scope === undefined ? undefined : scopeEntries(scope), scopeOfTxn(this.txn));
    this.viaKey = via.map((hop) => `${hop.s} ${hop.o}`).join("\n");
  }

  /** The address of the client that a decision is made on (DOMAIN 3.3). @param peerAddress of the TLS peer. */
  sourceIp(peerAddress: string | undefined): string | undefined {
    if (this.txn === undefined) return peerAddress;
    // Behind other hops the peer's address says nothing about the person's: unknown, which fails closed.
    return this.txn.claims.rctx.reqIp ?? (this.via.length === 0 ? peerAddress : undefined);
  }

  /** The edge of this caller to an operation, kept as long as the enforcement is in force. */
  edge(enforcement: Enforcement, operation: string): InboundEdge {
    if (this.#edgesOf !== enforcement.token) {
      this.#edgesOf = enforcement.token;
      this.#edges = new Map();
    }
    let edge = this.#edges.get(operation);
    if (edge === undefined) {
      edge = enforcement.edge(this.caller, this.via, this.viaKey, operation);
      this.#edges.set(operation, edge);
    }
    return edge;
  }

  /** The hop list that calls of this workload continue while it serves `operation` for this caller. */
  chain(operation: string): CallChain {
    // An empty one all the same: with a chain of somebody else under the same trace id there is none.
    if (this.verified === undefined) return NO_CHAIN;
    let chain = this.#chains.get(operation);
    if (chain === undefined) {
      const via = [...this.verified.via, { s: this.verified.peer.spiffeId, o: operation }];
      chain = chainOf(via, this.verified.hop?.cav, this.txn);
      this.#chains.set(operation, chain);
    }
    return chain;
  }
}

const NO_CHAIN: CallChain = chainOf([], undefined, undefined);
const EMPTY_LABELS: ReadonlyMap<string, string> = new Map();

function callerOf(verified: VerifiedCaller, ownTrustDomain: string): Caller {
  const { peer, wit } = verified;
  const path = workloadOf(peer.spiffeId);
  return createCaller({
    spiffeId: peer.spiffeId,
    trustDomain: peer.trustDomain,
    local: peer.trustDomain === ownTrustDomain,
    namespace: path?.namespace ?? "",
    serviceAccount: path?.serviceAccount ?? "",
    kind: path?.kind ?? "",
    name: path?.name ?? "",
    labels: EMPTY_LABELS,
    owner: wit?.workload?.owner,
    runAs: wit?.workload?.runAs ?? wit?.workload?.owner,
    env: wit?.workload?.env,
  });
}

export interface VerifierDeps {
  readonly verifier: ProofVerifier;
  readonly trustDomain: () => string;
}

/** What one request showed; fields that came twice were refused before. */
export interface ShownTokens {
  readonly wit: Field | undefined;
  readonly wpt: Field | undefined;
  readonly authorization: string | undefined;
  readonly txnToken: string | undefined;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export interface IdentityRefusal {
  readonly reason: Reason;
  readonly detail: string;
}

/** The peer of one connection, and what its requests prove. */
export class PeerVerifier {
  readonly peer: PeerFacts;
  readonly #deps: VerifierDeps;
  readonly #question: Mutable<VerifyInput>;
  #byCertificate: IdentifiedCaller | undefined;

  constructor(peer: PeerFacts, ownSpiffeId: string, deps: VerifierDeps) {
    this.peer = peer;
    this.#deps = deps;
    this.#question = {
      wit: undefined,
      wpt: undefined,
      authorization: undefined,
      txnToken: undefined,
      peer,
      ownSpiffeId,
      nowMs: 0,
    };
  }

  /** The peer by its certificate alone, for denials that come before or instead of a verified proof. */
  byCertificate(nowMs: number): IdentifiedCaller | undefined {
    if (this.#byCertificate === undefined) {
      const result = this.identify(
        { wit: undefined, wpt: undefined, authorization: undefined, txnToken: undefined },
        "",
        nowMs,
      );
      return result instanceof IdentifiedCaller ? result : undefined;
    }
    return this.#byCertificate;
  }

  /** @param bundleEpoch of the bundle in force for the peer's trust domain. */
  identify(shown: ShownTokens, bundleEpoch: string, nowMs: number): IdentifiedCaller | IdentityRefusal {
    const question = this.#question;
    question.wit = shown.wit?.value;
    question.wpt = shown.wpt?.value;
    question.authorization = shown.authorization;
    question.txnToken = shown.txnToken;
    question.nowMs = nowMs;
    const known = shown.wpt === undefined ? this.#byCertificate : shown.wpt.attachment;
    if (known instanceof IdentifiedCaller && known.verified?.isCurrent(question, bundleEpoch)) {
      if (shown.wpt !== undefined) this.#deps.verifier.stats.hits++;
      return known;
    }
    // The verifier keeps its input, so it gets one of its own.
    const result = this.#deps.verifier.verify({ ...question });
    if (!result.ok) return { reason: result.error, detail: result.detail };
    if (known instanceof IdentifiedCaller && known.verified === result.value) return known;
    const identified = new IdentifiedCaller(result.value, this.#deps.trustDomain());
    if (shown.wpt !== undefined) shown.wpt.attachment = identified;
    else this.#byCertificate = identified;
    return identified;
  }
}
