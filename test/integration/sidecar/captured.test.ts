// What becomes of captured connections, with original destinations said by the test: services by cluster IP, endpoints by
// their own address, what is outside the mesh, and what would come back to the sidecar itself.
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import type { Resolution } from "../../../sidecar/discovery/resolver.ts";
import { addressKey } from "../../../sidecar/outbound/address-index.ts";
import type { OriginalDestination } from "../../../sidecar/wire/original-destination.ts";
import { type App, hello, type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const caller: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb", ports: [] };
const callee: ServiceSpec = { namespace: "ml", kind: "serving", name: "scorer", ports: [8080] };

let world: World;
let app: App;
let sidecar: Sidecar;
let server: Sidecar;
let original: OriginalDestination | undefined;
const asked: string[] = [];
let refusal = "UNKNOWN_DESTINATION";
/** What the control plane says is a service, though the table has none at that address. */
let promised: Resolution | undefined;

beforeAll(async () => {
  world = await World.create();
  app = await world.app(hello);
  const capture = {
    originalOf: () =>
      original === undefined
        ? ({ ok: false, error: "direct" } as const)
        : ({ ok: true, value: original } as const),
    families: ["ipv4"],
    outboundPort: 0,
    inboundPort: 0,
    verifies: false,
  } as const;
  server = await world.sidecar(callee, { app, capture, config: { capture: true } });
  sidecar = await world.sidecar(caller, {
    capture,
    config: { capture: true, opaquePorts: [7000] },
    resolve: (host, port) => {
      asked.push(`${host} ${port}`);
      return Promise.resolve(promised ?? { kind: "refused", reason: refusal });
    },
  });
  expect(
    server.plane.setTable(
      table({ self: callee, defaultAction: "Allow", bundle: world.authority.bundle.json }),
    ),
  ).toMatchObject({ ok: true });
  setOutbound("Deny");
});
beforeEach(() => {
  asked.length = 0;
  refusal = "UNKNOWN_DESTINATION";
  promised = undefined;
  setOutbound("Deny");
});
afterAll(() => world.close());

function setOutbound(outbound: "Allow" | "Deny", more: readonly string[] = []): void {
  const made = table({
    self: caller,
    bundle: world.authority.bundle.json,
    settings: { outbound },
    services: [
      {
        service: callee,
        meshPort: server.meshPort,
        addresses: ["10.96.0.7", "fd00:0:0::7", ...more],
        servicePorts: [
          { port: 80, targetPort: 8080, protocol: "http", packs: ["things"] },
          { port: 6379, protocol: "tcp", packs: [] },
        ],
      },
    ],
  });
  expect(sidecar.plane.setTable(made)).toMatchObject({ ok: true });
}

const call = (address: string, port: number, bytes = "GET /things/a HTTP/1.1\r\nhost: whatever\r\n\r\n") => {
  original = { address, port };
  return send(sidecar.captured?.outbound ?? 0, bytes);
};

function count(plane: Sidecar, direction: string, result: string): number {
  const { captured } = plane.plane.metrics;
  return captured.read(captured.series(direction, result));
}

describe("destinations of the mesh", () => {
  test.each([
    { name: "a cluster IP and its target port", address: "10.96.0.7" },
    { name: "a cluster IP of IPv6", address: "fd00::7" },
  ])("$name", async ({ address }) => {
    const before = count(sidecar, "outbound", "mesh");
    expect(await call(address, 80)).toMatchObject({ status: 200, body: "hello" });
    expect(count(sidecar, "outbound", "mesh")).toBe(before + 1);
    expect(asked).toEqual([]);
  });

  test("an endpoint by its own address", async () => {
    // Never captured on loopback, so by a listener that means this address.
    const fixed = {
      kind: "address",
      address: "127.0.0.1",
      port: 8080,
      key: addressKey("127.0.0.1", 8080),
    } as const;
    const port = await sidecar.plane.outbound.listen({ kind: "tcp", host: "127.0.0.1", port: 0 }, fixed);
    const answer = await send(port ?? 0, "GET /things/a HTTP/1.1\r\nhost: other.ml\r\n\r\n");
    expect(answer).toMatchObject({ status: 200, body: "hello" });
  });

  test("a port that speaks no HTTP is carried over the mesh, where the callee decides", async () => {
    setOutbound("Allow");
    const before = count(sidecar, "outbound", "mesh");
    for (const bytes of ["\0\0redis", "GET / HTTP/1.1\r\n\r\n"])
      expect((await call("10.96.0.7", 6379, bytes)).raw).toBe("");
    expect(count(sidecar, "outbound", "mesh")).toBe(before + 2);
  });

  test("one that policy forbids gets its reason, also where everything outside may be called", async () => {
    setOutbound("Allow");
    refusal = "NO_MATCHING_ALLOW";
    const answer = await call("10.96.0.9", 80);
    expect(answer.status).toBe(403);
    expect(JSON.parse(answer.body)).toMatchObject({ reason: "NO_MATCHING_ALLOW" });
    expect(asked).toContain("10.96.0.9 80");
  });

  test("an address of the mesh that the table does not lead to is never taken for one outside", async () => {
    setOutbound("Allow");
    const service = { id: "ml/other", hosts: ["other.ml"], addresses: [], ports: [] };
    promised = { kind: "service", service };
    const before = count(sidecar, "outbound", "passed");
    const answer = await call("10.1.7.7", 9_999);
    expect(answer.status).toBe(503);
    expect(JSON.parse(answer.body)).toMatchObject({ reason: "NO_ENDPOINTS", target: "10.1.7.7:9999" });
    expect(count(sidecar, "outbound", "passed")).toBe(before);
  });
});

describe("an address that the control plane knows first", () => {
  test("is waited for, and then called as one of the mesh", async () => {
    const late = "10.96.0.77";
    promised = { kind: "service", service: { id: "ml/scorer", hosts: [], addresses: [], ports: [] } };
    const answer = call(late, 80);
    while (asked.length === 0) await new Promise((resolve) => setImmediate(resolve));
    setOutbound("Deny", [late]);
    expect(await answer).toMatchObject({ status: 200, body: "hello" });
  });
});

describe("a Host field that names another service than the address", () => {
  const asScorer = "GET /things/a HTTP/1.1\r\nhost: scorer.ml:8080\r\n\r\n";

  test("does not lead an allowed call, nor its proof, away from the address", async () => {
    const answer = await call("10.96.0.7", 80, "GET /things/a HTTP/1.1\r\nhost: vault.sec\r\n\r\n");
    expect(answer).toMatchObject({ status: 200, body: "hello" });
    const [event] = (await server.audit()).slice(-1);
    expect(event).toMatchObject({
      data: { namespace: "ml", serviceName: "serving", decision: { effect: "Allow" } },
    });
    expect(asked).toEqual([]);
  });

  test.each([
    { refusal: "NO_MATCHING_ALLOW", expected: "NO_MATCHING_ALLOW" },
    { refusal: "UNKNOWN_DESTINATION", expected: "OUTBOUND_DENIED" },
  ])("does not open a forbidden address ($refusal), which is what is recorded", async (row) => {
    refusal = row.refusal;
    const answer = await call("10.96.0.66", 80, asScorer);
    expect(answer.status).toBe(403);
    expect(JSON.parse(answer.body)).toMatchObject({ reason: row.expected, target: "10.96.0.66:80" });
    const [event] = (await sidecar.audit()).slice(-1);
    expect(JSON.stringify(event)).toContain("10.96.0.66:80");
    expect(JSON.stringify(event)).not.toContain("scorer.ml");
    const [denial] = sidecar.plane.trail.denials();
    expect(denial?.detail).toContain("GET 10.96.0.66:80 (host `scorer.ml:8080`)");
  });

  test("stays the address's affair on every request of a connection", async () => {
    const { raw } = await send(
      sidecar.captured?.outbound ?? 0,
      asScorer + asScorer.replace("scorer.ml:8080", "other"),
      (text) => text.split("HTTP/1.1 ").length === 3 && text.endsWith("}"),
    );
    expect(raw.match(/"target":"[^"]*"/g)).toEqual(['"target":"10.96.0.66:80"', '"target":"10.96.0.66:80"']);
  });
});

describe("destinations outside the mesh", () => {
  let outside: Server;
  let port: number;
  let got: string;

  beforeAll(async () => {
    outside = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on("error", () => {});
      socket.write("server first\n");
      socket.on("data", (chunk) => {
        got += chunk.toString();
      });
      socket.on("end", () => socket.end("bye"));
    }).listen(0, "127.0.0.1");
    await once(outside, "listening");
    port = (outside.address() as AddressInfo).port;
  });
  afterAll(() => {
    outside.close();
  });
  beforeEach(() => {
    got = "";
  });

  /** Loopback is never passed on; its name is not seen through. */
  const own = (): string => "localhost";

  test("are passed on where settings allow it, each direction closed on its own", async () => {
    setOutbound("Allow");
    const before = count(sidecar, "outbound", "passed");
    original = { address: own(), port };
    const socket = connect({ port: sidecar.captured?.outbound ?? 0, host: "127.0.0.1", allowHalfOpen: true });
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk.toString();
    });
    socket.end("client text");
    await once(socket, "end");
    expect(text).toBe("server first\nbye");
    expect(got).toBe("client text");
    expect(count(sidecar, "outbound", "passed")).toBe(before + 1);
    socket.destroy();
  });

  test("end in the middle when settings do not allow it any more", async () => {
    setOutbound("Allow");
    original = { address: own(), port };
    const socket = connect(sidecar.captured?.outbound ?? 0, "127.0.0.1");
    socket.on("error", () => {});
    await once(socket, "data");
    const closed = new Promise((resolve) => socket.once("close", resolve));
    setOutbound("Allow");
    sidecar.plane.sweep(0);
    expect(socket.destroyed).toBe(false);
    setOutbound("Deny");
    sidecar.plane.sweep(0);
    // A reset, not an orderly end.
    expect(await closed).toBe(true);
  });

  test("are passed on also while the control plane cannot be asked", async () => {
    setOutbound("Allow");
    refusal = "NOT_READY";
    original = { address: own(), port };
    const { raw } = await send(sidecar.captured?.outbound ?? 0, "x", (text) => text.endsWith("\n"));
    expect(raw).toBe("server first\n");
  });

  test("a closed port outside is a reset, not an orderly end", async () => {
    setOutbound("Allow");
    original = { address: own(), port: 1 };
    const socket = connect(sidecar.captured?.outbound ?? 0, "127.0.0.1");
    const [error] = await once(socket, "error").catch((reason: unknown) => [reason]);
    expect(error).toMatchObject({ code: "ECONNRESET" });
  });

  test("are denied in words over HTTP and reset otherwise, where settings deny", async () => {
    const answer = await call(own(), port);
    expect(answer.status).toBe(403);
    expect(JSON.parse(answer.body)).toMatchObject({ reason: "OUTBOUND_DENIED" });
    expect((await call(own(), port, "\x16\x03\x01")).raw).toBe("");
    // On an opaque port nobody looks for HTTP.
    expect((await call("10.1.1.1", 7_000)).raw).toBe("");
    expect(got).toBe("");
  });

  test("a Host field does not make them a service", async () => {
    const answer = await call(own(), port, "GET /things/a HTTP/1.1\r\nhost: scorer.ml:8080\r\n\r\n");
    expect(answer.status).toBe(403);
  });
});

describe("what would come back", () => {
  test.each([
    { name: "a connection made to the listener itself", at: undefined },
    { name: "loopback", at: { address: "127.0.0.1", port: 80 } },
    { name: "loopback of IPv6", at: { address: "::1", port: 80 } },
    { name: "a port of the mesh", at: { address: "10.1.1.1", port: 16_008 } },
  ])("$name is reset", async ({ at }) => {
    setOutbound("Allow");
    const before = count(sidecar, "outbound", "loop");
    original = at;
    expect((await send(sidecar.captured?.outbound ?? 0, "GET / HTTP/1.1\r\nhost: a\r\n\r\n")).raw).toBe("");
    expect(count(sidecar, "outbound", "loop")).toBe(before + 1);
    expect(asked).toEqual([]);
  });

  test("the sidecar's own connection that was captured again ends", async () => {
    setOutbound("Allow");
    const before = count(sidecar, "outbound", "loop");
    // As if the rules lacked the sidecar's user: the destination is the listener, by its name.
    original = { address: "localhost", port: sidecar.captured?.outbound ?? 0 };
    expect((await send(sidecar.captured?.outbound ?? 0, "x")).raw).toBe("");
    expect(count(sidecar, "outbound", "loop")).toBeGreaterThan(before);
    expect(sidecar.plane.busy).toBe(0);
  });
});

describe("plaintext from outside", () => {
  const knock = (bytes: string) => send(server.captured?.inbound ?? 0, bytes);

  test("is refused in words over HTTP, by a reset otherwise, and never reaches the application", async () => {
    original = { address: "10.1.1.1", port: 8080 };
    const heads = app.heads.length;
    const before = count(server, "inbound", "refused");
    const answer = await knock("GET /things/a HTTP/1.1\r\nhost: scorer\r\n\r\n");
    expect(answer.status).toBe(403);
    expect(answer.head).toContain("connection: close");
    expect(JSON.parse(answer.body)).toMatchObject({
      reason: "AUTHN_MTLS_REQUIRED",
      target: "serving/scorer",
    });
    expect(count(server, "inbound", "refused")).toBe(before + 1);
    expect((await knock("\0binary")).raw).toBe("");
    expect(app.heads).toHaveLength(heads);
  });

  test("that was not redirected is reset", async () => {
    const before = count(server, "inbound", "loop");
    original = undefined;
    expect((await knock("GET / HTTP/1.1\r\n\r\n")).raw).toBe("");
    original = { address: "10.1.1.1", port: 16_006 };
    expect((await knock("GET / HTTP/1.1\r\n\r\n")).raw).toBe("");
    expect(count(server, "inbound", "loop")).toBe(before + 2);
  });
});
