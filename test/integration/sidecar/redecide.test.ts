// Open streams are decided on again: whoever lost the permission loses the stream, in the words of what is spoken on it.
import { createHash } from "node:crypto";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import type { PolicyRule, PortProtocol, ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { type ServiceSpec, type Sidecar, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const APP: ServiceSpec = { namespace: "ml", kind: "serving", name: "app", ports: [8080] };

const rule = (more: Partial<PolicyRule> = {}): ProgramPolicy => ({
  id: "ml/all",
  name: "all",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [
    { name: "all", from: [{ workload: { kinds: ["notebook"] } }], operations: [{ any: true }], ...more },
  ],
});

let world: World;
let nowMs: number;
const servers: Server[] = [];
const sockets: Socket[] = [];

beforeEach(async () => {
  world = await World.create();
  nowMs = Date.now();
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await world.close();
  for (const server of servers.splice(0)) server.close();
});

interface Scene {
  readonly callee: Sidecar;
  readonly caller: Sidecar;
  readonly port: number;
  readonly client: Client;
  enforce(policies: readonly ProgramPolicy[], more?: { packs?: string; ports?: readonly number[] }): void;
}

class Client {
  readonly socket: Socket;
  bytes = Buffer.alloc(0);
  ended = false;
  error: NodeJS.ErrnoException | undefined;

  constructor(port: number) {
    this.socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
    sockets.push(this.socket);
    this.socket.on("error", (error) => {
      this.error = error;
    });
    this.socket.on("data", (chunk) => {
      this.bytes = Buffer.concat([this.bytes, chunk]);
    });
    this.socket.on("end", () => {
      this.ended = true;
    });
  }

  get text(): string {
    return this.bytes.toString("latin1");
  }
}

async function until(done: () => boolean, what = ""): Promise<void> {
  const untilMs = performance.now() + 100_000;
  while (!done()) {
    if (performance.now() > untilMs) throw new Error(`it never came: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** An application that answers the first bytes of every connection with `answer` and then stays. */
async function scene(
  first: string,
  answer: (head: string) => string,
  options: { protocol?: PortProtocol; policies?: readonly ProgramPolicy[]; ttlMs?: number } = {},
): Promise<Scene> {
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    socket.once("data", (chunk) => socket.write(answer(chunk.toString("latin1")), "latin1"));
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const bundle = world.authority.bundle.json;
  const self: ServiceSpec = { ...APP, protocol: options.protocol ?? "http" };
  const callee = await world.sidecar(self, {
    appPort: (server.address() as AddressInfo).port,
    meshNowMs: () => nowMs,
  });
  const caller = await world.sidecar(NOTEBOOK, {
    config: {
      localServices: [{ listen: { kind: "tcp", host: "127.0.0.1", port: 0 }, service: "ml/app", port: 8080 }],
    },
  });
  const enforce: Scene["enforce"] = (policies, more = {}) => {
    const spec = { ...self, ports: more.ports ?? self.ports };
    const result = callee.plane.setTable(
      table({ self: spec, policies, bundle, ...(more.packs === undefined ? {} : { pack: more.packs }) }),
    );
    if (!result.ok) throw new Error(result.error);
    callee.plane.sweep(performance.now());
  };
  enforce(options.policies ?? [rule()]);
  caller.plane.setTable(
    table({ self: NOTEBOOK, services: [{ service: self, meshPort: callee.meshPort }], bundle }),
  );
  const port = caller.localPorts[0] ?? 0;
  const client = new Client(port);
  client.socket.write(first);
  return { callee, caller, port, client, enforce };
}

const get = (path: string, more = ""): string => `GET ${path} HTTP/1.1\r\nhost: app.ml:8080\r\n${more}\r\n`;
const agree = (head: string): string => {
  const key = /\r\nsec-websocket-key: (\S+)\r\n/i.exec(head)?.[1] ?? "";
  const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
  return `HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`;
};
const UPGRADE =
  "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const STREAM = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
const ready =
  (text: string) =>
  ({ client }: Scene): Promise<void> =>
    until(() => client.text.endsWith(text), client.text);

const CASES: readonly {
  readonly name: string;
  readonly first: string;
  readonly answer: (head: string) => string;
  readonly protocol?: PortProtocol;
  readonly isReady: (scene: Scene) => Promise<void>;
  readonly ends: (client: Client) => boolean;
}[] = [
  {
    name: "a WebSocket, between two frames, with 1008",
    first: get("/ws", UPGRADE),
    answer: (head) => `${agree(head)}\x81\x02hi`,
    isReady: ready("\x81\x02hi"),
    ends: ({ text, ended }) => ended && /\x88.\x03\xf0[A-Z_]+ d-[0-9a-f]+$/.test(text),
  },
  {
    name: "a WebSocket in the middle of a frame, without a word",
    first: get("/ws", UPGRADE),
    answer: (head) => `${agree(head)}\x81\x05hi`,
    isReady: ready("\x81\x05hi"),
    ends: ({ text, ended, error, socket }) =>
      text.endsWith("hi") && (ended || error !== undefined || socket.destroyed),
  },
  {
    name: "server-sent events, with an event",
    first: get("/events"),
    answer: () => `${STREAM}data: 1\n\n`,
    isReady: ready("data: 1\n\n\r\n"),
    ends: ({ text }) =>
      /event: error\ndata: \{"reason":"NO_MATCHING_ALLOW","decisionId":"d-[0-9a-f]+"\}\n\n\r\n0\r\n\r\n$/.test(
        text,
      ),
  },
  {
    name: "a long body, by a broken connection",
    first: get("/file"),
    answer: () => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegin",
    isReady: ready("begin"),
    ends: ({ text, ended, error }) => text.endsWith("begin") && (ended || error !== undefined),
  },
  {
    name: "a request without an answer, with 403",
    first: get("/slow"),
    answer: () => "",
    isReady: ({ callee }) =>
      until(() => callee.plane.inbound.openExchanges === 1 && callee.plane.metrics.forwarded.size > 0),
    ends: ({ text }) => text.startsWith("HTTP/1.1 403 ") && text.includes("NO_MATCHING_ALLOW"),
  },
  {
    name: "bytes, by a reset",
    first: "hello",
    answer: () => "hi",
    protocol: "tcp",
    isReady: ready("hi"),
    ends: ({ error, ended }) => error?.code === "ECONNRESET" && !ended,
  },
];

describe("a stream whose caller loses the permission ends", () => {
  test.each(CASES)("$name", async ({ first, answer, protocol, isReady, ends }) => {
    const it = await scene(first, answer, protocol === undefined ? {} : { protocol });
    await isReady(it);
    const { callee, client, enforce } = it;
    const other = rule({ operations: [{ op: "nothing" }] });
    // Another table that allows it all the same changes nothing.
    enforce([rule(), other]);
    expect(callee.plane.inbound.openExchanges).toBe(1);
    enforce([other]);
    await until(() => ends(client), client.text);
    await until(() => callee.plane.inbound.openExchanges === 0);
    const [event, second] = await callee.audit();
    expect(JSON.stringify(event)).toContain('"effect":"Deny","reason":"NO_MATCHING_ALLOW"');
    expect(second).toBeUndefined();
  });
});

describe("a stream is decided on again when", () => {
  const OPEN = { first: "hello", answer: () => "hi", options: { protocol: "tcp" as const } };
  const open = async (policies?: readonly ProgramPolicy[]): Promise<Scene> => {
    const it = await scene(OPEN.first, OPEN.answer, { ...OPEN.options, ...(policies ? { policies } : {}) });
    await ready("hi")(it);
    return it;
  };
  const reasonOf = async ({ callee }: Scene): Promise<string> => {
    await until(() => callee.plane.inbound.openExchanges === 0);
    return /"reason":"([A-Z_]+)"/.exec(JSON.stringify((await callee.audit())[0]))?.[1] ?? "";
  };
  /** Lets the time of a pass come. */
  const pass = async ({ callee }: Scene): Promise<void> => {
    const untilMs = performance.now() + 1_100;
    while (performance.now() < untilMs && callee.plane.inbound.openExchanges > 0) {
      callee.plane.sweep(performance.now());
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };

  test("its time is over", async () => {
    const it = await open([rule({ when: { notAfterMs: nowMs + 60_000 } })]);
    await pass(it);
    expect(it.callee.plane.inbound.openExchanges).toBe(1);
    nowMs += 60_000;
    await pass(it);
    expect(await reasonOf(it)).toBe("NO_MATCHING_ALLOW");
  });

  test("a Deny rule comes", async () => {
    const it = await open();
    it.enforce([rule(), { ...rule({ operations: [{ any: true }] }), id: "ml/no", action: "Deny" }]);
    expect(await reasonOf(it)).toBe("DENIED_BY_POLICY");
  });

  test("its port gets other packs, which say nothing of bytes, and lives on", async () => {
    const it = await open();
    it.enforce([rule()], { packs: "other.read GET /other - read -\n" });
    await new Promise((resolve) => setImmediate(resolve));
    expect(it.callee.plane.inbound.openExchanges).toBe(1);
  });

  test("its port is declared no more", async () => {
    const it = await open();
    it.enforce([rule()], { ports: [9_090] });
    expect(await reasonOf(it)).toBe("REQ_MALFORMED");
  });

  test("the caller's certificate has ended and it has shown no newer one", async () => {
    const it = await open();
    nowMs += 7 * 3_600_000;
    // Ours has not: only the caller's is looked at here.
    await it.callee.plane.setIdentity(world.identity({ ...APP, protocol: "tcp" }, { ttlMs: 86_400_000 }));
    await pass(it);
    expect(await reasonOf(it)).toBe("AUTHN_MTLS_REQUIRED");
  });

  test("and lives on when it has", async () => {
    const it = await open();
    await it.callee.plane.setIdentity(world.identity({ ...APP, protocol: "tcp" }, { ttlMs: 86_400_000 }));
    await it.caller.plane.setIdentity(world.identity(NOTEBOOK, { ttlMs: 86_400_000 }));
    // The renewed caller opens another connection.
    await until(() => it.callee.plane.inbound.connections.size >= 2);
    nowMs += 7 * 3_600_000;
    await pass(it);
    expect(it.callee.plane.inbound.openExchanges).toBe(1);
    it.client.socket.write("more");
    expect(it.client.socket.destroyed).toBe(false);
  });
});
