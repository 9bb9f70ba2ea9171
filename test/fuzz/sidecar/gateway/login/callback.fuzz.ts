// The gateway's own pages with random targets, cookies and forms: they always answer, lead nobody off the host, never speak in
// a stranger's words, and redeem a code only for the browser, state, host and provider that it was asked for with.
import fc from "fast-check";
import { Revocations } from "../../../../../sidecar/core/identity/revocations.ts";
import { silentLogger } from "../../../../../sidecar/core/runtime/log.ts";
import type { Attempt } from "../../../../../sidecar/gateway/login/attempt.ts";
import { GatewayPeople } from "../../../../../sidecar/gateway/login/gateway-people.ts";
import type { LoginWorld } from "../../../../../sidecar/gateway/login/login-world.ts";
import type { Provider } from "../../../../../sidecar/gateway/login/provider.ts";
import { SignInError } from "../../../../../sidecar/gateway/login/sign-in-failure.ts";
import type { EdgeAnswer, EdgeRequest } from "../../../../../sidecar/gateway/people.ts";
import { GatewayCookies } from "../../../../../sidecar/gateway/session/cookies.ts";
import { MemorySessionStore } from "../../../../../sidecar/gateway/session/memory-store.ts";
import { HOST } from "../../../../sidecar/gateway/login/browser.ts";
import { FakeTokens, gatewayOf, idpOf } from "../../../../sidecar/gateway/login/world.ts";

const EVIL = "evil.example";

interface Begun {
  readonly attempt: Attempt;
  readonly cookie: string;
}

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const gateway = gatewayOf([idpOf("acme", "https://idp.example"), idpOf("other", "https://other.example")]);
  let asked: Attempt | undefined;
  let redeemed: Attempt | undefined;
  const provider = {
    authorizationUrl: async (attempt: Attempt) => {
      asked = attempt;
      return new URL(`https://idp.example/authorize?state=${attempt.state}`);
    },
    redeem: async (attempt: Attempt) => {
      redeemed = attempt;
      throw new SignInError("declined", "<script>");
    },
    endSessionUrl: async () => undefined,
  } as unknown as Provider; // nothing else of it is used by the pages
  const world: LoginWorld = {
    gateway: () => gateway,
    provider: () => provider,
    cookies: GatewayCookies.of(gateway),
    store: new MemorySessionStore({ idleMs: 3_600_000, maxSessions: 10 }),
    tokens: new FakeTokens(),
    revocations: () => Revocations.none,
    leadsTo: () => false,
    mayExchange: () => 0,
    clock: { nowMs: () => Date.now() },
    log: silentLogger,
    tell: () => true,
    reference: () => "g-1",
    count: () => {},
    countOddCookie: () => {},
  };
  const people = new GatewayPeople(world);
  const serve = (
    target: string,
    cookie: string,
    more: Partial<EdgeRequest> = {},
    body = "",
  ): Promise<EdgeAnswer> => {
    const fields: Readonly<Record<string, string>> = {
      ...{ cookie, origin: `https://${EVIL}`, "content-type": "application/x-www-form-urlencoded" },
    };
    return people.serve(
      {
        ...{ method: "GET", host: HOST, target, sourceIp: "203.0.113.7", isUpgrade: false, route: undefined },
        field: (name) => fields[name],
        ...more,
      },
      Buffer.from(body),
    );
  };
  const begin = async (): Promise<Begun> => {
    const answer = await serve("/.countersign/login?idp=acme&rd=/lab", "");
    const set =
      answer.fields.find(([name, value]) => name === "set-cookie" && value.includes("-login-"))?.[1] ?? "";
    if (asked === undefined) throw new Error("no sign-in began");
    return { attempt: asked, cookie: set.split(";")[0] ?? "" };
  };
  const text = fc.oneof(
    fc.constantFrom(
      "/lab",
      `//${EVIL}`,
      `https://${EVIL}/`,
      `/\\${EVIL}`,
      `/%2f%2f${EVIL}`,
      "<script>",
      "STATE",
      "",
    ),
    fc.string({ unit: "binary", maxLength: 20 }),
  );
  const name = fc.constantFrom(
    "state",
    "code",
    "iss",
    "error",
    "error_description",
    "rd",
    "idp",
    "acr",
    "max_age",
    "sid",
  );
  const query = fc.array(fc.tuple(name, text), { maxLength: 6 });
  const page = fc.constantFrom(
    ...["login", "callback/acme", "callback/other", "callback/nobody", "logout", "signed-out", "whoami"],
    ...[
      "frontchannel-logout/acme",
      "backchannel-logout/acme",
      "oauth-protected-resource",
      "",
      "%2e%2e",
      "a/b/c",
    ],
  );
  const host = fc.constantFrom(HOST, HOST, HOST.toUpperCase(), `x.${HOST}`);
  const input = fc.record({
    ...{ page, query, host, cookie: fc.constantFrom("ours", "other", "none", "cut") },
    method: fc.constantFrom("GET", "GET", "POST", "HEAD"),
  });
  let cases = 0;
  await fc.assert(
    fc.asyncProperty(input, async (given) => {
      cases++;
      redeemed = undefined;
      const [mine, other] = [await begin(), await begin()];
      const { state } = mine.attempt;
      const parameters = new URLSearchParams(
        given.query.map(([key, value]): [string, string] => [key, value === "STATE" ? state : value]),
      );
      const cookie = { ours: mine.cookie, other: other.cookie, none: "", cut: mine.cookie.slice(0, -1) }[
        given.cookie
      ];
      const target = `/.countersign/${given.page}?${parameters}`;
      const answer = await serve(target, cookie, { method: given.method, host: given.host }, `${parameters}`);
      const good =
        given.page === "callback/acme" &&
        given.host.toLowerCase() === HOST &&
        given.cookie === "ours" &&
        parameters.get("state") === state;
      if (redeemed !== undefined && !good) throw new Error(`redeemed ${target} with ${given.cookie}`);
      for (const [key, value] of answer.fields) {
        if (/[\r\n\0]/.test(value)) throw new Error(`a field in two lines: ${key}`);
        if (key === "set-cookie" && /^__Host-countersign=[^;]/.test(value))
          throw new Error("a session for nobody");
        if (key === "location" && !/^(?:\/(?![/\\])|https:\/\/idp\.example\/authorize\?)/.test(value))
          throw new Error(`leads to ${value}`);
      }
      if (/<script|(?:href|action|src)="?(?:https?:)?[/\\]{2}evil/i.test(String(answer.body)))
        throw new Error(`says what a stranger said: ${target}`);
    }),
    {
      seed: options.seed,
      interruptAfterTimeLimit: options.seconds * 1000,
      numRuns: 100_000_000,
      markInterruptAsFailure: false,
    },
  );
  await people.close();
  return { cases };
}
