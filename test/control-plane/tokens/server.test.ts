// The token service in a running control plane, asked over mutual TLS: who may ask what, what lasts, and what is written down.
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { GRANT_TYPE, SESSION_TOKEN } from "../../../control-plane/tokens/grants.ts";
import { holdTxn } from "../../../sidecar/core/identity/held-txn.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import { must } from "../../fakes/authority.ts";
import { type FakeIdp, forgedJwt, signingKey, signJwt, startFakeIdp } from "../../fakes/idp.ts";
import { eventually, TestMesh } from "../../fakes/mesh.ts";
import { askTokenService, type TokenQuestion, type TokenReply } from "../../fakes/token-client.ts";

const KEY = signingKey("k1");
const TXN = "urn:ietf:params:oauth:token-type:txn_token";
let idp: FakeIdp;
let mesh: TestMesh;
let gateway: WorkloadIdentity;
let notebook: WorkloadIdentity;

const MESH = (issuer: string): string => `
apiVersion: countersign.dev/v1alpha1
kind: IdentityProvider
metadata: {name: main}
spec: {type: oidc, issuer: "${issuer}", clientID: client, allowInsecureIssuer: true}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshGateway
metadata: {name: people, namespace: edge}
spec:
  tier: internal
  identityProviders: [main]
  listeners: [{name: web, hosts: [lab.example], tls: {secretName: web}}]
  routes: [{name: all, hosts: [lab.example], backend: {service: scorer, namespace: lab}, access: Login}]
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: people, namespace: edge}
spec: {kind: gateway, serviceAccount: people}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: nb-alice, namespace: lab}
spec: {kind: notebook, serviceAccount: nb, owner: "main|alice"}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: scorer, namespace: lab}
spec: {kind: serving, serviceAccount: scorer, service: scorer, addresses: [127.0.0.1], meshPort: 16108, ports: [{port: 8080, protocol: http}]}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshRole
metadata: {name: scientist}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshRoleBinding
metadata: {name: scientists}
spec: {roles: [scientist], subjects: [{idp: main, group: ds}]}
`;

beforeEach(async () => {
  idp = await startFakeIdp();
  idp.keys = [KEY];
  mesh = new TestMesh();
  mesh.write("mesh.yaml", MESH(idp.issuer));
  await mesh.start();
  gateway = await mesh.identity("edge/people");
  notebook = await mesh.identity("lab/nb-alice");
});
afterEach(async () => {
  await mesh.close();
  await idp.close();
});

const ask = (identity: WorkloadIdentity | undefined, question: TokenQuestion): Promise<TokenReply> =>
  askTokenService(mesh.handle.ports.tokens, identity, question);
const now = (): number => Math.floor(Date.now() / 1000);
const idToken = (over: object = {}): Promise<string> =>
  signJwt(KEY, {
    ...{ iss: idp.issuer, aud: "client", sub: "alice", nonce: "n", iat: now(), exp: now() + 300 },
    ...{ groups: ["ds"], amr: ["pwd"], auth_time: now() - 5, jti: Math.random().toString(), ...over },
  });
const login = async (): Promise<TokenReply> =>
  ask(gateway, { path: "/v1/sessions", body: { idp: "main", nonce: "n", id_token: await idToken() } });
const token = (fields: object): TokenQuestion => ({
  path: "/v1/token",
  body: { grant_type: GRANT_TYPE, requested_token_type: TXN, ...fields },
});
const mint = (handle: unknown): Promise<TokenReply> =>
  ask(gateway, token({ subject_token_type: SESSION_TOKEN, subject_token: handle }));
const claimsOf = ({ body }: TokenReply) => must(holdTxn(String(body["access_token"]))).claims;
const audit = (): readonly Record<string, unknown>[] =>
  readFileSync(join(mesh.stateDir, "audit/tokens.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

test("signs in and mints; every step is written down, without a token in it", async () => {
  const opened = await login();
  expect(opened).toMatchObject({
    status: 200,
    headers: { "cache-control": "no-store" },
    body: { user: { id: "main|alice", roles: ["scientist"] } },
  });
  const minted = await mint(opened.body["handle"]);
  expect(minted).toMatchObject({ status: 200, headers: { "cache-control": "no-store" } });
  expect(claimsOf(minted)).toMatchObject({
    ...{ sub: "main|alice", reqWl: gateway.spiffeId, scope: "*" },
    tctx: { roles: ["scientist"], amr: ["pwd"] },
  });
  const refused = await ask(gateway, token({ subject_token_type: SESSION_TOKEN, subject_token: "x" }));
  expect(refused).toMatchObject({
    status: 400,
    body: { error: "invalid_grant", reason: "SESSION_INVALID", error_description: expect.any(String) },
  });
  const { txn } = claimsOf(minted);
  const sid = opened.body["sid"];
  const caller = gateway.spiffeId;
  expect(audit()).toMatchObject([
    {
      action: "session.open",
      outcome: "granted",
      caller,
      user: "main|alice",
      sid,
      address: expect.any(String),
    },
    { action: "token.session", outcome: "granted", caller, user: "main|alice", sid, txn },
    { action: "token.session", outcome: "refused", caller, reason: "SESSION_INVALID" },
  ]);
  const file = join(mesh.stateDir, "audit/tokens.jsonl");
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(readFileSync(file, "utf8")).not.toMatch(/ey[A-Za-z0-9_-]{20}/);
  const metrics = await (await fetch(`http://127.0.0.1:${mesh.handle.ports.metrics}/metrics`)).text();
  expect(metrics).toContain('countersign_logins_total{idp="main",result="granted"} 1');
  expect(metrics).toContain(
    'countersign_token_request_seconds_count{action="token.session",outcome="SESSION_INVALID"} 1',
  );
});

test("signs out at once who loses a role, and nobody else", async () => {
  const alice = (await login()).body["handle"];
  const bobToken = await idToken({ sub: "bob", groups: [] });
  const body = { idp: "main", nonce: "n", id_token: bobToken };
  const bob = (await ask(gateway, { path: "/v1/sessions", body })).body["handle"];
  const status = async (handle: unknown) => (await mint(handle)).status;
  expect([await status(alice), await status(bob)]).toEqual([200, 200]);
  mesh.write("mesh.yaml", MESH(idp.issuer).replace("group: ds", "group: other"));
  await eventually(
    () => mint(alice),
    (reply) => reply.body["reason"] === "REVOKED",
  );
  expect(await status(bob)).toBe(200);
  const ofRoles = await eventually(
    async () => audit().filter(({ action }) => String(action).startsWith("roles.")),
    (lines) => lines.length >= 2,
  );
  expect(ofRoles).toEqual([
    expect.objectContaining({ action: "roles.change", detail: "MeshRoleBinding `scientists` changed" }),
    expect.objectContaining({ action: "roles.loss", user: "main|alice", detail: "holds no more: scientist" }),
  ]);
});

test("a flood of refusals is a few lines, and says how many it were", async () => {
  const made = token({ subject_token_type: SESSION_TOKEN, subject_token: "x" });
  for (let i = 0; i < 40; i++) expect(await ask(gateway, made)).toMatchObject({ status: 400 });
  expect(audit().filter(({ outcome }) => outcome === "refused")).toHaveLength(10);
});

describe("who asks", () => {
  test("nobody without a certificate of this mesh", async () => {
    await expect(ask(undefined, { path: "/v1/token", body: {} })).rejects.toThrow();
    const other = new TestMesh();
    other.write("mesh.yaml", MESH(idp.issuer));
    await other.start();
    const stranger = await other.identity("edge/people");
    await expect(ask(stranger, { path: "/v1/token", body: {} })).rejects.toThrow();
    await other.close();
  });

  test("a notebook signs nobody in, and gets tokens for its owner alone, with its own identity token", async () => {
    const body = { idp: "main", nonce: "n", id_token: await idToken() };
    expect(await ask(notebook, { path: "/v1/sessions", body })).toMatchObject({
      status: 403,
      body: { error: "unauthorized_client", reason: "CALLER_NOT_PERMITTED" },
    });
    const self = token({ subject_token_type: "urn:ietf:params:oauth:token-type:self_signed" });
    expect(await ask(notebook, self)).toMatchObject({ status: 401, body: { reason: "CALLER_UNKNOWN" } });
    const withWit = (wit: string) => ask(notebook, { ...self, headers: { "workload-identity-token": wit } });
    expect(await withWit(gateway.wit)).toMatchObject({ status: 401, body: { reason: "CALLER_UNKNOWN" } });
    expect(claimsOf(await withWit(notebook.wit))).toMatchObject({
      ...{ sub: "main|alice", reqWl: notebook.spiffeId },
      tctx: { amr: [], roles: [] },
    });
    await login();
    expect(claimsOf(await withWit(notebook.wit))).toMatchObject({
      tctx: { amr: ["pwd"], roles: ["scientist"] },
    });
    expect(
      await ask(gateway, { ...self, headers: { "workload-identity-token": gateway.wit } }),
    ).toMatchObject({
      status: 403,
    });
  });

  test("a gateway claims nobody who did not sign in", async () => {
    const ways: readonly (readonly [string, () => Promise<TokenQuestion>])[] = [
      [
        "by an ID token that it signed itself",
        async () => {
          const own = signingKey("k1");
          const claims = {
            iss: idp.issuer,
            aud: "client",
            sub: "bob",
            nonce: "n",
            iat: now(),
            exp: now() + 300,
          };
          return {
            path: "/v1/sessions",
            body: { idp: "main", nonce: "n", id_token: await signJwt(own, claims) },
          };
        },
      ],
      [
        "by what it says of the user beside a good token",
        async () => ({
          path: "/v1/sessions",
          body: {
            idp: "main",
            nonce: "n",
            id_token: await idToken(),
            userinfo: { sub: "bob" },
            user: "main|bob",
          },
        }),
      ],
      [
        "by an ID token of another login",
        async () => ({
          path: "/v1/sessions",
          body: { idp: "main", nonce: "other", id_token: await idToken() },
        }),
      ],
      [
        "by a handle of its own making",
        async () => token({ subject_token_type: SESSION_TOKEN, subject_token: `${"a".repeat(20)}.b.c.d.e` }),
      ],
      [
        "by a Txn-Token of its own making",
        async () =>
          token({
            subject_token_type: TXN,
            subject_token: forgedJwt({ alg: "ES256", typ: "txntoken+jwt", kid: "x" }, { sub: "main|bob" }),
          }),
      ],
      [
        "by the identity of a pod that acts for somebody",
        async () => ({
          ...token({ subject_token_type: "urn:ietf:params:oauth:token-type:self_signed" }),
          headers: { "workload-identity-token": notebook.wit },
        }),
      ],
      [
        "without any proof",
        async () => ({ path: "/v1/sessions", body: { idp: "main", nonce: "n", userinfo: { sub: "bob" } } }),
      ],
    ];
    await login();
    for (const [how, question] of ways) {
      const { status } = await ask(gateway, await question());
      expect([how, [400, 401, 403].includes(status)]).toEqual([how, true]);
      expect(audit().at(-1)).toMatchObject({ outcome: "refused", caller: gateway.spiffeId });
    }
    expect(audit().filter(({ user }) => user === "main|bob")).toEqual([]);
  });

  test("a workload that was revoked, or is declared no more, is nobody", async () => {
    await mesh.api("POST", "/v1/revocations", { workload: "edge/people", reason: "test" });
    expect(await login()).toMatchObject({ status: 400, body: { reason: "REVOKED" } });
    mesh.write("mesh.yaml", MESH(idp.issuer).replace("name: nb-alice", "name: nb-bob"));
    const published = () => ask(notebook, { method: "GET", path: "/.well-known/jwks.json" });
    expect(await eventually(published, ({ status }) => status !== 200)).toMatchObject({ status: 401 });
  });

  test("every workload may read keys and discovery document", async () => {
    const keys = await ask(notebook, { method: "GET", path: "/.well-known/jwks.json" });
    expect(keys.body["keys"]).toMatchObject([
      { use: "sig", alg: "ES256", kid: expect.stringMatching(/^tts-/) },
    ]);
    expect(JSON.stringify(keys.body)).not.toContain('"d"');
    const discovery = await ask(notebook, { method: "GET", path: "/.well-known/openid-configuration" });
    expect(discovery.body).toMatchObject({ issuer: "https://mesh.local" });
  });
});

test.each([
  { name: "another path", question: { path: "/v1/nothing", body: {} }, status: 404 },
  { name: "another method", question: { method: "GET" as const, path: "/v1/token" }, status: 404 },
  {
    name: "no type",
    question: { path: "/v1/token", body: "{}", headers: { "content-type": "text/plain" } },
    status: 400,
  },
  { name: "no JSON", question: { path: "/v1/token", body: "{" }, status: 400 },
  { name: "a member twice", question: { path: "/v1/token", body: '{"scope":"a","scope":"b"}' }, status: 400 },
  { name: "100 KB", question: { path: "/v1/token", body: { scope: "a".repeat(100_000) } }, status: 400 },
  {
    name: "a form with a field twice",
    question: {
      path: "/v1/token",
      body: "scope=a&scope=b",
      headers: { "content-type": "application/x-www-form-urlencoded" },
    },
    status: 400,
  },
])("refuses $name", async ({ question, status }) => {
  expect(await ask(gateway, question)).toMatchObject({ status, body: { reason: "REQUEST_MALFORMED" } });
});

test("a form does as well as JSON", async () => {
  const { body } = await login();
  const form = new URLSearchParams({
    ...{ grant_type: GRANT_TYPE, requested_token_type: TXN, subject_token_type: SESSION_TOKEN },
    ...{ subject_token: String(body["handle"]), request_context: '{"req_ip":"10.0.0.1"}' },
  });
  const headers = { "content-type": "application/x-www-form-urlencoded" };
  const minted = await ask(gateway, { path: "/v1/token", body: form.toString(), headers });
  expect(claimsOf(minted).rctx.reqIp).toBe("10.0.0.1");
});

test("signing out reaches sidecars, and lasts", async () => {
  const { body } = await login();
  const held = claimsOf(await mint(body["handle"]));
  const scorer = await mesh.sidecar("lab/scorer");
  await scorer.until(({ tables }) => tables.length > 0);
  expect(await ask(gateway, { path: "/v1/sessions/end", body: { handle: body["handle"] } })).toMatchObject({
    status: 200,
    body: { ended: { sid: body["sid"] } },
  });
  await scorer.until(({ table }) => table.revocations.coversTxn(held));
  expect(await mint(body["handle"])).toMatchObject({ status: 400, body: { reason: "REVOKED" } });
  await mesh.stop();
  await mesh.start();
  expect(await mint(body["handle"])).toMatchObject({ status: 400, body: { reason: "REVOKED" } });
});

test("handles and marks of used tokens survive a restart, also while the provider is down", async () => {
  const idTokenOnce = await idToken();
  const body = { idp: "main", nonce: "n", id_token: idTokenOnce };
  const opened = await ask(gateway, { path: "/v1/sessions", body });
  await mesh.stop();
  const keys = idp.keys;
  idp.answers.set("/.well-known/openid-configuration", (response) => response.destroy());
  await mesh.start();
  expect((await mint(opened.body["handle"])).status).toBe(200);
  expect(await ask(gateway, { path: "/v1/sessions", body })).toMatchObject({
    body: { reason: "TOKEN_REPLAYED" },
  });
  // Keys of before the restart are on disk.
  expect(await login()).toMatchObject({ status: 200 });
  expect(keys).toHaveLength(1);
});

test("a user who is revoked has no session, and may sign in again", async () => {
  const { body } = await login();
  const { body: revocation } = await mesh.api("POST", "/v1/revocations", {
    user: "main|alice",
    reason: "INC-1",
  });
  expect(revocation).toMatchObject({ user: "main|alice" });
  expect(await mint(body["handle"])).toMatchObject({ body: { reason: "REVOKED" } });
  const again = await eventually(login, ({ status }) => status === 200);
  expect((await mint(again.body["handle"])).status).toBe(200);
});
