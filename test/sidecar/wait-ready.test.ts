import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "@jest/globals";
import { runWaitReady } from "../../sidecar/wait-ready.ts";

let server: Server | undefined;
afterEach(() => {
  server?.closeAllConnections();
  server?.close();
  server = undefined;
});

async function serve(listener: RequestListener): Promise<string> {
  const made = createServer(listener);
  server = made;
  await new Promise<void>((resolve) => made.listen(0, "127.0.0.1", resolve));
  return String((made.address() as AddressInfo).port);
}

async function run(...args: readonly string[]): Promise<{ status: number; out: string; err: string }> {
  const said = { out: "", err: "" };
  const status = await runWaitReady(args, {
    out: (text) => {
      said.out += text;
    },
    err: (text) => {
      said.err += text;
    },
  });
  return { status, ...said };
}

test("asks until the sidecar is ready", async () => {
  const asked: (string | undefined)[] = [];
  const port = await serve((request, response) => {
    asked.push(request.url);
    response.writeHead(asked.length < 4 ? 503 : 200).end("no policy yet\n");
  });
  expect(await run("--port", port)).toEqual({ status: 0, out: "", err: "" });
  expect(asked).toEqual(["/readyz", "/readyz", "/readyz", "/readyz"]);
});

test("gives up in time and says what the sidecar last said", async () => {
  const port = await serve((_request, response) => void response.writeHead(503).end("no policy yet\n"));
  expect(await run("--port", port, "--for", "1")).toEqual({
    status: 1,
    out: "",
    err: "countersign: the sidecar is not ready after 1 s: no policy yet\n",
  });
});

test("says that nobody listens", async () => {
  const port = await serve(() => {});
  server?.close();
  const { status, err } = await run("--port", port, "--for", "1");
  expect(status).toBe(1);
  expect(err).toMatch(/not ready after 1 s: (nobody listens on its status port|connect ECONNREFUSED)/);
});

test.each([
  [["--port"]],
  [["--port", "0"]],
  [["--port", "65536"]],
  [["--for", "3601"]],
  [["--for", "x"]],
  [["now"]],
])("refuses %j", async (args) => {
  expect(await run(...args)).toMatchObject({ status: 2, out: "" });
});

test("has a help", async () => {
  expect(await run("--help")).toMatchObject({ status: 0, out: expect.stringContaining("--for SECONDS") });
});
