// What a signed-in request of 1 KB costs a gateway: its CPU beside that of one sidecar that makes the same call for an
// application, and beside nginx that asks for each request (`auth_request`) and encrypts again towards its upstream.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { saveIdentity } from "../../../sidecar/certs/identity-store.ts";
import { freePorts } from "../../demo/process.ts";
import { edgeCertificate, writeSecret } from "../../fakes/edge-certificate.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";
import { ALLOW_GATEWAYS, APP, FRONT } from "../../integration/gateway/edge.ts";
import { idOf, table, World } from "../../integration/sidecar/world.ts";
import { runWrk } from "../datapath/load.ts";
import { startProgram } from "../datapath/program.ts";
import { atMost, type BenchRow, cpuMicroseconds, median, row } from "../measure.ts";
import type { FrontPorts, FrontWorld } from "./gateway-front.ts";

const BODY = "x".repeat(1_024);
const CONNECTIONS = 32;
const COOKIE = "cookie: __Host-session=0123456789abcdef0123456789abcdef0123456789a";
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
  const world = await World.create();
  const dir = mkdtempSync(join(tmpdir(), "countersign-front-"));
  const stops: (() => Promise<void>)[] = [];
  try {
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
    const edge = await edgeCertificate(["localhost"], Date.now());
    writeSecret(dir, "edge-tls", edge);
    const reqWl = idOf(FRONT.namespace, FRONT.kind, FRONT.name);
    const txnToken = tokens.mint(txnClaims("alice", Date.now(), { reqWl }));
    writeFileSync(
      join(dir, "world.json"),
      JSON.stringify({ meshPort: callee.meshPort, bundle, txnToken } satisfies FrontWorld),
    );
    const front = await startFront(dir, stops);
    const nginx = await startNginx(dir, app.port, stops);
    const cpu = {
      gateway: [] as number[],
      sidecar: [] as number[],
      nginx: [] as number[],
      gateway2: [] as number[],
      nginx2: [] as number[],
    };
    const measure = async (name: keyof typeof cpu, pid: number, port: number, load: Load): Promise<void> => {
      const before = cpuMicroseconds(pid);
      const requests = await load(port, seconds);
      cpu[name].push((cpuMicroseconds(pid) - before) / requests);
    };
    for (let i = 0; i < rounds + 1; i++) {
      await measure("gateway", front.pid, front.tls, overHttp1("https"));
      await measure("sidecar", front.pid, front.plain, overHttp1("http"));
      await measure("nginx", nginx.pid, nginx.port, overHttp1("https"));
      await measure("gateway2", front.pid, front.tls, overHttp2);
      await measure("nginx2", nginx.pid, nginx.port, overHttp2);
      // The first round warms up.
      if (i === 0) for (const list of Object.values(cpu)) list.length = 0;
      say(`gateway: round ${i} of ${rounds}`);
    }
    const sidecar = { name: "a sidecar's outbound side", value: median(cpu.sidecar) };
    const peer = (value: number) => ({ name: "nginx, auth_request answered by itself", value });
    const bar = atMost("ratio", 1.5, 1.3);
    const [http1, http2] = [median(cpu.gateway), median(cpu.gateway2)];
    return [
      row("gateway", "signed-in request of 1 KB, HTTP/1.1, 32 connections", http1, "µs", sidecar, bar),
      row("gateway", "the same beside nginx", http1, "µs", peer(median(cpu.nginx))),
      row("gateway", "HTTP/2, 8 connections of 4 streams", http2, "µs", sidecar, bar),
      row("gateway", "the same beside nginx", http2, "µs", peer(median(cpu.nginx2))),
    ];
  } finally {
    for (const stop of stops.reverse()) await stop();
    await world.close();
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Asks for a while, and tells how often. @throws Error when requests failed. */
type Load = (port: number, seconds: number) => Promise<number>;

const overHttp1 =
  (scheme: "http" | "https"): Load =>
  async (port, seconds) => {
    const target = { path: "/things/a", headers: [COOKIE, ...BROWSER] };
    const result = await runWrk(port, [target], CONNECTIONS, seconds, `${scheme}://localhost`);
    if (result.failures > 0 || result.requests === 0)
      throw new Error(`${result.failures} of ${result.requests} requests failed`);
    return result.requests;
  };

/** As browsers do: several requests at a time on each of a few connections. */
const overHttp2: Load = async (port, seconds) => {
  const headers = [COOKIE, ...BROWSER].flatMap((line) => ["-H", line]);
  const args = ["-c8", "-m4", "-t1", `-D${seconds}`, ...headers, `https://localhost:${port}/things/a`];
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

async function startFront(dir: string, stops: (() => Promise<void>)[]): Promise<FrontPorts> {
  const script = fileURLToPath(new URL("./gateway-front.ts", import.meta.url));
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
  return JSON.parse(line) as FrontPorts;
}

/** One worker that ends TLS, asks itself for each request, and speaks TLS 1.3 to an upstream of its own. */
async function startNginx(
  dir: string,
  appPort: number,
  stops: (() => Promise<void>)[],
): Promise<{ readonly pid: number; readonly port: number }> {
  const [port = 0, upstream = 0] = await freePorts(2);
  const tls = `ssl_certificate ${dir}/edge-tls/tls.crt; ssl_certificate_key ${dir}/edge-tls/tls.key; ssl_protocols TLSv1.3;`;
  const configuration = (name: string, servers: string): string => {
    const file = join(dir, `${name}.conf`);
    writeFileSync(
      file,
      `worker_processes 1; daemon off; master_process off; pid ${dir}/${name}.pid; error_log ${dir}/${name}.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; ${servers} }
`,
    );
    return file;
  };
  const second = configuration(
    "upstream",
    `upstream app { server 127.0.0.1:${appPort}; keepalive 64; }
server { listen 127.0.0.1:${upstream} ssl; ${tls} location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; } }`,
  );
  const first = configuration(
    "front",
    `upstream mesh { server 127.0.0.1:${upstream}; keepalive 64; }
server { listen 127.0.0.1:${port} ssl http2; ${tls}
  location = /auth { internal; if ($cookie___Host-session = "") { return 401; } return 204; }
  location / { auth_request /auth; proxy_pass https://mesh; proxy_ssl_protocols TLSv1.3; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-User alice; } }`,
  );
  stops.push((await startProgram("nginx", ["-p", dir, "-c", second], upstream)).stop);
  const program = await startProgram("nginx", ["-p", dir, "-c", first], port);
  stops.push(program.stop);
  return { pid: program.pid, port };
}
