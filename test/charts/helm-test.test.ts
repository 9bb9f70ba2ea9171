// The two programs of `helm test`, taken from what the chart renders and run against what a mesh would answer.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "@jest/globals";
import { freePorts } from "../demo/process.ts";
import { describeWithHelm, type Manifest, render } from "./helm.ts";

interface Container {
  readonly command: readonly string[];
  readonly args: readonly [string];
}

/** Ends with the program's exit status and what it printed. */
async function runProgram(program: string): Promise<{ readonly code: number | null; readonly said: string }> {
  const child = spawn(process.execPath, ["-e", program], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  child.stdout.on("data", (chunk: Buffer) => {
    said += chunk.toString("utf8");
  });
  const [code] = (await once(child, "close")) as [number | null];
  return { code, said };
}

describeWithHelm("the programs of `helm test`", () => {
  const manifests = render(
    "countersign",
    "--show-only=templates/tests/call.yaml",
    "--set=test.timeoutSeconds=10",
  );
  const find = (kind: string, name: string): Manifest => {
    const found = manifests.find((one) => one.kind === kind && one.metadata.name === name);
    if (found === undefined) throw new Error(`no ${kind} ${name}`);
    return found;
  };
  const client = (find("Pod", "client")["spec"] as { containers: [Container] }).containers[0];
  const server = (find("Deployment", "server")["spec"] as { template: { spec: { containers: [Container] } } })
    .template.spec.containers[0];

  const answer = async (listener: RequestListener, withinMs: number) => {
    const fake = createServer(listener).listen(0, "127.0.0.1");
    await once(fake, "listening");
    const { port } = fake.address() as AddressInfo;
    try {
      // INVARIANT of the chart: the client names the server's Service once.
      const program = client.args[0].replace("http://server:8080", `http://127.0.0.1:${port}`);
      return await runProgram(program.replace("+ 10 * 1000", `+ ${withinMs}`));
    } finally {
      fake.close();
    }
  };
  const allowed = JSON.stringify({
    certificate: "URI=spiffe://mesh.local/ns/countersign-test/sa/client/service/client",
  });
  const problem = { "content-type": "application/problem+json" };

  test("both are run by node alone", () => {
    expect([client.command, server.command]).toEqual([
      ["node", "-e"],
      ["node", "-e"],
    ]);
  });

  test("the client passes when one call is allowed with its identity and one refused by the mesh", async () => {
    let early = 2; // the policy takes a moment
    const { code, said } = await answer(({ url }, response) => {
      if (url === "/denied" || early-- > 0) response.writeHead(403, problem).end("{}");
      else response.end(allowed);
    }, 100_000);
    expect(JSON.parse(said)).toMatchObject({
      passed: true,
      allowed: { status: 200 },
      denied: { status: 403 },
    });
    expect(code).toBe(0);
  });

  test("the client fails at once when what should be denied is allowed", async () => {
    const { code, said } = await answer((_, response) => response.end(allowed), 100_000);
    expect(JSON.parse(said)).toMatchObject({ passed: false, denied: { status: 200 } });
    expect(code).toBe(1);
  });

  test.each([
    ["the server saw no certificate", 200, "{}"],
    ["the server saw another workload", 200, allowed.replace("sa/client", "sa/other")],
    ["nothing is allowed", 403, "{}"],
  ])("the client fails in the end when %s", async (_, status, body) => {
    const { code, said } = await answer(({ url }, response) => {
      if (url === "/denied") response.writeHead(403, problem).end("{}");
      else response.writeHead(status, problem).end(body);
    }, 500);
    expect(JSON.parse(said)).toMatchObject({ passed: false });
    expect(code).toBe(1);
  });

  test("a refusal that is not the mesh's does not pass", async () => {
    const { code } = await answer(({ url }, response) => {
      if (url === "/denied") response.writeHead(403).end("no");
      else response.end(allowed);
    }, 500);
    expect(code).toBe(1);
  });

  test("the server answers with what the mesh told it of the caller", async () => {
    const [port = 0] = await freePorts(1);
    const child = spawn(process.execPath, ["-e", server.args[0].replace("8080", String(port))], {
      stdio: "inherit",
    });
    try {
      const headers = { "x-mesh-caller": "service/client", "x-forwarded-client-cert": "URI=spiffe://x" };
      let body: unknown;
      // It says nothing when it listens, so it is asked until it does.
      const untilMs = performance.now() + 100_000;
      while (body === undefined && performance.now() < untilMs)
        body = await fetch(`http://127.0.0.1:${port}/`, { headers }).then(
          (response) => response.json(),
          () => new Promise<undefined>((done) => setTimeout(done, 20, undefined)),
        );
      expect(body).toEqual({ caller: "service/client", certificate: "URI=spiffe://x" });
    } finally {
      child.kill();
      await once(child, "close");
    }
    expect(child.exitCode).toBe(0);
  });
});
