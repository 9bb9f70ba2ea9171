// A condition in CEL, from the table to the answer: the compiler is loaded when the first policy needs it.
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { ALLOW_READ, hello, type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const withCondition = (cel: string): ProgramPolicy => ({
  ...ALLOW_READ,
  rules: ALLOW_READ.rules.map((rule) => ({ ...rule, when: { cel } })),
});

let world: World;
let caller: Sidecar;
let callee: Sidecar;

beforeAll(async () => {
  world = await World.create();
  callee = await world.sidecar(THINGS, { app: await world.app(hello) });
  caller = await world.sidecar(NOTEBOOK);
  caller.plane.setTable(
    table({
      self: NOTEBOOK,
      services: [{ service: THINGS, meshPort: callee.meshPort }],
      bundle: world.authority.bundle.json,
    }),
  );
});
afterAll(() => world.close());

const put = (cel: string): { readonly ok: boolean } =>
  callee.plane.setTable(
    table({ self: THINGS, policies: [withCondition(cel)], bundle: world.authority.bundle.json }),
  );
const get = async (target: string): Promise<number> =>
  (
    await send(
      caller.proxyPort,
      `GET http://things.ml:8080${target} HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n`,
    )
  ).status;

test("decides by a condition on caller and resource", async () => {
  expect(put('caller.namespace == "lab" && resource.startsWith("good-")')).toEqual({ ok: true });
  expect([await get("/things/good-1"), await get("/things/bad-1")]).toEqual([200, 403]);
});

test("fails closed when a condition cannot be evaluated", async () => {
  expect(put('caller.labels["none"] == "x"')).toEqual({ ok: true });
  expect(await get("/things/good-1")).toBe(403);
});

test("refuses a table whose condition does not compile, and keeps the one before", async () => {
  expect(put("true")).toEqual({ ok: true });
  expect(put("caller.nmespace ==")).toMatchObject({ ok: false });
  expect(await get("/things/any")).toBe(200);
});
