// What else people put in front of applications: nginx that asks for each request (`auth_request`), once answered by itself
// (the least that this form can cost) and once by oauth2-proxy, where somebody is signed in with a real OpenID Provider.
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request as httpsRequest } from "node:https";
import { join } from "node:path";
import { promisify } from "node:util";
import type { EdgeAnswer } from "../../../sidecar/gateway/people.ts";
import { freePorts } from "../../demo/process.ts";
import { startOpenIdProvider } from "../../fakes/openid-provider.ts";
import { installed, runInstaller } from "../../interop/installed.ts";
import { BaseBrowser } from "../../sidecar/gateway/login/browser.ts";
import { startProgram } from "../datapath/program.ts";

export interface EdgePeer {
  /** CPU of all of them counts. */
  readonly pids: readonly number[];
  readonly port: number;
  /** Of somebody who is signed in. */
  readonly cookie: string;
  stop(): Promise<void>;
}

const MODULE = "github.com/oauth2-proxy/oauth2-proxy/v7";
const VERSION = "v7.7.1";
/** Of the module's source, since not every mirror carries its line of the checksum database. */
const SUM = "h1:4f8k/5E1jPUlwiOw0wmmca37PPohe0MeSreDfpP+HCo=";
const SECRET = "a secret of the client, thirty-two bytes";

/** Path of oauth2-proxy, built once into the user's cache. @throws Error where that is not possible. */
async function oauth2Proxy(): Promise<string> {
  const folder = await installed("go-oauth2-proxy", `${MODULE}@${VERSION}`, async (target) => {
    const env = { GONOSUMDB: MODULE, GOFLAGS: "-mod=mod" };
    const work = mkdtempSync(join(target, "build-"));
    writeFileSync(join(work, "go.mod"), `module bench\n\ngo 1.24\n\nrequire ${MODULE} ${VERSION}\n`);
    const { stdout } = await promisify(execFile)("go", ["mod", "download", "-json", `${MODULE}@${VERSION}`], {
      env: { ...process.env, ...env },
    });
    const { Sum } = JSON.parse(stdout) as { readonly Sum?: string }; // what the command prints
    if (Sum !== SUM) throw new Error(`${MODULE}@${VERSION} has the sum \`${Sum}\`, not \`${SUM}\``);
    const output = join(target, "oauth2-proxy");
    await runInstaller("go", ["build", "-C", work, "-trimpath", "-ldflags=-s -w", "-o", output, MODULE], env);
    rmSync(work, { recursive: true, force: true });
  });
  if (folder === undefined)
    throw new Error("oauth2-proxy cannot be built here: it needs Go and its module proxy");
  return join(folder, "oauth2-proxy");
}

const tls = (dir: string): string =>
  `ssl_certificate ${dir}/edge-tls/tls.crt; ssl_certificate_key ${dir}/edge-tls/tls.key; ssl_protocols TLSv1.3;`;

function writeNginx(dir: string, name: string, servers: string): string[] {
  const file = join(dir, `${name}.conf`);
  writeFileSync(
    file,
    `worker_processes 1; daemon off; master_process off; pid ${dir}/${name}.pid; error_log ${dir}/${name}.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; large_client_header_buffers 4 32k; proxy_buffer_size 32k; proxy_buffers 8 32k; ${servers} }
`,
  );
  return ["-p", dir, "-c", file];
}

/** An nginx that ends TLS in front of the application, as the callee's sidecar does. @returns its port. */
export async function startUpstream(
  dir: string,
  appPort: number,
): Promise<{ readonly port: number; stop(): Promise<void> }> {
  const [port = 0] = await freePorts(1);
  const servers = `upstream app { server 127.0.0.1:${appPort}; keepalive 64; }
server { listen 127.0.0.1:${port} ssl; ${tls(dir)} location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; } }`;
  const { stop } = await startProgram("nginx", writeNginx(dir, "upstream", servers), port);
  return { port, stop };
}

/** One worker that ends TLS, asks `auth`, and speaks TLS 1.3 to the upstream. */
async function startFront(
  dir: string,
  name: string,
  port: number,
  upstream: number,
  auth: string,
): Promise<{ readonly pid: number; stop(): Promise<void> }> {
  const servers = `upstream mesh { server 127.0.0.1:${upstream}; keepalive 64; }
${auth}
  location / { auth_request /oauth2/auth; auth_request_set $user $upstream_http_x_auth_request_user; auth_request_set $email $upstream_http_x_auth_request_email;
    proxy_pass https://mesh; proxy_ssl_protocols TLSv1.3; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Cookie "";
    proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto https;
    proxy_set_header X-Forwarded-User $user; proxy_set_header X-Forwarded-Email $email; } }`;
  return startProgram("nginx", writeNginx(dir, name, servers), port);
}

/** nginx that answers its own question. */
export async function startNginx(dir: string, upstream: number, sessionId: string): Promise<EdgePeer> {
  const [port = 0] = await freePorts(1);
  const auth = `server { listen 127.0.0.1:${port} ssl http2; ${tls(dir)}
  location = /oauth2/auth { internal; if ($cookie___Host-session = "") { return 401; } return 204; }`;
  const { pid, stop } = await startFront(dir, "front", port, upstream, auth);
  return { pids: [pid], port, cookie: `__Host-session=${sessionId}`, stop };
}

/** nginx and oauth2-proxy, with the session in its cookie, as it comes, or in Redis. */
export async function startOauth2Proxy(
  dir: string,
  upstream: number,
  store: "cookie" | "redis",
): Promise<EdgePeer> {
  const binary = await oauth2Proxy();
  const [port = 0, proxy = 0, redis = 0] = await freePorts(3);
  const stops: (() => Promise<void>)[] = [];
  const stop = async (): Promise<void> => {
    for (const one of stops.reverse()) await one();
  };
  try {
    const redirect = `https://localhost:${port}/oauth2/callback`;
    const op = await startOpenIdProvider({
      clientId: "gateway",
      clientSecret: SECRET,
      redirectUris: [redirect],
    });
    stops.push(() => op.close());
    // Claims of 2 KB, as in our session.
    op.claims.set("alice", { groups: Array.from({ length: 45 }, () => randomBytes(18).toString("hex")) });
    const kept: string[] = [];
    if (store === "redis") {
      const args = ["--port", String(redis), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
      stops.push((await startProgram("redis-server", args, redis)).stop);
      kept.push("--session-store-type=redis", `--redis-connection-url=redis://127.0.0.1:${redis}`);
    }
    const sidecar = await startProgram(
      binary,
      [
        ...[
          "--provider=oidc",
          `--oidc-issuer-url=${op.issuer}`,
          "--client-id=gateway",
          `--client-secret=${SECRET}`,
        ],
        ...[
          "--email-domain=*",
          `--http-address=127.0.0.1:${proxy}`,
          "--reverse-proxy=true",
          "--upstream=static://202",
        ],
        ...[`--redirect-url=${redirect}`, "--code-challenge-method=S256", "--skip-provider-button=true"],
        ...[
          "--set-xauthrequest=true",
          `--cookie-secret=${randomBytes(16).toString("hex")}`,
          "--cookie-secure=true",
        ],
        ...[
          "--request-logging=false",
          "--auth-logging=false",
          "--standard-logging=false",
          "--scope=openid email profile",
        ],
        ...kept,
      ],
      proxy,
    );
    stops.push(sidecar.stop);
    const ask = `proxy_pass http://auth; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-Proto https; proxy_set_header X-Forwarded-Uri $request_uri;`;
    const auth = `upstream auth { server 127.0.0.1:${proxy}; keepalive 64; }
server { listen 127.0.0.1:${port} ssl http2; ${tls(dir)}
  location = /oauth2/auth { internal; ${ask} proxy_pass_request_body off; proxy_set_header Content-Length ""; }
  location /oauth2/ { ${ask} }`;
    const front = await startFront(dir, `oauth2-${store}`, port, upstream, auth);
    stops.push(front.stop);
    const cookie = await signIn(port);
    return { pids: [front.pid, sidecar.pid], port, cookie, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** @returns the cookies of somebody who has signed in. */
async function signIn(port: number): Promise<string> {
  const browser = new LocalBrowser("alice");
  const host = `localhost:${port}`;
  await browser.go(`https://${host}/oauth2/start?rd=%2Fthings%2Fa`, { host });
  const cookie = browser.jar.field(host);
  const { status } = await browser.ask("/things/a", { host });
  if (cookie === undefined || status !== 200)
    throw new Error(`signing in at oauth2-proxy failed: ${status}, cookies \`${cookie?.slice(0, 60)}\``);
  return cookie;
}

/** Speaks TLS to a port of this machine, whatever its certificate says. */
class LocalBrowser extends BaseBrowser {
  async ask(target: string, asked: { readonly host?: string } = {}): Promise<EdgeAnswer> {
    const { host = "localhost" } = asked;
    const cookie = this.jar.field(host);
    const { port, hostname } = new URL(`https://${host}`);
    const answer = await new Promise<EdgeAnswer>((resolve, reject) => {
      const options = { host: "127.0.0.1", port, servername: hostname, path: target, agent: false };
      const headers = cookie === undefined ? { host } : { host, cookie };
      // The certificate was made for this run; nothing but this machine is on the way.
      const outgoing = httpsRequest({ ...options, headers, rejectUnauthorized: false }, (response) => {
        const fields: [string, string][] = [];
        const { rawHeaders } = response;
        for (let i = 0; i < rawHeaders.length; i += 2)
          fields.push([(rawHeaders[i] ?? "").toLowerCase(), rawHeaders[i + 1] ?? ""]);
        response
          .resume()
          .on("end", () => resolve({ kind: "answer", status: response.statusCode ?? 0, fields, body: "" }));
      });
      outgoing.on("error", reject);
      outgoing.end();
    });
    this.jar.take(
      host,
      answer.fields.filter(([name]) => name === "set-cookie").map(([, value]) => value),
    );
    return answer;
  }
}
