// `countersign login` as people use it: the command line as a process, a browser that agrees, and calls with the token.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, request as httpsRequest } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { until } from "../../demo/mesh-processes.ts";
import { repositoryRoot } from "../../demo/process.ts";
import { edgeCertificate } from "../../fakes/edge-certificate.ts";
import { fieldOf, textOf } from "../../sidecar/gateway/login/browser.ts";
import { HOST, ISSUER_HOST, type NetBrowser, type PeopleMesh, startPeopleMesh } from "./people-mesh.ts";

const MAIN = join(repositoryRoot, "dist/control-plane/cli/main.js");

/** The command line under way. */
class Running {
  readonly #child: ChildProcess;
  out = "";
  err = "";
  readonly status: Promise<number | null>;

  constructor(args: readonly string[], home: string) {
    this.#child = spawn(process.execPath, [MAIN, ...args], {
      env: { PATH: process.env["PATH"], XDG_CONFIG_HOME: home, NODE_NO_WARNINGS: "1" },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#child.stdout?.on("data", (chunk) => {
      this.out += String(chunk);
    });
    this.#child.stderr?.on("data", (chunk) => {
      this.err += String(chunk);
    });
    this.status = new Promise((resolve) => this.#child.on("close", resolve));
  }

  /** The address that a person is to open. */
  async address(): Promise<string> {
    return await until("the address", () => /https:\S+authorize\S+/.exec(this.err)?.[0]);
  }

  stop(): void {
    this.#child.kill("SIGKILL");
  }
}

describe("a person at a terminal", () => {
  let mesh: PeopleMesh;
  let home: string;
  let gateway: string;
  let host: string;
  const running: Running[] = [];
  const countersign = (...args: string[]): Running => {
    const started = new Running(args, home);
    running.push(started);
    return started;
  };
  beforeAll(async () => {
    mesh = await startPeopleMesh({ localhost: true });
    mesh.op.claims.set("alice", { groups: ["fraud"] });
    home = mkdtempSync(join(tmpdir(), "countersign-home-"));
    writeFileSync(join(home, "roots.pem"), mesh.ca);
    host = `localhost:${mesh.gatewayPort}`;
    gateway = `https://${host}`;
  });
  afterAll(async () => {
    for (const one of running) one.stop();
    await mesh?.close();
    if (home !== undefined) rmSync(home, { recursive: true, force: true });
  });

  /** Opens the address and gives access; the result is where the browser is sent then. */
  async function agree(browser: NetBrowser, address: string): Promise<string> {
    const { answer, url } = await browser.go(address, { host });
    expect(new URL(url).pathname).toBe("/.countersign/authorize");
    expect(textOf(answer)).toContain("alice@acme.example");
    const form = new URLSearchParams(
      Array.from(
        textOf(answer).matchAll(/<input type="hidden" name="([^"]+)" value="([^"]*)"/g),
        ([, name = "", value = ""]): [string, string] => [name, value],
      ),
    );
    const agreed = await browser.ask("/.countersign/authorize", {
      ...{ method: "POST", host, body: String(form) },
      fields: {
        "content-type": "application/x-www-form-urlencoded",
        // As browsers write them for a page with `Referrer-Policy: no-referrer`.
        ...{ origin: "null", "sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate" },
      },
    });
    expect(agreed.status).toBe(303);
    return fieldOf(agreed, "location") ?? "";
  }

  function call(token: string, path = "/run", method = "GET"): Promise<number> {
    return new Promise((resolve, reject) => {
      httpsRequest(
        `${gateway}${path}`,
        { ca: mesh.ca, agent: false, method, headers: { authorization: `Bearer ${token}` } },
        (response) => response.resume().on("end", () => resolve(response.statusCode ?? 0)),
      )
        .on("error", reject)
        .end();
    });
  }

  test("is told at once when there is no gateway, when it is not trusted, and when something else answers", async () => {
    const refused = async (...args: string[]): Promise<string> => {
      const login = countersign("login", ...args, "--no-browser");
      expect(await login.status).not.toBe(0);
      expect(login.err).not.toContain("Open this address");
      return login.err;
    };
    expect(await refused("https://127.0.0.1:1")).toContain("cannot be asked");
    expect(await refused(gateway)).toContain("name its roots with `--ca FILE`");
    const { cert, key, ca } = await edgeCertificate(["localhost"], Date.now());
    writeFileSync(join(home, "other.pem"), ca);
    const other = createServer({ cert, key }, (_, response) => response.writeHead(404).end("{}"));
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    const { port } = other.address() as AddressInfo; // Listens on TCP.
    try {
      const elsewhere = await refused(`https://localhost:${port}`, "--ca", join(home, "other.pem"));
      expect(elsewhere).toContain("is it the address of a Countersign gateway?");
    } finally {
      other.close();
    }
  });

  test("signs in by the browser, calls a model as themselves, and signs out", async () => {
    const browser = mesh.browser("alice");
    const login = countersign("login", gateway, "--ca", join(home, "roots.pem"), "--no-browser");
    const address = await login.address();
    const [shown] = /[2-9A-Z]{4}-[2-9A-Z]{4}/.exec(login.err) ?? [];
    const page = await browser.go(address, { host });
    expect(textOf(page.answer)).toContain(`>${shown}<`);
    const callback = await agree(browser, address);
    expect(callback).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/callback\?code=/);
    const done = await fetch(callback);
    expect([done.status, await done.text()]).toEqual([200, expect.stringContaining("Done.")]);
    expect(await login.status).toBe(0);
    expect(login.out).toContain(`signed in at ${gateway} as acme|alice until `);

    const file = join(home, "countersign", "logins.json");
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const print = countersign("login", "--print");
    expect([await print.status, print.err]).toEqual([0, ""]);
    expect(print.out).toMatch(/^countersign_[A-Za-z0-9_-]{43}\n$/);
    const token = print.out.trim();
    // Neither the token nor anything else that gives access is printed otherwise.
    expect(login.out + login.err).not.toContain(token);

    expect(await call(token)).toBe(200);
    const line = await until("the record", () =>
      mesh.recorded().find(({ userIdentity }) => userIdentity?.id === "acme|alice"),
    );
    expect(line).toMatchObject({
      userIdentity: { roles: ["fraud-ds"] },
      identityMetadata: { origin: "gateway/people", caller: "notebook/nb" },
      decision: { effect: "Allow" },
    });
    expect(JSON.stringify(mesh.seen.headers)).not.toContain("countersign_");

    const who = countersign("whoami", "--json");
    expect(await who.status).toBe(0);
    expect(JSON.parse(who.out)).toMatchObject({ signedIn: true, user: "acme|alice", roles: ["fraud-ds"] });

    const endpoint = countersign("token", "--audience", "ml-serving/scorer", "--json");
    expect([await endpoint.status, endpoint.err]).toEqual([0, ""]);
    const short = JSON.parse(endpoint.out);
    // All that policies let a scientist do there, and no more.
    expect(short).toMatchObject({ audience: "ml-serving/scorer", scope: "serving.invoke.predict" });
    expect(Date.parse(short.expiresAt) - Date.now()).toBeLessThanOrEqual(300_000);
    expect(await call(short.token, "/invocations", "POST")).toBe(200);
    const scored = await until("the record", () =>
      mesh.recorded().find(({ identityMetadata }) => identityMetadata.caller === "gateway/people"),
    );
    expect(scored).toMatchObject({
      ...{ actionName: "serving.invoke.predict", userIdentity: { id: "acme|alice", roles: ["fraud-ds"] } },
      txn: JSON.parse(Buffer.from(short.token.split(".")[1], "base64url").toString()).jti,
    });
    // The notebook is another endpoint, and the model's metrics another operation.
    expect(await call(short.token)).toBe(401);
    for (const [audience, why] of [
      ["ml-serving/other", "there is no serving endpoint"],
      ["ml-dev/nb", "there is no serving endpoint"],
    ] as const) {
      const refused = countersign("token", "--audience", audience);
      expect([await refused.status, refused.err, refused.out]).toEqual([1, expect.stringContaining(why), ""]);
    }
    const wide = countersign("token", "--audience", "ml-serving/scorer", "--scope", "mlflow");
    expect([await wide.status, wide.err]).toEqual([1, expect.stringContaining("policies do not let")]);
    const events = await until("the gateway's events", () => {
      const found = (mesh.gateways[0]?.edgeEvents() ?? []).filter(
        ({ actionName }) => actionName === "token.exchange",
      );
      return found.length < 4 ? undefined : found;
    });
    expect(events.map(({ decision }) => decision.reason)).toEqual([
      "ALLOWED",
      "TARGET_UNKNOWN",
      "TARGET_UNKNOWN",
      "SCOPE_EXCEEDED",
    ]);

    const out = countersign("logout");
    expect(await out.status).toBe(0);
    expect(await call(token)).toBe(401);
    expect(readFileSync(file, "utf8")).not.toContain(token);
    const nobody = countersign("whoami");
    expect([await nobody.status, nobody.err]).toEqual([
      1,
      `countersign: you are not signed in at ${gateway}; run \`countersign login ${gateway}\`\n`,
    ]);
  });

  test("a token ends when its person signs out in the browser", async () => {
    const browser = mesh.browser("alice");
    const login = countersign("login", "--print", "--ca", join(home, "roots.pem"), "--no-browser");
    await fetch(await agree(browser, await login.address()));
    expect(await login.status).toBe(0);
    const token = login.out.trim();
    expect(await call(token)).toBe(200);
    const endpoint = countersign("token", "--audience", "ml-serving/scorer");
    expect(await endpoint.status).toBe(0);
    const short = endpoint.out.trim();
    expect(await call(short, "/invocations", "POST")).toBe(200);
    await browser.ask("/.countersign/logout", { method: "POST", host, fields: { origin: gateway } });
    expect(await call(token)).toBe(401);
    await until("the end of the token for an endpoint", async () =>
      (await call(short, "/invocations", "POST")) === 401 ? true : undefined,
    );
    const after = countersign("token", "--audience", "ml-serving/scorer");
    expect([await after.status, after.err]).toEqual([1, expect.stringContaining("the session has ended")]);
    const who = countersign("whoami");
    expect([await who.status, who.err]).toEqual([1, expect.stringContaining("the session has ended")]);
  });

  test("signed in at the login host, a browser opens another host without being asked again", async () => {
    const browser = mesh.browser("alice");
    const other = `https://${HOST}:${mesh.gatewayPort}`;
    const first = await browser.go("/run", { host: new URL(other).host });
    expect([first.url, textOf(first.answer)]).toEqual([`${other}/run`, '{"score":0.1}']);
    expect(first.way.some((each) => each.startsWith(`${gateway}/.countersign/callback/acme`))).toBe(true);
    // Silent refresh goes on in the background.
    const people = (): number => mesh.op.asked.filter((each) => each.startsWith("GET /auth")).length;
    const before = people();
    expect(textOf((await browser.go("/run", { host })).answer)).toBe('{"score":0.1}');
    expect(people()).toBe(before);
  });

  test("those outside find the keys of the mesh's tokens at the issuer's host, and nowhere else", async () => {
    const browser = mesh.browser();
    const json = { accept: "application/json" };
    const found = await until("the document", async () => {
      const answer = await browser.ask("/.well-known/openid-configuration", {
        host: ISSUER_HOST,
        fields: json,
      });
      return answer.status === 200 ? answer : undefined;
    });
    const document = JSON.parse(textOf(found));
    expect(document).toMatchObject({
      issuer: `https://${ISSUER_HOST}`,
      jwks_uri: `https://${ISSUER_HOST}/.well-known/jwks.json`,
    });
    expect(fieldOf(found, "cache-control")).toBe("public, max-age=300");
    const keys = await browser.ask("/.well-known/jwks.json", { host: ISSUER_HOST, fields: json });
    expect(JSON.parse(textOf(keys)).keys).toContainEqual(
      expect.objectContaining({ use: "sig", kty: "EC", crv: "P-256", kid: expect.stringMatching(/^tts-/) }),
    );
    expect(textOf(keys)).not.toContain('"d"');
    // Elsewhere the path is an application's.
    expect(await browser.ask("/.well-known/jwks.json", { fields: json })).toMatchObject({ status: 401 });
  });

  test("a token that the gateway did not end is kept, unless it is to be forgotten", async () => {
    const browser = mesh.browser("alice");
    const login = countersign("login", "--print", "--renew", "--ca", join(home, "roots.pem"), "--no-browser");
    await fetch(await agree(browser, await login.address()));
    expect(await login.status).toBe(0);
    const token = login.out.trim();
    const file = join(home, "countersign", "logins.json");
    // Nothing can be trusted under these roots: as good as out of reach.
    writeFileSync(join(home, "none.pem"), "");
    const failed = countersign("logout", "--ca", join(home, "none.pem"));
    expect([await failed.status, failed.err]).toEqual([
      3,
      expect.stringMatching(/the token is kept, and good there until \d{4}-.*`--force`/),
    ]);
    expect(readFileSync(file, "utf8")).toContain(token);
    expect(await call(token)).toBe(200);
    const forced = countersign("logout", "--force", "--ca", join(home, "none.pem"));
    expect([await forced.status, forced.out, forced.err]).toEqual([
      0,
      "",
      expect.stringContaining("who has a copy of the token can use it until"),
    ]);
    expect(readFileSync(file, "utf8")).not.toContain(token);
    expect(await call(token)).toBe(200);
  }, 60_000);

  test("says what is wrong: refused, not reachable, no gateway", async () => {
    const browser = mesh.browser("alice");
    const login = countersign("login", "--renew", "--ca", join(home, "roots.pem"), "--no-browser");
    const { answer } = await browser.go(await login.address(), { host });
    const cancel = /href="(http:\/\/127[^"]+)"/.exec(textOf(answer))?.[1]?.replaceAll("&amp;", "&") ?? "";
    await fetch(cancel);
    expect([await login.status, login.err]).toEqual([1, expect.stringContaining("you did not give access")]);
    const strange = countersign("whoami", "http://lab.example");
    expect([await strange.status, strange.err]).toEqual([
      2,
      expect.stringContaining("no address of a gateway"),
    ]);
  });
});
