// PURE. The person (or service principal) of a call as audit events name them, prepared once per verified token.
import type { HeldTxn } from "../core/identity/held-txn.ts";

/** Parts of an event, each JSON text. */
export interface PersonTexts {
  /** `userIdentity`. */
  readonly identity: string;
  /** From `txn` on: the transaction, and which token carried it. */
  readonly txn: string;
}

/** Roles of one event; a person may have more. */
const MAX_ROLES = 32;

/** @param txn the token itself never goes into an event, its hash does. */
export function personTexts({ tth, claims }: HeldTxn): PersonTexts {
  const { typ, roles, email } = claims.tctx;
  return {
    identity: JSON.stringify({
      id: claims.sub,
      type: typ,
      roles: roles.slice(0, MAX_ROLES),
      email: email ?? null,
    }),
    txn: `${JSON.stringify(claims.txn)},"txnTokenHash":"sha256:${tth}"`,
  };
}
