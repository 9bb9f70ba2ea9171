// A real OpenID provider (oidc-provider) on loopback, and a browser that signs in at it without being seen.
import { createHash, generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import Provider, { type Configuration } from "oidc-provider";

export interface RealIdp {
  readonly issuer: string;
  /** Signs somebody in, and returns what the provider gave for the code. */
  signIn(user: string, more?: Readonly<Record<string, string>>): Promise<SignedIn>;
  close(): Promise<void>;
}

export interface SignedIn {
  readonly idToken: string;
  readonly accessToken: string;
  readonly refreshToken: string | undefined;
  readonly nonce: string;
}

export const CLIENT = { id: "client", secret: "a-secret-of-the-client", redirect: "https://lab.example/cb" };

export interface RealIdpOptions {
  /** Claims of each user besides `sub`. */
  readonly users: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  readonly configuration?: Configuration;
}

/** @param options `configuration` over the one that is used here. */
export async function startRealIdp({ users, configuration = {} }: RealIdpOptions): Promise<RealIdp> {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  let handle: ReturnType<Provider["callback"]> | undefined;
  const server = createServer((request, response) => void handle?.(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const issuer = `http://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`;
  // It warns of what suits a test: an adapter in memory, and pages that sign in without a password.
  const { warn } = console;
  console.warn = () => {};
  const provider = new Provider(issuer, {
    clients: [
      {
        ...{ client_id: CLIENT.id, client_secret: CLIENT.secret, redirect_uris: [CLIENT.redirect] },
        ...{ grant_types: ["authorization_code", "refresh_token"], response_types: ["code"] },
        id_token_signed_response_alg: "ES256",
      },
    ],
    jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), alg: "ES256", use: "sig", kid: "real-1" }] },
    cookies: { keys: ["cookie-key"] },
    claims: { openid: ["sub"], email: ["email"], profile: ["preferred_username"], groups: ["groups"] },
    scopes: ["openid", "email", "profile", "groups", "offline_access"],
    findAccount: (_context, id) => ({ accountId: id, claims: async () => ({ sub: id, ...users[id] }) }),
    features: { devInteractions: { enabled: true } },
    ttl: { AccessToken: 600, IdToken: 600, Session: 3_600, Interaction: 600, Grant: 3_600 },
    ...configuration,
  });
  console.warn = warn;
  handle = provider.callback();
  return {
    issuer,
    signIn: (user, more = {}) => signIn(issuer, user, more),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Follows redirects and keeps cookies, until the client's own address is reached. */
class Browser {
  readonly #cookies = new Map<string, string>();

  /** @returns the last address asked, or the one that leads away. */
  async open(url: string, form?: Readonly<Record<string, string>>): Promise<string> {
    const cookie = [...this.#cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const response = await fetch(url, {
      redirect: "manual",
      headers: { cookie },
      ...(form === undefined ? {} : { method: "POST", body: new URLSearchParams(form) }),
    });
    for (const line of response.headers.getSetCookie()) {
      const [pair = ""] = line.split(";");
      this.#cookies.set(pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1));
    }
    await response.arrayBuffer();
    const location = response.headers.get("location");
    if (location === null) return url;
    const next = new URL(location, url).toString();
    return next.startsWith(CLIENT.redirect) ? next : this.open(next);
  }
}

async function signIn(
  issuer: string,
  user: string,
  more: Readonly<Record<string, string>>,
): Promise<SignedIn> {
  const verifier = randomBytes(32).toString("base64url");
  const nonce = randomBytes(16).toString("base64url");
  const asked = new URLSearchParams({
    ...{ client_id: CLIENT.id, response_type: "code", redirect_uri: CLIENT.redirect, nonce, state: "s" },
    ...{ scope: "openid email profile groups", code_challenge_method: "S256" },
    code_challenge: createHash("sha256").update(verifier).digest("base64url"),
    ...more,
  });
  const browser = new Browser();
  let at = await browser.open(`${issuer}/auth?${asked}`);
  // The pages of `devInteractions`: who one is, then what the client may see.
  for (const form of [{ prompt: "login", login: user, password: "x" }, { prompt: "consent" }])
    if (at.includes("/interaction/")) at = await browser.open(at, form);
  const code = new URL(at).searchParams.get("code");
  if (code === null) throw new Error(`no code at ${at}`);
  const answer = await fetch(`${issuer}/token`, {
    method: "POST",
    headers: { authorization: `Basic ${Buffer.from(`${CLIENT.id}:${CLIENT.secret}`).toString("base64")}` },
    body: new URLSearchParams({
      ...{ grant_type: "authorization_code", code, redirect_uri: CLIENT.redirect, code_verifier: verifier },
    }),
  });
  const { id_token, access_token, refresh_token } = (await answer.json()) as Record<string, string>;
  if (id_token === undefined || access_token === undefined) throw new Error(`no tokens: ${answer.status}`);
  return { idToken: id_token, accessToken: access_token, refreshToken: refresh_token, nonce };
}
