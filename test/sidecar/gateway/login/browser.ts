// A browser in front of the part that knows people, without the gateway's front: it keeps cookies, follows redirects
// between the gateway's host and a real OpenID Provider, and fills in the provider's form.
import type { GatewayRoute } from "../../../../sidecar/core/gateway/gateway.ts";
import type { Admitted, EdgeAnswer, EdgeRequest, People } from "../../../../sidecar/gateway/people.ts";
import { CookieJar } from "../../../fakes/cookie-jar.ts";

export const HOST = "nb.acme.example";

export interface Asked {
  readonly method?: string;
  readonly host?: string;
  readonly fields?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly isUpgrade?: boolean;
  readonly route?: GatewayRoute;
}

export const NAVIGATION = {
  "sec-fetch-mode": "navigate",
  "sec-fetch-dest": "document",
  "sec-fetch-site": "none",
};

/** What the last of a chain of redirects gave. */
export interface Arrived {
  readonly url: string;
  readonly answer: Admitted | EdgeAnswer;
  /** Every address on the way. */
  readonly way: readonly string[];
}

export function textOf(answer: Admitted | EdgeAnswer): string {
  return answer.kind === "answer" ? String(answer.body) : "";
}

export function fieldOf(answer: Admitted | EdgeAnswer, name: string): string | undefined {
  return answer.kind === "answer" ? answer.fields.find(([each]) => each === name)?.[1] : undefined;
}

export abstract class BaseBrowser {
  readonly jar = new CookieJar();
  /** Name for the provider's form; undefined: stops in front of it. */
  user: string | undefined;

  constructor(user?: string) {
    this.user = user;
  }

  /** Whether an address is the provider's; on loopback it has no TLS, and the gateway always. */
  protected isProviders(url: URL): boolean {
    return url.protocol === "http:";
  }

  /** One request to the provider, without cookies and redirects. */
  protected fetch(url: URL, init: RequestInit): Promise<Response> {
    return fetch(url, init);
  }

  /** One request to the gateway; takes its cookies. */
  abstract ask(target: string, asked?: Asked): Promise<Admitted | EdgeAnswer>;

  /** Goes to an address and follows. */
  async go(target: string, asked: Asked = {}): Promise<Arrived> {
    let url = target.startsWith("/") ? `https://${asked.host ?? HOST}${target}` : target;
    const way: string[] = [];
    for (let hops = 0; hops < 25; hops++) {
      way.push(url);
      const at = new URL(url);
      if (!this.isProviders(at)) {
        const answer = await this.ask(
          at.pathname + at.search,
          hops === 0 ? { host: at.host, ...asked } : { host: at.host },
        );
        const to = fieldOf(answer, "location");
        if (to === undefined) return { url, answer, way };
        url = new URL(to, url).href;
        continue;
      }
      const to = await this.#atProvider(at);
      if (to === undefined)
        return { url, answer: { kind: "answer", status: 200, fields: [], body: "the provider's form" }, way };
      url = new URL(to, url).href;
    }
    throw new Error(`goes in circles: ${way.join(" ")}`);
  }

  async #atProvider(at: URL): Promise<string | undefined> {
    let response = await this.#fetch(at, {});
    if (response.status === 200) {
      const page = await response.text();
      const action = /action="([^"]+)"/.exec(page)?.[1];
      if (action === undefined || this.user === undefined) return undefined;
      const form = page.includes('value="login"')
        ? new URLSearchParams({ prompt: "login", login: this.user, password: "x" })
        : new URLSearchParams(
            Array.from(
              page.matchAll(/<input type="hidden" name="([^"]+)" value="([^"]*)"/g),
              ([, name = "", value = ""]): [string, string] => [name, value],
            ),
          );
      response = await this.#fetch(new URL(action), { method: "POST", body: form });
    }
    const to = response.headers.get("location");
    if (to === null)
      throw new Error(`the provider answered ${response.status}: ${(await response.text()).slice(0, 500)}`);
    return to;
  }

  async #fetch(url: URL, init: RequestInit): Promise<Response> {
    const cookie = this.jar.field(url.host);
    const response = await this.fetch(url, {
      ...init,
      redirect: "manual",
      headers: cookie === undefined ? {} : { cookie },
    });
    this.jar.take(url.host, response.headers.getSetCookie());
    return response;
  }
}

/** In front of `People` itself. */
export class Browser extends BaseBrowser {
  readonly #people: People;
  readonly #route: GatewayRoute;

  constructor(people: People, route: GatewayRoute, user?: string) {
    super(user);
    this.#people = people;
    this.#route = route;
  }

  async ask(target: string, asked: Asked = {}): Promise<Admitted | EdgeAnswer> {
    const { method = "GET", host = HOST, fields = NAVIGATION, body = "", isUpgrade = false } = asked;
    const cookie = this.jar.field(host);
    const all: Record<string, string> = { ...(cookie === undefined ? {} : { cookie }), ...fields };
    const isOwn = target.startsWith("/.countersign/");
    const request: EdgeRequest = {
      ...{ method, host, target, isUpgrade, sourceIp: "203.0.113.7" },
      route: isOwn ? undefined : (asked.route ?? this.#route),
      field: (name) => all[name],
    };
    const answer = isOwn
      ? await this.#people.serve(request, Buffer.from(body))
      : await this.#people.authenticate(request);
    const setCookie =
      answer.kind === "admitted"
        ? answer.setCookie
        : answer.fields.filter(([name]) => name === "set-cookie").map(([, value]) => value);
    this.jar.take(host, setCookie);
    return answer;
  }
}
