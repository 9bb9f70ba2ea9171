// A gateway's people with a real OpenID Provider, and a token service that takes its ID tokens at their word.
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Gateway, GatewayIdp, GatewayRoute } from "../../../../sidecar/core/gateway/gateway.ts";
import { Revocations } from "../../../../sidecar/core/identity/revocations.ts";
import { type Logger, silentLogger } from "../../../../sidecar/core/runtime/log.ts";
import type { EdgeNote } from "../../../../sidecar/gateway/edge-audit.ts";
import type {
  OpenedSession,
  TokenRefusal,
  TokenService,
} from "../../../../sidecar/gateway/login/token-service.ts";
import { PeoplePart } from "../../../../sidecar/gateway-people.ts";
import { SidecarMetrics } from "../../../../sidecar/metrics.ts";
import { type OpenIdProvider, startOpenIdProvider } from "../../../fakes/openid-provider.ts";
import { TestTokenService, txnClaims } from "../../../fakes/txn.ts";
import { HOST } from "./browser.ts";

export const SECRET = "a secret of the client, thirty-two bytes";

export const ROUTE: GatewayRoute = {
  name: "lab",
  hosts: [HOST],
  path: { kind: "prefix", value: "/" },
  backend: { kind: "service", id: "ml/nb", port: undefined },
  access: "Login",
  stepUp: undefined,
  rewrite: undefined,
  cors: undefined,
  owner: undefined,
};

export const idpOf = (name: string, issuer: string, more: Partial<GatewayIdp> = {}): GatewayIdp => ({
  name,
  displayName: name === "acme" ? "Acme staff" : name,
  issuer,
  clientId: "gateway",
  clientSecret: { name: "oidc", key: "client-secret" },
  scopes: ["openid", "email", "profile"],
  userIdClaim: "sub",
  emailClaim: "email",
  usernameClaim: "preferred_username",
  audiences: ["https://api.acme.example"],
  algorithms: ["ES256"],
  stepUpAcr: undefined,
  maxAgeSeconds: undefined,
  hostedDomain: undefined,
  offlineAccess: false,
  clockSkewSeconds: 60,
  allowInsecureIssuer: true,
  ...more,
});

export const gatewayOf = (idps: readonly GatewayIdp[], more: Partial<Gateway> = {}): Gateway => ({
  id: "edge/people",
  tier: "internal",
  listeners: [{ name: "main", port: 8443, hosts: [HOST], secretName: "tls" }],
  redirectPort: undefined,
  idps,
  routes: [ROUTE],
  session: {
    idleMs: 3_600_000,
    absoluteMs: 43_200_000,
    cookieName: "__Host-countersign",
    loginHost: undefined,
    store: "memory",
    storeSecretName: undefined,
  },
  trustedHops: [],
  limits: { perUser: undefined, perIp: undefined },
  securityHeaders: {
    hstsMaxAgeSeconds: 0,
    hstsIncludeSubDomains: false,
    hstsPreload: false,
    contentSecurityPolicy: undefined,
    frameOptions: undefined,
    referrerPolicy: undefined,
    noSniff: true,
  },
  ...more,
});

/** What the token service was asked, and what it is to answer. */
export class FakeTokens implements TokenService {
  readonly opened: { idp: string; idToken: string; nonce: string; claims: Record<string, unknown> }[] = [];
  readonly ended: object[] = [];
  readonly refreshed: string[] = [];
  readonly exchanged: string[] = [];
  readonly endpointsAsked: object[] = [];
  minted = 0;
  refuse: TokenRefusal | undefined;
  readonly #signer = new TestTokenService();
  readonly #held = new Map<string, ReturnType<TestTokenService["held"]>>();

  async openSession(login: Parameters<TokenService["openSession"]>[0]) {
    if (this.refuse !== undefined) return { ok: false, error: this.refuse } as const;
    const claims = JSON.parse(Buffer.from(login.idToken.split(".")[1] ?? "", "base64url").toString());
    this.opened.push({ ...login, claims });
    return { ok: true, value: this.#session(login.idp, claims) } as const;
  }

  async refreshSession(handle: string, tokens: { readonly idToken: string }) {
    this.refreshed.push(handle);
    if (this.refuse !== undefined) return { ok: false, error: this.refuse } as const;
    const claims = JSON.parse(Buffer.from(tokens.idToken.split(".")[1] ?? "", "base64url").toString());
    return {
      ok: true,
      value: { ...this.#session("acme", claims), sid: handle.split(" ")[0] ?? "" },
    } as const;
  }

  async endSession(which: object) {
    this.ended.push(which);
    return { ok: true, value: {} } as const;
  }

  async mintFromSession(handle: string, context: { readonly reqIp: string | undefined }) {
    if (this.refuse !== undefined) return { ok: false, error: this.refuse } as const;
    this.minted++;
    const held = this.#signer.held(
      txnClaims(handle.split(" ")[1] ?? "", Date.now(), { rctx: { reqIp: context.reqIp } }),
    );
    this.#held.set(handle, held);
    return { ok: true, value: held } as const;
  }

  async endpointToken(
    handle: string,
    asked: { readonly audience: string; readonly scope?: string | undefined },
  ) {
    this.endpointsAsked.push({ handle, ...asked });
    if (this.refuse !== undefined) return { ok: false, error: this.refuse } as const;
    const value = { token: "a.b.c", expiresInSeconds: 300, scope: asked.scope ?? "serving.invoke" };
    return { ok: true, value } as const;
  }

  heldForSession(handle: string) {
    return this.refuse === undefined ? this.#held.get(handle) : undefined;
  }

  async exchange(token: string) {
    this.exchanged.push(token);
    if (this.refuse !== undefined) return { ok: false, error: this.refuse } as const;
    const held = this.#signer.held(txnClaims("robot", Date.now()));
    this.#held.set(token, held);
    return { ok: true, value: held } as const;
  }

  async published() {
    return { ok: true, value: {} } as const;
  }

  heldForToken(token: string) {
    return this.#held.get(token);
  }

  #session(idp: string, claims: Record<string, unknown>): OpenedSession {
    const sid = randomBytes(6).toString("hex");
    return {
      handle: `${sid} ${String(claims["sub"])}`,
      sid,
      expiresAt: Math.floor(Date.now() / 1_000) + 43_200,
      user: {
        id: `${idp}|${String(claims["sub"])}`,
        ...{ idp, type: "person" as const },
        email: typeof claims["email"] === "string" ? claims["email"] : undefined,
        username: undefined,
        roles: ["fraud-ds"],
        amr: ["pwd"],
        acr: typeof claims["acr"] === "string" ? claims["acr"] : undefined,
        authTime: typeof claims["auth_time"] === "number" ? claims["auth_time"] : undefined,
      },
    };
  }
}

export interface LoginTest {
  readonly op: OpenIdProvider;
  readonly tokens: FakeTokens;
  readonly part: PeoplePart;
  readonly metrics: SidecarMetrics;
  readonly secretsDir: string;
  /** Lines of the log: event and fields. */
  readonly logged: string[];
  /** What the audit was told. */
  readonly notes: EdgeNote[];
  readonly time: { offsetMs: number };
  revocations: Revocations;
  close(): Promise<void>;
}

export async function startLogin(
  more: {
    readonly idps?: (issuer: string) => readonly GatewayIdp[];
    readonly gateway?: Partial<Gateway>;
    readonly redirectUris?: readonly string[];
    readonly refreshTokens?: boolean;
  } = {},
): Promise<LoginTest> {
  const own = `https://${HOST}/.countersign/`;
  const op = await startOpenIdProvider({
    clientId: "gateway",
    clientSecret: SECRET,
    redirectUris: more.redirectUris ?? [`${own}callback/acme`],
    postLogoutRedirectUris: [`${own}signed-out`],
    // Nobody listens there; ID tokens name the session because of it.
    backchannelLogoutUri: "https://127.0.0.1:9/",
    refreshTokens: more.refreshTokens ?? false,
  });
  const secretsDir = mkdtempSync(join(tmpdir(), "countersign-login-"));
  mkdirSync(join(secretsDir, "oidc"));
  writeFileSync(join(secretsDir, "oidc", "client-secret"), `${SECRET}\n`);
  const tokens = new FakeTokens();
  const metrics = new SidecarMetrics();
  const logged: string[] = [];
  const note = (event: string, fields?: object): void =>
    void logged.push(`${event} ${JSON.stringify(fields ?? {})}`);
  const log: Logger = { ...silentLogger, debug: note, info: note, warn: note, error: note };
  const time = { offsetMs: 0 };
  const notes: EdgeNote[] = [];
  const clock = {
    nowMs: () => Date.now() + time.offsetMs,
    monotonicMs: () => performance.now() + time.offsetMs,
    sleep: async () => {},
  };
  const idps = more.idps?.(op.issuer) ?? [idpOf("acme", op.issuer)];
  const part = await PeoplePart.open(gatewayOf(idps, more.gateway), {
    tokens,
    revocations: () => world.revocations,
    leadsTo: (service, spiffeId) => spiffeId.endsWith(`/${service}`),
    tell: (note) => notes.push(note) > 0,
    secretsDir,
    clock,
    log,
    metrics,
  });
  const world: LoginTest = {
    ...{ op, tokens, part, metrics, secretsDir, logged, notes, time },
    revocations: Revocations.none,
    close: async () => {
      await part.close();
      await op.close();
      rmSync(secretsDir, { recursive: true, force: true });
    },
  };
  return world;
}
