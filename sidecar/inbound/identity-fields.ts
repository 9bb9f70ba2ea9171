// What the application is told of who calls: decoded and verified facts where a rule says so, and the transaction token
// itself only where the workload passes it on by itself. Whatever came from outside under these names was stripped.
import { TXN_TOKEN } from "../core/identity/claims.ts";
import type { TxnClaims } from "../core/identity/txn.ts";
import { namedRoles } from "../core/policy/role-label.ts";
import type { IdentityHeader } from "../core/policy/rule.ts";
import type { CallFacts } from "./call-facts.ts";

type Pair = readonly [name: string, value: string];

const NO_FIELDS: readonly Pair[] = [];

/** Names and values, ready for the wire. */
export function identityFields(facts: CallFacts): readonly Pair[] {
  const { decision, identified, enforcement } = facts;
  const headers = decision?.identityHeaders ?? [];
  const txn = identified?.txn;
  const passesToken = txn !== undefined && enforcement?.passesTxn === true;
  if (identified === undefined || !identified.caller.authenticated || (headers.length === 0 && !passesToken))
    return NO_FIELDS;
  const fields: Pair[] = [];
  for (const header of headers) {
    const field = fieldOf(header, facts, txn?.claims);
    if (field !== undefined) fields.push(field);
  }
  if (passesToken) fields.push([TXN_TOKEN, txn.token]);
  return fields;
}

function fieldOf(
  header: IdentityHeader,
  { identified, enforcement }: CallFacts,
  claims: TxnClaims | undefined,
): Pair | undefined {
  const caller = identified?.caller;
  switch (header) {
    case "caller":
      return ["x-mesh-caller", `${caller?.kind}/${caller?.name}`];
    case "xfcc": {
      const hash = Buffer.from(identified?.verified?.leafThumbprint ?? "", "base64url").toString("hex");
      const own = enforcement?.table.program.spiffeId ?? "";
      return ["x-forwarded-client-cert", `By=${own};Hash=${hash};Subject="";URI=${caller?.spiffeId}`];
    }
    case "user":
      return pair("x-forwarded-user", claims?.sub);
    case "email":
      return pair("x-forwarded-email", claims?.tctx.email);
    case "username":
      return pair("x-forwarded-preferred-username", claims?.tctx.username);
    case "roles":
      return pair("x-mesh-roles", claims && namedRoles(claims.tctx.roles).join(","));
  }
}

/** Without a user, or without that fact of it, there is no field: an empty one could be taken for somebody. */
function pair(name: string, value: string | undefined): Pair | undefined {
  return value === undefined || value === "" ? undefined : [name, headerValue(value)];
}

/**
 * A claim as a field value. Claims have no control characters (txn.ts); what lies beyond ASCII goes as the bytes of its
 * UTF-8, one character per byte, as the serializers write Latin-1.
 */
function headerValue(text: string): string {
  return Buffer.from(text.trim(), "utf8").toString("latin1");
}
