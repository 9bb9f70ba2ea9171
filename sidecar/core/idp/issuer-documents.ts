// What one identity provider publishes about itself, its discovery document and its keys: fetched when they are needed,
// kept as the last ones that were good (also across restarts), and asked for again when a token names a key that is not
// among them. Each provider has one of these, so that a slow or broken one holds up nobody else.
import { AddressLimiter } from "../runtime/address-limiter.ts";
import type { Clock } from "../runtime/clock.ts";
import { MeshError, messageOf } from "../runtime/errors.ts";
import type { Logger } from "../runtime/log.ts";
import type { Reach } from "./address-reach.ts";
import { checkedUrl, type Fetched, fetchGuarded, type GuardedRequest } from "./guarded-fetch.ts";
import { type IdpKey, parseJwks } from "./jwks.ts";
import type { IdpSettings } from "./settings.ts";

/** Where the last good documents of one provider are kept. */
export interface DocumentStore {
  /** undefined: there is nothing, or it cannot be read. */
  load(): Promise<string | undefined>;
  /** @throws Error when it cannot be written; what is held in memory counts on. */
  save(text: string): Promise<void>;
}

export interface IssuerDocumentsDeps {
  readonly settings: Pick<IdpSettings, "name" | "issuer" | "allowInsecureIssuer">;
  readonly store: DocumentStore;
  readonly clock: Pick<Clock, "nowMs" | "monotonicMs">;
  readonly log: Logger;
  /** Another one in tests. */
  readonly fetch?: (asked: GuardedRequest) => Promise<Fetched>;
}

interface Documents {
  readonly issuer: string;
  readonly fetchedAtMs: number;
  readonly reach: Reach;
  readonly jwks: string;
  readonly userinfoEndpoint: string | undefined;
}

/** Older ones are asked for again while they are still used … */
const FRESH_MS = 600_000;
/** … and count no more when the provider could not be asked for so long: a withdrawn key leaves at last. */
const STALE_MS = 86_400_000;
/** After a failure. */
const RETRY_MS = 10_000;
/** Tokens with unknown keys cause so many questions at once, and one each 30 s then. */
const MISS_BURST = 3;
const MISS_PER_SECOND = 1 / 30;

export class IssuerDocuments {
  readonly #deps: IssuerDocumentsDeps;
  readonly #fetch: (asked: GuardedRequest) => Promise<Fetched>;
  readonly #misses = new AddressLimiter(MISS_BURST, MISS_PER_SECOND);
  #documents: Documents | undefined;
  #keys: readonly IdpKey[] = [];
  #loading: Promise<void> | undefined;
  #refreshing: Promise<boolean> | undefined;
  #failedAtMs = Number.NEGATIVE_INFINITY;

  constructor(deps: IssuerDocumentsDeps) {
    this.#deps = deps;
    this.#fetch = deps.fetch ?? fetchGuarded;
  }

  /**
   * The keys that may have signed a token.
   *
   * @param kid of the token; undefined: every key for the algorithm is tried.
   * @returns none when the provider does not publish such a key; undefined when it cannot be asked and what is known of it
   *   is too old, or nothing is.
   */
  async keys(kid: string | undefined, algorithm: string): Promise<readonly IdpKey[] | undefined> {
    if (!(await this.#ready())) return undefined;
    const found = this.#matching(kid, algorithm);
    if (found.length > 0 || kid === undefined || !this.#misses.admit("miss", this.#deps.clock.monotonicMs()))
      return found;
    await this.#refresh();
    return this.#matching(kid, algorithm);
  }

  /** Claims of the user whose access token it is, unverified JSON; undefined: the provider has no such endpoint. @throws MeshError `io_failed`. */
  async userinfo(accessToken: string): Promise<string | undefined> {
    if (!(await this.#ready()) || this.#documents?.userinfoEndpoint === undefined) return undefined;
    const { reach, userinfoEndpoint: url } = this.#documents;
    const answer = await this.#fetch({
      ...{ url, namedFrom: reach, allowInsecure: this.#deps.settings.allowInsecureIssuer },
      headers: { authorization: `Bearer ${accessToken}` },
    });
    if (answer.status !== 200 || !/^application\/json\b/i.test(answer.contentType))
      throw new MeshError("io_failed", `the userinfo endpoint answered ${answer.status}`);
    return answer.body;
  }

  async #ready(): Promise<boolean> {
    this.#loading ??= this.#load();
    await this.#loading;
    const { clock } = this.#deps;
    const documents = this.#documents;
    const ageMs = documents === undefined ? Number.POSITIVE_INFINITY : clock.nowMs() - documents.fetchedAtMs;
    if (ageMs < FRESH_MS && ageMs > -FRESH_MS) return true;
    const mayAsk = clock.monotonicMs() - this.#failedAtMs >= RETRY_MS;
    if (ageMs < STALE_MS) {
      if (mayAsk) void this.#refresh();
      return true;
    }
    return mayAsk && (await this.#refresh());
  }

  #matching(kid: string | undefined, algorithm: string): readonly IdpKey[] {
    return this.#keys.filter(
      (key) => key.algorithms.includes(algorithm) && (kid === undefined || key.kid === kid),
    );
  }

  /** One at a time; those who come meanwhile wait for it. @returns whether there are new documents. */
  #refresh(): Promise<boolean> {
    this.#refreshing ??= this.#ask().finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  async #ask(): Promise<boolean> {
    const { settings, store, clock, log } = this.#deps;
    try {
      const documents = await this.#download();
      this.#use(documents);
      await store.save(JSON.stringify(documents)).catch((error: unknown) => {
        log.warn("keys of an identity provider are not kept on disk", {
          idp: settings.name,
          error: messageOf(error),
        });
      });
      this.#failedAtMs = Number.NEGATIVE_INFINITY;
      return true;
    } catch (error) {
      this.#failedAtMs = clock.monotonicMs();
      log.warn("identity provider cannot be asked", {
        idp: settings.name,
        error: messageOf(error),
        keys: this.#keys.length,
      });
      return false;
    }
  }

  /** OpenID Connect Discovery 1.0 section 4: the issuer in the document is the one that was asked. */
  async #download(): Promise<Documents> {
    const { settings, clock } = this.#deps;
    const { issuer, allowInsecureIssuer: allowInsecure } = settings;
    const url = `${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`;
    const found = await this.#fetch({ url, namedFrom: undefined, allowInsecure });
    const metadata = jsonObject(found, "discovery document");
    if (metadata["issuer"] !== issuer)
      throw new MeshError("io_failed", "the discovery document is of another issuer");
    const { reach } = found;
    const jwksUri = metadata["jwks_uri"];
    if (typeof jwksUri !== "string")
      throw new MeshError("io_failed", "the discovery document has no `jwks_uri`");
    const set = await this.#fetch({ url: jwksUri, namedFrom: reach, allowInsecure });
    if (set.status !== 200) throw new MeshError("io_failed", `the key set was answered with ${set.status}`);
    const userinfo = metadata["userinfo_endpoint"];
    return {
      ...{ issuer, reach, jwks: set.body, fetchedAtMs: clock.nowMs() },
      userinfoEndpoint:
        typeof userinfo === "string" ? checkedUrl(userinfo, allowInsecure).toString() : undefined,
    };
  }

  /** @throws MeshError `io_failed`: the keys of before stay. */
  #use(documents: Documents): void {
    const keys = parseJwks(documents.jwks);
    if (!keys.ok) throw new MeshError("io_failed", keys.error);
    this.#keys = keys.value;
    this.#documents = documents;
  }

  async #load(): Promise<void> {
    const { settings, store, log } = this.#deps;
    const text = await store.load().catch(() => undefined);
    if (text === undefined) return;
    try {
      const documents = readStored(text);
      if (documents?.issuer === settings.issuer) this.#use(documents);
    } catch (error) {
      log.warn("kept keys of an identity provider are not used", {
        idp: settings.name,
        error: messageOf(error),
      });
    }
  }
}

type Json = Readonly<Record<string, unknown>>;

function jsonObject({ status, body }: Fetched, what: string): Json {
  if (status !== 200) throw new MeshError("io_failed", `the ${what} was answered with ${status}`);
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch (cause) {
    throw new MeshError("io_failed", `the ${what} is not JSON`, { cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new MeshError("io_failed", `the ${what} is not an object`);
  return value as Json; // just checked; each member is read as unknown
}

function readStored(text: string): Documents | undefined {
  const value: unknown = JSON.parse(text);
  if (typeof value !== "object" || value === null) return undefined;
  const { issuer, fetchedAtMs, reach, jwks, userinfoEndpoint } = value as Json; // each member is checked
  if (typeof issuer !== "string" || typeof fetchedAtMs !== "number" || typeof jwks !== "string")
    return undefined;
  if (reach !== "public" && reach !== "private" && reach !== "loopback") return undefined;
  if (userinfoEndpoint !== undefined && typeof userinfoEndpoint !== "string") return undefined;
  return { issuer, fetchedAtMs, reach, jwks, userinfoEndpoint };
}
