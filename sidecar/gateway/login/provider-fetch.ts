// What the OpenID Connect library asks an identity provider with: no redirects, bounded in time and size, and to addresses
// no closer than the provider's own, so that a document of it cannot send us to a cloud's metadata or a neighbour.
import { lookup as systemLookup } from "node:dns";
import { isIP, type LookupFunction } from "node:net";
import { Agent, fetch as undiciFetch } from "undici";
import { mayReach, type Reach, reachOf } from "../../core/idp/address-reach.ts";
import { checkedUrl, MAX_DOCUMENT_BYTES } from "../../core/idp/guarded-fetch.ts";
import { MeshError } from "../../core/runtime/errors.ts";

const TIMEOUT_MS = 5_000;
const CONNECTIONS = 8;

export class ProviderFetch {
  readonly #allowInsecure: boolean;
  readonly #agent: Agent;
  /** Where the operator's issuer is, found with the first request, which is to the issuer. */
  #reach: Reach | undefined;

  constructor(allowInsecure: boolean) {
    this.#allowInsecure = allowInsecure;
    const lookup: LookupFunction = (hostname, options, callback) => {
      systemLookup(hostname, { ...options, all: true }, (error, addresses) => {
        const permitted = error === null ? addresses.filter(({ address }) => this.#permits(address)) : [];
        const [first] = permitted;
        if (error !== null) callback(error, "");
        else if (first === undefined) callback(outOfReach(hostname), "");
        else {
          this.#reach ??= reachOf(first.address);
          if (options.all === true) callback(null, permitted);
          else callback(null, first.address, first.family);
        }
      });
    };
    this.#agent = new Agent({
      connections: CONNECTIONS,
      connect: { lookup, timeout: TIMEOUT_MS },
      headersTimeout: TIMEOUT_MS,
      bodyTimeout: TIMEOUT_MS,
      maxResponseSize: MAX_DOCUMENT_BYTES,
    });
  }

  /** In the form that `openid-client` calls it. */
  readonly fetch = async (
    address: string,
    options: {
      readonly body?: unknown;
      readonly headers: Record<string, string>;
      readonly method: string;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<Response> => {
    const url = checkedUrl(address, this.#allowInsecure);
    const host = url.hostname.replace(/^\[|\]$/g, "");
    if (isIP(host) !== 0) {
      if (!this.#permits(host)) throw outOfReach(url.host);
      this.#reach ??= reachOf(host);
    }
    const { body, headers, method, signal } = options;
    const answer = await undiciFetch(url, {
      method,
      headers,
      redirect: "manual",
      dispatcher: this.#agent,
      signal: signal ?? AbortSignal.timeout(TIMEOUT_MS),
      ...(typeof body === "string" || body instanceof URLSearchParams ? { body: body.toString() } : {}),
    });
    // undici's own Response is the same class as far as the library looks.
    return answer as unknown as Response;
  };

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  #permits(address: string): boolean {
    const reach = reachOf(address);
    return this.#reach === undefined ? reach !== "never" : mayReach(this.#reach, reach);
  }
}

function outOfReach(host: string): MeshError {
  return new MeshError("io_failed", `\`${host}\` has no address that may be asked from here`);
}
