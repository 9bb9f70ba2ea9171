// An application that tries to speak for the mesh through its own sidecar, and what telemetry makes of hostile bytes.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import {
  ALLOW_READ,
  type App,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "../sidecar/world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };

let world: World;
let app: App;
let caller: Sidecar;
let callee: Sidecar;
let accessLog: string;

beforeAll(async () => {
  world = await World.create();
  accessLog = join(world.dir, "access.jsonl");
  app = await world.app((_head, socket) => {
    socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
  });
  callee = await world.sidecar(THINGS, { app, config: { accessLog } });
  caller = await world.sidecar(NOTEBOOK);
  const bundle = world.authority.bundle.json;
  expect(callee.plane.setTable(table({ self: THINGS, policies: [ALLOW_READ], bundle })).ok).toBe(true);
  expect(
    caller.plane.setTable(
      table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle }),
    ).ok,
  ).toBe(true);
});
afterAll(() => world.close());

const get = (fields: string, target = "http://things.ml:8080/things/a", host = "things.ml:8080") =>
  send(
    caller.proxyPort,
    `GET ${target} HTTP/1.1\r\nhost: ${host}\r\n${fields}connection: close\r\n\r\n`,
    () => false,
  );

describe("fields that are not the application's to set", () => {
  test.each([
    ["a proof of its own", "workload-identity-token: evil\r\nworkload-proof-token: evil\r\n"],
    ["a transaction token", "txn-token: evil\r\n"],
    ["who calls", "x-mesh-caller: serving/evil\r\nx-mesh-roles: evil\r\nx-forwarded-user: evil\r\n"],
    ["who called before", "x-forwarded-client-cert: By=evil\r\n"],
    ["spellings of them", "X-Mesh-Caller: evil\r\nx_mesh_caller: evil\r\nWORKLOAD-PROOF-TOKEN: evil\r\n"],
    ["a port of the callee", "countersign-port: 16008\r\n"],
    ["another method", "x-http-method-override: DELETE\r\nx-method-override: evil\r\n"],
    ["fields of the connection", "connection: x-evil\r\nx-evil: evil\r\nkeep-alive: evil\r\nte: evil\r\n"],
    [
      "the proof as a field of the connection",
      "connection: workload-proof-token, workload-identity-token\r\n",
    ],
    ["the trace as a field of the connection", "connection: traceparent\r\n"],
    ["the host as a field of the connection", "connection: host, content-length\r\n"],
  ])("%s", async (_name, fields) => {
    const heads = app.heads.length;
    const got = await get(fields);
    // Taken away, or refused: never carried on.
    if (got.status === 200) {
      const head = app.heads[heads] ?? "";
      expect(head).not.toMatch(/evil/i);
      expect(head).toMatch(/^GET \/things\/a HTTP\/1\.1\r\n/);
      expect(head.toLowerCase()).toContain("\r\nx-mesh-caller: notebook/nb-1\r\n");
      expect(head.toLowerCase().match(/\r\nhost: [^\r]*/g)).toEqual(["\r\nhost: things.ml:8080"]);
    } else {
      expect(got.status).toBe(400);
      expect(app.heads).toHaveLength(heads);
    }
    expect((await get("")).status).toBe(200);
  });
});

describe("requests that mean two things", () => {
  test.each<[string, string]>([
    [
      "two hosts",
      "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\nhost: other\r\n\r\n",
    ],
    [
      "a host that is not that of the target",
      "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: other\r\n\r\n",
    ],
    ["user information", "GET http://x@things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n"],
    [
      "both framings",
      "POST http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    [
      "two lengths",
      "POST http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
    ],
    [
      "a space before the colon",
      "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost : things.ml:8080\r\n\r\n",
    ],
    [
      "a folded field",
      "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\nx: a\r\n b\r\n\r\n",
    ],
    ["a bare line feed", "GET http://things.ml:8080/things/a HTTP/1.1\nhost: things.ml:8080\n\n"],
    [
      "an odd chunk size",
      "POST http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\ntransfer-encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
    ],
    [
      "another encoding",
      "POST http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    ],
    ["dot segments", "GET http://things.ml:8080/things/x/../a HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n"],
    [
      "a target of 9 KiB",
      `GET http://things.ml:8080/things/${"a".repeat(9_216)} HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n`,
    ],
  ])("%s: nothing of it arrives", async (_name, bytes) => {
    const received = app.heads.length;
    const got = await send(caller.proxyPort, bytes);
    expect([400, 403, 414, 431, 501]).toContain(got.status);
    expect(app.heads).toHaveLength(received);
    expect((await get("")).status).toBe(200);
  });
});

describe("telemetry of hostile bytes", () => {
  test("labels come from closed lists, lines are JSON, and neither holds a secret", async () => {
    const before = exposition(callee.plane.metrics).body.split("\n").length;
    for (let i = 0; i < 60; i++) {
      await get(
        `user-agent: "\\",{}\u007e${i}\r\nx-request-id: "}{"${i}\r\nauthorization: Bearer s3cret${i}\r\ncookie: s3cret=${i}\r\n`,
        `http://things.ml:8080/things/n${i}?token=s3cret${i}`,
      );
      await send(
        caller.proxyPort,
        `M${i} http://things.ml:8080/nowhere/${i}?token=s3cret HTTP/1.1\r\nhost: things.ml:8080\r\nconnection: close\r\n\r\n`,
      );
      await get("", `http://nobody${i}.example/x?token=s3cret`, `nobody${i}.example`);
    }
    for (const plane of [callee.plane, caller.plane]) {
      const { body } = exposition(plane.metrics);
      expect(body).not.toMatch(/s3cret|nowhere|M59|things\/n/);
      expect(body).not.toContain("nobody59");
    }
    // A handful of operations and reasons more, not one per request.
    expect(exposition(callee.plane.metrics).body.split("\n").length - before).toBeLessThan(120);
    await callee.plane.flush();
    await caller.plane.flush();
    const lines = [
      readFileSync(accessLog, "utf8"),
      JSON.stringify(await callee.audit()),
      JSON.stringify(await caller.audit()),
    ];
    expect(lines.join("")).not.toContain("s3cret");
    const access = (lines[0] ?? "").trimEnd().split("\n");
    expect(access.length).toBeGreaterThan(100);
    for (const line of access) expect(typeof JSON.parse(line)).toBe("object");
  });
});
