// What a RoutePolicy says, carried out between real sidecars: three services behind one name, and copies beside the call.
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import type { RouteMatch, RouteRule } from "../../../sidecar/core/traffic/route.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import {
  ALLOW_READ,
  type Answer,
  type App,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const service = (name: string, port = 8080): ServiceSpec => ({
  namespace: "ml",
  kind: "serving",
  name,
  ports: [port],
});
const THINGS = service("things");
const V1 = service("things-v1");
const V2 = service("things-v2", 9090);

const RULE: RouteRule = {
  name: "RoutePolicy ml/r rules[0]",
  matches: [],
  ports: undefined,
  backends: [],
  mirrors: [],
  stickyBy: undefined,
  requestTimeoutMs: undefined,
  tryTimeoutMs: undefined,
  requestHeaders: [],
  responseHeaders: [],
};
const MATCH: RouteMatch = {
  path: undefined,
  methods: undefined,
  headers: [],
  query: [],
  grpc: undefined,
  roles: undefined,
  callerKinds: undefined,
  callerNames: undefined,
  operations: undefined,
};
const to = (name: string | undefined, weight = 1, port?: number) => ({
  service: name === undefined ? undefined : `ml/${name}`,
  port,
  weight,
});
const mirror = (name: string, more = {}) => ({
  service: `ml/${name}`,
  port: undefined,
  share: 1,
  allMethods: false,
  ...more,
});

const says =
  (text: string): Answer =>
  (_head, socket) => {
    socket.write(`HTTP/1.1 200 OK\r\nx-debug: yes\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
  };
const get = (path = "/things/a", fields = ""): string =>
  `GET http://things.ml:8080${path} HTTP/1.1\r\nhost: things.ml:8080\r\n${fields}\r\n`;
const post = (body: string): string =>
  `POST http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\ncontent-length: ${body.length}\r\n\r\n${body}`;

let world: World;
let apps: Map<string, App>;
let callees: Map<string, Sidecar>;
let caller: Sidecar;

function setRules(rules: readonly Partial<RouteRule>[]): void {
  const services = [THINGS, V1, V2].map((one) => ({
    service: one,
    meshPort: callees.get(one.name)?.meshPort ?? 1,
  }));
  const routes =
    rules.length === 0
      ? []
      : [{ service: "ml/things", rules: rules.map((rule) => ({ ...RULE, ...rule })), traffic: undefined }];
  const bundle = world.authority.bundle.json;
  expect(caller.plane.setTable(table({ self: NOTEBOOK, services, bundle, routes })).ok).toBe(true);
}

const ALLOW_ALL = {
  ...ALLOW_READ,
  rules: [{ name: "all", from: [{ any: true as const }], operations: [{ any: true as const }] }],
};

beforeEach(async () => {
  world = await World.create();
  apps = new Map();
  callees = new Map();
  for (const one of [THINGS, V1, V2]) {
    const app = await world.app(says(one.name));
    const callee = await world.sidecar(one, { app });
    callee.plane.setTable(table({ self: one, policies: [ALLOW_ALL], bundle: world.authority.bundle.json }));
    apps.set(one.name, app);
    callees.set(one.name, callee);
  }
  caller = await world.sidecar(NOTEBOOK);
});
afterEach(() => world.close());

const bodyOf = async (request: string): Promise<string> => (await send(caller.proxyPort, request)).body;
const heads = (name: string): readonly string[] => apps.get(name)?.heads ?? [];
const metrics = (): string => exposition(caller.plane.metrics).body;
async function until(what: () => boolean): Promise<void> {
  while (!what()) await delay(2);
}

describe("a route", () => {
  test("sends calls to the backend of the first rule that matches, else to the service itself", async () => {
    setRules([
      {
        matches: [{ ...MATCH, headers: [{ name: "x-canary", kind: "exact", value: "yes" }] }],
        backends: [to("things-v2")],
      },
      { matches: [{ ...MATCH, operations: ["thing.read"], methods: ["GET"] }], backends: [to("things-v1")] },
    ]);
    expect(await bodyOf(get("/things/a", "x-canary: yes\r\n"))).toBe("things-v2");
    expect(await bodyOf(get("/things/a"))).toBe("things-v1");
    expect(await bodyOf(get("/health"))).toBe("things");
    // The callee's own port, whatever was called; the name that was called stays.
    expect(heads("things-v2")[0]).toContain("host: things.ml:8080");
  });

  test("splits by weight, and keeps what has the same key on one side", async () => {
    setRules([{ backends: [to("things-v1", 50), to("things-v2", 50)] }]);
    const seen = new Set<string>();
    for (let i = 0; i < 40; i++) seen.add(await bodyOf(get()));
    expect([...seen].sort()).toEqual(["things-v1", "things-v2"]);
    setRules([
      { backends: [to("things-v1", 50), to("things-v2", 50)], stickyBy: { by: "cookie", name: "sid" } },
    ]);
    const sides = new Map<string, Set<string>>();
    for (let i = 0; i < 60; i++) {
      const key = `user-${i % 12}`;
      const side = await bodyOf(get("/things/a", `cookie: a=b; sid=${key}\r\n`));
      sides.set(key, (sides.get(key) ?? new Set()).add(side));
    }
    expect([...sides.values()].every((one) => one.size === 1)).toBe(true);
    expect(new Set([...sides.values()].flatMap((one) => [...one])).size).toBe(2);
  });

  test("never widens access: the callee decides, on the one that is really asked", async () => {
    callees
      .get("things-v2")
      ?.plane.setTable(table({ self: V2, policies: [], bundle: world.authority.bundle.json }));
    setRules([{ backends: [to("things-v2")] }]);
    const answer = await send(caller.proxyPort, get());
    expect([answer.status, JSON.parse(answer.body)["reason"]]).toEqual([403, "DEFAULT_DENY"]);
    expect(heads("things-v2")).toEqual([]);
  });

  test("refuses the share of a backend that does not exist", async () => {
    setRules([{ backends: [to(undefined)] }]);
    const answer = await send(caller.proxyPort, get());
    expect([answer.status, JSON.parse(answer.body)["reason"]]).toEqual([503, "NO_ENDPOINTS"]);
  });

  test("has nothing for roles as long as no user is known, and asks the caller's kind", async () => {
    setRules([
      { matches: [{ ...MATCH, roles: ["oncall"] }], backends: [to("things-v2")] },
      { matches: [{ ...MATCH, callerKinds: ["job"] }], backends: [to("things-v2")] },
      { matches: [{ ...MATCH, callerNames: ["nb-*"] }], backends: [to("things-v1")] },
    ]);
    expect(await bodyOf(get())).toBe("things-v1");
  });

  test("changes fields on the way there and back, and ends a call when its time is over", async () => {
    setRules([
      {
        matches: [{ ...MATCH, path: { kind: "prefix", value: "/things" } }],
        backends: [to("things-v1")],
        requestHeaders: [
          { action: "set", name: "x-version", value: "1" },
          { action: "remove", name: "x-secret", value: "" },
        ],
        responseHeaders: [
          { action: "remove", name: "x-debug", value: "" },
          { action: "add", name: "x-served-by", value: "canary" },
        ],
      },
      { backends: [to("things-v2")], requestTimeoutMs: 50 },
    ]);
    const answer = await send(caller.proxyPort, get("/things/a", "x-version: 9\r\nx-secret: s\r\n"));
    expect(heads("things-v1")[0]).toMatch(/\r\nx-version: 1\r\n/);
    expect(heads("things-v1")[0]).not.toMatch(/x-secret|x-version: 9/);
    expect(answer.head).toMatch(/\r\nx-served-by: canary\r\n/);
    expect(answer.head).not.toContain("x-debug");
    const silent = await world.app(() => {});
    const slow = await world.sidecar(V2, { app: silent });
    slow.plane.setTable(table({ self: V2, policies: [ALLOW_ALL], bundle: world.authority.bundle.json }));
    callees.set("things-v2", slow);
    setRules([{ backends: [to("things-v2")], requestTimeoutMs: 50 }]);
    const late = await send(caller.proxyPort, get());
    expect([late.status, JSON.parse(late.body)["reason"]]).toEqual([504, "UPSTREAM_TIMEOUT"]);
  });
});

describe("a mirror", () => {
  test("gets a copy of what is idempotent, and its answer goes nowhere", async () => {
    setRules([{ mirrors: [mirror("things-v2")] }]);
    expect(await bodyOf(get())).toBe("things");
    await until(() => /countersign_mirrored_requests_total\{result="answered"\} 1/.test(metrics()));
    expect(heads("things-v2")).toHaveLength(1);
    // The marker is for the mesh, the application gets what the other one got.
    expect(heads("things-v2")[0]).not.toContain("countersign-mirror");
    expect(await bodyOf(post("x"))).toBe("things");
    expect(metrics()).toMatch(/countersign_mirrored_requests_total\{result="not_idempotent"\} 1/);
    expect(heads("things-v2")).toHaveLength(1);
  });

  test("gets POST where the rule says so, whole or not at all", async () => {
    setRules([{ backends: [to("things-v1")], mirrors: [mirror("things-v2", { allMethods: true })] }]);
    expect(await bodyOf(post("abc"))).toBe("things-v1");
    await until(() => heads("things-v2").length === 1);
    expect(Buffer.concat(apps.get("things-v2")?.received ?? []).toString()).toMatch(/\r\n\r\nabc$/);
    expect(await bodyOf(post("x".repeat(70_000)))).toBe("things-v1");
    expect(metrics()).toMatch(/result="too_large"\} 1/);
    expect(heads("things-v2")).toHaveLength(1);
  });

  test("is decided on by its own callee, and marked in its audit trail", async () => {
    callees
      .get("things-v2")
      ?.plane.setTable(table({ self: V2, policies: [], bundle: world.authority.bundle.json }));
    setRules([{ mirrors: [mirror("things-v2")] }]);
    expect(await bodyOf(get())).toBe("things");
    await until(() => /result="answered"\} 1/.test(metrics()));
    expect(heads("things-v2")).toEqual([]);
    const [event] = (await callees.get("things-v2")?.audit()) ?? [];
    expect(event).toMatchObject({
      data: { decision: { effect: "Deny", reason: "DEFAULT_DENY" }, request: { mirrored: true } },
    });
  });

  test("that is not there or cannot be reached changes nothing for the caller", async () => {
    setRules([{ mirrors: [mirror("nowhere"), mirror("things-v2", { share: 0 })] }]);
    expect(await bodyOf(get())).toBe("things");
    expect(metrics()).toMatch(/result="dropped"\} 1/);
    await callees.get("things-v2")?.plane.close(0);
    setRules([{ mirrors: [mirror("things-v2")] }]);
    expect(await bodyOf(get())).toBe("things");
    await until(() => /result="failed"\} 1/.test(metrics()));
  });
});
