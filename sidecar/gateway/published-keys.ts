// What those outside need to check tokens of the mesh: the token service's discovery document and keys, at the host of its
// issuer where that is one of the gateway's. Fetched now and then in the background; requests cause none of it.
import type { TokenResult } from "../tokens/token-transport.ts";
import type { EdgeAnswer } from "./people.ts";

export interface PublishedKeysDeps {
  readonly fetch: (path: string) => Promise<TokenResult<Readonly<Record<string, unknown>>>>;
}

const DOCUMENTS = ["/.well-known/openid-configuration", "/.well-known/jwks.json"] as const;
/** New keys are published long before they are used. */
const EVERY_MS = 300_000;
const AGAIN_MS = 10_000;
const MAX_CHARS = 65_536;

export class PublishedKeys {
  readonly #deps: PublishedKeysDeps;
  /** `host/path` to the document; what was fetched last stays when the token service is away. */
  #bodies: ReadonlyMap<string, string> = new Map();
  #dueMs = Number.NEGATIVE_INFINITY;
  #isUnderWay = false;

  constructor(deps: PublishedKeysDeps) {
    this.#deps = deps;
  }

  /** The document at a host and path; undefined: there is none, and the path is a route's. @param authority as received. */
  answer(authority: string, path: string): EdgeAnswer | undefined {
    if (this.#bodies.size === 0 || !path.includes("/.well-known/")) return undefined;
    const body = this.#bodies.get(authority.toLowerCase().replace(/:\d+$/, "") + path);
    if (body === undefined) return undefined;
    return {
      kind: "answer",
      status: 200,
      fields: [
        ["content-type", "application/json"],
        ["cache-control", "public, max-age=300"],
        // Public, and the same for everybody: pages that check tokens may read it.
        ["access-control-allow-origin", "*"],
      ],
      body,
    };
  }

  /** Called every few seconds. @param nowMs monotonic. */
  sweep(nowMs: number): void {
    if (nowMs < this.#dueMs || this.#isUnderWay) return;
    this.#isUnderWay = true;
    this.#dueMs = nowMs + AGAIN_MS;
    void this.#fetch().then((bodies) => {
      this.#isUnderWay = false;
      if (bodies === undefined) return;
      this.#bodies = bodies;
      this.#dueMs = nowMs + EVERY_MS;
    });
  }

  /** undefined: not now. */
  async #fetch(): Promise<ReadonlyMap<string, string> | undefined> {
    const [discovery, keys] = await Promise.all(DOCUMENTS.map((path) => this.#deps.fetch(path)));
    if (discovery?.ok !== true || keys?.ok !== true) return undefined;
    const { issuer } = discovery.value;
    const url = typeof issuer === "string" && URL.canParse(issuer) ? new URL(issuer) : undefined;
    const { keys: list } = keys.value;
    if (url?.protocol !== "https:" || !Array.isArray(list) || list.length === 0) return undefined;
    const base = url.hostname + url.pathname.replace(/\/$/, "");
    const texts = [discovery.value, keys.value].map((document) => JSON.stringify(document));
    if (texts.some(({ length }) => length > MAX_CHARS)) return undefined;
    return new Map(DOCUMENTS.map((path, i) => [base + path, texts[i] ?? ""]));
  }
}
