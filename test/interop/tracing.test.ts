// Unmodified applications with stock OpenTelemetry between sidecars: what they do for a person is that person's, what
// cannot be told is nobody's, and nothing is ever another's. Each call's path ends with the name of who it was made for.

import { request as httpRequest } from "node:http";
import { Agent, request as httpsRequest } from "node:https";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { until } from "../demo/mesh-processes.ts";
import { HOST } from "../integration/gateway/people-mesh.ts";
import { nodePackages } from "./node-packages.ts";
import { pythonEnvironment } from "./python.ts";
import { startTracedMesh, type TracedCall, type TracedMesh, type Workload } from "./traced-mesh.ts";

const WHAT = "applications with OpenTelemetry between sidecars";
const python = await pythonEnvironment(WHAT, "tracing-requirements.txt");
const modules = await nodePackages(
  WHAT,
  "express",
  fileURLToPath(new URL("servers/express", import.meta.url)),
);
/** Requests of each person in the load test, and how many of them at once. */
const REQUESTS = 240;
const AT_ONCE = 25;
/** On a loaded machine. */
const LONG_MS = 300_000;
/** Fields in which a token would enter an application. */
const TOKENS = ["txn-token", "workload-identity-token", "workload-proof-token", "cookie", "authorization"];

interface Answered {
  readonly status: number;
  readonly body: string;
}

/** Somebody who is signed in, with a pool of connections to the gateway. */
class Person {
  readonly name: string;
  readonly #agent: Agent;
  readonly #cookie: string;
  readonly #port: number;

  private constructor(mesh: TracedMesh, name: string, cookie: string) {
    this.name = name;
    this.#agent = new Agent({ ca: mesh.ca, keepAlive: true, maxSockets: AT_ONCE, servername: HOST });
    this.#cookie = cookie;
    this.#port = mesh.gatewayPort;
  }

  static async signIn(mesh: TracedMesh, name: string): Promise<Person> {
    const browser = mesh.browser(name);
    await browser.go("/heads");
    return new Person(mesh, name, browser.jar.field(HOST) ?? "");
  }

  ask(path: string): Promise<Answered> {
    return new Promise((resolve, reject) => {
      const outgoing = httpsRequest(
        {
          ...{ host: "127.0.0.1", port: this.#port, path, agent: this.#agent },
          headers: { host: HOST, cookie: this.#cookie, accept: "application/json" },
        },
        (answer) => {
          let body = "";
          answer.setEncoding("utf8").on("data", (text: string) => {
            body += text;
          });
          answer.on("end", () => resolve({ status: answer.statusCode ?? 0, body }));
        },
      );
      outgoing.on("error", reject);
      outgoing.end();
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}

/** A call by the application in Bob's notebook. */
function fromNotebook(
  port: number,
  url: string,
  headers: Readonly<Record<string, string>>,
): Promise<Answered> {
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest({ host: "127.0.0.1", port, path: url, headers, agent: false }, (answer) => {
      let body = "";
      answer.setEncoding("utf8").on("data", (text: string) => {
        body += text;
      });
      answer.on("end", () => resolve({ status: answer.statusCode ?? 0, body }));
    });
    outgoing.on("error", reject);
    outgoing.end();
  });
}

/** Whose it was, as the path says, and whose it was taken for. */
function verdict({ id, user }: TracedCall): "right" | "nobody" | "WRONG" {
  if (user === null) return "nobody";
  return user === `acme|${id.split("-")[0]}` ? "right" : "WRONG";
}

function count(calls: readonly TracedCall[]): Readonly<Record<string, number>> {
  const counts = { right: 0, nobody: 0, WRONG: 0 };
  for (const call of calls) counts[verdict(call)]++;
  return counts;
}

(python && modules !== undefined ? describe : describe.skip)("applications with OpenTelemetry", () => {
  let mesh: TracedMesh;
  let alice: Person;
  let bob: Person;

  beforeAll(async () => {
    if (python === undefined || modules === undefined) return;
    mesh = await startTracedMesh(modules, python);
    [alice, bob] = await Promise.all([Person.signIn(mesh, "alice"), Person.signIn(mesh, "bob")]);
  }, LONG_MS);
  afterAll(async () => {
    alice?.close();
    bob?.close();
    await mesh?.close();
  });

  /** Calls to a workload for these ids, once there are so many. */
  const calls = (workload: Workload, ids: RegExp, least: number): Promise<readonly TracedCall[]> =>
    until(
      `${least} records of ${ids} at ${workload}`,
      () => {
        const found = mesh.recorded(workload).filter(({ id }) => ids.test(id));
        return found.length >= least ? found : undefined;
      },
      LONG_MS,
    );

  test(
    "every call of two people at once is the right one's, over pools, fan-outs, threads and retries",
    async () => {
      // What a request does, and how many calls it makes of the model and of the store.
      const kinds = [
        { path: "/ask", model: 1, store: 1, answer: [200] },
        { path: "/fan", model: 4, store: 4, answer: [200, 200, 200, 200] },
        { path: "/chain", model: 2, store: 2, answer: [200, 200] },
        { path: "/retry", model: 2, store: 1, answer: [503, 200] },
      ];
      const load = async (person: Person): Promise<void> => {
        let next = 0;
        const one = async (): Promise<void> => {
          for (let at = next++; at < REQUESTS; at = next++) {
            const { path, answer } = kinds[at % kinds.length] ?? { path: "", answer: [] };
            const { status, body } = await person.ask(`${path}/${person.name}-load${at}`);
            expect([status, JSON.parse(body)]).toEqual([200, answer]);
          }
        };
        await Promise.all(Array.from({ length: AT_ONCE }, one));
      };
      await Promise.all([load(alice), load(bob)]);
      const each = (2 * REQUESTS) / kinds.length;
      for (const workload of ["model", "store"] as const) {
        const wanted = each * kinds.reduce((sum, kind) => sum + kind[workload], 0);
        const found = await calls(workload, /-load\d+$/, wanted);
        expect([workload, count(found)]).toEqual([workload, { right: wanted, nobody: 0, WRONG: 0 }]);
        // One transaction per person's token, the whole way in the record.
        const chain = ["gateway/people", "agent/agent", ...(workload === "store" ? ["serving/model"] : [])];
        for (const call of found) expect(call.chain).toEqual(chain);
      }
      expect(await mesh.fallbacks("agent", "ambiguous")).toBe(0);
      for (const application of ["agent", "model", "store"] as const) {
        const heads = Object.values(await mesh.heads(application));
        expect(heads.length).toBeGreaterThan(REQUESTS);
        for (const head of heads) for (const token of TOKENS) expect(head).not.toHaveProperty([token]);
      }
    },
    LONG_MS,
  );

  test(
    "what is done after the answer, in a timer or a background task, is still the person's",
    async () => {
      await Promise.all([alice.ask("/later/alice-late"), bob.ask("/later/bob-late")]);
      expect(count(await calls("store", /-late$/, 2))).toEqual({ right: 2, nobody: 0, WRONG: 0 });
      // Bob's notebook calls the model itself: its background task is Bob's.
      const noted = "http://model.ml:8080/noted/bob-noted";
      expect((await fromNotebook(mesh.notebook.proxy, noted, { host: "model.ml:8080" })).status).toBe(200);
      expect(count(await calls("store", /^bob-noted$/, 1))).toEqual({ right: 1, nobody: 0, WRONG: 0 });
    },
    LONG_MS,
  );

  test(
    "work that loses its trace is nobody's, with instrumentation and without",
    async () => {
      await Promise.all(
        [alice, bob].flatMap((person) => [1, 2, 3].map((at) => person.ask(`/queue/${person.name}-q${at}`))),
      );
      const queued = await calls("model", /-q\d$/, 6);
      expect(count(queued)).toEqual({ right: 0, nobody: 6, WRONG: 0 });
      for (const { effect, chain } of queued) expect([effect, chain]).toEqual(["Deny", ["agent/agent"]]);
    },
    LONG_MS,
  );

  test(
    "an application that passes tokens on decides itself which, and holds no others",
    async () => {
      const answers = await Promise.all([alice, bob].map((one) => one.ask(`/carry/${one.name}-carried`)));
      expect(answers.map(({ body }) => body)).toEqual(["[200]", "[200]"]);
      expect(count(await calls("model", /-carried$/, 2))).toEqual({ right: 2, nobody: 0, WRONG: 0 });
      const { "alice-carried": head = {} } = await mesh.heads("courier");
      const token = String(head["txn-token"]);
      expect(token.split(".")).toHaveLength(3);
      // Without it, the trace alone says nothing: that workload does not go by traces.
      const traceparent = String(head["traceparent"]);
      expect(await fromNotebook(mesh.notebook.agent, "/ask/bob-thief", { "txn-token": token })).toMatchObject(
        {
          status: 403,
          body: expect.stringContaining("TXN_NOT_HELD"),
        },
      );
      await fromNotebook(mesh.notebook.agent, "/ask/bob-traced", { traceparent });
      expect(count(await calls("model", /^bob-traced$/, 1))).toEqual({ right: 1, nobody: 0, WRONG: 0 });
      expect(mesh.recorded("agent").filter(({ id }) => id === "bob-thief")).toEqual([]);
    },
    LONG_MS,
  );

  test(
    "a notebook of one person is that person's, without a trace of its own",
    async () => {
      const answers = await Promise.all(
        Array.from({ length: 20 }, (_, at) => fromNotebook(mesh.notebook.agent, `/ask/bob-nb${at}`, {})),
      );
      for (const { status, body } of answers) expect([status, body]).toEqual([200, "[200]"]);
      const found = await calls("store", /^bob-nb\d+$/, 20);
      expect(count(found)).toEqual({ right: 20, nobody: 0, WRONG: 0 });
      expect(found[0]?.chain).toEqual(["notebook/nb-bob", "agent/agent", "serving/model"]);
    },
    LONG_MS,
  );

  test(
    "who forges the trace of another's call makes it nobody's, and becomes nobody",
    async () => {
      const holding = alice.ask("/hold/alice-held");
      const { traceparent } = await until(
        "the held request",
        async () => (await mesh.heads("agent"))["alice-held"],
      );
      const before = await mesh.fallbacks("agent", "ambiguous");
      const forged = await fromNotebook(mesh.notebook.agent, "/ask/bob-forged", {
        traceparent: String(traceparent),
      });
      expect(forged.body).toBe("[403]");
      await mesh.askAgent("/release?id=alice-held");
      expect((await holding).body).toBe("[403]");
      for (const call of await calls("model", /^(?:bob-forged|alice-held)$/, 2))
        expect(call).toMatchObject({ user: null, effect: "Deny", chain: ["agent/agent"] });
      expect(await mesh.fallbacks("agent", "ambiguous")).toBe(before + 2);
      // The agent still knows who called: the trace only says whose its own calls are.
      expect(count(await calls("agent", /^(?:bob-forged|alice-held)$/, 2))).toMatchObject({ right: 2 });
    },
    LONG_MS,
  );

  test(
    "in a storm of forged traces some calls are nobody's, and none another's",
    async () => {
      let done = false;
      let forged = 0;
      const forge = async (): Promise<void> => {
        while (!done) {
          const seen = Object.entries(await mesh.heads("agent")).filter(([id]) =>
            id.startsWith("alice-storm"),
          );
          for (const [, { traceparent }] of seen.slice(-4))
            await fromNotebook(mesh.notebook.agent, `/ask/bob-storm${forged++}`, {
              traceparent: String(traceparent),
            });
        }
      };
      const asking = async (): Promise<void> => {
        for (let at = 0; at < 40; at++) {
          await Promise.all([0, 1, 2, 3, 4].map((each) => alice.ask(`/chain/alice-storm${at}x${each}`)));
        }
        done = true;
      };
      await Promise.all([asking(), forge(), forge()]);
      const found = await calls("model", /-storm/, 400);
      const { right = 0, nobody = 0, WRONG } = count(found);
      expect(WRONG).toBe(0);
      expect(forged).toBeGreaterThan(0);
      expect(right).toBeGreaterThan(0);
      expect(nobody).toBeGreaterThan(0);
      expect(await mesh.fallbacks("agent", "ambiguous")).toBeGreaterThanOrEqual(nobody);
    },
    LONG_MS,
  );
});
