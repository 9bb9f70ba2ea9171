import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { ALLOW_READ, type App, hello, type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };

let world: World;
let app: App;
let caller: Sidecar;
let callee: Sidecar;

beforeAll(async () => {
  world = await World.create();
  app = await world.app(hello);
  callee = await world.sidecar(THINGS, { app });
  caller = await world.sidecar(NOTEBOOK);
  const bundle = world.authority.bundle.json;
  expect(callee.plane.setTable(table({ self: THINGS, policies: [ALLOW_READ], bundle }))).toEqual({
    ok: true,
    value: undefined,
  });
  expect(
    caller.plane.setTable(
      table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle }),
    ),
  ).toEqual({ ok: true, value: undefined });
});
afterAll(() => world.close());

describe("a call through both sidecars", () => {
  test("reaches the application when a policy allows it", async () => {
    const answer = await send(
      caller.proxyPort,
      "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n",
    );
    expect(answer.status).toBe(200);
    expect(answer.body).toBe("hello");
    expect(app.heads.at(-1)).toContain("GET /things/a HTTP/1.1\r\nhost: things.ml:8080\r\n");
    expect(app.heads.at(-1)).toContain("x-mesh-caller: notebook/nb-1\r\n");
    expect(app.heads.at(-1)).not.toContain("workload-");
  });

  test("is denied with a problem document when no policy allows it", async () => {
    const before = app.heads.length;
    const answer = await send(
      caller.proxyPort,
      "GET http://things.ml:8080/health HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n",
    );
    expect(answer.status).toBe(403);
    expect(JSON.parse(answer.body)).toMatchObject({
      reason: "NO_MATCHING_ALLOW",
      operation: "health.probe",
      caller: "notebook/nb-1",
      target: "serving/things",
    });
    expect(app.heads.length).toBe(before);
  });
});
