// What a TrafficPolicy says, carried out between real sidecars: several endpoints of one service that answer, fail, keep
// silent and break off.
import { type AddressInfo, createServer, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { adminPages } from "../../../sidecar/admin.ts";
import { DEFAULT_TIMEOUTS, type Timeouts } from "../../../sidecar/config.ts";
import type { RetrySettings, TrafficSettings } from "../../../sidecar/core/traffic/traffic.ts";
import type { MeshEndpoint, SidecarTable } from "../../../sidecar/discovery/table.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import {
  ALLOW_READ,
  type Answer,
  type App,
  hello,
  idOf,
  type RawAnswer,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const GET = "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n";
const post = (body: string, path = "/things/a"): string =>
  `POST http://things.ml:8080${path} HTTP/1.1\r\nhost: things.ml:8080\r\ncontent-length: ${body.length}\r\n\r\n${body}`;

const NOTHING: TrafficSettings = {
  lb: undefined,
  preferZone: false,
  healthCheck: undefined,
  outlier: undefined,
  slowStartMs: undefined,
  limits: undefined,
  timeouts: undefined,
  retries: undefined,
};
const RETRIES: RetrySettings = {
  attempts: 2,
  on: ["503", "reset", "gateway-error"],
  onlyAccess: [],
  idempotent: [],
  budgetPercent: 100,
  perTryTimeoutMs: undefined,
};

const silent: Answer = () => {};
const busy: Answer = (_head, socket) => {
  socket.write("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy");
};
const pausing: Answer = (_head, socket) => {
  socket.write("HTTP/1.1 503 Service Unavailable\r\nretry-after: 30\r\ncontent-length: 4\r\n\r\nbusy");
};
const broken: Answer = (_head, socket) => {
  socket.write("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n");
};
const cut: Answer = (_head, socket) => {
  socket.destroy();
};

let world: World;

interface Fleet {
  readonly caller: Sidecar;
  readonly callees: readonly Sidecar[];
  readonly apps: readonly App[];
  setTraffic(traffic: Partial<TrafficSettings> | undefined): void;
  /** Requests that reached each application. */
  reached(): number[];
}

function tableOf(callees: readonly number[], traffic: Partial<TrafficSettings> | undefined): SidecarTable {
  const plain = table({
    self: NOTEBOOK,
    services: [{ service: THINGS, meshPort: 1 }],
    bundle: world.authority.bundle.json,
    routes:
      traffic === undefined ? [] : [{ service: "ml/things", rules: [], traffic: { ...NOTHING, ...traffic } }],
  });
  const endpoints = callees.map(
    (meshPort): MeshEndpoint => ({
      address: "127.0.0.1",
      meshPort,
      spiffeId: idOf("ml", "serving", "things"),
      ports: plain.services.get("ml/things")?.ports ?? [],
    }),
  );
  return { ...plain, endpoints: new Map([["ml/things", endpoints]]) };
}

/** A caller and an endpoint per answer. */
async function fleet(
  answers: readonly Answer[],
  traffic?: Partial<TrafficSettings>,
  extraPorts: readonly number[] = [],
  policies = [ALLOW_READ],
  timeouts: Timeouts = DEFAULT_TIMEOUTS,
): Promise<Fleet> {
  const bundle = world.authority.bundle.json;
  const apps: App[] = [];
  const callees: Sidecar[] = [];
  for (const answer of answers) {
    const app = await world.app(answer);
    const callee = await world.sidecar(THINGS, { app, config: { timeouts } });
    callee.plane.setTable(table({ self: THINGS, policies, bundle }));
    apps.push(app);
    callees.push(callee);
  }
  const caller = await world.sidecar(NOTEBOOK, { config: { timeouts } });
  const ports = [...callees.map((callee) => callee.meshPort), ...extraPorts];
  const setTraffic = (settings: Partial<TrafficSettings> | undefined): void => {
    expect(caller.plane.setTable(tableOf(ports, settings)).ok).toBe(true);
  };
  setTraffic(traffic);
  return { caller, callees, apps, setTraffic, reached: () => apps.map((app) => app.heads.length) };
}

const reasonOf = ({ body }: RawAnswer): unknown => (JSON.parse(body) as Record<string, unknown>)["reason"];
const metricsOf = ({ plane }: Sidecar): string => exposition(plane.metrics).body;
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

async function statuses(caller: Sidecar, request: string, count: number): Promise<Map<number, number>> {
  const seen = new Map<number, number>();
  for (let i = 0; i < count; i++) {
    const { status } = await send(caller.proxyPort, request);
    seen.set(status, (seen.get(status) ?? 0) + 1);
  }
  return seen;
}

async function until(what: () => boolean): Promise<void> {
  while (!what()) await delay(2);
}

beforeEach(async () => {
  world = await World.create();
});
afterEach(async () => {
  await world.close();
});

describe("a retry", () => {
  test.each([
    { name: "of a read after 503", bad: busy, retries: RETRIES, request: GET, status: 200 },
    { name: "of a read whose answer broke off", bad: cut, retries: RETRIES, request: GET, status: 200 },
    {
      name: "of a write that policy says may be repeated",
      bad: busy,
      retries: { ...RETRIES, onlyAccess: ["write" as const] },
      request: post("some body"),
      status: 200,
    },
    {
      name: "of an operation that the callee declares idempotent",
      bad: busy,
      retries: { ...RETRIES, idempotent: ["thing"] },
      request: post("some body"),
      status: 200,
    },
    { name: "of a write is not made", bad: busy, retries: RETRIES, request: post("x"), status: 503 },
    {
      name: "for a cause that is not named is not made",
      bad: busy,
      retries: { ...RETRIES, on: ["reset" as const] },
      request: GET,
      status: 503,
    },
    { name: "without a policy is not made", bad: busy, retries: undefined, request: GET, status: 503 },
    {
      name: "of a long body is not made",
      bad: busy,
      retries: { ...RETRIES, onlyAccess: ["write" as const] },
      request: post("x".repeat(70_000)),
      status: 503,
    },
    {
      name: "of a body that is just short enough is made",
      bad: busy,
      retries: { ...RETRIES, onlyAccess: ["write" as const] },
      request: post("y".repeat(65_536)),
      status: 200,
    },
  ])("$name", async ({ bad, retries, request, status }) => {
    const { caller, apps, callees } = await fleet([bad, hello], { retries });
    // Round and round until the bad one was asked.
    for (let i = 0; i < 20 && (apps[0]?.heads.length ?? 0) === 0; i++) {
      const answer = await send(caller.proxyPort, request);
      expect(answer.status).toBe((apps[0]?.heads.length ?? 0) === 0 ? 200 : status);
    }
    expect(apps[0]?.heads.length).toBe(1);
    const body = request.slice(request.indexOf("\r\n\r\n") + 4);
    for (const app of apps) {
      const arrived = Buffer.concat(app.received).toString("latin1");
      if (body !== "" && app.heads.length > 0) expect(arrived.endsWith(`\r\n\r\n${body}`)).toBe(true);
    }
    // Every attempt is a decision of the callee.
    for (const [index, callee] of callees.entries())
      expect(await callee.audit()).toHaveLength(apps[index]?.heads.length ?? 0);
  });

  test("goes to another endpoint, as often as policy says and no oftener", async () => {
    const { caller, reached } = await fleet([busy, busy, busy, busy], { retries: RETRIES });
    const answer = await send(caller.proxyPort, GET);
    // The application's own answer comes through when nothing is left to try.
    expect([answer.status, answer.body]).toEqual([503, "busy"]);
    expect(sum(reached())).toBe(3);
    expect(Math.max(...reached())).toBe(1);
    expect(metricsOf(caller)).toContain(
      'countersign_retries_total{service="ml/things",cause="503",result="sent"} 2',
    );
  });

  test("is within the budget: a service that fails altogether gets little more than its load", async () => {
    const { caller, reached } = await fleet([busy, busy], { retries: { ...RETRIES, budgetPercent: 10 } });
    expect(await statuses(caller, GET, 100)).toEqual(new Map([[503, 100]]));
    const retries = sum(reached()) - 100;
    expect(retries).toBeGreaterThanOrEqual(3);
    expect(retries).toBeLessThan(100 * 0.1 + 3 * 12);
    expect(metricsOf(caller)).toContain('result="no_budget"');
  });

  test("is made at once, with its body, when an endpoint cannot be reached, whatever policy says", async () => {
    const { caller, reached } = await fleet([hello], undefined, [1, 2, 3]);
    for (let i = 0; i < 20; i++) expect((await send(caller.proxyPort, post(`body ${i}`))).status).toBe(200);
    expect(reached()).toEqual([20]);
  });

  test("honours Retry-After: the endpoint is left alone while others are there", async () => {
    const { caller, reached } = await fleet([pausing, hello], { retries: RETRIES });
    expect(await statuses(caller, GET, 30)).toEqual(new Map([[200, 30]]));
    expect(reached()[0]).toBe(1);
    expect(metricsOf(caller)).toMatch(/countersign_endpoints\{service="ml\/things",state="resting"\} 1/);
  });

  test("is not made when every endpoint asks for a pause: their answer comes through", async () => {
    const { caller, reached } = await fleet([pausing, pausing], { retries: RETRIES });
    const answer = await send(caller.proxyPort, GET);
    expect(answer.status).toBe(503);
    expect(answer.head).toContain("retry-after: 30");
    expect(sum(reached())).toBe(2);
  });

  test("is not made once an answer has begun", async () => {
    const half: Answer = (_head, socket) => {
      socket.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", () => socket.destroy());
    };
    const { caller, reached } = await fleet([half], { retries: { ...RETRIES, attempts: 5 } });
    const answer = await send(caller.proxyPort, GET, () => false);
    expect(answer.raw.endsWith("half")).toBe(true);
    expect(sum(reached())).toBe(1);
  });
});

describe("a limit in time", () => {
  test("of one attempt sends the request to another endpoint", async () => {
    const { caller, apps } = await fleet([silent, hello], {
      // Long enough for the other's answer where the machine stands still.
      retries: { ...RETRIES, attempts: 3, perTryTimeoutMs: 2_000 },
    });
    for (let i = 0; i < 20 && apps[0]?.heads.length === 0; i++)
      expect((await send(caller.proxyPort, GET)).status).toBe(200);
    expect(apps[0]?.heads.length).toBeGreaterThan(0);
  });

  test.each([
    {
      name: "of the whole call",
      traffic: { timeouts: { requestMs: 150, connectMs: undefined, idleMs: undefined, streamMs: undefined } },
    },
    {
      name: "of all attempts together",
      traffic: {
        retries: { ...RETRIES, attempts: 50, perTryTimeoutMs: 60 },
        timeouts: { requestMs: 150, connectMs: undefined, idleMs: undefined, streamMs: undefined },
      },
    },
    {
      name: "without a byte",
      traffic: { timeouts: { requestMs: undefined, connectMs: undefined, idleMs: 150, streamMs: undefined } },
    },
  ])("$name", async ({ traffic }) => {
    const { caller } = await fleet([silent], traffic);
    const startedMs = performance.now();
    const answer = await send(caller.proxyPort, GET);
    expect([answer.status, reasonOf(answer)]).toEqual([504, "UPSTREAM_TIMEOUT"]);
    // A last attempt for which the time is too short is not begun.
    expect(performance.now() - startedMs).toBeGreaterThan(90);
    expect(performance.now() - startedMs).toBeLessThan(15_000);
  });

  test("without a byte does not end an answer that goes on", async () => {
    const slow: Answer = (_head, socket) => {
      socket.write("HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n");
      let left = 40;
      const timer = setInterval(() => {
        socket.write("x");
        left--;
        if (left === 0) clearInterval(timer);
      }, 60);
    };
    const { caller } = await fleet([slow], {
      timeouts: { requestMs: undefined, connectMs: undefined, idleMs: 2_000, streamMs: undefined },
    });
    expect((await send(caller.proxyPort, GET)).body).toBe("x".repeat(40));
  });

  test("of the whole call ends an answer that goes on, visibly", async () => {
    const endless: Answer = (_head, socket) => {
      socket.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
      const timer = setInterval(() => socket.write("1\r\nx\r\n"), 20);
      socket.on("close", () => clearInterval(timer));
    };
    const { caller } = await fleet([endless], {
      timeouts: { requestMs: 1_500, connectMs: undefined, idleMs: undefined, streamMs: undefined },
    });
    const answer = await send(caller.proxyPort, GET, () => false);
    expect(answer.raw).toContain("1\r\nx\r\n");
    expect(answer.raw).not.toContain("0\r\n\r\n");
  });
});

describe("an outlier", () => {
  const outlier = { consecutive5xx: 3, ejectForMs: 60_000, maxEjectPercent: 50, panicPercent: 50 };
  test("is left alone after so many failures in a row", async () => {
    const { caller, reached } = await fleet([broken, hello, hello], { outlier });
    await statuses(caller, GET, 100);
    expect(reached()[0]).toBe(3);
    expect(metricsOf(caller)).toContain(
      'countersign_endpoint_ejections_total{service="ml/things",reason="failures"} 1',
    );
    expect(metricsOf(caller)).toContain('countersign_endpoints{service="ml/things",state="ejected"} 1');
  });

  test("is not left alone without a policy, nor when it is the only one", async () => {
    const { caller, reached } = await fleet([broken], { outlier });
    expect(await statuses(caller, GET, 10)).toEqual(new Map([[500, 10]]));
    expect(reached()).toEqual([10]);
  });
});

describe("an active check", () => {
  const healthCheck = {
    probe: { kind: "http" as const, path: "/health" },
    intervalMs: 20,
    // Long enough for an answer where the machine stands still.
    timeoutMs: 2_000,
    healthyThreshold: 2,
    unhealthyThreshold: 2,
  };
  const allowHealth: typeof ALLOW_READ = {
    ...ALLOW_READ,
    rules: [
      {
        name: "all",
        from: [{ workload: { kinds: ["notebook"] } }],
        operations: [{ op: "thing" }, { op: "health" }],
      },
    ],
  };

  async function sweepUntil({ caller }: Fleet, text: string): Promise<void> {
    await until(() => {
      caller.plane.sweep(performance.now());
      return metricsOf(caller).includes(text);
    });
  }

  test.each([
    { name: "that fails", answer: broken },
    { name: "that is not answered", answer: silent },
  ])("$name takes an endpoint out, and one that succeeds brings it back", async ({ answer }) => {
    let sick = true;
    const moody: Answer = (head, socket, body) => {
      if (sick && head.startsWith("GET /health")) answer(head, socket, body);
      else hello(head, socket, body);
    };
    const all = await fleet([moody, hello, hello], { healthCheck }, [], [allowHealth]);
    const { caller, apps } = all;
    const things = (): number => apps[0]?.heads.filter((head) => head.startsWith("GET /things")).length ?? 0;
    expect((await send(caller.proxyPort, GET)).status).toBe(200);
    await sweepUntil(all, 'countersign_endpoints{service="ml/things",state="unhealthy"} 1');
    const before = things();
    expect(await statuses(caller, GET, 30)).toEqual(new Map([[200, 30]]));
    expect(things()).toBe(before);
    sick = false;
    await sweepUntil(all, 'countersign_endpoints{service="ml/things",state="healthy"} 3');
    await statuses(caller, GET, 30);
    expect(things()).toBeGreaterThan(before);
  });

  test("that policy denies says nothing of the endpoint", async () => {
    const all = await fleet([hello], { healthCheck });
    await send(all.caller.proxyPort, GET);
    await sweepUntil(all, 'countersign_health_checks_total{service="ml/things",result="denied"}');
    expect(metricsOf(all.caller)).toContain('countersign_endpoints{service="ml/things",state="healthy"} 1');
  });

  test("by a ping needs nobody's leave, and finds a sidecar that is gone", async () => {
    const all = await fleet([hello, hello], { healthCheck: { ...healthCheck, probe: { kind: "tcp" } } });
    await send(all.caller.proxyPort, GET);
    await sweepUntil(all, 'countersign_health_checks_total{service="ml/things",result="good"}');
    await all.callees[0]?.plane.close(0);
    await until(() => {
      all.caller.plane.sweep(performance.now());
      const [first] = [...all.caller.plane.upstreams.groups][0]?.members ?? [];
      return first?.healthy === false;
    });
    expect(await statuses(all.caller, GET, 20)).toEqual(new Map([[200, 20]]));
  });
});

test("an operator sees what is known of each endpoint", async () => {
  const { caller } = await fleet([pausing, hello], { retries: RETRIES });
  await statuses(caller, GET, 20);
  const pages = adminPages({
    plane: caller.plane,
    config: { probes: new Map(), appMetrics: undefined, appHost: "127.0.0.1" },
    meshNowMs: () => Date.now(),
    isDraining: () => false,
    isConnected: () => true,
  });
  const page = await pages("/v1/state", new URLSearchParams());
  const state = JSON.parse(String(page?.body)) as Record<string, unknown>;
  expect(state["services"]).toEqual([
    {
      service: "ml/things",
      port: 8080,
      panic: false,
      endpoints: [
        expect.objectContaining({ state: "resting", requests: 0 }),
        expect.objectContaining({ state: "healthy", weight: 1, failuresInARow: 0 }),
      ],
    },
  ]);
});

test("a request that waits for an endpoint that leaves the table goes to another one", async () => {
  // Accepts, and says nothing: the handshake does not end.
  const mute = createServer(() => {});
  await new Promise<void>((resolve) => mute.listen(0, "127.0.0.1", resolve));
  const { caller, callees, reached } = await fleet([hello], undefined, [
    (mute.address() as AddressInfo).port,
  ]);
  const asked: Promise<RawAnswer>[] = [];
  await until(() => {
    if (asked.length < 20) asked.push(send(caller.proxyPort, post("some body")));
    return (
      asked.length === 20 &&
      caller.plane.outbound.busy > 0 &&
      sum(reached()) + caller.plane.outbound.busy === 20
    );
  });
  caller.plane.setTable(tableOf([callees[0]?.meshPort ?? 0], undefined));
  for (const each of asked) expect((await each).status).toBe(200);
  mute.close();
});

describe("limits of an endpoint", () => {
  test("refuse what is too much with Retry-After, and nothing else", async () => {
    const waiting: (() => void)[] = [];
    const slow: Answer = (head, socket, body) => {
      waiting.push(() => hello(head, socket, body));
    };
    const { caller } = await fleet([slow], {
      limits: { connections: undefined, pending: undefined, requests: 2 },
    });
    const first = send(caller.proxyPort, GET);
    const second = send(caller.proxyPort, GET);
    await until(() => waiting.length === 2);
    const third = await send(caller.proxyPort, GET);
    expect([third.status, reasonOf(third)]).toEqual([503, "OVERLOADED"]);
    expect(third.head).toContain("retry-after: 1");
    expect(metricsOf(caller)).toContain('countersign_overflows_total{service="ml/things"} 1');
    for (const answer of waiting.splice(0)) answer();
    expect([(await first).status, (await second).status]).toEqual([200, 200]);
    const again = send(caller.proxyPort, GET);
    await until(() => waiting.length === 1);
    waiting[0]?.();
    expect((await again).status).toBe(200);
  });

  test("of streams do not hold up more requests than one connection has streams", async () => {
    const waiting: (() => void)[] = [];
    const slow: Answer = (head, socket, body) => {
      waiting.push(() => hello(head, socket, body));
    };
    // All in one process: on a busy machine hundreds of connections take seconds.
    const patient = { ...DEFAULT_TIMEOUTS, connectMs: 60_000, handshakeMs: 60_000 };
    const { caller } = await fleet([slow], undefined, [], [ALLOW_READ], patient);
    const asked = Array.from({ length: 600 }, () => send(caller.proxyPort, GET));
    await until(() => waiting.length === 600);
    expect([...caller.plane.upstreams.upstreams].map((upstream) => upstream.connections)).toEqual([3]);
    for (const answer of waiting.splice(0)) answer();
    for (const each of asked) expect((await each).status).toBe(200);
  });

  test("of connections make what has no stream wait", async () => {
    const waiting: (() => void)[] = [];
    const slow: Answer = (head, socket, body) => {
      waiting.push(() => hello(head, socket, body));
    };
    const { caller } = await fleet([slow], {
      limits: { connections: 1, pending: 10, requests: undefined },
    });
    const asked = Array.from({ length: 266 }, () => send(caller.proxyPort, GET));
    await until(() => waiting.length === 256 && caller.plane.outbound.busy === 266);
    expect(reasonOf(await send(caller.proxyPort, GET))).toBe("OVERLOADED");
    while (waiting.length > 0) {
      waiting.shift()?.();
      await delay(0);
    }
    await until(() => {
      for (const answer of waiting.splice(0)) answer();
      return caller.plane.outbound.busy === 0;
    });
    for (const each of asked) expect((await each).status).toBe(200);
  });
});

describe("balancing", () => {
  test("by a header keeps equal values together", async () => {
    const { caller, apps } = await fleet([hello, hello, hello, hello], {
      lb: { kind: "consistentHash", key: { by: "header", name: "x-session" } },
    });
    const homes = new Map<string, number>();
    for (let round = 0; round < 3; round++) {
      for (let session = 0; session < 12; session++) {
        const before = apps.map((app) => app.heads.length);
        await send(caller.proxyPort, GET.replace("\r\n\r\n", `\r\nx-session: s${session}\r\n\r\n`));
        const home = apps.findIndex((app, index) => app.heads.length > (before[index] ?? 0));
        expect(homes.get(`s${session}`) ?? home).toBe(home);
        homes.set(`s${session}`, home);
      }
    }
    expect(new Set(homes.values()).size).toBeGreaterThan(1);
  });

  test("in turn gives every endpoint the same", async () => {
    const { caller, reached } = await fleet([hello, hello, hello], { lb: { kind: "roundRobin" } });
    await statuses(caller, GET, 30);
    expect(reached()).toEqual([10, 10, 10]);
  });

  test("changes with the policy, and forgets nothing of the endpoints", async () => {
    const { caller, reached, setTraffic } = await fleet([pausing, hello], { retries: RETRIES });
    await statuses(caller, GET, 20);
    setTraffic({ lb: { kind: "roundRobin" }, retries: RETRIES });
    expect(await statuses(caller, GET, 20)).toEqual(new Map([[200, 20]]));
    expect(reached()[0]).toBe(1);
    // Nothing would tell when an endpoint is well again.
    setTraffic({ lb: { kind: "roundRobin" } });
    expect((await statuses(caller, GET, 20)).get(503)).toBe(10);
  });
});

describe("an application that closes a kept connection just as it is used again", () => {
  const put = (body: string): string => post(body, "/upload").replace("POST", "PUT");
  test.each([
    { name: "gets a short idempotent request once more", request: put("z".repeat(60_000)), status: 200 },
    { name: "does not get a long one again", request: put("z".repeat(70_000)), status: 502 },
    { name: "does not get one again that is not idempotent", request: post("abc"), status: 502 },
    { name: "gets a request without body once more", request: GET, status: 200 },
  ])("$name", async ({ request, status }) => {
    const served = new WeakSet<Socket>();
    const bodies: string[] = [];
    const racing: Answer = (head, socket, body) => {
      bodies.push(body.toString("latin1"));
      if (served.has(socket)) socket.destroy();
      else hello(head, socket, body);
      served.add(socket);
    };
    const { caller } = await fleet([racing]);
    expect((await send(caller.proxyPort, GET)).status).toBe(200);
    expect((await send(caller.proxyPort, request)).status).toBe(status);
    const sent = request.slice(request.indexOf("\r\n\r\n") + 4);
    expect(bodies).toEqual(status === 200 ? ["", sent, sent] : ["", sent]);
  });
});
