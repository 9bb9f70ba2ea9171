// A token service over a real authority and a provider on loopback, with everything a test may want to turn.

import { spiffeIdOf } from "../../control-plane/resources/build.ts";
import type { ClusterState, IdentityProvider, MeshGateway } from "../../control-plane/sources/store.ts";
import type { TokenCaller } from "../../control-plane/tokens/caller.ts";
import { LiveLogins } from "../../control-plane/tokens/live-logins.ts";
import type { IdpProvider } from "../../control-plane/tokens/person.ts";
import { SessionHandles } from "../../control-plane/tokens/session-handle.ts";
import type { RevokedSubject, TokenServiceDeps } from "../../control-plane/tokens/token-service.ts";
import { Verifiers } from "../../control-plane/tokens/verifiers.ts";
import { type RevocationEntry, Revocations } from "../../sidecar/core/identity/revocations.ts";
import { formatSpiffeId } from "../../sidecar/core/identity/spiffe-id.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../sidecar/core/runtime/log.ts";
import { createTestAuthority, type TestAuthority } from "./authority.ts";
import { type FakeIdp, startFakeIdp } from "./idp.ts";
import { CONFIG, clusterState, workload } from "./resources.ts";

export const TRUST_DOMAIN = "lake.example";
export const IDP = "okta-main";

export const identityProvider = (issuer: string, over: Partial<IdentityProvider> = {}): IdentityProvider => ({
  ...{ name: IDP, displayName: IDP, generation: 1, issuer, clientId: "client", clientSecret: undefined },
  ...{ scopes: ["openid"], userIdClaim: "sub", groupsClaim: "groups", emailClaim: "email" },
  ...{ usernameClaim: "preferred_username", servicePrincipalClaim: undefined },
  ...{ audiences: ["https://api.example"], algorithms: ["ES256", "RS256"] as const, stepUpAcr: undefined },
  ...{ maxAgeSeconds: undefined, hostedDomain: undefined, offlineAccess: false, clockSkewSeconds: 60 },
  allowInsecureIssuer: true,
  ...over,
});

const gateway = (name: string, identityProviders: readonly string[]): MeshGateway =>
  ({
    ...{ kind: "MeshGateway", name, namespace: "edge", generation: 1, workload: name },
    ...{ identityProviders, listeners: [], routes: [], notebooks: [] },
  }) as unknown as MeshGateway; // the token service reads nothing else of it

export const idOf = (kind: string, name: string, namespace = "edge") =>
  formatSpiffeId({ trustDomain: TRUST_DOMAIN, namespace, serviceAccount: name, kind, name });

export const callerOf = (kind: string, name: string, over: Partial<TokenCaller> = {}): TokenCaller => ({
  ...{ spiffeId: idOf(kind, name), kind, actsFor: undefined, owner: undefined, isTrustedSpawner: false },
  ...over,
});

export const PEOPLE = callerOf("gateway", "people");

export interface TestTokenService extends TokenServiceDeps {
  state(): ClusterState;
  readonly idp: FakeIdp;
  readonly authority: TestAuthority;
  /** Configured, by name. */
  readonly configured: Map<string, IdpProvider & IdentityProvider>;
  /** Providers of both gateways. */
  readonly gatewayIdps: string[];
  readonly revoked: RevocationEntry[];
  readonly asked: RevokedSubject[];
  readonly used: Set<string>;
  close(): Promise<void>;
}

export async function createTestTokenService(clock: Clock): Promise<TestTokenService> {
  const authority = await createTestAuthority(clock.nowMs(), TRUST_DOMAIN);
  const idp = await startFakeIdp();
  const configured = new Map([[IDP, identityProvider(idp.issuer)]]);
  const revoked: RevocationEntry[] = [];
  const asked: RevokedSubject[] = [];
  const used = new Set<string>();
  const handles = new SessionHandles(() => authority.ca.handleKeys);
  const files = new Map<string, string>();
  const gatewayIdps = [IDP, "second"];
  const state = clusterState(
    [
      workload("people", "edge", { kind: "gateway" }),
      workload("other", "edge", { kind: "gateway" }),
      workload("nb-alice", "edge", { kind: "notebook", owner: `${IDP}|alice` }),
      workload("scorer", "edge", { kind: "serving" }),
    ],
    {
      config: { ...CONFIG, trustDomain: TRUST_DOMAIN },
      identityProviders: configured,
      meshGateways: new Map([
        ["edge/people", gateway("people", gatewayIdps)],
        ["edge/other", gateway("other", gatewayIdps)],
      ]),
    },
  );
  return {
    ...{ trustDomain: TRUST_DOMAIN, issuer: "https://mesh.example", ca: authority.ca, authority, idp },
    ...{ configured, gatewayIdps, revoked, asked, used, clock },
    state: () => state,
    callers: { checkFacts: () => {} },
    spiffeIdOf: (one) => spiffeIdOf(one, TRUST_DOMAIN),
    handles,
    logins: new LiveLogins({ handles, monotonicMs: clock.monotonicMs.bind(clock), log: silentLogger }),
    verifiers: new Verifiers({
      providers: () => configured,
      store: (name) => ({
        load: async () => files.get(name),
        save: async (text) => void files.set(name, text),
      }),
      clock,
      log: silentLogger,
    }),
    uses: {
      use: async (key) => {
        if (used.has(key)) return false;
        used.add(key);
        return true;
      },
    },
    rolesOf: ({ groups }) => (groups === "unknown" ? [] : groups.map((group) => `role-${group}`)),
    operationsOf: (_, roles) =>
      roles.includes("role-ds")
        ? { every: false, allowed: ["serving.invoke.predict"], others: ["serving.manage"] }
        : { every: false, allowed: [], others: ["serving.invoke.predict", "serving.manage"] },
    knowsOperation: (pattern) =>
      ["serving", "serving.invoke", "serving.invoke.predict", "mlflow"].includes(pattern),
    revocations: { coversTxn: (token) => new Revocations(revoked).coversTxn(token) },
    revoke: async (subject) => {
      asked.push(subject);
      revoked.push({
        ...{ spiffeId: "", pod: "", beforeMs: clock.nowMs() + 3_000 },
        ...(subject.kind === "user" ? { user: subject.user } : { session: subject.session }),
      });
    },
    log: silentLogger,
    close: async () => {
      await idp.close();
      await authority.close();
    },
  };
}
