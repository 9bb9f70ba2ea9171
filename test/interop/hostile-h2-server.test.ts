// A hostile HTTP/2 server with the right certificate, seen by an application through its sidecar: it gets whole answers in our
// own words, or is told, or its connection breaks; never a part that looks whole, nor an answer that nobody asked for.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { RunningProcess } from "../demo/process.ts";
import {
  complete,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "../integration/sidecar/world.ts";
import { writePem } from "./edge-callee.ts";
import { pythonEnvironment } from "./python.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };

const python = await pythonEnvironment("hostile HTTP/2 servers (Python's hyperframe)");

(python ? describe : describe.skip)("a hostile HTTP/2 server", () => {
  let world: World;
  let server: RunningProcess;
  let caller: Sidecar;

  beforeAll(async () => {
    if (!python) return;
    world = await World.create();
    const directory = join(world.dir, "callee");
    writePem(directory, world.identity(THINGS));
    server = python.serve("hostile_h2", [directory]);
    const meshPort = Number(await server.nextLine());
    caller = await world.sidecar(NOTEBOOK);
    const bundle = world.authority.bundle.json;
    const services = [{ service: THINGS, meshPort }];
    expect(caller.plane.setTable(table({ self: NOTEBOOK, services, bundle })).ok).toBe(true);
  });
  afterAll(async () => {
    await server?.stop();
    await world?.close();
  });

  const ask = (what: string) =>
    send(
      caller.proxyPort,
      `GET http://things.ml:8080/things/${what} HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n`,
    );

  /** A connection that broke is replaced; its endpoint may rest for a moment before. */
  async function servesAgain(): Promise<void> {
    for (let tries = 0; tries < 600; tries++) {
      const answer = await ask("valid");
      if (answer.status === 200) {
        expect(answer.body).toBe("hello");
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error("an honest answer does not come through any more");
  }

  test.each([
    "no_status",
    "bad_status",
    "crlf_in_a_value",
    "lf_in_a_name",
    "colon_in_a_name",
    "capital_name",
    "transfer_encoding",
    "two_lengths",
    "body_before_its_head",
    "push",
    "informational_flood",
    "switch",
    "list_bomb",
    "continuations",
    "settings_flood",
    "window_overflow",
    "window_of_zero",
    "other_stream",
    "even_stream",
    "reset",
    "goaway_at_once",
    "garbage",
  ])("%s: the application is told", async (what) => {
    const { raw } = await ask(what);
    const final = raw.match(/HTTP\/1\.1 [2-5][0-9]{2}/g);
    expect([final, raw.includes("smuggled")]).toEqual([["HTTP/1.1 502"], false]);
    await servesAgain();
  });

  test.each([
    "short_body",
    "long_body",
    "body_with_204",
    "pseudo_trailers",
    "empty_data",
    "cut",
    "cut_without_a_length",
  ])("%s: what has begun never looks whole", async (what) => {
    const { status, raw } = await ask(what);
    expect(raw).not.toContain("smuggled");
    // Either nothing of it had gone out, or it is cut.
    expect(status === 502 || status === 204 || !complete(raw)).toBe(true);
    await servesAgain();
  });

  test("an answer in a body is a body, and what comes behind the end is nothing", async () => {
    const inner = await ask("looks_like_an_answer");
    expect([inner.status, inner.raw.split("\r\n\r\n").length]).toEqual([200, 4]);
    expect(inner.head).toContain("transfer-encoding: chunked\r\n");
    expect(await ask("data_behind_its_end")).toMatchObject({ status: 200, body: "hello" });
    const trailers = await ask("framing_trailers");
    expect(trailers.raw).not.toMatch(/0\r\ncontent-length/);
    await servesAgain();
  });
});
