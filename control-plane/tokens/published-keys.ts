// What others need to check tokens of the token service without a sidecar: JWKS, and an OpenID discovery document. PURE.
import { CLIENT_PATHS } from "../../sidecar/core/gateway/client-login.ts";
import type { TxnSigner } from "../ca/token-service-keys.ts";

/** RFC 7517 section 5. The same keys as in the trust bundle, where they carry a use of ours. */
export function publicJwks(signers: readonly TxnSigner[]): object {
  return { keys: signers.map(({ kid, jwk }) => ({ use: "sig", kid, ...jwk })) };
}

/** OpenID Connect Discovery 1.0 section 3, as far as it holds for an issuer that signs nobody in. */
export function discoveryDocument(issuer: string): object {
  const base = issuer.replace(/\/$/, "");
  return {
    issuer,
    jwks_uri: `${base}/.well-known/jwks.json`,
    // Of the gateway that publishes this document: people exchange what they hold there.
    token_endpoint: new URL(CLIENT_PATHS.token, issuer).href,
    token_endpoint_auth_methods_supported: ["none"],
    response_types_supported: [],
    grant_types_supported: ["urn:ietf:params:oauth:grant-type:token-exchange"],
    subject_types_supported: ["public"],
    id_token_signing_alg_values_supported: ["ES256"],
  };
}
