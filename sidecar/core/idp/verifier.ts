// Verifies the tokens of one identity provider: their form, then the key and its algorithm, then the signature (jose), then
// what the claims say. Whatever the token says of itself chooses nothing but which of the provider's keys is tried.
import { compactVerify } from "jose";
import type { Clock } from "../runtime/clock.ts";
import type { IssuerDocuments } from "./issuer-documents.ts";
import { type JwtShape, readJwtShape } from "./jwt-shape.ts";
import { type IdpRefusal, type IdpResult, type IdpSettings, refuseIdp } from "./settings.ts";
import {
  type ClaimContext,
  checkAccessToken,
  checkAssertion,
  checkIdToken,
  checkLogoutToken,
  type IdTokenExpectation,
  type VerifiedJwt,
  type VerifiedLogout,
} from "./token-claims.ts";

/** Keys without `kid` that are tried for one token. */
const MAX_TRIED_KEYS = 4;

export class IdpVerifier {
  readonly settings: IdpSettings;
  readonly #documents: Pick<IssuerDocuments, "keys">;
  readonly #clock: Pick<Clock, "nowMs">;

  constructor(settings: IdpSettings, documents: Pick<IssuerDocuments, "keys">, clock: Pick<Clock, "nowMs">) {
    this.settings = settings;
    this.#documents = documents;
    this.#clock = clock;
  }

  /** The ID token of a login, or of its refresh. Whether it was used before is for the caller to see, by `digest`. */
  verifyIdToken(token: string, expected: IdTokenExpectation): Promise<IdpResult<VerifiedJwt>> {
    return this.#verify(token, (shape, context) => checkIdToken(shape, context, expected));
  }

  /** An access token for the API (RFC 9068). */
  verifyAccessToken(token: string): Promise<IdpResult<VerifiedJwt>> {
    return this.#verify(token, checkAccessToken);
  }

  /** A JWT of a CI system or service principal, to be exchanged. */
  verifyAssertion(token: string): Promise<IdpResult<VerifiedJwt>> {
    return this.#verify(token, checkAssertion);
  }

  /** A back-channel logout token. Whether it was used before is for the caller to see, by `digest`. */
  verifyLogoutToken(token: string): Promise<IdpResult<VerifiedLogout>> {
    return this.#verify(token, checkLogoutToken);
  }

  async #verify<T>(
    token: string,
    check: (shape: JwtShape, context: ClaimContext) => IdpResult<T>,
  ): Promise<IdpResult<T>> {
    const shape = readJwtShape(token);
    if (!shape.ok) return shape;
    const { settings } = this;
    // Claims first: what is refused anyway costs no signature and no question to the provider.
    const checked = check(shape.value, { settings, nowMs: this.#clock.nowMs() });
    if (!checked.ok) return checked;
    const refusal = await this.#signatureProblem(shape.value);
    return refusal ?? checked;
  }

  async #signatureProblem({ alg, kid, token }: JwtShape): Promise<IdpRefusal | undefined> {
    if (!this.settings.algorithms.includes(alg))
      return refuseIdp("algorithm", `\`${alg.slice(0, 16)}\` is none of \`spec.algorithms\``);
    const keys = await this.#documents.keys(kid, alg);
    if (keys === undefined)
      return refuseIdp("unavailable", "the identity provider cannot be asked for its keys");
    if (keys.length === 0) return refuseIdp("key_unknown", "no key of the provider has this `kid` and `alg`");
    for (const { key } of keys.slice(0, MAX_TRIED_KEYS)) {
      try {
        await compactVerify(token, key, { algorithms: [alg] });
        return undefined;
      } catch {
        // Another key without `kid` may be the one.
      }
    }
    return refuseIdp("signature", "the signature does not verify");
  }
}
