// What a signed-in request of 1 KB costs a gateway: its CPU beside that of one sidecar that makes the same call for an
// application, beside what Node's TLS costs alone, and beside nginx that asks for each request (`auth_request`), itself or
// oauth2-proxy, and encrypts again towards its upstream.
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { saveIdentity } from "../../../sidecar/certs/identity-store.ts";
import { createSessionId } from "../../../sidecar/gateway/session/cookies.ts";
import { edgeCertificate, writeSecret } from "../../fakes/edge-certificate.ts";
import { TestTokenService } from "../../fakes/txn.ts";
import { ALLOW_GATEWAYS, APP, FRONT } from "../../integration/gateway/edge.ts";
import { table, World } from "../../integration/sidecar/world.ts";
import { runWrk } from "../datapath/load.ts";
import { atMost, type BenchRow, cpuMicroseconds, median, row } from "../measure.ts";
import type { FrontPorts, FrontWorld } from "./gateway-front.ts";
import type { EchoPorts } from "./node-echo.ts";
import { type EdgePeer, startNginx, startOauth2Proxy, startUpstream } from "./peers.ts";

const BODY = "x".repeat(1_024);
const CONNECTIONS = 32;
const BROWSER = [
  "accept: text/html,application/xhtml+xml",
  "accept-language: en",
  "user-agent: Mozilla/5.0 (X11; Linux x86_64) bench",
];

export async function benchGateway({
  rounds,
  seconds,
  say,
}: {
  readonly rounds: number;
  readonly seconds: number;
  readonly say: (text: string) => void;
}): Promise<BenchRow[]> {
  const stops: (() => Promise<void>)[] = [];
  try {
    const { dir, front, sessionId, bearer, appPort } = await startGateway(stops);
    const echo: EchoPorts = await startChild("./node-echo.ts", dir, stops);
    const upstream = await startUpstream(dir, appPort);
    stops.push(upstream.stop);
    const started = async (peer: Promise<EdgePeer>): Promise<EdgePeer> => {
      stops.push((await peer).stop);
      return peer;
    };
    const nginx = await started(startNginx(dir, upstream.port, sessionId));
    const oauth2 = await started(startOauth2Proxy(dir, upstream.port, "cookie"));
    const redis = await started(startOauth2Proxy(dir, upstream.port, "redis"));
    const ours = { pids: [front.pid], port: front.tls, cookie: `__Host-session=${sessionId}`, stop: none };
    const asked = (who: { readonly cookie: string }) => [`cookie: ${who.cookie}`, ...BROWSER];
    const http1 = (peer: EdgePeer) => overHttp1("https", peer.port, asked(peer));
    const http2 = (peer: EdgePeer) => overHttp2(peer.port, "/things/a", asked(peer));
    const loads: readonly Load[] = [
      { name: "gateway", pids: ours.pids, run: http1(ours) },
      { name: "sidecar", pids: ours.pids, run: overHttp1("http", front.plain, asked(ours)) },
      { name: "nginx", pids: nginx.pids, run: http1(nginx) },
      { name: "oauth2-proxy", pids: oauth2.pids, run: http1(oauth2) },
      { name: "oauth2-proxy with Redis", pids: redis.pids, run: http1(redis) },
      { name: "node tls", pids: [echo.pid], run: overHttp1("https", echo.tls, asked(ours)) },
      { name: "node tcp", pids: [echo.pid], run: overHttp1("http", echo.plain, asked(ours)) },
      { name: "gateway2", pids: ours.pids, run: http2(ours) },
      { name: "nginx2", pids: nginx.pids, run: http2(nginx) },
      { name: "oauth2-proxy2", pids: oauth2.pids, run: http2(oauth2) },
      { name: "public", pids: ours.pids, run: overHttp1("https", front.tls, BROWSER, "/public/a") },
      {
        name: "bearer",
        pids: ours.pids,
        run: overHttp1("https", front.tls, [`authorization: Bearer ${bearer}`, ...BROWSER], "/api/a"),
      },
      { name: "public2", pids: ours.pids, run: overHttp2(front.tls, "/public/a", BROWSER) },
      {
        name: "bearer2",
        pids: ours.pids,
        run: overHttp2(front.tls, "/api/a", [`authorization: Bearer ${bearer}`, ...BROWSER]),
      },
    ];
    const cpu = new Map<string, number[]>(loads.map(({ name }) => [name, []]));
    for (let i = 0; i < rounds + 1; i++) {
      for (const { name, pids, run } of i % 2 === 0 ? loads : loads.toReversed()) {
        const before = cpuOf(pids);
        const requests = await run(seconds);
        // The first round warms up.
        if (i > 0) cpu.get(name)?.push((cpuOf(pids) - before) / requests);
      }
      say(`gateway: round ${i} of ${rounds}`);
    }
    return rowsOf(cpu);
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

function rowsOf(cpu: ReadonlyMap<string, readonly number[]>): BenchRow[] {
  const of = (name: string): number => median(cpu.get(name) ?? []);
  const beside = (what: string, name: string) => ({ name: what, value: of(name) });
  const sidecar = beside("a sidecar's outbound side", "sidecar");
  const bar = atMost("ratio", 1.5, 1.3);
  const ahead = atMost("ratio", 1, 0.7);
  const tls = of("node tls") - of("node tcp");
  const withTls = {
    name: "a sidecar's, and what Node's TLS alone adds to a connection",
    value: sidecar.value + tls,
  };
  const [http1, http2] = [of("gateway"), of("gateway2")];
  const over = (name: string, base: string): number =>
    median((cpu.get(name) ?? []).map((us, i) => us - (cpu.get(base)?.[i] ?? 0)));
  return [
    row(
      "gateway",
      "signed-in request of 1 KB, HTTP/2, 8 connections of 4 streams",
      http2,
      "µs",
      sidecar,
      bar,
    ),
    row("gateway", "HTTP/1.1, 32 connections", http1, "µs", sidecar, bar),
    row("gateway", "HTTP/1.1 beside the TLS that Node can do", http1, "µs", withTls),
    row(
      "gateway",
      "Node's TLS: an echo with it, beside one without",
      of("node tls"),
      "µs",
      beside("plain", "node tcp"),
    ),
    row("gateway", "HTTP/2 beside nginx that asks itself", http2, "µs", beside("nginx", "nginx2")),
    row("gateway", "HTTP/1.1 beside nginx that asks itself", http1, "µs", beside("nginx", "nginx")),
    row(
      "gateway",
      "HTTP/2 beside nginx and oauth2-proxy",
      http2,
      "µs",
      beside("both, session in the cookie", "oauth2-proxy2"),
      ahead,
    ),
    row(
      "gateway",
      "HTTP/1.1 beside nginx and oauth2-proxy",
      http1,
      "µs",
      beside("both, session in the cookie", "oauth2-proxy"),
      ahead,
    ),
    row(
      "gateway",
      "the same, its session in Redis",
      http1,
      "µs",
      beside("both, without Redis itself", "oauth2-proxy with Redis"),
      ahead,
    ),
    row(
      "gateway",
      "access token of 1 KB seen before, over a public request, HTTP/1.1",
      over("bearer", "public"),
      "µs",
      undefined,
      atMost("ours", 3, 1),
    ),
    row("gateway", "the same over HTTP/2", over("bearer2", "public2"), "µs", undefined, atMost("ours", 3, 1)),
  ];
}

/** Asks for a while, and tells how often. @throws Error when requests failed. */
interface Load {
  readonly name: string;
  readonly pids: readonly number[];
  readonly run: (seconds: number) => Promise<number>;
}

const none = (): Promise<void> => Promise.resolve();

const cpuOf = (pids: readonly number[]): number => pids.reduce((sum, pid) => sum + cpuMicroseconds(pid), 0);

const overHttp1 =
  (scheme: "http" | "https", port: number, headers: readonly string[], path = "/things/a") =>
  async (seconds: number): Promise<number> => {
    const target = { path, headers };
    const result = await runWrk(port, [target], CONNECTIONS, seconds, `${scheme}://localhost`);
    if (result.failures > 0 || result.requests === 0)
      throw new Error(`${result.failures} of ${result.requests} requests failed`);
    return result.requests;
  };

/** As browsers do: several requests at a time on each of a few connections. */
const overHttp2 =
  (port: number, path: string, headers: readonly string[]) =>
  async (seconds: number): Promise<number> => {
    const fields = headers.flatMap((line) => ["-H", line]);
    const args = ["-c8", "-m4", "-t1", `-D${seconds}`, ...fields, `https://localhost:${port}${path}`];
    const child = spawn("h2load", args, { stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
    });
    await once(child, "close");
    const [, done = "0", ok = "0", failed = "0"] =
      /requests: .*?(\d+) done, (\d+) succeeded, (\d+) failed/.exec(text) ?? [];
    if (Number(done) === 0 || Number(failed) > 0 || done !== ok) throw new Error(`h2load said:\n${text}`);
    return Number(done);
  };

/** The gateway in its process, a callee and its application in this one. */
async function startGateway(stops: (() => Promise<void>)[]): Promise<{
  readonly dir: string;
  readonly front: FrontPorts;
  readonly sessionId: string;
  readonly bearer: string;
  readonly appPort: number;
}> {
  const world = await World.create();
  stops.push(() => world.close());
  const dir = mkdtempSync(join(tmpdir(), "countersign-front-"));
  stops.push(async () => rmSync(dir, { recursive: true, force: true }));
  const head = `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${BODY.length}\r\n\r\n${BODY}`;
  const app = await world.app((_head, socket) => socket.write(head));
  app.received.push = () => 0;
  app.heads.push = () => 0;
  const tokens = new TestTokenService();
  const bundle = tokens.bundleJson(world.authority.bundle.json);
  const callee = await world.sidecar(APP, { app });
  const used = callee.plane.setTable(table({ self: APP, policies: [ALLOW_GATEWAYS], bundle }));
  if (!used.ok) throw new Error(used.error);
  await saveIdentity(dir, world.identity(FRONT));
  writeSecret(dir, "edge-tls", await edgeCertificate(["localhost"], Date.now()));
  const sessionId = createSessionId();
  const claims = JSON.stringify({
    iss: "https://idp.acme.example",
    aud: "api",
    scp: randomBytes(300).toString("hex"),
  });
  const bearer = [JSON.stringify({ alg: "ES256", typ: "at+jwt" }), claims, "s".repeat(64)]
    .map((part) => Buffer.from(part).toString("base64url"))
    .join(".");
  const written: FrontWorld = {
    ...{ meshPort: callee.meshPort, bundle, sessionId, bearer },
    tokenKey: tokens.key.export({ type: "pkcs8", format: "pem" }).toString(),
  };
  writeFileSync(join(dir, "world.json"), JSON.stringify(written));
  const front: FrontPorts = await startChild("./gateway-front.ts", dir, stops);
  return { dir, front, sessionId, bearer, appPort: app.port };
}

/** Starts a program of this folder; what it prints first is its answer. */
async function startChild<T>(file: string, dir: string, stops: (() => Promise<void>)[]): Promise<T> {
  const script = fileURLToPath(new URL(file, import.meta.url));
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", script, dir], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, MALLOC_ARENA_MAX: "1" },
  });
  stops.push(async () => {
    const exit = once(child, "exit");
    child.stdin.end();
    await exit;
  });
  const [line] = (await once(createInterface(child.stdout), "line")) as [string];
  // Our own program prints it.
  return JSON.parse(line) as T;
}
