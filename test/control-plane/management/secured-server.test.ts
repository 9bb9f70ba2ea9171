import type { KeyObject } from "node:crypto";
import { connect } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { createKeys } from "../../../sidecar/certs/key-and-csr.ts";
import { formatSpiffeId } from "../../../sidecar/core/identity/spiffe-id.ts";
import { createTestAuthority, issueTestIdentity, type TestAuthority, testId } from "../../fakes/authority.ts";
import { createOddLeaf } from "../../fakes/odd-leaf.ts";
import {
  type Credentials,
  echoActions,
  jwt,
  MESH_AUDIENCE,
  SecuredManagement,
  TRUST_DOMAIN,
} from "../../fakes/secured-management.ts";

const VIEWER = jwt({ aud: [MESH_AUDIENCE], sub: "viewer" });
const OPERATOR = jwt({ aud: MESH_AUDIENCE, sub: "operator" });
const ADMIN = jwt({ aud: ["https://kubernetes.default.svc"], sub: "admin" });
const OPAQUE = "static-token-of-a-file";
const NOBODY = jwt({ aud: MESH_AUDIENCE, sub: "nobody" });
const WRONG = jwt({ aud: ["vault"], sub: "viewer" });
const LIES = jwt({ aud: [MESH_AUDIENCE], sub: "lies" });
const AGNOSTIC = jwt({ aud: [MESH_AUDIENCE], sub: "agnostic" });
const ANONYMOUS = jwt({ aud: [MESH_AUDIENCE], sub: "anonymous" });

let management: SecuredManagement;
let foreign: TestAuthority;
const credentials: Record<string, Credentials> = {};

beforeAll(async () => {
  management = await SecuredManagement.start();
  const nowMs = Date.now();
  foreign = await createTestAuthority(nowMs, TRUST_DOMAIN);
  const { accounts } = management.reviews;
  accounts.set(VIEWER, {
    user: "system:serviceaccount:ml:viewer",
    groups: ["a", "b"],
    audience: MESH_AUDIENCE,
    rights: ["get management"],
  });
  accounts.set(OPERATOR, {
    user: "operator@corp.example",
    audience: MESH_AUDIENCE,
    rights: ["get management", "update management/rollback"],
  });
  accounts.set(ADMIN, { user: "admin", rights: ["*"] });
  accounts.set(OPAQUE, { user: "static", rights: ["*"] });
  accounts.set(NOBODY, { user: "nobody", audience: MESH_AUDIENCE, rights: [] });
  accounts.set(WRONG, { user: "system:serviceaccount:ml:viewer", audience: "vault", rights: ["*"] });
  accounts.set(LIES, { user: "liar", audience: "vault", rights: ["*"] });
  accounts.set(AGNOSTIC, { user: "agnostic", audience: "other", rights: ["*"], withoutAudiences: true });
  accounts.set(ANONYMOUS, { user: "system:anonymous", audience: MESH_AUDIENCE, rights: ["*"] });
  const id = (namespace: string, serviceAccount: string) =>
    formatSpiffeId({ trustDomain: TRUST_DOMAIN, namespace, serviceAccount, kind: "service", name: "ops" });
  const identityOf = (authority: TestAuthority, spiffeId: ReturnType<typeof id>, ttlMs?: number) => {
    const made = issueTestIdentity(
      authority,
      spiffeId,
      ttlMs === undefined ? nowMs : nowMs - 60_000,
      ttlMs === undefined ? {} : { ttlMs },
    );
    return { cert: made.certificateChainPem, key: pemOf(made.tlsKey) };
  };
  const operatorId = id("countersign-system", "countersign-operator");
  const odd = (uris: readonly string[], notAfterMs = nowMs + 3_600_000) => {
    const made = createOddLeaf(management.authority.ca, { uris, notBeforeMs: nowMs - 7_200_000, notAfterMs });
    return { cert: made.chainPem, key: pemOf(made.key) };
  };
  Object.assign(credentials, {
    none: {},
    garbage: { token: "garbage" },
    viewer: { token: VIEWER },
    operator: { token: OPERATOR },
    admin: { token: ADMIN },
    opaque: { token: OPAQUE },
    "without rights": { token: NOBODY },
    "wrong audience": { token: WRONG },
    "claims our audience": { token: LIES },
    "audience not confirmed": { token: AGNOSTIC },
    anonymous: { token: ANONYMOUS },
    "operator certificate": identityOf(management.authority, operatorId),
    "workload certificate": identityOf(management.authority, testId("scorer")),
    "operator account elsewhere": identityOf(management.authority, id("ml", "countersign-operator")),
    "foreign certificate": identityOf(foreign, operatorId),
    "expired certificate": odd([operatorId], nowMs - 3_600_000),
    "two names": odd([operatorId, testId("scorer")]),
    "foreign name": odd([operatorId.replace(TRUST_DOMAIN, "other.example")]),
    "bad token, good certificate": { ...identityOf(management.authority, operatorId), token: "garbage" },
    "good token, foreign certificate": { ...identityOf(foreign, operatorId), token: VIEWER },
  });
});
afterAll(async () => {
  await management.close();
  await foreign.close();
});
beforeEach(() => {
  management.reviews.away = undefined;
  management.reviews.asked.length = 0;
  management.records.length = 0;
  management.observed.length = 0;
  // Nothing of an earlier test is remembered, and no bucket is empty.
  management.clock.advance(60_000);
});

const READ = { path: "/v1/status" };
const ROLLBACK = { method: "POST", path: "/v1/rollback", body: '{"revision": 3}' };
const EXPORT = { method: "POST", path: "/v1/identity-export", body: '{"workload": "ml/a"}' };

describe("who may do what", () => {
  test.each([
    { who: "none", read: 401, rollback: 401, exportIdentity: 401 },
    { who: "garbage", read: 401, rollback: 401, exportIdentity: 401 },
    { who: "viewer", read: 200, rollback: 403, exportIdentity: 403 },
    { who: "operator", read: 200, rollback: 200, exportIdentity: 403 },
    { who: "admin", read: 200, rollback: 200, exportIdentity: 200 },
    { who: "opaque", read: 200, rollback: 200, exportIdentity: 200 },
    { who: "without rights", read: 403, rollback: 403, exportIdentity: 403 },
    { who: "wrong audience", read: 401, rollback: 401, exportIdentity: 401 },
    { who: "claims our audience", read: 401, rollback: 401, exportIdentity: 401 },
    { who: "audience not confirmed", read: 401, rollback: 401, exportIdentity: 401 },
    { who: "anonymous", read: 401, rollback: 401, exportIdentity: 401 },
    { who: "operator certificate", read: 200, rollback: 200, exportIdentity: 200 },
    { who: "workload certificate", read: 403, rollback: 403, exportIdentity: 403 },
    { who: "operator account elsewhere", read: 403, rollback: 403, exportIdentity: 403 },
    { who: "foreign certificate", read: 401, rollback: 401, exportIdentity: 401 },
    { who: "expired certificate", read: 401, rollback: 401, exportIdentity: 401 },
    { who: "two names", read: 401, rollback: 401, exportIdentity: 401 },
    { who: "foreign name", read: 401, rollback: 401, exportIdentity: 401 },
    { who: "bad token, good certificate", read: 401, rollback: 401, exportIdentity: 401 },
    { who: "good token, foreign certificate", read: 200, rollback: 403, exportIdentity: 403 },
  ])("$who: read $read, rollback $rollback, export $exportIdentity", async (row) => {
    const held = credentials[row.who];
    expect(held).toBeDefined();
    const statuses: number[] = [];
    for (const call of [READ, ROLLBACK, EXPORT]) {
      const answer = await management.call({ ...call, ...held });
      statuses.push(answer.status);
      expect(answer.headers["cache-control"]).toBe("no-store");
      if (answer.status === 200) continue;
      expect(answer.headers["content-type"]).toBe("application/problem+json");
      expect(answer.body).toMatchObject({ status: answer.status, detail: expect.stringMatching(/\w/) });
    }
    expect(statuses).toEqual([row.read, row.rollback, row.exportIdentity]);
  });

  test("a denial says what to grant, to an account and to a user", async () => {
    const viewer = await management.call({ ...ROLLBACK, token: VIEWER });
    expect(viewer.body["detail"]).toBe(
      "`system:serviceaccount:ml:viewer` may not update `management/rollback` of group countersign.dev; grant it with: kubectl create clusterrolebinding countersign-viewer --clusterrole=countersign-management --serviceaccount=ml:viewer",
    );
    const operator = await management.call({ ...EXPORT, token: OPERATOR });
    expect(operator.body["detail"]).toContain("--user='operator@corp.example'");
  });

  test("asks for the route's own right in the control plane's namespace, and for the audience of the token", async () => {
    await management.call({ ...ROLLBACK, token: OPERATOR });
    await management.call({ ...READ, token: ADMIN });
    expect(management.reviews.asked).toEqual([
      `token ${MESH_AUDIENCE}`,
      "operator@corp.example update management/rollback in countersign-system",
      "token https://kubernetes.default.svc",
      "admin get management in countersign-system",
    ]);
  });
});

describe("what is remembered", () => {
  test("an allow for ten seconds, a denial for one", async () => {
    const asked = async (token: string) => {
      management.reviews.asked.length = 0;
      await management.call({ ...READ, token });
      return management.reviews.asked.length;
    };
    expect(await asked(VIEWER)).toBe(2);
    management.clock.advance(9_999);
    expect(await asked(VIEWER)).toBe(0);
    management.clock.advance(1);
    expect(await asked(VIEWER)).toBe(2);
    expect(await asked("garbage")).toBe(1);
    management.clock.advance(999);
    expect(await asked("garbage")).toBe(0);
    management.clock.advance(1);
    expect(await asked("garbage")).toBe(1);
    expect(await asked(NOBODY)).toBe(2);
    management.clock.advance(1_000);
    // Still known to be somebody, asked again for the right.
    expect(await asked(NOBODY)).toBe(1);
  });

  test("never longer than the token lives, and never an API server that was away", async () => {
    const token = jwt({ aud: MESH_AUDIENCE, exp: Math.floor(management.clock.nowMs() / 1000) + 3 });
    management.reviews.accounts.set(token, { user: "short", audience: MESH_AUDIENCE, rights: ["*"] });
    expect((await management.call({ ...READ, token })).status).toBe(200);
    management.reviews.accounts.delete(token);
    management.clock.advance(4_000);
    expect((await management.call({ ...READ, token })).status).toBe(401);

    management.reviews.away = () => Promise.reject(new Error("connect ECONNREFUSED"));
    expect((await management.call({ ...READ, token: VIEWER })).status).toBe(503);
    management.reviews.away = undefined;
    expect((await management.call({ ...READ, token: VIEWER })).status).toBe(200);
  });
});

describe("an API server that is away", () => {
  test("lets nobody in by token, and operators by certificate", async () => {
    management.reviews.away = () => Promise.reject(new Error("connect ECONNREFUSED"));
    const answer = await management.call({ ...ROLLBACK, token: ADMIN });
    expect(answer.status).toBe(503);
    expect(answer.body["detail"]).toContain("so nobody is let in");
    expect(answer.headers["retry-after"]).toBe("1");
    expect((await management.call({ ...ROLLBACK, ...credentials["operator certificate"] })).status).toBe(200);
    expect(management.observed).toEqual(["rollback unavailable", "rollback done"]);
  });

  test("is not waited for longer than five seconds", async () => {
    const { promise, resolve } = Promise.withResolvers<never>();
    management.reviews.away = () => promise;
    const answer = management.call({ ...READ, token: ADMIN });
    while (management.clock.sleeping === 0) await new Promise((next) => setImmediate(next));
    management.clock.advance(5_000);
    expect((await answer).status).toBe(503);
    resolve(undefined as never);
  });
});

describe("requests", () => {
  test.each([
    { name: "an unknown route", call: { path: "/v2/status" }, status: 404 },
    { name: "a path that only begins like one", call: { path: "/v1/status/x" }, status: 404 },
    { name: "an encoded path", call: { path: "/v1/%73tatus" }, status: 404 },
    { name: "a wrong method", call: { path: "/v1/status", method: "POST" }, status: 405, allow: "GET" },
    { name: "a deletion", call: { path: "/v1/rollback", method: "DELETE" }, status: 405, allow: "POST" },
    { name: "what a browser asks first", call: { path: "/v1/rollback", method: "OPTIONS" }, status: 405 },
    { name: "a web page", call: { ...READ, headers: { origin: "https://evil.example" } }, status: 403 },
    {
      name: "a body of no type",
      call: { ...ROLLBACK, headers: { "content-type": "text/plain" } },
      status: 415,
    },
    { name: "a body that is no JSON", call: { ...ROLLBACK, body: "{" }, status: 400 },
    { name: "a body that is a list", call: { ...ROLLBACK, body: "[]" }, status: 400 },
    { name: "a field nobody knows", call: { ...ROLLBACK, body: '{"revision":1,"force":true}' }, status: 400 },
    {
      name: "a large body",
      call: { ...ROLLBACK, body: `{"revision":"${"1".repeat(70_000)}"}` },
      status: 413,
    },
    { name: "what is not there", call: { ...ROLLBACK, body: '{"revision":404}' }, status: 404 },
    { name: "an action that fails", call: { ...ROLLBACK, body: '{"revision":500}' }, status: 500 },
    {
      name: "a basic authorization",
      call: { ...READ, headers: { authorization: "Basic YTpi" } },
      status: 401,
    },
    {
      name: "a token with a line end",
      call: { ...READ, headers: { authorization: "Bearer a b" } },
      status: 401,
    },
  ])("$name gets $status", async ({ call, status, allow }) => {
    const answer = await management.call({ ...credentials["operator certificate"], ...call });
    expect(answer.status).toBe(status);
    expect(answer.headers["content-type"]).toBe("application/problem+json");
    expect(Object.keys(answer.headers).filter((name) => name.startsWith("access-control"))).toEqual([]);
    expect(answer.headers["location"]).toBeUndefined();
    if (allow !== undefined) expect(answer.headers["allow"]).toBe(allow);
  });

  test("two authorizations are refused, whatever they are", async () => {
    const socket = await tlsConnect();
    socket.end(
      `GET /v1/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${VIEWER}\r\nAuthorization: Bearer ${ADMIN}\r\nConnection: close\r\n\r\n`,
    );
    expect(await readAll(socket)).toMatch(/^HTTP\/1\.1 400 /);
  });

  test("a body is not read before the caller is known", async () => {
    const socket = await tlsConnect();
    // Says that a body comes and sends none: an answer can only come before it is read.
    socket.write("POST /v1/rollback HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
    const text = await readAll(socket);
    expect(text).toMatch(/^HTTP\/1\.1 401 /);
    expect(text).toMatch(/connection: close/i);
  });

  test("plaintext and older TLS get nothing", async () => {
    const plain = connect(management.server.port, "127.0.0.1");
    plain.write("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n");
    const answered = await readAll(plain);
    expect(answered).not.toContain("revision");
    await expect(tlsConnect({ maxVersion: "TLSv1.2" })).rejects.toThrow();
  });

  test("one address tries a burst of tokens, then waits; who is known goes on", async () => {
    expect((await management.call({ ...READ, token: VIEWER })).status).toBe(200);
    const statuses: number[] = [];
    for (let index = 0; index < 60; index++)
      statuses.push((await management.call({ ...READ, token: `guess-${index}` })).status);
    expect(statuses.filter((status) => status === 401)).toHaveLength(49);
    expect(statuses.filter((status) => status === 429)).toHaveLength(11);
    expect((await management.call({ ...READ, token: VIEWER })).status).toBe(200);
    expect((await management.call({ ...READ, ...credentials["operator certificate"] })).status).toBe(200);
    expect((await management.call({ ...READ, token: ADMIN })).status).toBe(429);
    management.clock.advance(1_000);
    expect((await management.call({ ...READ, token: ADMIN })).status).toBe(200);
  });

  test("connections beyond a bound per address are closed, and places become free again", async () => {
    const sockets = Array.from({ length: 140 }, () => connect(management.server.port, "127.0.0.1"));
    const ends = sockets.map((socket) => readAll(socket));
    await Promise.race(ends);
    for (const socket of sockets) socket.destroy();
    await Promise.all(ends);
    expect((await management.call({ ...READ, ...credentials["operator certificate"] })).status).toBe(200);
  });
});

describe("audit", () => {
  test("a write leaves one record with its known arguments, done or not; a read leaves none", async () => {
    const token = ADMIN;
    await management.call({ ...READ, token });
    await management.call({ ...ROLLBACK, token });
    await management.call({ ...ROLLBACK, token, body: '{"revision":404}' });
    await management.call({ ...ROLLBACK, token, body: '{"revision":3,"password":"hunter2"}' });
    await management.call({ ...EXPORT, token });
    await management.call({ method: "POST", path: "/v1/join-tokens", body: '{"workload":"ml/a"}', token });
    await management.call({ ...ROLLBACK, token: VIEWER });
    await management.call({ ...ROLLBACK, token: "garbage" });
    const time = new Date(management.clock.nowMs()).toISOString();
    const by = { time, user: "admin", groups: 0, address: "127.0.0.1" };
    expect(management.records).toEqual([
      { ...by, action: "rollback", arguments: { revision: 3 }, outcome: "done", detail: "" },
      {
        ...by,
        action: "rollback",
        arguments: { revision: 404 },
        outcome: "refused",
        detail: "there is no revision 404",
      },
      {
        ...by,
        action: "rollback",
        arguments: { revision: 3 },
        outcome: "refused",
        detail: "unknown field `password`, known are: revision",
      },
      { ...by, action: "export-identity", arguments: { workload: "ml/a" }, outcome: "done", detail: "" },
      { ...by, action: "create-join-token", arguments: { workload: "ml/a" }, outcome: "done", detail: "" },
      {
        ...{
          time,
          user: "system:serviceaccount:ml:viewer",
          groups: 2,
          address: "127.0.0.1",
          action: "rollback",
        },
        ...{ arguments: {}, outcome: "forbidden", detail: expect.stringContaining("grant it with") },
      },
    ]);
    expect(JSON.stringify(management.records)).not.toMatch(/SECRET|hunter2/);
    expect(management.observed).toEqual([
      "status done",
      "rollback done",
      "rollback refused",
      "rollback refused",
      "export-identity done",
      "create-join-token done",
      "rollback forbidden",
      "rollback unauthenticated",
    ]);
  });

  test("a write that cannot be recorded is not answered as done", async () => {
    const broken = await SecuredManagement.start({
      audit: () => Promise.reject(new Error("no space left on device")),
    });
    try {
      broken.reviews.accounts.set(ADMIN, { user: "admin", rights: ["*"] });
      expect((await broken.call({ ...ROLLBACK, token: ADMIN })).status).toBe(500);
      expect((await broken.call({ ...READ, token: ADMIN })).status).toBe(200);
    } finally {
      await broken.close();
    }
  });
});

test("a rotated certificate serves the next connection; one that does not fit changes nothing", async () => {
  const serial = async (): Promise<string> => {
    const socket = await tlsConnect();
    const { serialNumber } = socket.getPeerCertificate();
    socket.destroy();
    return serialNumber;
  };
  const before = await serial();
  const other = createKeys();
  expect(() => management.server.rotate({ ...management.material(), keyPem: pemOf(other.tlsKey) })).toThrow();
  expect(await serial()).toBe(before);
  management.server.rotate(management.material());
  expect(await serial()).not.toBe(before);
});

test("the state in its exact form keeps its maps", async () => {
  const exact = await management.call({ path: "/v1/state?form=exact", token: ADMIN });
  expect(exact.body).toEqual({ state: { workloads: { $map: [["ml/scorer", { name: "scorer" }]] } } });
  const plain = await management.call({ path: "/v1/state", token: ADMIN });
  expect(plain.body).toEqual({ workloads: { "ml/scorer": { name: "scorer" } } });
});

const pemOf = (key: KeyObject): string => key.export({ type: "pkcs8", format: "pem" }).toString();

test("a big state is sent in pieces, and a peer that leaves in the middle harms nobody", async () => {
  const workloads = new Map(
    Array.from({ length: 20_000 }, (_, index) => [
      `ml/w${index}`,
      { name: `w${index}`, text: "x".repeat(100) },
    ]),
  );
  const big = await SecuredManagement.start({ actions: { ...echoActions, state: () => ({ workloads }) } });
  try {
    big.reviews.accounts.set(ADMIN, { user: "admin", rights: ["*"] });
    const whole = await big.call({ path: "/v1/state", token: ADMIN });
    expect(Object.keys(whole.body["workloads"] as object)).toHaveLength(20_000);
    const socket = connectTls({ port: big.server.port, host: "127.0.0.1", rejectUnauthorized: false });
    socket.write(`GET /v1/state HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ADMIN}\r\n\r\n`);
    await new Promise((resolve) => socket.once("data", resolve));
    socket.destroy();
    expect((await big.call({ ...READ, token: ADMIN })).status).toBe(200);
  } finally {
    await big.close();
  }
});

function tlsConnect(options: { maxVersion?: "TLSv1.2" } = {}): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connectTls(
      { port: management.server.port, host: "127.0.0.1", rejectUnauthorized: false, ...options },
      () => resolve(socket),
    );
    socket.once("error", reject);
  });
}

function readAll(socket: NodeJS.ReadableStream): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    socket.on("error", () => resolve(text));
    socket.on("close", () => resolve(text));
  });
}
