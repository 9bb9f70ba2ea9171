// IdentityProvider: whom people and service principals sign in with, typed; PURE.
import { IDP_ALGORITHMS } from "../../sidecar/core/gateway/gateway.ts";
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { IdentityProvider } from "../sources/store.ts";
import { FieldReader } from "./field-reader.ts";

/** Clocks that are further apart than this are wrong, not skewed. */
const MAX_SKEW_SECONDS = 300;

const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);

const secondsOf = (ms: number | undefined): number | undefined =>
  ms === undefined ? undefined : Math.round(ms / 1000);

/** Says what is wrong with an issuer (OpenID Connect Discovery 1.0 section 3: https, no query, no fragment). */
function checkIssuer(issuer: string, allowInsecure: boolean): string | undefined {
  if (!URL.canParse(issuer)) return "must be an `https://` address";
  const url = new URL(issuer);
  if (url.search !== "" || url.hash !== "" || url.username !== "" || url.password !== "")
    return "must have no query, fragment or user";
  if (url.protocol === "https:") return undefined;
  if (!allowInsecure) return "must be an `https://` address";
  return url.protocol === "http:" && LOOPBACK.has(url.hostname)
    ? undefined
    : "`allowInsecureIssuer` holds for `http://` on loopback alone";
}

function readSecret(fields: FieldReader): IdentityProvider["clientSecret"] {
  fields.require("name");
  return { name: fields.text("name") ?? "", key: fields.text("key") ?? "client-secret" };
}

export function parseIdentityProvider(
  object: ValidObject,
): Result<IdentityProvider, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const fields = new FieldReader(object.spec, "spec", problems);
  fields.require("type");
  if (fields.oneOf("type", ["oidc", "saml"] as const) === "saml")
    problems.push({
      reason: "Unsupported",
      path: "spec.type",
      message: "this build signs nobody in by SAML yet",
      hint: "use `oidc`",
    });
  const allowInsecureIssuer = fields.flag("allowInsecureIssuer") ?? false;
  const issuer = fields.text("issuer");
  const wrong = issuer === undefined ? undefined : checkIssuer(issuer, allowInsecureIssuer);
  if (wrong !== undefined) fields.report(wrong, "issuer");
  const provider: IdentityProvider = {
    name: object.name,
    generation: object.generation,
    displayName: fields.text("displayName") ?? object.name,
    issuer: issuer ?? "",
    clientId: fields.text("clientID") ?? "",
    clientSecret: fields.object("clientSecretRef", readSecret),
    scopes: fields.texts("scopes") ?? ["openid", "profile", "email"],
    userIdClaim: fields.text("userIdClaim") ?? "sub",
    groupsClaim: fields.text("groupsClaim") ?? "groups",
    emailClaim: fields.text("emailClaim") ?? "email",
    usernameClaim: fields.text("usernameClaim") ?? "preferred_username",
    servicePrincipalClaim: fields.text("servicePrincipalClaim"),
    audiences: fields.texts("audiences") ?? [],
    algorithms: fields.choices("algorithms", IDP_ALGORITHMS) ?? ["RS256", "ES256"],
    stepUpAcr: fields.text("stepUpAcr"),
    maxAgeSeconds: secondsOf(fields.durationMs("maxAge")),
    hostedDomain: fields.text("hostedDomain"),
    offlineAccess: fields.flag("offlineAccess") ?? false,
    clockSkewSeconds: secondsOf(fields.durationMs("clockSkew")) ?? 60,
    allowInsecureIssuer,
  };
  if (!provider.scopes.includes("openid")) fields.report("must contain `openid`", "scopes");
  if (provider.clockSkewSeconds > MAX_SKEW_SECONDS) fields.report("must be at most `5m`", "clockSkew");
  if (problems.length === 0) fields.require("issuer", "clientID");
  fields.end();
  return problems.length > 0 ? { ok: false, error: problems } : { ok: true, value: provider };
}
