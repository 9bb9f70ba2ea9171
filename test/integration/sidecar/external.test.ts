// Calls to hosts outside the mesh: decided on and recorded at the caller, TLS with the host's own certificate, nothing of
// the mesh on the wire. A real HTTPS server stands for the host.
import { writeFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import { type AddressInfo, connect } from "node:net";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "@jest/globals";
import { Revocations } from "../../../sidecar/core/identity/revocations.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import type { SidecarTable } from "../../../sidecar/discovery/table.ts";
import type { OriginalDestination } from "../../../sidecar/wire/original-destination.ts";
import { edgeCertificate } from "../../fakes/edge-certificate.ts";
import { type ServiceSpec, type Sidecar, send, TRUST_DOMAIN, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };

const policy = (more: Partial<ProgramPolicy["rules"][number]> = {}): ProgramPolicy => ({
  id: "lab/out",
  name: "out",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [
    {
      name: "notebooks",
      from: [{ workload: { kinds: ["notebook"] } }],
      operations: [{ op: "thing.read" }, { op: "thing.upload" }, { op: "model.chat", resources: ["gpt"] }],
      ...more,
    },
  ],
});

interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

let world: World;
let host: Server;
let seen: Seen[];
afterEach(async () => {
  host.closeAllConnections();
  await new Promise((resolve) => host.close(resolve));
  await world.close();
});

type Handler = (seen: Seen, response: ServerResponse) => void;

async function setUp(options: {
  policies?: readonly ProgramPolicy[];
  trusted?: boolean;
  handler?: Handler;
  settings?: Partial<SidecarTable["settings"]>;
  /** Captured transparently, as going to here; no proxy then. */
  captured?: () => OriginalDestination;
  /** What the control plane says of an address. */
  refusal?: string;
}): Promise<{ sidecar: Sidecar; port: number }> {
  world = await World.create();
  seen = [];
  const { cert, key, ca } = await edgeCertificate(["localhost"], Date.now());
  host = createServer({ cert, key }, (request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const { method = "", url = "", headers } = request;
      const one = { method, url, headers, body: Buffer.concat(chunks).toString() };
      seen.push(one);
      if (options.handler === undefined) response.end("outside");
      else options.handler(one, response);
    });
  });
  await new Promise<void>((resolve) => host.listen(0, "127.0.0.1", resolve));
  const { port } = host.address() as AddressInfo;
  const externalCaFile = join(world.dir, "ca.pem");
  writeFileSync(externalCaFile, ca);
  const { captured, refusal = "UNKNOWN_DESTINATION" } = options;
  const capture = {
    originalOf: () => ({ ok: true, value: captured?.() ?? { address: "", port: 0 } }) as const,
    families: ["ipv4"],
    outboundPort: 0,
    inboundPort: 0,
    verifies: false,
  } as const;
  const sidecar = await world.sidecar(NOTEBOOK, {
    ...(captured === undefined ? {} : { capture }),
    resolve: async () => ({ kind: "refused", reason: refusal }),
    config: {
      capture: captured !== undefined,
      ...(options.trusted === false ? {} : { externalCaFile }),
      localServices: [{ listen: { kind: "tcp", host: "127.0.0.1", port: 0 }, service: "lab/outside", port }],
    },
  });
  const { settings = {} } = options;
  const base = table({ self: NOTEBOOK, bundle: world.authority.bundle.json, settings });
  const full: SidecarTable = {
    ...base,
    externals: new Map([
      [
        "lab/outside",
        {
          id: "lab/outside",
          hosts: ["localhost"],
          program: {
            ...base.program,
            id: "external:lab/outside",
            spiffeId: "",
            kind: "external",
            name: "outside",
            ports: [{ port, protocol: "http", packs: ["things"] }],
            trustDomain: TRUST_DOMAIN,
            policies: options.policies ?? [policy()],
          },
        },
      ],
    ]),
  };
  const result = sidecar.plane.setTable(full);
  if (!result.ok) throw new Error(result.error);
  return { sidecar, port };
}

const get = (authority: string, path: string, ...lines: string[]): string =>
  `GET http://${authority}${path} HTTP/1.1\r\n${["host: x", ...lines].join("\r\n")}\r\n\r\n`.replace(
    "host: x",
    `host: ${authority}`,
  );
const post = (authority: string, path: string, body: string, ...lines: string[]): string =>
  `POST http://${authority}${path} HTTP/1.1\r\nhost: ${authority}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n${lines
    .map((line) => `${line}\r\n`)
    .join("")}\r\n${body}`;

describe("a call to a host outside the mesh", () => {
  test("goes out over TLS without anything of the mesh, and is recorded here", async () => {
    const { sidecar, port } = await setUp({});
    const answer = await send(
      sidecar.proxyPort,
      get(`localhost:${port}`, "/things/a?secret=1", "authorization: Bearer mine", "x-mesh-caller: root"),
    );
    expect([answer.status, answer.body]).toEqual([200, "outside"]);
    const [one] = seen;
    expect([one?.method, one?.url, one?.headers.host]).toEqual([
      "GET",
      "/things/a?secret=1",
      `localhost:${port}`,
    ]);
    expect(one?.headers.authorization).toBe("Bearer mine");
    expect(Object.keys(one?.headers ?? {}).filter((name) => /token|mesh|countersign/.test(name))).toEqual([]);
    const [event] = await sidecar.audit();
    expect(event).toMatchObject({ subject: "external/outside" });
    const text = JSON.stringify(event);
    expect(text).toContain('"effect":"Allow"');
    expect(text).toContain("notebook/nb-1");
    expect(text).not.toContain("secret=1");
  });

  test("may come to a local port that means it", async () => {
    const { sidecar } = await setUp({});
    const answer = await send(
      sidecar.localPorts[0] ?? 0,
      "GET /things/a HTTP/1.1\r\nhost: 127.0.0.1:8400\r\n\r\n",
    );
    expect(answer.status).toBe(200);
    expect(seen[0]?.headers.host).toMatch(/^localhost:/);
  });

  test("is not tunnelled: what is said inside nobody could decide on", async () => {
    const { sidecar, port } = await setUp({});
    const answer = await send(
      sidecar.proxyPort,
      `CONNECT localhost:${port} HTTP/1.1\r\nhost: localhost:${port}\r\n\r\n`,
    );
    expect(answer.status).toBe(501);
    expect(answer.body).toContain("UNSUPPORTED");
    expect(seen).toEqual([]);
  });

  test.each([
    {
      name: "an operation that nobody allows",
      policies: [policy()],
      path: "/health",
      reason: "NO_MATCHING_ALLOW",
    },
    { name: "default deny", policies: [], path: "/things/a", reason: "DEFAULT_DENY" },
    {
      name: "a user who is not there",
      policies: [policy({ from: [{ workload: { kinds: ["notebook"] }, user: { presence: "Required" } }] })],
      path: "/things/a",
      reason: "NO_MATCHING_ALLOW",
    },
  ])("is refused here: $name", async ({ policies, path, reason }) => {
    const { sidecar, port } = await setUp({ policies });
    const answer = await send(sidecar.proxyPort, get(`localhost:${port}`, path));
    expect(answer.status).toBe(403);
    expect(answer.body).toContain(reason);
    expect(seen).toEqual([]);
    const [event] = await sidecar.audit();
    expect(JSON.stringify(event)).toContain(`"reason":"${reason}"`);
  });

  test("a transaction token that this workload never received goes nowhere", async () => {
    const { sidecar, port } = await setUp({ settings: { propagation: ["forward"] } });
    const answer = await send(
      sidecar.proxyPort,
      get(`localhost:${port}`, "/things/a", "txn-token: eyJhbGciOiJFUzI1NiJ9.e30.c2ln"),
    );
    expect([answer.status, JSON.parse(answer.body).reason]).toEqual([403, "TXN_NOT_HELD"]);
    expect(seen).toEqual([]);
  });

  test.each([
    {
      name: "demands that cannot be met",
      policies: [policy({ with: { concurrency: 1 } })],
      lines: [],
      status: 501,
    },
    {
      name: "an upgrade",
      policies: [policy()],
      lines: ["connection: upgrade", "upgrade: websocket"],
      status: 501,
    },
    { name: "a path with dots", policies: [policy()], lines: [], path: "/things/../x", status: 400 },
  ])("is not carried: $name", async ({ policies, lines, status, path }) => {
    const { sidecar, port } = await setUp({ policies });
    const answer = await send(sidecar.proxyPort, get(`localhost:${port}`, path ?? "/things/a", ...lines));
    expect(answer.status).toBe(status);
    expect(seen).toEqual([]);
  });

  test("a resource that the body names is held against policy before anything goes out", async () => {
    const { sidecar, port } = await setUp({});
    const ask = (model: string) =>
      send(
        sidecar.proxyPort,
        post(`localhost:${port}`, "/chat", JSON.stringify({ model }), "content-type: application/json"),
      );
    expect((await ask("gpt")).status).toBe(200);
    expect(seen[0]?.body).toBe('{"model":"gpt"}');
    expect((await ask("other")).status).toBe(403);
    expect(seen.length).toBe(1);
  });

  test("a host that nobody vouches for gets nothing", async () => {
    const { sidecar, port } = await setUp({ trusted: false });
    const answer = await send(sidecar.proxyPort, get(`localhost:${port}`, "/things/a"));
    expect(answer.status).toBe(502);
    expect(seen).toEqual([]);
  });

  test("large bodies go both ways, and the connection is used again", async () => {
    const body = "x".repeat(700_000);
    const { sidecar, port } = await setUp({ handler: (one, response) => response.end(one.body) });
    const put = `PUT http://localhost:${port}/upload HTTP/1.1\r\nhost: localhost:${port}\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
    const answer = await send(sidecar.proxyPort, put);
    expect([answer.status, answer.body === body]).toEqual([200, true]);
    const chunked = `PUT http://localhost:${port}/upload HTTP/1.1\r\nhost: localhost:${port}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`;
    const second = await send(sidecar.proxyPort, chunked);
    expect([second.status, second.body]).toEqual([200, "abc"]);
    await new Promise((resolve) => host.getConnections((_error, count) => resolve(expect(count).toBe(1))));
  });

  test("a kept connection that the host has closed loses no request", async () => {
    const { sidecar, port } = await setUp({});
    expect((await send(sidecar.proxyPort, get(`localhost:${port}`, "/things/a"))).status).toBe(200);
    host.closeAllConnections();
    const answers = await Promise.all(
      [1, 2].map(() => send(sidecar.proxyPort, get(`localhost:${port}`, "/things/a"))),
    );
    expect(answers.map(({ status }) => status)).toEqual([200, 200]);
  });

  test.each([
    ["with an event", "text/event-stream", /event: error\ndata: \{"reason":"REVOKED"\}/],
    ["by breaking off", "application/octet-stream", /first/],
  ])("an answer under way ends %s when what the call rests on is revoked", async (_how, type, expected) => {
    let more: (text: string) => void = () => {};
    const { sidecar, port } = await setUp({
      handler: (_one, response) => {
        response.writeHead(200, { "content-type": type });
        response.write("first");
        more = (text) => response.write(text);
      },
    });
    const socket = connect(sidecar.proxyPort, "127.0.0.1").setEncoding("latin1");
    let text = "";
    const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
    socket.on("error", () => {});
    const first = new Promise<void>((resolve) =>
      socket.on("data", (chunk: string) => {
        text += chunk;
        if (text.includes("first")) resolve();
      }),
    );
    socket.write(get(`localhost:${port}`, "/things/a", "connection: close"));
    await first;
    const { spiffeId } = world.identity(NOTEBOOK);
    const revocations = new Revocations([{ spiffeId, pod: "", beforeMs: Date.now() + 3_000 }]);
    const before = sidecar.plane.table;
    if (before === undefined) throw new Error("no table");
    expect(sidecar.plane.setTable({ ...before, revocations }).ok).toBe(true);
    more("second");
    await closed;
    expect(text).toMatch(expected);
    expect(text).not.toContain("second");
    const [event] = await sidecar.audit();
    expect(JSON.stringify(event)).toContain('"effect":"Deny","reason":"REVOKED"');
  });

  test("a host that breaks off in the middle of its answer is not taken for one that has finished", async () => {
    const { sidecar, port } = await setUp({
      handler: (_one, response) => {
        response.writeHead(200, { "content-length": "100" });
        response.write("half");
        setImmediate(() => response.destroy());
      },
    });
    const answer = await send(sidecar.proxyPort, get(`localhost:${port}`, "/things/a"), () => false);
    expect(answer.raw).toContain("content-length: 100");
    expect(answer.body).not.toHaveLength(100);
  });
});

describe("a captured call to a host outside the mesh", () => {
  const plain = (authority: string, path = "/things/a"): string =>
    `GET ${path} HTTP/1.1\r\nhost: ${authority}\r\n\r\n`;
  let to: OriginalDestination;
  const start = (more: Parameters<typeof setUp>[0] = {}) => setUp({ captured: () => to, ...more });
  const call = ({ captured }: Sidecar, text: string) => send(captured?.outbound ?? 0, text);
  const results = ({ plane }: Sidecar) => {
    const { captured } = plane.metrics;
    return ["external", "refused", "passed"].map((result) =>
      captured.read(captured.series("outbound", result)),
    );
  };

  test("in plaintext to port 80 is decided on, goes out over TLS to the host by name, and is recorded", async () => {
    const { sidecar, port } = await start();
    to = { address: "203.0.113.80", port: 80 };
    const answer = await call(sidecar, plain("localhost"));
    expect([answer.status, answer.body]).toEqual([200, "outside"]);
    expect(seen.map(({ url, headers }) => [url, headers.host])).toEqual([["/things/a", `localhost:${port}`]]);
    const denied = await call(sidecar, plain("localhost", "/nothing"));
    expect(denied).toMatchObject({ status: 403 });
    expect(JSON.parse(denied.body)).toMatchObject({
      reason: "NO_MATCHING_ALLOW",
      target: "localhost",
    });
    expect(seen).toHaveLength(1);
    const events = JSON.stringify(await sidecar.audit());
    expect(events.match(/"subject":"external\/outside"/g)).toHaveLength(2);
    expect(results(sidecar)).toEqual([2, 0, 0]);
  });

  test("in plaintext to the declared port is the same", async () => {
    const { sidecar, port } = await start();
    to = { address: "203.0.113.80", port };
    expect(await call(sidecar, plain(`localhost:${port}`))).toMatchObject({ status: 200 });
  });

  test.each([
    { name: "of a host that nobody declared", authority: "elsewhere.example", port: 80 },
    { name: "whose port is not the one that it went to", authority: "localhost:81", port: 80 },
    { name: "to a port that is not declared", authority: "localhost:8080", port: 8080 },
  ])("$name is refused as ever", async ({ authority, port }) => {
    const { sidecar } = await start();
    to = { address: "203.0.113.80", port };
    const answer = await call(sidecar, plain(authority));
    expect(answer).toMatchObject({ status: 403 });
    expect(JSON.parse(answer.body)).toMatchObject({
      reason: "OUTBOUND_DENIED",
      target: `203.0.113.80:${port}`,
    });
    expect(seen).toEqual([]);
  });

  test("to an address of the mesh stays the mesh's, whatever host it names", async () => {
    const { sidecar } = await start({ refusal: "NO_MATCHING_ALLOW" });
    to = { address: "10.96.0.9", port: 80 };
    const answer = await call(sidecar, plain("localhost"));
    expect(JSON.parse(answer.body)).toMatchObject({ reason: "NO_MATCHING_ALLOW", target: "10.96.0.9:80" });
    expect(seen).toEqual([]);
  });

  test("on one connection is each request's own affair", async () => {
    const { sidecar } = await start();
    to = { address: "203.0.113.80", port: 80 };
    const { raw } = await send(
      sidecar.captured?.outbound ?? 0,
      plain("localhost") + plain("elsewhere.example"),
      (text) => text.split("HTTP/1.1 ").length === 3 && text.endsWith("}"),
    );
    expect(raw).toMatch(/^HTTP\/1\.1 200[\s\S]*HTTP\/1\.1 403/);
    expect(seen).toHaveLength(1);
  });
});
