// The client against an HTTPS server with mutual TLS that answers what it is told to.
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { controlPlaneSpiffeId } from "../../../proto/protocol.ts";
import { clientTlsOptions, serverTlsOptions } from "../../../sidecar/certs/tls-contexts.ts";
import type { SpiffeId } from "../../../sidecar/core/identity/spiffe-id.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import { TokenClient } from "../../../sidecar/tokens/token-client.ts";
import { createTestAuthority, issueTestIdentity, type TestAuthority, testId } from "../../fakes/authority.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";

const TXN = "urn:ietf:params:oauth:token-type:txn_token";
const keys = new TestTokenService();

let authority: TestAuthority;
let gateway: WorkloadIdentity;
const open: (() => void)[] = [];

beforeAll(async () => {
  authority = await createTestAuthority(Date.now());
  gateway = issueTestIdentity(authority, testId("gateway"), Date.now());
});
afterEach(() => {
  for (const close of open.splice(0)) close();
});
afterAll(() => authority.close());

interface Asked {
  readonly path: string | undefined;
  readonly body: Record<string, unknown>;
  readonly wit: unknown;
  readonly peer: string | undefined;
}

interface Scene {
  readonly client: TokenClient;
  readonly asked: Asked[];
}

type Reply = (asked: Asked) => readonly [status: number, body: object | string];

async function scene(reply: Reply, as = controlPlaneSpiffeId("lake.example")): Promise<Scene> {
  const asked: Asked[] = [];
  const identity = issueTestIdentity(authority, as as SpiffeId, Date.now());
  const server: Server = createServer(
    { ...serverTlsOptions(identity), ALPNProtocols: ["http/1.1"] },
    (request: IncomingMessage, response: ServerResponse) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        const socket = request.socket as import("node:tls").TLSSocket;
        const one = {
          path: request.url,
          body: JSON.parse(Buffer.concat(chunks).toString()) as Record<string, unknown>,
          wit: request.headers["workload-identity-token"],
          peer: socket.getPeerX509Certificate()?.subjectAltName,
        };
        asked.push(one);
        const [status, body] = reply(one);
        response.writeHead(status, { "content-type": "application/json" });
        response.end(typeof body === "string" ? body : JSON.stringify(body));
      });
    },
  );
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const client = new TokenClient({
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    identity: () => gateway,
    tlsOptions: (own, spiffeId) => clientTlsOptions(own, spiffeId, () => Date.now(), ["http/1.1"]),
    nowMs: () => Date.now(),
    random: () => 0,
  });
  open.push(() => {
    client.close();
    server.closeAllConnections();
    server.close();
  });
  return { client, asked };
}

const token = () => keys.mint(txnClaims("alice", Date.now()));
const granted: Reply = () => [200, { access_token: token(), issued_token_type: TXN, token_type: "N_A" }];

describe("the token client", () => {
  test("mints from a session once per context, with its certificate and identity token", async () => {
    const { client, asked } = await scene(granted);
    const context = { reqIp: "192.0.2.7", sid: "s1" };
    const [one, two] = await Promise.all([
      client.mintFromSession("handle", context),
      client.mintFromSession("handle", context),
    ]);
    expect(one.ok && one.value.claims.sub).toBe("okta-main|alice");
    expect(two).toEqual(one);
    expect(one.ok && client.heldForSession("handle", context)).toBe(one.ok && one.value);
    expect(client.heldForSession("handle", { ...context, reqIp: "192.0.2.8" })).toBeUndefined();
    expect(asked).toEqual([
      {
        path: "/v1/token",
        body: {
          grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
          requested_token_type: TXN,
          subject_token: "handle",
          subject_token_type: "urn:countersign:params:oauth:token-type:session",
          request_context: { req_ip: "192.0.2.7", sid: "s1" },
        },
        wit: gateway.wit,
        peer: `URI:${gateway.spiffeId}`,
      },
    ]);
    expect((await client.exchange("at", { reqIp: undefined, scope: "mlflow" })).ok).toBe(true);
    expect(asked[1]?.body).toMatchObject({
      subject_token: "at",
      subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
      scope: "mlflow",
    });
    expect((await client.mintOwn()).ok).toBe(true);
    expect(asked[2]?.body).toMatchObject({
      subject_token_type: "urn:ietf:params:oauth:token-type:self_signed",
    });
    expect(asked[2]?.body).not.toHaveProperty("subject_token");
    expect(client.heldOwn()).toBeDefined();
  });

  test("opens, refreshes and ends sessions", async () => {
    const user = { id: "okta-main|alice", idp: "okta-main", type: "person", roles: ["r"], amr: [], acr: "2" };
    const { client, asked } = await scene(({ path }) =>
      path === "/v1/sessions/end"
        ? [200, { ended: { sid: "s" } }]
        : [200, { handle: "h", sid: "s", expiresAt: 1_800_000_000, user }],
    );
    const login = { idp: "okta-main", idToken: "id", nonce: "n", request: { ip: "::1", userAgent: "x" } };
    const opened = await client.openSession(login);
    const expected = { handle: "h", sid: "s", expiresAt: 1_800_000_000, user };
    expect(opened).toMatchObject({ ok: true, value: expected });
    expect(await client.refreshSession("h", { idToken: "id2" })).toEqual(opened);
    expect((await client.endSession({ handle: "h" })).ok).toBe(true);
    expect((await client.endSession({ idp: "okta-main", logoutToken: "lt" })).ok).toBe(true);
    expect(asked.map(({ body }) => body)).toEqual([
      { idp: "okta-main", id_token: "id", nonce: "n", request: { ip: "::1", user_agent: "x" } },
      { handle: "h", id_token: "id2" },
      { handle: "h" },
      { idp: "okta-main", logout_token: "lt" },
    ]);
  });

  test.each<[string, Reply, object]>([
    [
      "a refusal",
      () => [400, { error: "invalid_grant", reason: "SESSION_EXPIRED", error_description: "sign in again" }],
      { reason: "SESSION_EXPIRED", detail: "sign in again", isTemporary: false },
    ],
    ["too many", () => [429, { reason: "TOO_MANY" }], { reason: "TOO_MANY", isTemporary: true }],
    ["a failure", () => [500, { reason: "FAILED" }], { reason: "FAILED", isTemporary: true }],
    ["no JSON", () => [200, "<html>"], { reason: "UNAVAILABLE" }],
    ["a list", () => [200, "[]"], { reason: "UNAVAILABLE" }],
    ["no token", () => [200, { issued_token_type: TXN }], { reason: "UNAVAILABLE" }],
    ["another kind of token", () => [200, { access_token: token(), issued_token_type: "x" }], {}],
    ["a token of nobody", () => [200, { access_token: "a.b.c", issued_token_type: TXN }], {}],
    ["a flood", () => [200, `"${"x".repeat(200_000)}"`], { reason: "UNAVAILABLE" }],
  ])("%s is a refusal", async (_name, reply, error) => {
    const { client } = await scene(reply);
    expect(await client.mintOwn()).toMatchObject({ ok: false, error });
    expect(client.heldOwn()).toBeUndefined();
    expect(client.isOwnRefused).toBe(true);
  });

  test("nobody but the control plane is told anything", async () => {
    const { client, asked } = await scene(granted, testId("impostor"));
    expect(await client.mintOwn()).toMatchObject({ ok: false, error: { reason: "UNAVAILABLE" } });
    expect(asked).toEqual([]);
  });
});
