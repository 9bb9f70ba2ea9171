import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, test } from "@jest/globals";
import { type ApiCredentials, createKubernetesRest } from "../../../control-plane/kubernetes/rest.ts";

let server: Server | undefined;
afterEach(() => {
  server?.closeAllConnections();
  server?.close();
});

/** An API server whose n-th answer is the n-th of these, and the last from then on. */
async function serverOf(...answers: readonly ((response: ServerResponse) => void)[]) {
  let asked = 0;
  const opened = createServer((_, response) => answers[Math.min(asked++, answers.length - 1)]?.(response));
  server = opened;
  await new Promise<void>((resolve) => opened.listen(0, "127.0.0.1", resolve));
  // Holds for what listens on a TCP port.
  const { port } = opened.address() as AddressInfo;
  const credentials: ApiCredentials = {
    getCurrentCluster: () => ({ server: `http://127.0.0.1:${port}` }),
    applyToHTTPSOptions: async () => {},
  };
  const { get } = createKubernetesRest(credentials);
  return {
    get: (signal = new AbortController().signal) => get("/api", {}, signal),
    asked: () => asked,
  };
}

const whole = (response: ServerResponse): void => void response.end('{"kind":"PodList"}');
const cut = (response: ServerResponse): void => {
  response.writeHead(200, { "content-length": 100 });
  response.write('{"kind":', () => response.destroy());
};
const silent = (response: ServerResponse): void => void response.destroy();

describe("reading a document", () => {
  test.each([
    { name: "in the middle of the answer", first: cut },
    { name: "before the answer", first: silent },
  ])("is tried once more when the connection breaks $name", async ({ first }) => {
    const { get, asked } = await serverOf(first, whole);
    await expect(get()).resolves.toEqual({ kind: "PodList" });
    expect(asked()).toBe(2);
  });

  test("fails with what happened when it breaks again", async () => {
    const { get, asked } = await serverOf(cut);
    await expect(get()).rejects.toThrow(/broke off its answer to `\/api`.*aborted/);
    expect(asked()).toBe(2);
  });

  test("is not repeated when the API server says no, and keeps what it said", async () => {
    const { get, asked } = await serverOf((response) => {
      response.writeHead(403);
      response.end('{"reason":"Forbidden","message":"you may not"}');
    });
    await expect(get()).rejects.toMatchObject({ status: 403, reason: "Forbidden" });
    expect(asked()).toBe(1);
  });

  test("that is given up in the middle of the answer says so, and is not repeated", async () => {
    const giveUp = new AbortController();
    const { get, asked } = await serverOf((response) => {
      response.writeHead(200, { "content-length": 100 });
      response.write("{", () => setImmediate(() => giveUp.abort()));
    });
    await expect(get(giveUp.signal)).rejects.toMatchObject({ code: "timeout" });
    expect(asked()).toBe(1);
  });
});
