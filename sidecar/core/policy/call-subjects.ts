// The subjects of a call out of what was verified of it: the user and scope of a transaction token, and earlier hops.
import { scopeEntries } from "../identity/chain.ts";
import type { HeldTxn } from "../identity/held-txn.ts";
import { parseSpiffeId, workloadOf } from "../identity/spiffe-id.ts";
import { TXN_SCOPE_ALL } from "../identity/txn.ts";
import type { Hop, User } from "./call.ts";

export function userOfTxn({ claims: { sub, tctx } }: HeldTxn): User {
  return {
    id: sub,
    roles: tctx.roles,
    idp: tctx.idp,
    type: tctx.typ,
    amr: tctx.amr,
    acr: tctx.acr,
    authTimeMs: tctx.authTime === undefined ? undefined : tctx.authTime * 1_000,
  };
}

/** Operations that the token leaves; undefined: unlimited. */
export function scopeOfTxn(txn: HeldTxn | undefined): readonly string[] | undefined {
  const scope = txn?.claims.scope ?? TXN_SCOPE_ALL;
  return scope === TXN_SCOPE_ALL ? undefined : scopeEntries(scope);
}

/** @param spiffeId of a verified proof's chain. */
export function hopOf(spiffeId: string, operation: string): Hop {
  const id = parseSpiffeId(spiffeId);
  const path = id.ok ? workloadOf(id.value) : undefined;
  return {
    spiffeId,
    kind: path?.kind ?? "",
    name: path?.name ?? "",
    namespace: path?.namespace ?? "",
    serviceAccount: path?.serviceAccount ?? "",
    operation,
  };
}
