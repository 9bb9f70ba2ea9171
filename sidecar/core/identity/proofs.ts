// Proof tokens on the hot path: ProofSigner makes and reuses them for outgoing calls, ProofVerifier checks them on
// incoming ones. Both cache by the whole input (DOMAIN 2.4); expiry is looked at on every use, never only at first.
import { hash, type KeyObject } from "node:crypto";
import type { Reason } from "../policy/reason.ts";
import {
  type Caveat,
  HOP_CLAIM,
  type HopClaim,
  MAX_TOKEN_BYTES,
  THUMBPRINT_CLAIM,
  TOKEN_TYPES,
  type ViaHop,
  type WitClaims,
  type WptClaims,
} from "./claims.ts";
import { GenerationCache } from "./generation-cache.ts";
import type { HeldTxn } from "./held-txn.ts";
import type { PeerFacts } from "./svid.ts";
import {
  accessTokenHash,
  type Refusal,
  SKEW_SECONDS,
  signToken,
  tokenHash,
  tokenKeyOf,
  type Verified,
  verifyWit,
  verifyWpt,
} from "./token.ts";
import type { TrustBundle } from "./trust-bundle.ts";
import { TxnVerifier } from "./txn-verifier.ts";
import type { WorkloadIdentity } from "./workload-identity.ts";

const PROOF_LIFETIME_SECONDS = 60;
const PROOF_REUSE_MS = 30_000;
const PROOF_MARGIN_MS = 20_000;
const VERIFIED_FOR_MS = 30_000;
const REFUSED_FOR_MS = 2_000;
/** A proof and its skew: whatever was not used for this long is of no more use. */
const PROOF_WEAR_MS = (PROOF_LIFETIME_SECONDS + SKEW_SECONDS) * 1_000;
const NO_HOPS: readonly ViaHop[] = [];

/** Both header values of one call; the same object as long as they are reused, so fields made of it can be kept. */
export interface Proof {
  readonly wit: string;
  readonly wpt: string;
}

export interface ProofInput {
  /** The callee's SPIFFE ID. */
  readonly audience: string;
  readonly operation: string;
  readonly packsDigest: string;
  /** Earlier hops of the incoming call plus its caller, oldest first; never changed afterwards. */
  readonly via: readonly ViaHop[];
  /** `Authorization` of the request; its bearer token is bound by `ath`. */
  readonly authorization?: string | undefined;
  readonly caveat?: Caveat | undefined;
  /** base64url SHA-256 of the `Txn-Token` that goes along. */
  readonly tth?: string | undefined;
}

export interface ProofSignerDeps {
  readonly identity: () => WorkloadIdentity;
  readonly nowMs: () => number;
  /** A new `jti`; at least 96 random bits. */
  readonly randomId: () => string;
}

/** One reusable proof: what the data path holds on to, so that a repeated call costs a comparison. */
export class ProofSlot {
  readonly #signer: ProofSigner;
  readonly #input: ProofInput;
  readonly #ath: string | undefined;
  #identity: WorkloadIdentity | undefined;
  #proof: Proof = { wit: "", wpt: "" };
  #reuseUntilMs = 0;

  /** Made by `ProofSigner.slot` only. */
  constructor(signer: ProofSigner, input: ProofInput) {
    this.#signer = signer;
    this.#input = input;
    this.#ath = accessTokenHash(input.authorization);
  }

  /** A proof that nobody has seen, for a callee that takes each one once. */
  fresh(nowMs: number): Proof {
    const identity = this.#signer.identity();
    return { wit: identity.wit, wpt: this.#signer.sign(this.#input, this.#ath, identity, nowMs).wpt };
  }

  /** The proof to send now; signs a new one when the last is 30 s old or the identity was renewed. */
  current(nowMs: number): Proof {
    const identity = this.#signer.identity();
    if (nowMs < this.#reuseUntilMs && identity === this.#identity) {
      this.#signer.stats.hits++;
      return this.#proof;
    }
    const { wpt, reuseUntilMs } = this.#signer.sign(this.#input, this.#ath, identity, nowMs);
    this.#identity = identity;
    this.#reuseUntilMs = reuseUntilMs;
    this.#proof = { wit: identity.wit, wpt };
    return this.#proof;
  }
}

/**
 * Signs proofs with the token key of the current identity. Whether that identity is still valid is the caller's check
 * (`IDENTITY_EXPIRED`); an expired one makes proofs that every callee refuses.
 */
export class ProofSigner {
  readonly #deps: ProofSignerDeps;
  readonly #slots: GenerationCache<ProofSlot>;
  /** Hits and signatures since the start, for metrics. */
  readonly stats = { hits: 0, signed: 0 };
  readonly identity: () => WorkloadIdentity;

  constructor(deps: ProofSignerDeps, limits: { readonly maxEntries: number } = { maxEntries: 10_000 }) {
    this.#deps = deps;
    this.identity = deps.identity;
    this.#slots = new GenerationCache({ maxEntries: limits.maxEntries, maxWeight: 8 * 1024 * 1024 });
  }

  /** The slot of this input; the same input gives the same slot while it is cached. */
  slot(input: ProofInput): ProofSlot {
    const key = slotKey(input);
    let slot = this.#slots.get(key);
    if (slot === undefined) {
      slot = new ProofSlot(this, input);
      this.#slots.set(key, slot, key.length);
    }
    return slot;
  }

  /** The proof for one call; `slot(input).current(now)`. */
  proof(input: ProofInput): Proof {
    return this.slot(input).current(this.#deps.nowMs());
  }

  /** Signs without a cache (`replay: Strict` wants a fresh proof per request); normally reached through a slot. */
  sign(
    input: ProofInput,
    ath: string | undefined,
    identity: WorkloadIdentity,
    nowMs: number,
  ): { readonly wpt: string; readonly reuseUntilMs: number } {
    this.stats.signed++;
    const iat = Math.floor(nowMs / 1000);
    const exp = iat + PROOF_LIFETIME_SECONDS;
    const wpt = signToken(
      { typ: TOKEN_TYPES.wpt },
      {
        aud: input.audience,
        iat,
        exp,
        jti: this.#deps.randomId(),
        wth: tokenHash(identity.wit),
        tth: input.tth,
        ath,
        cnf: { [THUMBPRINT_CLAIM]: identity.leafThumbprint },
        [HOP_CLAIM]: {
          op: input.operation,
          packs: input.packsDigest,
          n: input.via.length + 1,
          via: input.via,
          cav: input.caveat,
        },
      },
      identity.tokenKey,
    );
    return { wpt, reuseUntilMs: Math.min(nowMs + PROOF_REUSE_MS, exp * 1000 - PROOF_MARGIN_MS) };
  }
}

/** Every part of the input, with a separator that none of them can hold (they are checked IDs, names and header values). */
function slotKey(input: ProofInput): string {
  const { audience, operation, packsDigest, via, authorization, caveat, tth } = input;
  const head = `${audience}\n${operation}\n${packsDigest}`;
  if (via.length === 0 && authorization === undefined && caveat === undefined && tth === undefined)
    return head;
  let hops = "";
  for (const hop of via) hops += `\n${hop.s} ${hop.o}`;
  const cav = caveat === undefined ? "" : `${caveat.scope ?? "-"}\n${caveat.exp ?? "-"}`;
  return `${head}\n${authorization ?? ""}\n${tth ?? ""}\n${caveat === undefined ? 0 : 1}${cav}${hops}`;
}

export interface VerifyInput {
  /** The one value of the field; a field that came twice must be refused before (V2). */
  readonly wit: string | undefined;
  readonly wpt: string | undefined;
  readonly authorization: string | undefined;
  readonly txnToken?: string | undefined;
  readonly peer: PeerFacts;
  readonly ownSpiffeId: string;
  readonly nowMs: number;
}

interface VerifiedParts {
  readonly input: VerifyInput;
  readonly wit: WitClaims | undefined;
  readonly wpt: WptClaims | undefined;
  readonly txn: HeldTxn | undefined;
  readonly bundleEpoch: string;
}

/**
 * A caller whose tokens (`proof`) or whose certificate alone (`mtls`) were verified. May hang on a header field: before
 * each use ask `isCurrent`.
 */
export class VerifiedCaller {
  readonly kind: "proof" | "mtls";
  readonly peer: PeerFacts;
  readonly leafThumbprint: string;
  readonly bundleEpoch: string;
  /** The earliest of: proof, WIT (both with skew), transaction token and leaf run out; Unix milliseconds. */
  readonly expiresAtMs: number;
  /** From here on the tokens have to be verified again though nothing expired (30 s after verification). */
  readonly staleAtMs: number;
  /** undefined for `mtls`. */
  readonly wit: WitClaims | undefined;
  readonly wpt: WptClaims | undefined;
  readonly hop: HopClaim | undefined;
  /** On whose behalf; undefined: nobody's. */
  readonly txn: HeldTxn | undefined;
  /** Earlier hops, empty for `mtls`. */
  readonly via: readonly ViaHop[];
  readonly #input: VerifyInput;
  readonly #usableUntilMs: number;

  /** Made by `ProofVerifier` only. */
  constructor(parts: VerifiedParts) {
    const { input, wit, wpt, txn } = parts;
    this.kind = wpt === undefined ? "mtls" : "proof";
    this.peer = input.peer;
    this.leafThumbprint = input.peer.leafThumbprint;
    this.bundleEpoch = parts.bundleEpoch;
    this.wit = wit;
    this.wpt = wpt;
    this.hop = wpt?.hop;
    this.txn = txn;
    this.via = wpt?.hop.via ?? NO_HOPS;
    this.expiresAtMs = Math.min(
      leafEndMs(input.peer),
      tokenEndMs(wit),
      tokenEndMs(wpt),
      txn === undefined ? Number.POSITIVE_INFINITY : txn.claims.exp * 1_000,
    );
    this.staleAtMs = input.nowMs + VERIFIED_FOR_MS;
    this.#usableUntilMs = Math.min(this.expiresAtMs, this.staleAtMs);
    this.#input = input;
  }

  /** True when this result answers for exactly that input under that bundle, now. */
  isCurrent(input: VerifyInput, bundleEpoch: string): boolean {
    const mine = this.#input;
    return (
      input.nowMs < this.#usableUntilMs &&
      // A clock that went back must not make an expired leaf or token good again for long.
      input.nowMs > mine.nowMs - SKEW_SECONDS * 1000 &&
      bundleEpoch === this.bundleEpoch &&
      input.wpt === mine.wpt &&
      input.wit === mine.wit &&
      input.authorization === mine.authorization &&
      input.txnToken === mine.txnToken &&
      input.peer.leafThumbprint === mine.peer.leafThumbprint &&
      input.ownSpiffeId === mine.ownSpiffeId
    );
  }

  /**
   * For a stream that is open already: why this caller counts no more, or undefined. With a changed epoch verify the
   * same tokens again before ending anything. The end of a transaction token ends no stream (DOMAIN 2.8).
   */
  recheck(nowMs: number, bundleEpoch: string): Reason | undefined {
    if (nowMs >= leafEndMs(this.peer)) return "AUTHN_MTLS_REQUIRED";
    if (bundleEpoch !== this.bundleEpoch || nowMs >= tokenEndMs(this.wit)) return "AUTHN_WIT_INVALID";
    return nowMs >= tokenEndMs(this.wpt) ? "AUTHN_PROOF_INVALID" : undefined;
  }
}

function leafEndMs(peer: PeerFacts): number {
  return peer.notAfterMs + 1000;
}

function tokenEndMs(claims: { readonly exp: number } | undefined): number {
  return claims === undefined ? Number.POSITIVE_INFINITY : (claims.exp + SKEW_SECONDS) * 1000;
}

export interface ProofVerifierDeps {
  /** The bundle that is in force for a trust domain; undefined: not trusted. */
  readonly bundleOf: (trustDomain: string) => TrustBundle | undefined;
}

export interface ProofVerifierLimits {
  readonly maxEntries: number;
  /** Token characters held by the caches. */
  readonly maxBytes: number;
}

interface CachedWit {
  readonly claims: WitClaims;
  readonly key: KeyObject;
  readonly bundleEpoch: string;
}

interface CachedRefusal {
  readonly refusal: Refusal;
  readonly untilMs: number;
}

/**
 * Steps V1 (time), V2, V3, V4, V5 and, of V8, that a chain begins where its transaction token was asked for; with caches.
 * V6 to V9 are the data path's, on every request.
 */
export class ProofVerifier {
  readonly #deps: ProofVerifierDeps;
  // Keyed by the proof alone: its signature binds the WIT (wth), the leaf (x5t), the bearer token (ath) and the callee
  // (aud), so one proof has one good context; `isCurrent` compares every part of it exactly.
  readonly #proofs: GenerationCache<VerifiedCaller>;
  readonly #wits: GenerationCache<CachedWit>;
  // Keyed by a digest of the whole input, so that a stolen proof shown by another peer cannot poison its owner's.
  readonly #refused: GenerationCache<CachedRefusal>;
  #mtls = new WeakMap<PeerFacts, VerifiedCaller>();
  readonly #epochs = new Map<string, string>();
  readonly #txns = new TxnVerifier();
  /** When the proofs begin a new generation: they are worn out by then, long before their number is a bound. */
  #rotateAtMs = 0;
  /** Counts since the start, for metrics. */
  readonly stats = {
    hits: 0,
    misses: 0,
    /** Misses that did not verify. */
    refusedMisses: 0,
    refusedHits: 0,
    witHits: 0,
    witMisses: 0,
    witRefused: 0,
    mtlsOnly: 0,
  };
  /** Refusals since the start by reason. */
  readonly refusals = new Map<Reason, number>();

  constructor(
    deps: ProofVerifierDeps,
    limits: ProofVerifierLimits = { maxEntries: 10_000, maxBytes: 8 * 1024 * 1024 },
  ) {
    this.#deps = deps;
    this.#proofs = new GenerationCache({ maxEntries: limits.maxEntries, maxWeight: limits.maxBytes });
    this.#wits = new GenerationCache({ maxEntries: 2_000, maxWeight: limits.maxBytes / 2 });
    this.#refused = new GenerationCache({ maxEntries: 4_000, maxWeight: limits.maxBytes });
  }

  /** Transaction tokens looked up and verified since the start. */
  get txnStats(): TxnVerifier["stats"] {
    return this.#txns.stats;
  }

  /** Verified proofs that are held. */
  get entries(): number {
    return this.#proofs.size;
  }

  /**
   * Verifies the caller of one request.
   *
   * @returns `mtls` when it sent neither token (whether that is enough is policy: `MeshConfig.proofs`), `proof` when both
   *   verify, else the reason.
   */
  verify(input: VerifyInput): Verified<VerifiedCaller> {
    const bundle = this.#deps.bundleOf(input.peer.trustDomain);
    if (bundle === undefined)
      return this.#count(refusal("AUTHN_MTLS_REQUIRED", "the peer's trust domain is not trusted"));
    if (this.#epochs.get(bundle.trustDomain) !== bundle.epoch) this.#startEpoch(bundle);
    if (input.nowMs >= this.#rotateAtMs) {
      this.#rotateAtMs = input.nowMs + PROOF_WEAR_MS;
      this.#proofs.rotate();
      this.#refused.rotate();
    }
    if (input.wpt !== undefined) {
      const cached = this.#proofs.get(input.wpt);
      if (cached?.isCurrent(input, bundle.epoch)) {
        this.stats.hits++;
        return { ok: true, value: cached };
      }
    }
    if (input.nowMs >= leafEndMs(input.peer))
      return this.#count(refusal("AUTHN_MTLS_REQUIRED", "the peer's certificate has expired"));
    if (input.wit === undefined && input.wpt === undefined) return this.#mtlsOnly(input, bundle);
    return this.#verifyTokens(input, bundle);
  }

  #verifyTokens(input: VerifyInput, bundle: TrustBundle): Verified<VerifiedCaller> {
    const { wit, wpt } = input;
    if (wit === undefined || wpt === undefined) {
      return this.#count(
        refusal("AUTHN_PROOF_INVALID", "one of the two workload tokens came without the other"),
      );
    }
    // Before anything is hashed or kept: what is too long for a token is no cache key either.
    if (wit.length > MAX_TOKEN_BYTES || wpt.length > MAX_TOKEN_BYTES) {
      return this.#count(refusal("AUTHN_PROOF_INVALID", "the token is larger than 4 KiB"));
    }
    if (input.txnToken !== undefined && input.txnToken.length > MAX_TOKEN_BYTES)
      return this.#count(refusal("AUTHN_TXN_INVALID", "the token is larger than 4 KiB"));
    const key = this.#refused.size === 0 ? "" : refusedKey(input, bundle.epoch);
    if (key !== "") {
      const known = this.#refused.get(key);
      // A time before `untilMs - 2 s` means the clock went back; look again.
      if (
        known !== undefined &&
        input.nowMs < known.untilMs &&
        input.nowMs >= known.untilMs - REFUSED_FOR_MS
      ) {
        this.stats.refusedHits++;
        return this.#count(known.refusal);
      }
    }
    this.stats.misses++;
    const result = this.#check(input, wit, wpt, bundle);
    if (result.ok) this.#proofs.set(wpt, result.value, wit.length + wpt.length);
    else {
      this.stats.refusedMisses++;
      const untilMs = input.nowMs + REFUSED_FOR_MS;
      this.#refused.set(
        key === "" ? refusedKey(input, bundle.epoch) : key,
        { refusal: result, untilMs },
        256,
      );
      return this.#count(result);
    }
    return result;
  }

  #check(input: VerifyInput, wit: string, wpt: string, bundle: TrustBundle): Verified<VerifiedCaller> {
    const workload = this.#verifyWit(wit, input, bundle);
    if (!workload.ok) return workload;
    const { claims, key } = workload.value;
    const proof = verifyWpt(wpt, {
      wit,
      witJwk: claims.jwk,
      witKey: key,
      authorization: input.authorization,
      txnToken: input.txnToken,
      ownSpiffeId: input.ownSpiffeId,
      peerLeafThumbprint: input.peer.leafThumbprint,
      nowMs: input.nowMs,
    });
    if (!proof.ok) return proof;
    const txn = this.#verifyTxn(input, proof.value, bundle);
    if (txn?.ok === false) return txn;
    return {
      ok: true,
      value: new VerifiedCaller({
        input,
        wit: claims,
        wpt: proof.value,
        txn: txn?.value,
        bundleEpoch: bundle.epoch,
      }),
    };
  }

  /** V5, and that the chain begins at the workload that the token was issued to (V8). undefined: there is none. */
  #verifyTxn(input: VerifyInput, wpt: WptClaims, bundle: TrustBundle): Verified<HeldTxn> | undefined {
    const { txnToken, peer, ownSpiffeId, nowMs } = input;
    if (txnToken === undefined) return undefined;
    // A user of ours is nobody in another trust domain, and its keys sign no users of ours.
    const trustDomain = bundle.trustDomain;
    if (!ownSpiffeId.startsWith(`spiffe://${trustDomain}/`))
      return refusal("AUTHN_TXN_INVALID", "a transaction token came from another trust domain");
    const verified = this.#txns.verify(txnToken, bundle, nowMs);
    if (!verified.ok) return verified;
    const origin = wpt.hop.via[0]?.s ?? peer.spiffeId;
    return verified.value.claims.reqWl === origin
      ? verified
      : refusal("AUTHN_TXN_INVALID", "the chain does not begin at the workload that asked for the token");
  }

  #verifyWit(wit: string, input: VerifyInput, bundle: TrustBundle): Verified<CachedWit> {
    const cached = this.#wits.get(wit);
    if (
      cached !== undefined &&
      cached.bundleEpoch === bundle.epoch &&
      cached.claims.sub === input.peer.spiffeId &&
      input.nowMs < tokenEndMs(cached.claims) &&
      (cached.claims.nbf ?? 0) <= input.nowMs / 1000 + SKEW_SECONDS
    ) {
      this.stats.witHits++;
      return { ok: true, value: cached };
    }
    this.stats.witMisses++;
    const verified = verifyWit(wit, { bundle, peerSpiffeId: input.peer.spiffeId, nowMs: input.nowMs });
    if (!verified.ok) {
      this.stats.witRefused++;
      return verified;
    }
    const key = tokenKeyOf(verified.value.jwk);
    if (key === undefined) return refusal("AUTHN_WIT_INVALID", "`cnf.jwk` is not a point on the curve");
    const value = { claims: verified.value, key, bundleEpoch: bundle.epoch };
    this.#wits.set(wit, value, wit.length);
    return { ok: true, value };
  }

  #mtlsOnly(input: VerifyInput, bundle: TrustBundle): Verified<VerifiedCaller> {
    this.stats.mtlsOnly++;
    if (input.txnToken !== undefined) {
      return this.#count(
        refusal("AUTHN_TXN_INVALID", "a transaction token came without a workload proof token"),
      );
    }
    const cached = this.#mtls.get(input.peer);
    if (cached?.isCurrent(input, bundle.epoch)) return { ok: true, value: cached };
    const value = new VerifiedCaller({
      input,
      wit: undefined,
      wpt: undefined,
      txn: undefined,
      bundleEpoch: bundle.epoch,
    });
    this.#mtls.set(input.peer, value);
    return { ok: true, value };
  }

  /** Another key set: nothing that was verified or refused before may be used. */
  #startEpoch(bundle: TrustBundle): void {
    this.#epochs.set(bundle.trustDomain, bundle.epoch);
    this.#proofs.clear();
    this.#wits.clear();
    this.#refused.clear();
    this.#mtls = new WeakMap();
  }

  #count(refused: Refusal): Refusal {
    this.refusals.set(refused.error, (this.refusals.get(refused.error) ?? 0) + 1);
    return refused;
  }
}

function refusal(error: Reason, detail: string): Refusal {
  return { ok: false, error, detail };
}

function refusedKey(input: VerifyInput, epoch: string): string {
  const { wit, wpt, authorization, txnToken, peer, ownSpiffeId } = input;
  const whole = JSON.stringify([
    wit,
    wpt,
    authorization,
    txnToken,
    peer.leafThumbprint,
    peer.spiffeId,
    ownSpiffeId,
    epoch,
  ]);
  return hash("sha256", whole, "base64url");
}
