// Countersigning: the WIT, WPT and transaction token fields of a call. A slot per (callee, operation, packs, hop list,
// transaction token, bearer token) keeps the fields as objects, so that on a warm connection HPACK writes each of them in one or two bytes.
import { TXN_TOKEN, WORKLOAD_IDENTITY_TOKEN, WORKLOAD_PROOF_TOKEN } from "../core/identity/claims.ts";
import type { Proof, ProofSigner, ProofSlot } from "../core/identity/proofs.ts";
import type { SpiffeId } from "../core/identity/spiffe-id.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { createField, type Field, FieldFlag } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";

export interface ProofFields {
  readonly wit: Field;
  readonly wpt: Field;
  /** undefined: the call is nobody's but the workloads'. */
  readonly txn: Field | undefined;
}

class FieldSlot {
  readonly slot: ProofSlot;
  readonly packsDigest: string;
  readonly txnToken: string | undefined;
  #proof: Proof | undefined;
  #fields: ProofFields | undefined;

  constructor(slot: ProofSlot, packsDigest: string, txnToken: string | undefined) {
    this.slot = slot;
    this.packsDigest = packsDigest;
    this.txnToken = txnToken;
  }

  fields(nowMs: number, cache: FieldCache): ProofFields {
    const proof = this.slot.current(nowMs);
    if (proof !== this.#proof || this.#fields === undefined) {
      this.#proof = proof;
      this.#fields = {
        wit: cache.get(WORKLOAD_IDENTITY_TOKEN, proof.wit),
        wpt: cache.get(WORKLOAD_PROOF_TOKEN, proof.wpt),
        txn: this.txnField(cache),
      };
    }
    return this.#fields;
  }

  txnField(cache: FieldCache): Field | undefined {
    return this.txnToken === undefined ? undefined : cache.get(TXN_TOKEN, this.txnToken);
  }
}

const MAX_SLOTS = 4_096;
/** Of one connection; the signer keeps 8 MiB more for all of them together. */
const MAX_SLOT_LENGTH = 1024 * 1024;
const MAX_CATALOGS = 64;

/** The proofs of one identity towards one callee; a renewed identity gets new ones. */
export class Countersigner {
  readonly #signer: ProofSigner;
  readonly #audience: string;
  readonly #cache: FieldCache;
  /** Calls without hops and bearer token, nearly all of them: by packs digest, then operation. */
  readonly #plain = new Map<string, Map<string, FieldSlot>>();
  readonly #slots = new Map<string, FieldSlot>();
  /** Slots of `#slots` by chain object, which stays the same from call to call: no key has to be put together. */
  #byChain = new WeakMap<CallChain, Map<string, FieldSlot>>();
  /** Characters of the keys of `#slots`: bearer tokens may be long. */
  #slotLength = 0;

  constructor(signer: ProofSigner, audience: string, cache: FieldCache) {
    this.#signer = signer;
    this.#audience = audience;
    this.#cache = cache;
  }

  /** The fields to send with a call now. */
  fields(
    operation: string,
    packsDigest: string,
    chain: CallChain | undefined,
    authorization: string | undefined,
    nowMs: number,
  ): ProofFields {
    if (chain === undefined && authorization === undefined) {
      const slot = this.#plain.get(packsDigest)?.get(operation);
      if (slot !== undefined) return slot.fields(nowMs, this.#cache);
    } else if (chain !== undefined && authorization === undefined) {
      const slot = this.#byChain.get(chain)?.get(operation);
      if (slot !== undefined && slot.packsDigest === packsDigest) return slot.fields(nowMs, this.#cache);
    }
    return this.#findSlot(operation, packsDigest, chain, authorization).fields(nowMs, this.#cache);
  }

  /** The fields of a proof that was not sent before and will not be again. */
  freshFields(
    operation: string,
    packsDigest: string,
    chain: CallChain | undefined,
    authorization: string | undefined,
    nowMs: number,
  ): ProofFields {
    const slot = this.#findSlot(operation, packsDigest, chain, authorization);
    const { wit, wpt } = slot.slot.fresh(nowMs);
    const field = createField(WORKLOAD_PROOF_TOKEN, wpt);
    return {
      wit: this.#cache.get(WORKLOAD_IDENTITY_TOKEN, wit),
      // It comes once: in no cache, and not in HPACK's table, where it would push out what repeats.
      wpt: { ...field, flags: field.flags | FieldFlag.neverIndex },
      txn: slot.txnField(this.#cache),
    };
  }

  #findSlot(
    operation: string,
    packsDigest: string,
    chain: CallChain | undefined,
    authorization: string | undefined,
  ): FieldSlot {
    const isPlain = chain === undefined && authorization === undefined;
    const key = `${operation}\n${packsDigest}\n${authorization ?? ""}\n${chain?.key ?? ""}`;
    const known = isPlain ? undefined : this.#slots.get(key);
    if (known !== undefined) {
      if (chain !== undefined && authorization === undefined) this.#remember(chain, operation, known);
      return known;
    }
    const slot = new FieldSlot(
      this.#signer.slot({
        audience: this.#audience,
        operation,
        packsDigest,
        // The hops come from a verified proof, whose IDs were parsed (claims.ts).
        via: (chain?.via ?? []) as readonly { readonly s: SpiffeId; readonly o: string }[],
        authorization,
        caveat: chain?.caveat,
        tth: chain?.txn?.tth,
      }),
      packsDigest,
      chain?.txn?.token,
    );
    if (isPlain) {
      let byOperation = this.#plain.get(packsDigest);
      if (byOperation === undefined) {
        // A catalog that changes often must not be remembered for ever.
        if (this.#plain.size >= MAX_CATALOGS) this.#plain.clear();
        byOperation = new Map();
        this.#plain.set(packsDigest, byOperation);
      }
      byOperation.set(operation, slot);
    } else {
      if (this.#slots.size >= MAX_SLOTS || this.#slotLength + key.length > MAX_SLOT_LENGTH) {
        this.#slots.clear();
        this.#byChain = new WeakMap();
        this.#slotLength = 0;
      }
      this.#slots.set(key, slot);
      this.#slotLength += key.length;
      if (chain !== undefined && authorization === undefined) this.#remember(chain, operation, slot);
    }
    return slot;
  }

  #remember(chain: CallChain, operation: string, slot: FieldSlot): void {
    let byOperation = this.#byChain.get(chain);
    if (byOperation === undefined) {
      byOperation = new Map();
      this.#byChain.set(chain, byOperation);
    }
    byOperation.set(operation, slot);
  }
}
