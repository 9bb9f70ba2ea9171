// A gateway in a process of its own, so that its CPU can be told: somebody is signed in (a session in memory, with its
// transaction token at hand), an access token was seen before, and one local port means the same service without TLS and
// without people. Ends with its standard input.
import { createPrivateKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { loadIdentity } from "../../../sidecar/certs/identity-store.ts";
import { parseSidecarConfig } from "../../../sidecar/config.ts";
import { Revocations } from "../../../sidecar/core/identity/revocations.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { boundYoungGeneration } from "../../../sidecar/core/runtime/young-generation.ts";
import { DataPlane } from "../../../sidecar/data-plane.ts";
import { GatewayPeople } from "../../../sidecar/gateway/login/gateway-people.ts";
import type { TokenService } from "../../../sidecar/gateway/login/token-service.ts";
import { GatewayCookies } from "../../../sidecar/gateway/session/cookies.ts";
import { MemorySessionStore } from "../../../sidecar/gateway/session/memory-store.ts";
import { GatewayPlane } from "../../../sidecar/gateway-plane.ts";
import { MintedTokens } from "../../../sidecar/tokens/minted-tokens.ts";
import { unavailable } from "../../../sidecar/tokens/token-transport.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";
import { APP, FRONT, gatewayOf, route } from "../../integration/gateway/edge.ts";
import { idOf, table } from "../../integration/sidecar/world.ts";
import { idpOf } from "../../sidecar/gateway/login/world.ts";
import { sessionOfSize } from "./claims.ts";

/** What the parent leaves in `world.json`. */
export interface FrontWorld {
  readonly meshPort: number;
  readonly bundle: string;
  /** Of the token service, PEM. */
  readonly tokenKey: string;
  /** Of the session that is signed in. */
  readonly sessionId: string;
  /** An access token that was exchanged before. */
  readonly bearer: string;
}

/** What it prints. */
export interface FrontPorts {
  readonly pid: number;
  readonly tls: number;
  readonly plain: number;
}

if (import.meta.main) {
  const dir = process.argv[2] ?? "";
  boundYoungGeneration(new AbortController().signal, process.execArgv);
  // Written by the parent in this form.
  const world = JSON.parse(readFileSync(join(dir, "world.json"), "utf8")) as FrontWorld;
  const identity = await loadIdentity(dir, Date.now());
  if (!identity.ok || identity.value === undefined) throw new Error("no identity");
  const any = { kind: "tcp", host: "127.0.0.1", port: 0 } as const;
  const base = parseSidecarConfig(["--state-dir", dir, "--workload", "edge/front"]);
  const plane = new DataPlane(
    {
      ...base,
      meshListen: any,
      outboundProxy: undefined,
      localServices: [{ listen: any, service: "ml/app", port: 8888 }],
    },
    {
      log: silentLogger,
      clock: systemClock,
      random: Math.random,
      meshNowMs: () => Date.now(),
      resolve: () => Promise.resolve({ kind: "refused", reason: "UNKNOWN_DESTINATION" }),
    },
  );
  const { local } = await plane.start();
  await plane.setIdentity(identity.value);
  const services = [{ service: APP, meshPort: world.meshPort }];
  const used = plane.setTable(table({ self: FRONT, services, bundle: world.bundle }));
  if (!used.ok) throw new Error(used.error);
  const settings = {
    secretsDir: dir,
    address: "127.0.0.1",
    ports: new Map([[8443, { host: "127.0.0.1", port: 0 }]]),
  };
  const gateway = new GatewayPlane({ plane, settings, clock: systemClock, log: silentLogger });
  const tokens = heldTokens(new TestTokenService(undefined, createPrivateKey(world.tokenKey)));
  const store = new MemorySessionStore({ idleMs: 3_600_000, maxSessions: 1_000 });
  const session = { ...sessionOfSize(1, 2_048), idp: "acme" };
  await store.create(world.sessionId, session, Date.now());
  const context = { reqIp: "127.0.0.1" };
  await tokens.mintFromSession(session.handle, { ...context, sid: session.sid });
  await tokens.exchange(world.bearer, context);
  const idps = [idpOf("acme", "https://idp.acme.example")];
  const routes = [
    route({
      name: "bearer",
      path: { kind: "prefix", value: "/api" },
      hosts: ["localhost"],
      access: "Bearer",
    }),
    route({ name: "public", path: { kind: "prefix", value: "/public" }, hosts: ["localhost"] }),
    route({ name: "login", hosts: ["localhost"], access: "Login" }),
  ];
  const listeners = [{ name: "main", port: 8443, hosts: ["localhost"], secretName: "edge-tls" }];
  const resource = gatewayOf({ idps, listeners, redirectPort: undefined, routes });
  gateway.people = new GatewayPeople({
    ...{ store, tokens, clock: systemClock, log: silentLogger, cookies: new GatewayCookies("session") },
    gateway: () => resource,
    provider: never,
    reference: () => "g-0",
    count: () => {},
    countOddCookie: () => {},
    revocations: () => Revocations.none,
    leadsTo: () => false,
    mayExchange: () => 0,
    tell: () => true,
  });
  await gateway.adopt(resource);
  const line: FrontPorts = { pid: process.pid, tls: gateway.portOf(8443) ?? 0, plain: local[0] ?? 0 };
  process.stdout.write(`${JSON.stringify(line)}\n`);
  process.stdin.resume().on("end", () => process.exit(0));
}

function never(): never {
  throw new Error("nobody signs in here");
}

/** The client of a token service that takes everybody for Alice; tokens are kept as the gateway keeps them. */
function heldTokens(service: TestTokenService): TokenService {
  const minted = new MintedTokens({ nowMs: Date.now, random: Math.random });
  const reqWl = idOf(FRONT.namespace, FRONT.kind, FRONT.name);
  const mint = async () =>
    ({ ok: true, value: service.held(txnClaims("alice", Date.now(), { reqWl })) }) as const;
  const contextOf = ({ reqIp, sid }: { reqIp: string | undefined; sid?: string | undefined }) =>
    `${reqIp ?? ""}\n${sid ?? ""}\n`;
  return {
    heldForSession: (handle, context) => minted.peek(handle, contextOf(context)),
    heldForToken: (token, context) => minted.peek(token, contextOf(context)),
    mintFromSession: (handle, context) => minted.get(handle, contextOf(context), mint),
    exchange: (token, context) => minted.get(token, contextOf(context), mint),
    openSession: never,
    endpointToken: never,
    refreshSession: never,
    endSession: never,
    published: async () => unavailable("nothing is published here"),
  };
}
