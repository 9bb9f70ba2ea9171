// What winning rules demand, over real sockets: limits, places, records, fresh proofs.
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { clientTlsOptions } from "../../../sidecar/certs/tls-contexts.ts";
import type { Obligations, ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import {
  ALLOW_READ,
  type Answer,
  complete,
  hello,
  idOf,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "./world.ts";

const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const PACK = `
# operation         method  template        resource           access   level
thing.read          GET     /things/{thing} thing<path:thing   read     -
serving.invoke.chat POST    /chat           model<body:model   execute  -
`;

let world: World;
beforeEach(async () => {
  world = await World.create();
});
afterEach(() => world.close());

const demanding = (demands: Obligations): ProgramPolicy => ({
  ...ALLOW_READ,
  rules: ALLOW_READ.rules.map((rule) => ({ ...rule, operations: [{ any: true }], with: demands })),
});

/** Of an audit event, what is looked at here. */
interface Event {
  readonly type: string;
  readonly data: {
    readonly decisionId: string;
    readonly model?: object;
    readonly response: { readonly statusCode: number | null };
    readonly payload?: Readonly<
      Record<"request" | "response", { readonly body?: string; readonly fields: unknown }>
    >;
  };
}

interface Pair {
  readonly caller: Sidecar;
  readonly callee: Sidecar;
  readonly heads: readonly string[];
}

async function pair(demands: Obligations, answer: Answer = hello, config: object = {}): Promise<Pair> {
  const bundle = world.authority.bundle.json;
  const app = await world.app(answer);
  const callee = await world.sidecar(THINGS, { app, config });
  const caller = await world.sidecar(NOTEBOOK);
  callee.plane.setTable(table({ self: THINGS, policies: [demanding(demands)], bundle, pack: PACK }));
  caller.plane.setTable(
    table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle, pack: PACK }),
  );
  return { caller, callee, heads: app.heads };
}

const get = ({ caller }: Pair, name = "a"): ReturnType<typeof send> =>
  send(caller.proxyPort, `GET http://things.ml:8080/things/${name} HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n`);

function chat({ caller }: Pair, body = '{"model":"llama"}', fields = ""): ReturnType<typeof send> {
  return send(
    caller.proxyPort,
    `POST http://things.ml:8080/chat HTTP/1.1\r\nhost: things.ml:8080\r\ncontent-type: application/json\r\n${fields}content-length: ${body.length}\r\n\r\n${body}`,
  );
}

const reply =
  (body: string, type = "application/json"): Answer =>
  (_head, socket) => {
    socket.write(`HTTP/1.1 200 OK\r\ncontent-type: ${type}\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
  };

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 5));
}

async function firstEvent(sidecar: Sidecar): Promise<Event> {
  let events: readonly unknown[] = [];
  await until(async () => {
    events = await sidecar.audit();
    return events.length > 0;
  });
  return events[0] as Event;
}

function concurrent({ callee }: Pair, state: string): number {
  const line = exposition(callee.plane.metrics)
    .body.split("\n")
    .find((one) => one.startsWith("countersign_concurrent_calls{") && one.includes(`state="${state}"`));
  return Number(line?.split(" ").at(-1) ?? 0);
}
const waiting = (mesh: Pair): number => concurrent(mesh, "waiting");
const running = (mesh: Pair): number => concurrent(mesh, "running");

describe("rate limits", () => {
  test("are told on every answer, and refuse with the time to wait", async () => {
    const limit = { key: ["workload"] as const, requests: 60, perMs: 3_600_000, burst: 2 };
    const mesh = await pair({ rateLimit: limit });
    const answers = [await get(mesh), await get(mesh), await get(mesh)];
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 429]);
    for (const { head } of answers) expect(head).toContain('ratelimit-policy: "workload";q=60;w=3600\r\n');
    // One comes back each minute; less the seconds that a slow machine took.
    expect(answers[0]?.head).toMatch(/\r\nratelimit: "workload";r=1;t=(60|[345]\d)\r\n/);
    expect(answers[1]?.head).toMatch(/\r\nratelimit: "workload";r=0;t=(120|1[01]\d|9\d)\r\n/);
    expect(answers[2]?.head).toMatch(/\r\nretry-after: (60|[345]\d)\r\n/);
    expect(answers[2]?.head).toMatch(/\r\nratelimit: "workload";r=0;t=(60|[345]\d)\r\n/);
    expect(mesh.heads).toHaveLength(2);
  });
});

describe("token limits", () => {
  const limit = { key: ["workload"] as const, tokens: 100, perMs: 3_600_000, count: "total" as const };

  test("charge what the answer says, and refuse when nothing is left", async () => {
    const usage = '{"model":"llama","usage":{"prompt_tokens":40,"completion_tokens":50}}';
    const mesh = await pair({ tokenLimit: limit }, reply(usage));
    const answers = [await chat(mesh), await chat(mesh), await chat(mesh)];
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 429]);
    expect(answers[0]?.head).toMatch(/\r\nratelimit-policy: "workload-tokens";q=100;w=3600;qu="tokens"\r\n/);
    expect(answers[1]?.head).toMatch(/\r\nratelimit: "workload-tokens";r=10;t=\d+\r\n/);
    expect(answers[2]?.body).toContain("TOKEN_BUDGET_EXHAUSTED");
    // 80 too many, at 100 an hour.
    expect(Number(/retry-after: (\d+)/.exec(answers[2]?.head ?? "")?.[1])).toBeGreaterThan(2_800);
    const text = exposition(mesh.callee.plane.metrics).body;
    expect(text).toContain('countersign_model_tokens_total{callee="things",model="llama",type="input"} 80\n');
    expect(text).toContain(
      'countersign_model_tokens_total{callee="things",model="llama",type="output"} 100\n',
    );
    expect((await firstEvent(mesh.callee)).data.model).toMatchObject({
      name: "llama",
      inputTokens: 40,
      outputTokens: 50,
      stream: false,
    });
  });

  test("charge a stream that says nothing by what was written, and ask for answers that can be read", async () => {
    const stream = Array.from(
      { length: 10 },
      () => `data: {"choices":[{"delta":{"content":"${"x".repeat(40)}"}}]}\n\n`,
    );
    const mesh = await pair(
      { tokenLimit: { ...limit, count: "output" } },
      reply(stream.join(""), "text/event-stream"),
    );
    expect((await chat(mesh, "{}", "accept-encoding: gzip\r\n")).status).toBe(200);
    expect(mesh.heads[0]).not.toMatch(/accept-encoding/i);
    expect((await chat(mesh)).status).toBe(429);
    expect(exposition(mesh.callee.plane.metrics).body).toMatch(
      /countersign_model_estimated_calls_total\{[^}]*\} 1\n/,
    );
  });

  test("allow no bytes that cannot be counted", async () => {
    const mesh = await pair({ tokenLimit: limit });
    const answer = await send(
      mesh.caller.proxyPort,
      "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\nconnection: Upgrade\r\nupgrade: websocket\r\n" +
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    expect([answer.status, answer.body]).toEqual([501, expect.stringContaining("cannot be counted")]);
    expect(mesh.heads).toHaveLength(0);
  });

  test("charge who leaves before the answer", async () => {
    const asked = Promise.withResolvers<void>();
    const mesh = await pair({ tokenLimit: limit }, () => asked.resolve());
    const body = `{"prompt":"${"x".repeat(1_000)}"}`;
    const call = connect(mesh.caller.proxyPort, "127.0.0.1");
    call.write(
      `POST http://things.ml:8080/chat HTTP/1.1\r\nhost: things.ml:8080\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    await asked.promise;
    call.destroy();
    const event = await firstEvent(mesh.callee);
    expect(event.data.response.statusCode).toBeNull();
    expect(event.data.model).toMatchObject({ inputTokens: 254, estimated: true });
    expect((await chat(mesh)).status).toBe(429);
  });
});

describe("concurrency", () => {
  test("lets calls wait in order for a place, refuses those beyond, and frees places on every way out", async () => {
    const open: Socket[] = [];
    const mesh = await pair({ concurrency: 1 }, (_head, socket) => open.push(socket));
    const finish = (): void => {
      open.shift()?.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    };
    const first = get(mesh, "1");
    await until(() => open.length === 1);
    const second = get(mesh, "2");
    await until(() => waiting(mesh) === 1);
    const third = await get(mesh, "3");
    expect([third.status, third.head]).toEqual([503, expect.stringMatching(/\r\nretry-after: 1\r\n/)]);
    expect(third.body).toContain("CONCURRENCY_LIMITED");
    finish();
    expect((await first).status).toBe(200);
    await until(() => open.length === 1);
    finish();
    expect((await second).status).toBe(200);
    expect(mesh.heads.map((head) => /\/things\/(\d)/.exec(head)?.[1])).toEqual(["1", "2"]);
    // Who leaves, running or waiting, leaves no place behind.
    for (let i = 0; i < 3; i++) {
      const gone = connect(mesh.caller.proxyPort, "127.0.0.1");
      gone.write("GET http://things.ml:8080/things/x HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n");
      await until(() => open.length === 1);
      const bored = connect(mesh.caller.proxyPort, "127.0.0.1");
      bored.write("GET http://things.ml:8080/things/y HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n");
      await until(() => waiting(mesh) === 1);
      bored.destroy();
      await until(() => waiting(mesh) === 0);
      gone.destroy();
      await until(() => running(mesh) === 0);
      open.length = 0;
    }
    const last = get(mesh, "4");
    await until(() => open.length === 1);
    open[0]?.destroy(); // the application dies
    expect((await last).status).toBe(502);
    expect(running(mesh)).toBe(0);
  });

  test.each([
    { name: "still allow it", policies: [demanding({ concurrency: 1 })], want: [200, 200], reached: 2 },
    { name: "allow it no more", policies: [], want: [403, 403], reached: 1 },
  ])(
    "decides again when the policies changed while a call waited, and $name",
    async ({ policies, want, reached }) => {
      const open: Socket[] = [];
      const mesh = await pair({ concurrency: 1 }, (_head, socket) => open.push(socket));
      const answer = (): void => {
        open.shift()?.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
      };
      const first = get(mesh, "1");
      await until(() => open.length === 1);
      const second = get(mesh, "2");
      await until(() => waiting(mesh) === 1);
      const bundle = world.authority.bundle.json;
      mesh.callee.plane.setTable(table({ self: THINGS, policies, bundle, pack: PACK, revision: 2 }));
      answer();
      expect((await first).status).toBe(want[0]);
      if (reached === 2) {
        await until(() => open.length === 1);
        answer();
      }
      expect((await second).status).toBe(want[1]);
      expect(mesh.heads).toHaveLength(reached);
    },
  );
});

describe("audit", () => {
  test("Required: the intent is in the file before the application hears of the call", async () => {
    let atApp: string[] = [];
    const mesh: Pair = await pair(
      { audit: { level: "None", sample: 0, mode: "Required" } },
      (head, socket, body) => {
        atApp = readFileSync(mesh.callee.auditFile, "utf8").trimEnd().split("\n");
        hello(head, socket, body);
      },
    );
    expect((await get(mesh)).status).toBe(200);
    expect(atApp).toHaveLength(1);
    const [intent, event] = (await mesh.callee.audit()) as unknown as Event[];
    expect(intent).toMatchObject({
      type: "dev.countersign.intent.v1",
      data: { decision: { effect: "Allow" } },
    });
    expect(event).toMatchObject({
      type: "dev.countersign.invocation.v1",
      data: { response: { statusCode: 200 } },
    });
    expect(event?.data.decisionId).toBe(intent?.data.decisionId);
  });

  test("Required: a call that cannot be recorded is refused, others are not", async () => {
    const mesh = await pair({ audit: { level: "Metadata", sample: 1, mode: "Required" } }, hello, {
      auditFile: "/dev/full",
    });
    const refused = await get(mesh);
    expect([refused.status, refused.body]).toEqual([503, expect.stringContaining("AUDIT_UNAVAILABLE")]);
    expect(mesh.heads).toHaveLength(0);
    const none = await pair({ audit: { level: "Metadata", sample: 1, mode: "Required" } }, hello, {
      auditFile: undefined,
    });
    expect((await get(none)).body).toContain("AUDIT_UNAVAILABLE");
    const other = await pair({ audit: { level: "Metadata", sample: 1, mode: "BestEffort" } }, hello, {
      auditFile: "/dev/full",
    });
    expect((await get(other)).status).toBe(200);
  });

  test("Body: what was said, without what is secret, where the sink may have it", async () => {
    const answer = reply('{"answer":"yes","token":"tk-value"}');
    const audit = { level: "Body", sample: 1, mode: "BestEffort" } as const;
    const mesh = await pair({ audit }, answer, { auditBodies: true, auditRedact: ["x-mine"] });
    await chat(
      mesh,
      '{"model":"m","password":"pw-value"}',
      "x-mine: xm-value\r\nx-other: v1\r\nauthorization: Bearer br-value\r\n",
    );
    const [event] = (await mesh.callee.audit()) as unknown as Event[];
    const { request, response } = event?.data.payload ?? {};
    expect(request?.body).toBe('{"model":"m","password":"[redacted]"}');
    expect(response?.body).toBe('{"answer":"yes","token":"[redacted]"}');
    expect(request?.fields).toEqual(
      expect.arrayContaining([
        ["x-mine", "[redacted]"],
        ["x-other", "v1"],
        ["authorization", "[redacted]"],
      ]),
    );
    expect(JSON.stringify(event)).not.toMatch(/(pw|tk|xm|br)-value/);
    const off = await pair({ audit }, answer);
    await chat(off);
    const [headersOnly] = (await off.callee.audit()) as unknown as Event[];
    expect(headersOnly?.data.payload?.request).toEqual({ fields: expect.anything() });
  });
});

describe("replay: Strict", () => {
  test("takes each proof once; a caller that knows sends another one each time", async () => {
    const mesh = await pair({ replay: "Strict" });
    const answers = [await get(mesh), await get(mesh)];
    expect(answers.map(({ status }) => status)).toEqual([200, 400]);
    expect(answers[1]?.body).toContain("AUTHN_PROOF_INVALID");
    const { plane } = mesh.caller;
    const before = plane.table;
    if (before === undefined) throw new Error("no table");
    const services = [...before.services].map(
      ([id, service]) => [id, { ...service, freshProofs: ["thing"] }] as const,
    );
    plane.setTable({
      ...before,
      services: new Map(services),
      servicesByHost: new Map(services.map(([, service]) => [service.hosts[0] ?? "", service])),
    });
    for (let i = 0; i < 3; i++) expect((await get(mesh)).status).toBe(200);
    // Other operations go on with a proof that is used again.
    expect([(await chat(mesh)).status, (await chat(mesh)).status]).toEqual([200, 400]);
    expect(mesh.heads).toHaveLength(5);
  });

  test("has nothing for a caller without a proof", async () => {
    const bundle = world.authority.bundle.json;
    const callee = await world.sidecar(THINGS, { app: await world.app(hello) });
    callee.plane.setTable(
      table({ self: THINGS, policies: [demanding({ replay: "Strict" })], bundle, pack: PACK }),
    );
    const identity = world.identity(NOTEBOOK);
    const options = clientTlsOptions(identity, idOf("ml", "serving", "things"), Date.now, ["http/1.1"]);
    const socket = connectTls({ ...options, host: "127.0.0.1", port: callee.meshPort });
    let text = "";
    socket.setEncoding("latin1").on("data", (chunk: string) => {
      text += chunk;
    });
    socket.write("GET /things/a HTTP/1.1\r\nhost: things.ml\r\ncountersign-port: 8080\r\n\r\n");
    await until(() => complete(text));
    socket.destroy();
    expect(text).toMatch(/^HTTP\/1\.1 400 .*AUTHN_PROOF_INVALID/s);
  });
});
