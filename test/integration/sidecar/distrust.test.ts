// A root leaves the trust bundle, or the callee's certificate ends, while connections between sidecars stand: nobody
// lives on because the handshake was earlier.
import { once } from "node:events";
import { type ClientHttp2Session, connect as connectHttp2 } from "node:http2";
import type { AddressInfo } from "node:net";
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from "node:tls";
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { clientTlsOptions, serverTlsOptions } from "../../../sidecar/certs/tls-contexts.ts";
import { Revocations } from "../../../sidecar/core/identity/revocations.ts";
import { parseTrustBundle, RETIRING_MEMBER } from "../../../sidecar/core/identity/trust-bundle.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import { createTestAuthority, issueTestIdentity, must, type TestAuthority } from "../../fakes/authority.ts";
import {
  ALLOW_READ,
  type App,
  hello,
  idOf,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const GET = "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n";

let world: World;
let other: TestAuthority;
let app: App;
/** Both roots, and the first alone, as the bundle after a withdrawal. */
let both: string;
let first: string;
let callee: Sidecar;
let caller: Sidecar;
let offsetMs: number;

const meshNowMs = (): number => Date.now() + offsetMs;
const calleeTable = (bundle: string) => table({ self: THINGS, policies: [ALLOW_READ], bundle });
const callerTable = (bundle: string) =>
  table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle });
const idOfSpec = ({ namespace, kind, name }: ServiceSpec) => idOf(namespace, kind, name);

beforeEach(async () => {
  offsetMs = 0;
  world = await World.create();
  other = await createTestAuthority(Date.now());
  const [a, b] = [world.authority, other].map(({ bundle }) => JSON.parse(bundle.json));
  both = JSON.stringify({ ...a, spiffe_sequence: 5, keys: [...a.keys, ...b.keys] });
  first = JSON.stringify({ ...a, spiffe_sequence: 6 });
  app = await world.app(hello);
  callee = await world.sidecar(THINGS, { app, meshNowMs });
  caller = await world.sidecar(NOTEBOOK, { meshNowMs });
  expect(callee.plane.setTable(calleeTable(both)).ok).toBe(true);
  expect(caller.plane.setTable(callerTable(both)).ok).toBe(true);
});
afterEach(async () => {
  await world.close();
  await other.close();
});

/** An identity of the root that will be withdrawn. */
const foreign = (spec: ServiceSpec) =>
  issueTestIdentity(other, idOfSpec(spec), Date.now(), {
    bundle: must(parseTrustBundle(both, world.authority.bundle.trustDomain)),
  });

test("what a caller was issued before the epoch of a revocation is refused, on a connection that stands too", async () => {
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  const revoked = (beforeMs: number) =>
    new Revocations([{ spiffeId: idOfSpec(NOTEBOOK), pod: "", beforeMs }]);
  const withRevocation = (beforeMs: number) =>
    table({ self: THINGS, policies: [ALLOW_READ], bundle: both, revocations: revoked(beforeMs) });
  expect(callee.plane.setTable(withRevocation(Date.now() - 3_600_000)).ok).toBe(true);
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  expect(callee.plane.setTable(withRevocation(Date.now() + 60_000)).ok).toBe(true);
  const refused = await send(caller.proxyPort, GET);
  expect([refused.status, refused.body]).toEqual([403, expect.stringContaining('"REVOKED"')]);
  expect(app.heads.length).toBe(2);
});

test("a caller sends nothing more to a callee of a withdrawn root", async () => {
  await callee.plane.setIdentity(foreign(THINGS));
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  expect(caller.plane.setTable(callerTable(first)).ok).toBe(true);
  const after = await send(caller.proxyPort, GET);
  expect([after.status, app.heads.length]).toEqual([502, 1]);
  expect(exposition(caller.plane.metrics).body).toContain(
    'countersign_protocol_errors_total{side="upstream",code="distrusted"} 1',
  );
});

test("a callee that leaves a root which is about to go has its callers connect again, before they withdraw it", async () => {
  const keys = JSON.parse(both).keys as readonly Record<string, unknown>[];
  const withdrawn = new Set(JSON.parse(first).keys.map((key: { x5c?: unknown }) => JSON.stringify(key.x5c)));
  const marked = keys.map((key) =>
    key["use"] === "x509-svid" && !withdrawn.has(JSON.stringify(key["x5c"]))
      ? { ...key, [RETIRING_MEMBER]: true }
      : key,
  );
  const retiring = JSON.stringify({ ...JSON.parse(both), spiffe_sequence: 6, keys: marked });
  first = JSON.stringify({ ...JSON.parse(first), spiffe_sequence: 7 });
  await callee.plane.setIdentity(foreign(THINGS));
  for (const [sidecar, made] of [
    [callee, calleeTable(retiring)],
    [caller, callerTable(retiring)],
  ] as const)
    expect(sidecar.plane.setTable(made).ok).toBe(true);
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  // Renewed below the root that stays.
  await callee.plane.setIdentity(
    issueTestIdentity(world.authority, idOfSpec(THINGS), Date.now(), {
      bundle: must(parseTrustBundle(retiring, world.authority.bundle.trustDomain)),
    }),
  );
  await until(() => callee.plane.inbound.connections.size === 0);
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  expect(caller.plane.setTable(callerTable(first)).ok).toBe(true);
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  expect(exposition(caller.plane.metrics).body).not.toContain('code="distrusted"');
});

test("a handshake that was under way when the root was withdrawn counts no more", async () => {
  // A callee that completes TLS and says nothing until the bundle has changed.
  const identity = foreign(THINGS);
  let began: () => void = () => {};
  const beginning = new Promise<void>((resolve) => {
    began = resolve;
  });
  const requests: string[] = [];
  const held: TLSSocket[] = [];
  const server = createTlsServer({ ...serverTlsOptions(identity), ALPNProtocols: ["h2"] }, (socket) => {
    held.push(socket);
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => requests.push(chunk.toString("latin1")));
    began();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const towards = (bundle: string) =>
    table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: port }], bundle });
  expect(caller.plane.setTable(towards(both)).ok).toBe(true);
  const answered = send(caller.proxyPort, GET);
  await beginning;
  expect(caller.plane.setTable(towards(first)).ok).toBe(true);
  // Its SETTINGS would make the connection ready.
  for (const socket of held) if (!socket.destroyed) socket.write(Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]));
  expect((await answered).status).toBe(502);
  expect(requests.join("")).not.toContain("things/a");
  for (const socket of held) socket.destroy();
  server.close();
});

test("a callee hears nothing more from a caller of a withdrawn root, with or without tokens", async () => {
  const identity = foreign(NOTEBOOK);
  await caller.plane.setIdentity(identity);
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  const session = await plainClient(identity);
  expect(await statusOf(session)).toBe(200);
  expect(callee.plane.setTable(calleeTable(first)).ok).toBe(true);
  await once(session, "goaway");
  const after = await send(caller.proxyPort, GET);
  expect([after.status, app.heads.length]).toEqual([502, 2]);
  session.destroy();
});

test("an open request of a withdrawn root has the drain time, no more", async () => {
  const session = await plainClient(foreign(NOTEBOOK));
  const stream = session.request({
    ":path": "/upload",
    ":method": "PUT",
    ":authority": "things.ml:8080",
    ":scheme": "http",
  });
  stream.on("error", () => {});
  stream.write("x");
  await until(() => callee.plane.inbound.openExchanges === 1);
  expect(callee.plane.setTable(calleeTable(first)).ok).toBe(true);
  callee.plane.sweep(performance.now() + 24_000);
  expect(callee.plane.inbound.openExchanges).toBe(1);
  callee.plane.sweep(performance.now() + 26_000);
  await once(session, "close");
});

/** Waits for what another turn of the loop brings. */
async function until(done: () => boolean): Promise<void> {
  while (!done()) await new Promise((resolve) => setImmediate(resolve));
}

test("what rests on roots that stay loses nothing", async () => {
  const session = await plainClient(world.identity(NOTEBOOK));
  expect(await statusOf(session)).toBe(200);
  const added = JSON.stringify({
    ...JSON.parse(both),
    spiffe_sequence: 7,
    keys: JSON.parse(both).keys.reverse(),
  });
  expect(callee.plane.setTable(calleeTable(added)).ok).toBe(true);
  expect(await statusOf(session)).toBe(200);
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  const connections = [...caller.plane.upstreams.upstreams].map(({ state }) => state);
  expect(caller.plane.setTable(callerTable(first)).ok).toBe(true);
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  expect(connections).toEqual(["ready"]);
  expect(exposition(caller.plane.metrics).body).not.toContain('code="distrusted"');
  session.destroy();
});

test("a callee whose certificate has ended is met with its renewed one", async () => {
  await callee.plane.setIdentity(world.identity(THINGS, { ttlMs: 600_000 }));
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  const before = [...callee.plane.inbound.connections][0];
  await callee.plane.setIdentity(world.identity(THINGS));
  offsetMs = 3_600_000;
  caller.plane.sweep(performance.now());
  expect((await send(caller.proxyPort, GET)).status).toBe(200);
  expect([...callee.plane.inbound.connections].at(-1)).not.toBe(before);
});

/** An HTTP/2 client with mutual TLS and no tokens. */
async function plainClient(identity: ReturnType<typeof foreign>): Promise<ClientHttp2Session> {
  const socket = connectTls({
    ...clientTlsOptions(identity, idOfSpec(THINGS), Date.now, ["h2"]),
    host: "127.0.0.1",
    port: callee.meshPort,
  });
  const session = connectHttp2("https://things.ml", { createConnection: () => socket });
  session.on("error", () => {});
  await once(session, "connect");
  return session;
}

async function statusOf(session: ClientHttp2Session): Promise<unknown> {
  const stream = session.request({ ":path": "/things/a", ":authority": "things.ml:8080", ":scheme": "http" });
  stream.resume();
  const [headers] = (await once(stream, "response")) as [Record<string, unknown>];
  await once(stream, "close");
  return headers[":status"];
}
