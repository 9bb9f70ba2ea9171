import { once } from "node:events";
import type { ClientRequest, IncomingMessage, OutgoingHttpHeaders } from "node:http";
import { Agent, request } from "node:https";
import { connect, type Socket } from "node:net";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import type { AdmissionHandler } from "../../../control-plane/admission/review.ts";
import {
  type AdmissionOutcome,
  type AdmissionServer,
  createAdmissionServer,
} from "../../../control-plane/admission/server.ts";
import {
  createWebhookCertificate,
  type WebhookCertificate,
} from "../../../control-plane/admission/webhook-certificate.ts";
import { MeshError } from "../../../sidecar/core/runtime/errors.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { createTestAuthority, type TestAuthority } from "../../fakes/authority.ts";
import { FakeClock } from "../../fakes/clock.ts";

const NAME = "countersign.mesh.svc";
const UID = "705ab4f5-6393-11e8-b7cc-42010a800002";
const REVIEW = JSON.stringify({
  apiVersion: "admission.k8s.io/v1",
  kind: "AdmissionReview",
  request: {
    uid: UID,
    kind: { group: "", version: "v1", kind: "Pod" },
    resource: { group: "", version: "v1", resource: "pods" },
    namespace: "lab",
    operation: "CREATE",
    userInfo: { username: "alice" },
    object: {},
  },
});
const log = createLogger("silent");
const JSON_TYPE = { "content-type": "application/json" };

let authority: TestAuthority;
let certificate: WebhookCertificate;
beforeAll(async () => {
  authority = await createTestAuthority(Date.now());
  certificate = await createWebhookCertificate(authority.ca, [NAME], Date.now());
});
afterAll(() => authority.close());

let closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
  closing = [];
});

interface Started {
  readonly server: AdmissionServer;
  readonly clock: FakeClock;
  readonly seen: readonly (readonly [string, AdmissionOutcome])[];
}

async function start(handler: AdmissionHandler): Promise<Started> {
  const clock = new FakeClock(0);
  const seen: [string, AdmissionOutcome][] = [];
  const server = await createAdmissionServer({
    host: "127.0.0.1",
    port: 0,
    certificate,
    handlers: { "/inject": handler },
    clock,
    log,
    observe: (path, outcome) => void seen.push([path, outcome]),
  });
  closing.push(() => server.close());
  return { server, clock, seen };
}

interface Call {
  readonly path?: string;
  readonly method?: string;
  readonly headers?: OutgoingHttpHeaders;
  readonly body?: string;
  readonly agent?: Agent;
  readonly options?: object;
}

interface Answer {
  readonly status: number;
  readonly body: string;
  readonly headers: IncomingMessage["headers"];
  readonly serial: string;
}

/** As the API server calls: by the name of the Service, against the mesh's root. */
function open(
  { server }: Started,
  call: Call,
  take: (answer: Answer) => void,
  fail: (error: Error) => void,
): ClientRequest {
  const made = request(
    {
      host: "127.0.0.1",
      port: server.port,
      servername: NAME,
      ca: authority.ca.roots.map(String),
      path: call.path ?? "/inject?timeout=10s",
      method: call.method ?? "POST",
      headers: call.headers ?? JSON_TYPE,
      agent: call.agent ?? false,
      ...call.options,
    },
    (response) => {
      const chunks: Buffer[] = [];
      const serial = (
        response.socket as unknown as { getPeerCertificate(): { serialNumber: string } }
      ).getPeerCertificate().serialNumber;
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () =>
        take({
          status: response.statusCode ?? 0,
          body: Buffer.concat(chunks).toString(),
          headers: response.headers,
          serial,
        }),
      );
    },
  );
  made.on("error", fail);
  return made;
}

function post(started: Started, call: Call = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const body = call.body ?? REVIEW;
    open(
      started,
      { ...call, headers: { "content-length": Buffer.byteLength(body), ...(call.headers ?? JSON_TYPE) } },
      resolve,
      reject,
    ).end(call.method === "GET" ? undefined : body);
  });
}

const responseOf = ({ body }: Answer): unknown => JSON.parse(body).response;
const allow: AdmissionHandler = async () => ({ allowed: true, warnings: ["mind it"] });

describe("a review", () => {
  test("is answered under the name of the Service, with its own uid", async () => {
    const started = await start(allow);
    const answer = await post(started);
    expect(answer.status).toBe(200);
    expect(answer.headers["content-type"]).toBe("application/json");
    expect(responseOf(answer)).toEqual({ uid: UID, allowed: true, warnings: ["mind it"] });
    expect(started.seen).toEqual([["/inject", "allowed"]]);
  });

  test("goes to its handler as it was read", async () => {
    const names: unknown[] = [];
    const started = await start(async ({ namespace, user, operation }) => {
      names.push(namespace, user.username, operation);
      return { allowed: false, code: 403, message: "no" };
    });
    expect(responseOf(await post(started))).toMatchObject({
      allowed: false,
      status: { code: 403, message: "no" },
    });
    expect(names).toEqual(["lab", "alice", "CREATE"]);
    expect(started.seen).toEqual([["/inject", "refused"]]);
  });

  test.each([
    {
      name: "throws",
      handler: () => Promise.reject(new Error("secret detail")),
      message: "the control plane could not decide; its log says why",
    },
    {
      name: "is not ready",
      handler: () => Promise.reject(new MeshError("not_ready", "not started yet; try again")),
      message: "not started yet; try again",
    },
  ])("is refused when its handler $name", async ({ handler, message }) => {
    const started = await start(handler);
    expect(responseOf(await post(started))).toEqual({
      uid: UID,
      allowed: false,
      status: { status: "Failure", code: 500, reason: "InternalError", message },
    });
    expect(started.seen).toEqual([["/inject", "failed"]]);
  });

  test("is refused when its handler takes too long", async () => {
    const asked = Promise.withResolvers<void>();
    const started = await start(() => {
      asked.resolve();
      return new Promise(() => {});
    });
    const answer = post(started);
    await asked.promise;
    await Promise.resolve();
    started.clock.advance(8_000);
    expect(responseOf(await answer)).toMatchObject({
      allowed: false,
      status: { message: "the decision took too long; try again" },
    });
  });
});

describe("anything else", () => {
  test.each([
    { name: "another path", call: { path: "/validate" }, status: 404 },
    { name: "a path that is a property of every object", call: { path: "/constructor" }, status: 404 },
    { name: "GET", call: { method: "GET", headers: {} }, status: 405 },
    { name: "PUT", call: { method: "PUT" }, status: 405 },
    { name: "another type", call: { headers: { "content-type": "text/plain" } }, status: 415 },
    { name: "no type", call: { headers: {} }, status: 415 },
    {
      name: "a compressed body",
      call: { headers: { ...JSON_TYPE, "content-encoding": "gzip" } },
      status: 415,
    },
    { name: "no review", call: { body: "{}" }, status: 400 },
    {
      name: "a type with parameters is fine",
      call: { headers: { "content-type": "Application/JSON; charset=utf-8" } },
      status: 200,
    },
    { name: "health", call: { path: "/healthz", method: "GET", headers: {} }, status: 200 },
    { name: "health, posted", call: { path: "/healthz" }, status: 405 },
  ])("$name: $status", async ({ call, status }) => {
    expect((await post(await start(allow), call)).status).toBe(status);
  });

  test("a body larger than a review can be is refused before it is read", async () => {
    const started = await start(allow);
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    const call = open(
      started,
      { headers: { ...JSON_TYPE, "content-length": 3 * 1024 * 1024 + 1 } },
      resolve,
      reject,
    );
    call.flushHeaders();
    expect(await promise).toMatchObject({ status: 413, headers: { connection: "close" } });
    call.destroy();
    expect(started.seen).toEqual([["/inject", "malformed"]]);
  });

  test("a body of unknown length is refused", async () => {
    const started = await start(allow);
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    const call = open(
      started,
      { headers: { ...JSON_TYPE, "transfer-encoding": "chunked" } },
      resolve,
      reject,
    );
    call.flushHeaders();
    expect((await promise).status).toBe(411);
    call.destroy();
  });

  test("bodies that never come hold a bounded amount of one address, and what is given up is free again", async () => {
    const started = await start(allow);
    const size = 3 * 1024 * 1024;
    const hostile = { localAddress: "127.0.0.2" };
    const waiting = Array.from({ length: 8 }, () => {
      const headers = { ...JSON_TYPE, "content-length": size };
      const call = open(
        started,
        { headers, options: hostile },
        () => {},
        () => {},
      );
      call.flushHeaders();
      return call;
    });
    const large = async (options: object): Promise<number> =>
      (await post(started, { body: REVIEW.padEnd(size, " "), options })).status;
    let status = 200;
    // Once the eight are in, one more of that address is always refused.
    for (let tries = 0; status === 200 && tries < 200; tries++) status = await large(hostile);
    expect(status).toBe(503);
    expect(await large({})).toBe(200);
    for (const call of waiting) call.destroy();
    for (let tries = 0; status !== 200 && tries < 200; tries++) status = await large(hostile);
    expect(status).toBe(200);
  });

  test("connections of one address are bounded, others come through", async () => {
    const started = await start(allow);
    const sockets = await Promise.all(
      Array.from({ length: 129 }, () => {
        const { promise, resolve } = Promise.withResolvers<Socket>();
        const socket = connect(
          { host: "127.0.0.1", port: started.server.port, localAddress: "127.0.0.2" },
          () => resolve(socket),
        );
        socket.on("error", () => {});
        return promise;
      }),
    );
    await Promise.race(sockets.map((socket) => once(socket, "close")));
    expect((await post(started)).status).toBe(200);
    for (const socket of sockets) socket.destroy();
  });

  test("a client that does not know the mesh's root gets nothing", async () => {
    await expect(post(await start(allow), { options: { ca: [] } })).rejects.toThrow();
  });

  test("TLS 1.1 is not spoken", async () => {
    await expect(
      post(await start(allow), { options: { maxVersion: "TLSv1.1", minVersion: "TLSv1" } }),
    ).rejects.toThrow();
  });
});

describe("the server", () => {
  test("takes another certificate from the next connection on, and keeps the open ones", async () => {
    const started = await start(allow);
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const first = await post(started, { agent });
    started.server.rotate(await createWebhookCertificate(authority.ca, [NAME], Date.now()));
    expect((await post(started, { agent })).serial).toBe(first.serial);
    expect((await post(started)).serial).not.toBe(first.serial);
    agent.destroy();
  });

  test("refuses a certificate that does not fit its key, and goes on with the one it has", async () => {
    const started = await start(allow);
    const other = await createWebhookCertificate(authority.ca, [NAME], Date.now());
    expect(() => started.server.rotate({ ...certificate, keyPem: other.keyPem })).toThrow();
    expect((await post(started)).status).toBe(200);
  });

  test("answers what it is asked already before it ends, and tells the client to go", async () => {
    const asked = Promise.withResolvers<void>();
    const decided = Promise.withResolvers<void>();
    const started = await start(async () => {
      asked.resolve();
      await decided.promise;
      return { allowed: true };
    });
    const answer = post(started, { agent: new Agent({ keepAlive: true }) });
    await asked.promise;
    const closed = started.server.close();
    decided.resolve();
    expect(await answer).toMatchObject({ status: 200, headers: { connection: "close" } });
    await closed;
  });

  test("says so when its port is taken", async () => {
    const { server } = await start(allow);
    await expect(
      createAdmissionServer({
        host: "127.0.0.1",
        port: server.port,
        certificate,
        handlers: {},
        clock: new FakeClock(0),
        log,
      }),
    ).rejects.toMatchObject({ code: "io_failed" });
  });
});
