// HTTP clients as they are found everywhere, with the bodies, ranges, validators and expectations they are used with: an
// answer through the mesh is the answer of the application.
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type RunningProcess, startNode } from "../demo/process.ts";
import { canTest } from "../left-out.ts";
import { goProgram } from "./go.ts";
import { type Mesh, startMesh } from "./mesh.ts";
import { pythonEnvironment } from "./python.ts";

const run = promisify(execFile);
const local = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const PORT = 8080;
const SIZE = 20_000_003;
const RULES = `  - name: files
    from: [{workload: {names: [friend]}}]
    operations: [{http: {paths: ["/files/**", /upload, /trailers, /empty]}}]`;

const python = await pythonEnvironment("Python's HTTP clients across the mesh");
const goClient = await goProgram("Go's HTTP client across the mesh", local("clients/http.go"));
const canCurl = canTest("curl across the mesh", { curl: "Debian's package curl" });
const canWget = canTest("wget across the mesh", { wget: "Debian's package wget" });
const canJava = canTest("Java's HTTP client across the mesh", {
  javac: "Debian's package default-jdk-headless",
});

/** The file that the application serves, see servers/http-app.ts. */
const file = Buffer.alloc(SIZE);
for (let i = 0; i < SIZE; i++) file[i] = (i * 31) % 251;
const sha256 = (data: Uint8Array): string => createHash("sha256").update(data).digest("hex");
const FILE = sha256(file);

/** What each client has to report. */
const SAME = {
  download: FILE,
  upload: FILE,
  chunked: FILE,
  range: [206, `bytes 1000-1999/${SIZE}`, sha256(file.subarray(1000, 2000))],
  head: [200, SIZE, 0],
  unchanged: [304, 0],
  empty: [204, 0],
  denied: [403, "NO_MATCHING_ALLOW"],
};

describe("HTTP clients", () => {
  let mesh: Mesh;
  let app: RunningProcess;
  let dir: string;
  let url: string;

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "countersign-http-"));
    app = startNode("http-app", [local("servers/http-app.ts")]);
    const port = Number(await app.nextLine());
    mesh = await startMesh({
      kind: "service",
      ports: [{ port: PORT, protocol: "http", app: port }],
      rules: RULES,
    });
    url = mesh.url("friend", PORT);
  });
  afterAll(async () => {
    await Promise.all([mesh?.close(), app?.stop()]);
    rmSync(dir, { recursive: true, force: true });
  });

  (python ? test.each(["requests", "httpx"]) : test.skip.each(["Python"]))("%s", async (library) => {
    expect(await python?.run("http_clients", [library, url])).toEqual({ ...SAME, connections: 1 });
  });

  (goClient ? test : test.skip)("net/http of Go, with an expectation and trailers both ways", async () => {
    const { stdout } = await run(goClient ?? "", [url], { timeout: 110_000 });
    expect(JSON.parse(stdout)).toEqual({
      ...SAME,
      sentTrailer: "of-the-upload",
      trailer: "of-the-body",
      refused: 413,
      connections: expect.any(Number),
    });
  });

  (canJava ? test : test.skip)("HttpClient of Java, whose `Upgrade: h2c` is not taken up", async () => {
    const { stdout } = await run("java", [local("clients/HttpClients.java"), url], { timeout: 110_000 });
    expect(JSON.parse(stdout)).toEqual({ ...SAME, version: "HTTP_1_1", saw: "-;-", continued: FILE });
  });

  (canCurl ? describe : describe.skip)("curl", () => {
    const curl = async (...args: string[]): Promise<string> =>
      (await run("curl", ["--silent", "--show-error", "--max-time", "100", ...args])).stdout;

    test("downloads, in parts too, and resumes", async () => {
      const out = join(dir, "curl-file");
      writeFileSync(out, file.subarray(0, 7_000_001));
      const code = await curl("--continue-at", "-", "-o", out, "-w", "%{http_code}", `${url}/files/${SIZE}`);
      expect(code).toBe("206");
      expect(statSync(out).size).toBe(SIZE);
      const sum = await run("sha256sum", [out]);
      expect(sum.stdout.slice(0, 64)).toBe(FILE);
    });

    test("uploads with and without length, expecting to be let", async () => {
      const from = join(dir, "upload");
      writeFileSync(from, file);
      const expecting = ["-H", "expect: 100-continue", "--expect100-timeout", "90"];
      for (const how of [[], ["-H", "transfer-encoding: chunked"]]) {
        const told = await curl("-T", from, ...expecting, ...how, `${url}/upload`);
        expect(JSON.parse(told)).toMatchObject({ bytes: SIZE, sha256: FILE });
      }
      const refused = await curl(
        "-T",
        from,
        ...expecting,
        "-H",
        "x-refuse: yes",
        "-w",
        " %{http_code} %{size_upload}",
        `${url}/upload`,
      );
      expect(refused).toBe("not this one 413 0");
      const denied = await curl(
        "-T",
        from,
        ...expecting,
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{size_upload}",
        `${url}/secret`,
      );
      expect(denied).toBe("403 0");
    });

    test("keeps its connection over HEAD, 204, 304, a denial and a trailer", async () => {
      const ask = (path: string, ...args: string[]) => [
        ...["-o", "/dev/null", "-w", "%{http_code}:%{num_connects} ", ...args, `${url}${path}`],
        "--next",
      ];
      const codes = await curl(
        ...ask("/files/10"),
        ...ask("/files/10", "--head"),
        ...ask("/empty", "-X", "DELETE"),
        ...ask("/files/10", "-H", 'if-none-match: "size-10"'),
        ...ask("/secret"),
        ...ask("/trailers"),
        ...ask("/files/10", "-H", "range: bytes=20-"),
        ...["-o", "/dev/null", "-w", "%{http_code}:%{num_connects}", `${url}/files/0`],
      );
      expect(codes).toBe("200:1 200:0 204:0 304:0 403:0 200:0 416:0 200:0");
    });

    test("is served over HTTP/1.1 when it asks for h2c", async () => {
      const head = await curl("--http2", "--head", `${url}/files/10`);
      expect(head).toMatch(/^HTTP\/1\.1 200/);
      expect(head.toLowerCase()).toContain("x-saw: -;-");
    });

    test("goes through the proxy by name", async () => {
      const sum = await curl(
        "-x",
        mesh.proxy("friend"),
        `http://app.ml-serving:${PORT}/files/5`,
        "-o",
        "-",
        "-w",
        "%{http_code}",
      );
      expect(sum.endsWith("200")).toBe(true);
    });
  });

  (canWget ? test : test.skip)("wget resumes a download, and gives up at a denial", async () => {
    const out = join(dir, "wget-file");
    writeFileSync(out, file.subarray(0, 1_234_567));
    await run("wget", ["--quiet", "--continue", "--timeout=90", "-O", out, `${url}/files/${SIZE}`]);
    expect((await run("sha256sum", [out])).stdout.slice(0, 64)).toBe(FILE);
    const denied = await run("wget", [
      "--tries=1",
      "-O",
      "/dev/null",
      `${mesh.url("stranger", PORT)}/files/1`,
    ]).catch((error: { code: number; stderr: string }) => error);
    expect(denied).toMatchObject({ code: 8, stderr: expect.stringContaining("403") });
  });

  test("fetch of Node", async () => {
    const ask = (path: string, init: RequestInit = {}) => fetch(`${url}${path}`, init);
    const stream = () =>
      new ReadableStream({
        start(controller) {
          for (let at = 0; at < SIZE; at += 100_000) controller.enqueue(file.subarray(at, at + 100_000));
          controller.close();
        },
      });
    const bytes = async (response: Response) => new Uint8Array(await response.arrayBuffer());
    const uploaded = async (body: RequestInit): Promise<string> =>
      ((await (await ask("/upload", { method: "PUT", ...body })).json()) as { sha256: string }).sha256;
    const range = await ask(`/files/${SIZE}`, { headers: { range: "bytes=1000-1999" } });
    const head = await ask(`/files/${SIZE}`, { method: "HEAD" });
    const unchanged = await ask(`/files/${SIZE}`, { headers: { "if-none-match": `"size-${SIZE}"` } });
    const empty = await ask("/empty", { method: "DELETE" });
    const denied = await ask("/secret");
    expect({
      download: sha256(await bytes(await ask(`/files/${SIZE}`))),
      upload: await uploaded({ body: file }),
      chunked: await uploaded({ body: stream(), duplex: "half" } as RequestInit), // `duplex` is missing in the types
      range: [range.status, range.headers.get("content-range"), sha256(await bytes(range))],
      head: [head.status, Number(head.headers.get("content-length")), (await bytes(head)).length],
      unchanged: [unchanged.status, (await bytes(unchanged)).length],
      empty: [empty.status, (await bytes(empty)).length],
      denied: [denied.status, ((await denied.json()) as { reason: string }).reason],
    }).toEqual(SAME);
  });

  test("node:http sees trailers", async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    try {
      const trailers = await new Promise((resolve, reject) => {
        http
          .get(`${url}/trailers`, { agent, headers: { te: "trailers" } }, (response) => {
            response.resume().on("end", () => resolve(response.trailers));
          })
          .on("error", reject);
      });
      expect(trailers).toEqual({ "x-digest": "of-the-body" });
    } finally {
      agent.destroy();
    }
  });

  test("were recorded by what they did", async () => {
    await mesh.untilRecorded({ path: "/secret", effect: "Deny", method: "PUT", status: 403 });
    await mesh.untilRecorded({ caller: "notebook/stranger", effect: "Deny", status: 403 });
    await mesh.untilRecorded({ path: `/files/${SIZE}`, method: "HEAD", effect: "Allow", status: 200 });
    const uploads = mesh.recorded().filter((one) => one.path === "/upload" && one.status === 200);
    expect(new Set(uploads.map((one) => one.requestBytes))).toEqual(new Set([SIZE]));
  });
});
