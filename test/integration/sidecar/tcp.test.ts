// Ports that speak no HTTP: connections cross the mesh byte for byte, decided once at the callee, with every way to end.
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls, createServer as createTlsServer } from "node:tls";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { PortProtocol, ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { type ServiceSpec, type Sidecar, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const DB: ServiceSpec = { namespace: "data", kind: "service", name: "db", ports: [5432], protocol: "tcp" };

const ANY: ProgramPolicy = {
  id: "data/notebooks",
  name: "notebooks",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [{ name: "any", from: [{ workload: { kinds: ["notebook"] } }], operations: [{ any: true }] }],
};
const THINGS_ONLY: ProgramPolicy = {
  ...ANY,
  id: "data/things",
  rules: [{ name: "things", from: [{ workload: { kinds: ["notebook"] } }], operations: [{ op: "thing" }] }],
};

let world: World;
const servers: Server[] = [];
const sockets: Socket[] = [];

beforeEach(async () => {
  world = await World.create();
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await world.close();
  for (const server of servers.splice(0)) server.close();
});

/** A server; every connection it gets is one that was decided on. */
async function backend(onSocket: (socket: Socket) => void): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    onSocket(socket);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

interface Pair {
  readonly caller: Sidecar;
  readonly callee: Sidecar;
  readonly port: number;
  /** Puts other policies in force at the callee. */
  enforce(policies: readonly ProgramPolicy[]): void;
}

async function pair(
  appPort: number,
  options: {
    policies?: readonly ProgramPolicy[];
    protocol?: PortProtocol;
    calleeProtocol?: PortProtocol;
    services?: boolean;
  } = {},
): Promise<Pair> {
  const bundle = world.authority.bundle.json;
  const protocol = options.protocol ?? "tcp";
  const db: ServiceSpec = { ...DB, protocol };
  const calleeDb: ServiceSpec = { ...DB, protocol: options.calleeProtocol ?? protocol };
  const callee = await world.sidecar(calleeDb, { appPort });
  const caller = await world.sidecar(NOTEBOOK, {
    config: {
      localServices: [
        { listen: { kind: "tcp", host: "127.0.0.1", port: 0 }, service: "data/db", port: 5432 },
      ],
    },
  });
  const enforce = (policies: readonly ProgramPolicy[]): void => {
    const result = callee.plane.setTable(table({ self: calleeDb, policies, bundle }));
    if (!result.ok) throw new Error(result.error);
  };
  enforce(options.policies ?? [ANY]);
  const services = options.services === false ? [] : [{ service: db, meshPort: callee.meshPort }];
  caller.plane.setTable(table({ self: NOTEBOOK, services, bundle }));
  const [port] = caller.localPorts;
  return { caller, callee, port: port ?? 0, enforce };
}

async function open(port: number, allowHalfOpen = true): Promise<Socket> {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen, noDelay: true });
  sockets.push(socket);
  socket.on("error", () => {});
  await once(socket, "connect");
  return socket;
}

/** Everything until the end; `error` when it was not in order. */
async function readAll(socket: Socket): Promise<{ bytes: Buffer; ended: boolean }> {
  const chunks: Buffer[] = [];
  return new Promise((resolve) => {
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    socket.on("end", () => resolve({ bytes: Buffer.concat(chunks), ended: true }));
    socket.on("close", () => resolve({ bytes: Buffer.concat(chunks), ended: false }));
  });
}

const turns = async (done: () => boolean): Promise<void> => {
  const untilMs = performance.now() + 60_000;
  while (!done()) {
    if (performance.now() > untilMs) throw new Error("it never came");
    await new Promise((resolve) => setImmediate(resolve));
  }
};
/** The audit events of a sidecar as soon as there are `count`. */
async function events(sidecar: Sidecar, count: number): Promise<readonly Record<string, unknown>[]> {
  for (;;) {
    const found = await sidecar.audit();
    if (found.length >= count) return found;
    await sleep(5);
  }
}
const dataOf = (event: Record<string, unknown> | undefined): Record<string, unknown> =>
  (event?.["data"] ?? event ?? {}) as Record<string, unknown>;

describe("a connection to a tcp port", () => {
  test("goes to the application byte for byte, and is recorded once at its end", async () => {
    const appPort = await backend((socket) => socket.pipe(socket));
    const { port, callee } = await pair(appPort);
    const socket = await open(port);
    const all = readAll(socket);
    socket.end("SELECT 1");
    expect((await all).bytes.toString()).toBe("SELECT 1");
    expect((await all).ended).toBe(true);
    const [event, second] = await events(callee, 1);
    expect(second).toBeUndefined();
    expect(JSON.stringify(dataOf(event))).toContain('"TCP"');
  });

  test("works for a server that speaks first, at once", async () => {
    const appPort = await backend((socket) => {
      socket.write("220 ready");
    });
    const { port, caller } = await pair(appPort);
    const socket = await open(port);
    const [banner] = (await once(socket, "data")) as [Buffer];
    expect(banner.toString()).toBe("220 ready");
    // Nothing was waited for: what the client speaks was not looked for.
    expect(caller.plane.metrics.detected.size).toBe(0);
  });

  test.each([
    { name: "the client ends first", first: "client" },
    { name: "the server ends first", first: "server" },
  ])("closes each direction on its own: $name", async ({ first }) => {
    const got: Buffer[] = [];
    let far: Socket | undefined;
    let farEnded = false;
    const appPort = await backend((socket) => {
      far = socket;
      socket.on("data", (chunk) => got.push(chunk));
      socket.on("end", () => {
        farEnded = true;
      });
    });
    const { port } = await pair(appPort);
    const near = await open(port);
    const answer = readAll(near);
    await turns(() => far !== undefined);
    if (first === "client") {
      near.end("question");
      await turns(() => farEnded);
      far?.write("ans");
      far?.end("wer");
    } else {
      far?.end("answer");
      await answer;
      near.end("question");
      await turns(() => farEnded);
    }
    expect((await answer).bytes.toString()).toBe("answer");
    expect((await answer).ended).toBe(true);
    expect(Buffer.concat(got).toString()).toBe("question");
  });

  test.each([
    { name: "of the server", by: "server" },
    { name: "of the client", by: "client" },
  ])("a reset $name is never a clean end for the other", async ({ by }) => {
    let far: Socket | undefined;
    const appPort = await backend((socket) => {
      far = socket;
    });
    const { port } = await pair(appPort);
    const near = await open(port);
    near.write("x");
    await turns(() => far !== undefined);
    const [breaker, other] = by === "server" ? [far, near] : [near, far];
    if (breaker === undefined || other === undefined) throw new Error("no connection");
    let ended = false;
    let failed: Error | undefined;
    other.on("end", () => {
      ended = true;
    });
    other.on("error", (error) => {
      failed = error;
    });
    other.resume();
    breaker.resetAndDestroy();
    await turns(() => other.destroyed);
    expect(ended).toBe(false);
    expect((failed as NodeJS.ErrnoException | undefined)?.code).toBe("ECONNRESET");
  });

  test("whatever the chunks and pauses, bytes and ends are the same", async () => {
    const appPort = await backend((socket) => socket.pipe(socket));
    const { port } = await pair(appPort);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 200_000 }), fc.boolean()), { maxLength: 12 }),
        fc.boolean(),
        async (chunks, slow) => {
          const near = await open(port);
          const sent: Buffer[] = [];
          const all = readAll(near);
          if (slow) {
            const timer = setInterval(() => (near.isPaused() ? near.resume() : near.pause()), 1);
            near.on("close", () => clearInterval(timer));
            near.on("end", () => clearInterval(timer));
          }
          for (const [size, wait] of chunks) {
            const chunk = Buffer.alloc(size, sent.length + 1);
            sent.push(chunk);
            if (!near.write(chunk)) await once(near, "drain");
            if (wait) await new Promise((resolve) => setImmediate(resolve));
          }
          near.end();
          const { bytes, ended } = await all;
          expect(ended).toBe(true);
          expect(bytes.equals(Buffer.concat(sent))).toBe(true);
        },
      ),
      { numRuns: 25 },
    );
  });

  test("holds back a sender whose reader does not read", async () => {
    let far: Socket | undefined;
    const appPort = await backend((socket) => {
      far = socket.pause();
    });
    const { port } = await pair(appPort);
    const near = await open(port);
    await turns(() => far !== undefined);
    const chunk = Buffer.alloc(65_536);
    let written = 0;
    let idle = 0;
    while (idle < 20 && written < 200 * chunk.length) {
      if (near.writableLength === 0) {
        near.write(chunk);
        written += chunk.length;
        idle = 0;
      } else {
        idle++;
        await sleep(10);
      }
    }
    // Socket buffers of three connections, and a window.
    expect(written).toBeLessThan(64 * 1024 * 1024);
    expect(near.writableLength).toBeGreaterThan(0);
    let received = 0;
    far?.on("data", (part) => {
      received += part.length;
    });
    far?.resume();
    near.end();
    await turns(() => received === written);
  });
});

describe("the decision on a connection", () => {
  test("is made before the application is reached, and a denial is a reset", async () => {
    let connections = 0;
    const appPort = await backend(() => connections++);
    const { port, callee, caller } = await pair(appPort, { policies: [THINGS_ONLY] });
    const near = await open(port);
    let failed: NodeJS.ErrnoException | undefined;
    near.on("error", (error) => {
      failed = error;
    });
    near.resume();
    near.write("hello");
    await turns(() => near.destroyed);
    expect(failed?.code).toBe("ECONNRESET");
    expect(connections).toBe(0);
    const [event] = await events(callee, 1);
    expect(JSON.stringify(event)).toContain("NO_MATCHING_ALLOW");
    expect(await caller.audit()).toEqual([]);
  });

  test.each([
    {
      name: "the caller knows no such service",
      appPort: 1,
      options: { services: false },
      at: "caller",
      why: "UNKNOWN_DESTINATION",
    },
    {
      name: "the application does not listen",
      appPort: 1,
      options: {},
      at: "callee",
      why: "ECONNREFUSED",
    },
  ] as const)("$name: a reset, recorded at the $at", async ({ appPort, options, at, why }) => {
    const both = await pair(appPort, options);
    const near = await open(both.port);
    near.resume();
    near.write(Buffer.from([0, 1, 2, 3]));
    await turns(() => near.destroyed);
    expect(near.destroyed).toBe(true);
    const [event] = await events(both[at], 1);
    expect(JSON.stringify(event)).toContain(why);
  });

  test("a port that declares HTTP takes no connection", async () => {
    let connections = 0;
    const appPort = await backend(() => connections++);
    const { port, callee } = await pair(appPort, { protocol: "tcp", calleeProtocol: "http" });
    const near = await open(port);
    near.resume();
    near.write("x");
    await turns(() => near.destroyed);
    expect(connections).toBe(0);
    const [event] = await events(callee, 1);
    expect(JSON.stringify(event)).toContain("REQ_MALFORMED");
  });

  test.each([
    { name: "an operation", rule: { operations: [{ op: "thing.write" }] } },
    { name: "a CEL condition", rule: { when: { cel: "request.path == '/x'" } } },
  ])("an undeclared port with a Deny rule about $name takes none either", async ({ rule }) => {
    let connections = 0;
    const appPort = await backend(() => connections++);
    const deny: ProgramPolicy = { ...ANY, id: "data/deny", action: "Deny", rules: [{ name: "no", ...rule }] };
    const { port, callee } = await pair(appPort, { protocol: "auto", policies: [ANY, deny] });
    const near = await open(port);
    near.resume();
    near.write(Buffer.from([0, 0, 0, 1]));
    await turns(() => near.destroyed);
    expect(connections).toBe(0);
    const [event] = await events(callee, 1);
    expect(JSON.stringify(event)).toContain("DENIED_BY_POLICY");
  });
});

describe("an undeclared port", () => {
  test.each([
    { name: "bytes of no known protocol", first: Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]) },
    { name: "what looks like HTTP and then ends", first: Buffer.from("GET") },
  ])("takes $name for tcp", async ({ first }) => {
    const appPort = await backend((socket) => socket.pipe(socket));
    const { port, caller } = await pair(appPort, { protocol: "auto" });
    const near = await open(port);
    const all = readAll(near);
    near.end(first);
    expect((await all).bytes.equals(first)).toBe(true);
    expect(caller.plane.metrics.detected.size).toBe(1);
  });

  test("takes silence for a server that speaks first", async () => {
    const appPort = await backend((socket) => {
      socket.write("ready");
    });
    const { port } = await pair(appPort, { protocol: "auto" });
    const near = await open(port);
    const [banner] = (await once(near, "data")) as [Buffer];
    expect(banner.toString()).toBe("ready");
  });
});

describe("TLS of the application", () => {
  const named = (name: string): ProgramPolicy => ({
    ...ANY,
    rules: [
      {
        name: "named",
        from: [{ workload: { kinds: ["notebook"] } }],
        operations: [{ any: true }],
        when: { cel: `request.host == "${name}"` },
      },
    ],
  });

  /** A server of TLS that greets, with any certificate. */
  async function tlsBackend(): Promise<number> {
    const { tlsKey, certificateChainPem: cert } = world.identity(DB);
    const key = tlsKey.export({ type: "pkcs8", format: "pem" });
    const server = createTlsServer({ key, cert }, (socket) => {
      sockets.push(socket);
      socket.on("error", () => {});
      socket.write("hello");
    });
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return (server.address() as AddressInfo).port;
  }

  const dial = (port: number, servername: string | undefined): Promise<string> =>
    new Promise((resolve) => {
      const socket = connectTls({
        port,
        host: "127.0.0.1",
        rejectUnauthorized: false,
        ...(servername === undefined ? {} : { servername }),
      });
      sockets.push(socket);
      socket.once("data", (chunk: Buffer) => resolve(chunk.toString()));
      socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? "error"));
      socket.once("close", () => resolve("closed"));
    });

  test.each([
    { name: "a rule on its name", protocol: "tls", servername: "db.data", policy: "db.data", is: "hello" },
    { name: "the same, undeclared", protocol: "auto", servername: "db.data", policy: "db.data", is: "hello" },
    { name: "another name", protocol: "tls", servername: "other.data", policy: "db.data", is: "ECONNRESET" },
    { name: "no name", protocol: "tls", servername: undefined, policy: "db.data", is: "ECONNRESET" },
    { name: "no rule on names", protocol: "tls", servername: undefined, policy: undefined, is: "hello" },
  ] as const)("with $name: $is", async ({ protocol, servername, policy, is }) => {
    const appPort = await tlsBackend();
    const policies = [policy === undefined ? ANY : named(policy)];
    const { port } = await pair(appPort, { protocol, policies });
    expect(await dial(port, servername)).toBe(is);
  });

  test("a tls port takes nothing else", async () => {
    let connections = 0;
    const appPort = await backend(() => connections++);
    const { port } = await pair(appPort, { protocol: "tls" });
    const near = await open(port);
    near.resume();
    near.write("GET / HTTP/1.1\r\n\r\n");
    await turns(() => near.destroyed);
    expect(connections).toBe(0);
  });

  test("a name that was announced and is not in the hello ends the connection before a byte of it", async () => {
    const got: Buffer[] = [];
    const appPort = await backend((socket) => socket.on("data", (chunk) => got.push(chunk)));
    // The caller's side takes it for bytes and announces no name; the callee's port says tls.
    const { port, callee } = await pair(appPort, { protocol: "tcp", calleeProtocol: "tls" });
    const closed = await dial(port, "db.data");
    expect(["ECONNRESET", "closed"]).toContain(closed);
    expect(got).toEqual([]);
    const [event] = await events(callee, 1);
    expect(JSON.stringify(event)).toContain("REQ_MALFORMED");
  });
});

describe("the end of a sidecar", () => {
  test.each(["caller", "callee"] as const)("of the %s resets what is open", async (which) => {
    let far: Socket | undefined;
    const appPort = await backend((socket) => {
      far = socket;
    });
    const sides = await pair(appPort);
    const near = await open(sides.port);
    near.write("x");
    await turns(() => far !== undefined);
    let ends = 0;
    for (const socket of [near, far]) {
      socket?.resume();
      socket?.on("end", () => ends++);
    }
    await sides[which].plane.close(0);
    await turns(() => near.destroyed && far?.destroyed === true);
    expect(ends).toBe(0);
  });

  test("waits for connections as long as the drain lasts", async () => {
    const appPort = await backend((socket) => socket.pipe(socket));
    const { port, caller } = await pair(appPort);
    const near = await open(port);
    const all = readAll(near);
    near.write("a");
    await once(near, "data");
    const closed = caller.plane.close(5_000);
    near.end("b");
    expect((await all).ended).toBe(true);
    await closed;
  });

  test("a connection on which nothing moves for an hour is given up", async () => {
    const appPort = await backend((socket) => socket.pipe(socket));
    const { port, caller } = await pair(appPort);
    const near = await open(port);
    near.write("a");
    await once(near, "data");
    near.resume();
    caller.plane.sweep(systemClock.monotonicMs());
    caller.plane.sweep(systemClock.monotonicMs() + 3_590_000);
    expect(near.destroyed).toBe(false);
    caller.plane.sweep(systemClock.monotonicMs() + 3_610_000);
    await turns(() => near.destroyed);
  });
});
