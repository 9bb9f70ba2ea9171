// Authorities of a company for hosts outside the mesh, as the mesh's settings name them: without them the host is nobody's,
// and what changes in them counts from the next call on, without a restart.
import { createServer, type Server } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { edgeCertificate } from "../../fakes/edge-certificate.ts";
import { withOutside } from "./outside.ts";
import { type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const ANY: ProgramPolicy = {
  id: "lab/out",
  name: "out",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [{ name: "all", from: [{ any: true }], operations: [{ any: true }] }],
};

let world: World;
let sidecar: Sidecar;
let host: Server;
let port: number;
let finish: () => void;
const roots: string[] = [];
const sockets = new Set<Socket>();

beforeEach(async () => {
  world = await World.create();
  const first = await edgeCertificate(["localhost"], Date.now());
  const second = await edgeCertificate(["localhost"], Date.now());
  roots.splice(0, 2, first.ca, second.ca);
  host = createServer({ cert: first.cert, key: first.key }, (request, response) => {
    if (request.url === "/slow") {
      response.write("begun");
      finish = () => response.end("done");
    } else response.end("outside");
  });
  host.on("connection", (socket: Socket) => sockets.add(socket));
  host.on("renew", () => host.setSecureContext({ cert: second.cert, key: second.key }));
  await new Promise<void>((resolve) => host.listen(0, "127.0.0.1", resolve));
  port = (host.address() as AddressInfo).port;
  sidecar = await world.sidecar(NOTEBOOK, { config: {} });
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  await new Promise((resolve) => host.close(resolve));
  await world.close();
});

function trust(...externalRoots: readonly (string | undefined)[]): void {
  const named = externalRoots.flatMap((root) => root ?? []);
  const settings = named.length === 0 ? {} : { externalRoots: named };
  const base = table({ self: NOTEBOOK, bundle: world.authority.bundle.json, settings });
  expect(sidecar.plane.setTable(withOutside(base, port, [ANY])).ok).toBe(true);
}

const call = (path = "/", done?: (text: string) => boolean) =>
  send(
    sidecar.proxyPort,
    `GET http://localhost:${port}${path} HTTP/1.1\r\nhost: localhost:${port}\r\n\r\n`,
    done,
  );

test("they come, change and go with the table", async () => {
  trust();
  expect((await call()).status).toBe(502);
  trust(roots[0]);
  expect([(await call()).status, (await call()).status]).toEqual([200, 200]);
  const before = sockets.size;
  // The same table in other words keeps the connections.
  trust(roots[0]);
  expect((await call()).status).toBe(200);
  expect(sockets.size).toBe(before);
  // Both, then the host changes its certificate, then the new one alone.
  trust(roots[0], roots[1]);
  host.emit("renew");
  expect((await call()).status).toBe(200);
  trust(roots[1]);
  expect((await call()).status).toBe(200);
  trust(roots[0]);
  expect((await call()).status).toBe(502);
  trust(roots[1]);
  expect((await call()).status).toBe(200);
  trust();
  expect((await call()).status).toBe(502);
});

test("a call under way is not ended by it", async () => {
  trust(roots[0]);
  let isBegun: () => void = () => {};
  const begun = new Promise<void>((resolve) => {
    isBegun = resolve;
  });
  const slow = call("/slow", (text) => {
    if (text.includes("begun")) isBegun();
    return text.includes("done");
  });
  await begun;
  trust();
  expect((await call()).status).toBe(502);
  finish();
  expect((await slow).raw).toContain("done");
});
