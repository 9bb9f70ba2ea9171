// A verifier per IdentityProvider, made when it is first needed and again when the object changes. Each has keys of its own.
import { type DocumentStore, IssuerDocuments } from "../../sidecar/core/idp/issuer-documents.ts";
import { IdpVerifier } from "../../sidecar/core/idp/verifier.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { IdpProvider } from "./person.ts";
import { TokenRefusal } from "./refusal.ts";

export interface ProviderInUse {
  readonly provider: IdpProvider;
  readonly verifier: IdpVerifier;
  readonly documents: IssuerDocuments;
}

export interface VerifiersDeps {
  readonly providers: () => ReadonlyMap<string, IdpProvider>;
  readonly store: (name: string) => DocumentStore;
  readonly clock: Clock;
  readonly log: Logger;
}

export class Verifiers {
  readonly #deps: VerifiersDeps;
  readonly #byName = new Map<string, ProviderInUse>();

  constructor(deps: VerifiersDeps) {
    this.#deps = deps;
  }

  /** @throws TokenRefusal `IDP_UNKNOWN`. */
  named(name: string): ProviderInUse {
    const provider = this.#deps.providers().get(name);
    if (provider === undefined)
      throw new TokenRefusal("IDP_UNKNOWN", `there is no IdentityProvider \`${name.slice(0, 64)}\``);
    const known = this.#byName.get(name);
    if (known?.provider === provider) return known;
    const { clock, log } = this.#deps;
    // Another object of the same content keeps its keys; what they are for may have changed.
    const isSameIssuer =
      known?.provider.issuer === provider.issuer &&
      known.provider.allowInsecureIssuer === provider.allowInsecureIssuer;
    const documents =
      known !== undefined && isSameIssuer
        ? known.documents
        : new IssuerDocuments({ settings: provider, store: this.#deps.store(name), clock, log });
    const made = { provider, documents, verifier: new IdpVerifier(provider, documents, clock) };
    this.#byName.set(name, made);
    return made;
  }

  /**
   * Those whose issuer a token names. The name chooses who is asked, nothing else. Several objects may be of one issuer, with
   * different clients.
   *
   * @throws TokenRefusal `IDP_UNKNOWN`.
   */
  ofIssuer(issuer: unknown): readonly ProviderInUse[] {
    const found: ProviderInUse[] = [];
    for (const [name, provider] of this.#deps.providers())
      if (provider.issuer === issuer) found.push(this.named(name));
    if (found.length === 0)
      throw new TokenRefusal("IDP_UNKNOWN", "the subject token is of no IdentityProvider of this mesh");
    return found;
  }
}
