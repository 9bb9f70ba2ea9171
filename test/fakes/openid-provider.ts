// A certified OpenID Provider (`oidc-provider`) on loopback, with people who sign in by naming themselves, and a client
// for a gateway. Its pages are those that the library brings for development.
import { generateKeyPairSync } from "node:crypto";
import { createServer, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { type Configuration, Provider } from "oidc-provider";

export interface OpenIdProvider {
  readonly issuer: string;
  /** What the next ID tokens say besides `sub`. */
  readonly claims: Map<string, Readonly<Record<string, unknown>>>;
  /** How people prove who they are, as `amr` says it; absent: not said. */
  readonly methods: Map<string, readonly string[]>;
  /** Accounts that are there no more. */
  readonly gone: Set<string>;
  /** Requests so far: method and path. */
  readonly asked: string[];
  /** Waited for before the token endpoint's next answers are sent; what was asked for is done by then. */
  beforeTokens: ((socket: Socket) => Promise<void> | void) | undefined;
  readonly provider: Provider;
  /** Another secret of the client from now on. */
  setClientSecret(secret: string): Promise<void>;
  close(): Promise<void>;
}

/** Where it listens, when that is not loopback. */
export interface ProviderAddress {
  /** As clients and browsers name it. */
  readonly issuer: string;
  readonly port: number;
  /** PEM. */
  readonly key: string;
  readonly cert: string;
}

export interface ProviderClient {
  readonly clientId: string;
  readonly clientSecret: string;
  readonly redirectUris: readonly string[];
  readonly postLogoutRedirectUris?: readonly string[];
  readonly backchannelLogoutUri?: string;
  /** Gives refresh tokens, each good once; by default not. */
  readonly refreshTokens?: boolean;
}

async function listen(server: Server, address?: ProviderAddress): Promise<number> {
  const [port, host] = address === undefined ? [0, "127.0.0.1"] : [address.port, "0.0.0.0"];
  await new Promise<void>((resolve) => server.listen(port, host, resolve));
  return (server.address() as AddressInfo).port;
}

/** The library warns of what makes it unfit for production, which this is not. */
function quietly<T>(make: () => T): T {
  const { warn } = console;
  console.warn = () => {};
  try {
    return make();
  } finally {
    console.warn = warn;
  }
}

/** @param address undefined: a free port on loopback, without TLS. */
export async function startOpenIdProvider(
  client: ProviderClient,
  address?: ProviderAddress,
): Promise<OpenIdProvider> {
  const server = address === undefined ? createServer() : createTlsServer(address);
  const port = await listen(server, address);
  const issuer = address?.issuer ?? `http://127.0.0.1:${port}`;
  const claims: OpenIdProvider["claims"] = new Map();
  const methods: OpenIdProvider["methods"] = new Map();
  const gone = new Set<string>();
  const signing = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
  const configuration: Configuration = {
    clients: [
      {
        client_id: client.clientId,
        client_secret: client.clientSecret,
        redirect_uris: [...client.redirectUris],
        post_logout_redirect_uris: [...(client.postLogoutRedirectUris ?? [])],
        grant_types: ["authorization_code", "refresh_token"],
        ...(client.backchannelLogoutUri === undefined
          ? {}
          : {
              backchannel_logout_uri: client.backchannelLogoutUri,
              backchannel_logout_session_required: true,
            }),
      },
    ],
    claims: {
      openid: ["sub", "sid", "acr", "amr"],
      email: ["email"],
      profile: ["preferred_username"],
      groups: ["groups"],
    },
    scopes: ["openid", "email", "profile", "groups", "offline_access"],
    acrValues: ["gold"],
    conformIdTokenClaims: false,
    findAccount: (_context, id) =>
      gone.has(id)
        ? undefined
        : {
            accountId: id,
            claims: () => ({
              sub: id,
              email: `${id}@acme.example`,
              preferred_username: id,
              ...claims.get(id),
            }),
          },
    features: {
      devInteractions: { enabled: true },
      rpInitiatedLogout: { enabled: true },
      backchannelLogout: { enabled: true },
    },
    // A gateway asks for what it needs; consent is not what is tested.
    // As most do: the library's own default wants the person's consent each time.
    issueRefreshToken: async () => client.refreshTokens ?? false,
    rotateRefreshToken: true,
    loadExistingGrant: async (context) => {
      const { Grant } = context.oidc.provider;
      const { session } = context.oidc;
      const amr = methods.get(session?.accountId ?? "");
      // The form asks for a name alone; what it stands for is told here.
      if (session !== undefined && amr !== undefined) session.amr = [...amr];
      const grant = new Grant({
        clientId: context.oidc.client?.clientId ?? "",
        accountId: context.oidc.session?.accountId ?? "",
      });
      grant.addOIDCScope("openid email profile groups offline_access");
      await grant.save();
      return grant;
    },
    cookies: { keys: ["for tests alone"] },
    jwks: { keys: [{ ...signing.export({ format: "jwk" }), kid: "op-1", use: "sig", alg: "ES256" }] },
    clientDefaults: { id_token_signed_response_alg: "ES256" },
    pkce: { required: () => true },
    ttl: {
      AccessToken: 60,
      IdToken: 3_600,
      RefreshToken: 3_600,
      Interaction: 600,
      Session: 3_600,
      Grant: 3_600,
    },
  };
  const provider = quietly(() => new Provider(issuer, configuration));
  const asked: string[] = [];
  const op: OpenIdProvider = {
    issuer,
    claims,
    methods,
    gone,
    asked,
    provider,
    beforeTokens: undefined,
    setClientSecret: async (secret) => {
      const registered = await provider.Client.find(client.clientId);
      Object.assign(registered ?? {}, { clientSecret: secret });
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  provider.use(async (context, next) => {
    await next();
    if (context.path === "/token") await op.beforeTokens?.(context.req.socket);
  });
  const callback = provider.callback();
  server.on("request", (request, response) => {
    asked.push(`${request.method} ${(request.url ?? "").split("?")[0]}`);
    void callback(request, response);
  });
  return op;
}
