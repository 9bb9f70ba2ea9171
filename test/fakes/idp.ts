// An identity provider on loopback that publishes what a test tells it to, and signs any token with any key.
import { createHmac, generateKeyPairSync, type KeyObject } from "node:crypto";
import { createServer, type ServerResponse } from "node:http";
import { SignJWT } from "jose";

export interface SigningKey {
  readonly kid: string;
  readonly alg: string;
  readonly key: KeyObject;
  readonly publicKey: KeyObject;
  readonly jwk: Readonly<Record<string, unknown>>;
}

export function signingKey(kid: string, alg: "RS256" | "ES256" = "ES256"): SigningKey {
  const pair =
    alg === "ES256"
      ? generateKeyPairSync("ec", { namedCurve: "P-256" })
      : generateKeyPairSync("rsa", { modulusLength: 2048 });
  const jwk = { ...pair.publicKey.export({ format: "jwk" }), kid, alg, use: "sig" };
  return { kid, alg, key: pair.privateKey, publicKey: pair.publicKey, jwk };
}

export function signJwt(
  key: SigningKey,
  claims: Readonly<Record<string, unknown>>,
  header: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  return new SignJWT(claims).setProtectedHeader({ alg: key.alg, kid: key.kid, ...header }).sign(key.key);
}

const encode = (value: unknown): string =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");

/** Any header and payload, with any signature. */
export const forgedJwt = (header: unknown, payload: unknown, signature = "AA"): string =>
  `${encode(header)}.${encode(payload)}.${signature}`;

/** HS256 with the text of a public key as the secret: what a library that trusts `alg` would accept. */
export function confusedJwt(key: SigningKey, claims: unknown): string {
  const signed = `${encode({ alg: "HS256", kid: key.kid })}.${encode(claims)}`;
  const secret = key.publicKey.export({ type: "spki", format: "pem" });
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

type Answer = (response: ServerResponse) => void;

export interface FakeIdp {
  readonly issuer: string;
  keys: readonly SigningKey[];
  /** Instead of the document at a path. */
  readonly answers: Map<string, Answer>;
  /** Paths that were asked for. */
  readonly asked: string[];
  userinfo: Readonly<Record<string, unknown>> | undefined;
  close(): Promise<void>;
}

export async function startFakeIdp(): Promise<FakeIdp> {
  const answers = new Map<string, Answer>();
  const asked: string[] = [];
  const server = createServer((request, response) => {
    const path = request.url ?? "";
    asked.push(path);
    const special = answers.get(path);
    if (special !== undefined) return special(response);
    const json = (value: unknown): void =>
      void response.setHeader("content-type", "application/json").end(JSON.stringify(value));
    if (path === "/.well-known/openid-configuration")
      return json({
        issuer: idp.issuer,
        jwks_uri: `${idp.issuer}/jwks`,
        ...(idp.userinfo === undefined ? {} : { userinfo_endpoint: `${idp.issuer}/me` }),
      });
    if (path === "/jwks") return json({ keys: idp.keys.map(({ jwk }) => jwk) });
    if (path === "/me") return json(idp.userinfo);
    response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  const idp: FakeIdp = {
    issuer: `http://127.0.0.1:${port}`,
    keys: [],
    answers,
    asked,
    userinfo: undefined,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return idp;
}
