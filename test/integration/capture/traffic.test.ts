// What captured traffic becomes, with the kernel's own redirections, two real sidecars and a real control plane: cluster
// IPs, pod IPs, what is outside of the mesh, false Host fields, plaintext callers and the application's metrics.
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { type RunningProcess, repositoryRoot } from "../../demo/process.ts";
import { edgeCertificate } from "../../fakes/edge-certificate.ts";
import { policyYaml } from "../../fakes/mesh.ts";
import type { Overrides } from "./control-plane.ts";
import { ADDRESSES, canMakeNamespaces, hasBackend, Namespaces, type Place } from "./namespaces.ts";

const CLI = join(repositoryRoot, "dist/control-plane/cli/main.js");
const CONTROL_PLANE = join(repositoryRoot, "test/integration/capture/control-plane.ts");
const PROXY_UID = 61_600;
const able = canMakeNamespaces("captured traffic in network namespaces");
const backend = able ? (["nft", "legacy"] as const).find(hasBackend) : undefined;

/** Cluster IPs: nobody has them, like in a cluster. */
const SCORER = { ipv4: "10.96.0.7", ipv6: "fd96::7" };
const VAULT = { ipv4: "10.96.0.9", ipv6: "fd96::9" };
const CLUSTER: Overrides = {
  services: {
    "serving/scorer": { addresses: [SCORER.ipv4, SCORER.ipv6], port: 80 },
    "sec/vault": { addresses: [VAULT.ipv4, VAULT.ipv6], port: 80 },
  },
};

// The vault stands in the outside world, where whoever gets past the mesh would find it.
const MESH = `
apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: test.example}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: notebook, namespace: lab}
spec: {kind: notebook, serviceAccount: notebook, addresses: ["${ADDRESSES.client.ipv4}"], meshPort: 16008}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: scorer, namespace: serving}
spec: {kind: serving, serviceAccount: scorer, addresses: ["${ADDRESSES.server.ipv4}", "${ADDRESSES.server.ipv6}"], meshPort: 16008, service: scorer, ports: [{port: 8080, protocol: http, packs: [mlflow-scoring]}]}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: vault, namespace: sec}
spec: {kind: service, serviceAccount: vault, addresses: ["${ADDRESSES.world.ipv4}", "${ADDRESSES.world.ipv6}"], meshPort: 16008, service: vault, ports: [{port: 9000, protocol: http, packs: [mlflow-scoring]}]}
`;

const NO_DELETIONS = `
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-deletions, namespace: serving}
spec:
  action: Deny
  targets: [{names: [scorer]}]
  rules: [{name: all, operations: [{http: {methods: [DELETE], paths: ["/**"]}}]}]
`;

// Hosts of the outside world that are declared, and one of them open to notebooks.
const OUTSIDE = `
apiVersion: countersign.dev/v1alpha1
kind: ExternalService
metadata: {name: open, namespace: lab}
spec: {hosts: [open.example]}
---
apiVersion: countersign.dev/v1alpha1
kind: ExternalService
metadata: {name: closed, namespace: lab}
spec: {hosts: [closed.example]}
---
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: open, namespace: lab}
spec:
  action: Allow
  targets: [{external: open}]
  rules: [{name: any, from: [{workload: {kinds: [notebook]}}], operations: [{any: true}]}]
`;
const OUTSIDE_HOSTS = ["open.example", "closed.example", "other.example"];
/** Nobody has them (RFC 5737, RFC 3849). */
const NOWHERE = { ipv4: "203.0.113.9", ipv6: "2001:db8::9" };

const TLS_APP = `
const { readFileSync } = require("node:fs");
const [cert, key] = process.argv.slice(1).map((file) => readFileSync(file));
require("node:https").createServer({ cert, key }, (request, response) => response.end("at " + request.headers.host))
  .listen(443, "::", () => console.log("listening"));
`;

const APP = `
const { createServer } = require("node:http");
const { createSocket } = require("node:dgram");
for (const port of process.argv.slice(1).map(Number))
  createServer((request, response) => {
    if (request.url === "/stats") return response.end("app_calls_total 3\\ncountersign_forged_total 1\\n");
    const { host, "x-mesh-caller": caller } = request.headers;
    response.end([port, request.method, request.url, host, caller].join(" "));
  }).listen(port, "::", () => console.log("listening"));
createSocket("udp4", (text, from) => createSocket("udp4").send(text, from.port, from.address)).bind(53);
`;

const uri = (addresses: { ipv4: string; ipv6: string }, family: "ipv4" | "ipv6", rest: string): string =>
  `http://${family === "ipv6" ? `[${addresses.ipv6}]` : addresses.ipv4}${rest}`;

(backend === undefined ? describe.skip : describe)("captured traffic", () => {
  const dir = mkdtempSync(join(tmpdir(), "countersign-traffic-"));
  let spaces: Namespaces;
  let controlPlane: RunningProcess;

  async function until(url: string, isThere: (answer: { status: string; body: string }) => boolean) {
    for (let attempt = 0; attempt < 2_000; attempt++) {
      if (isThere(await spaces.curl("world", url))) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`${url} never answered as it should: ${controlPlane.errors()}`);
  }

  /** In force in both sidecars when it resolves. */
  async function use(config: Overrides["config"] = {}): Promise<void> {
    controlPlane.writeLine(JSON.stringify({ ...CLUSTER, config }));
    expect(await controlPlane.nextLine()).toBe("applied");
  }

  async function sample(place: Place, line: string): Promise<number> {
    const { body } = await spaces.curl("world", uri(ADDRESSES[place], "ipv4", ":16020/metrics"));
    const found = body.split("\n").find((one) => one.startsWith(`${line} `));
    return Number(found?.slice(line.length + 1) ?? 0);
  }
  const captured = (place: Place, direction: string, result: string) =>
    sample(place, `countersign_captured_connections_total{direction="${direction}",result="${result}"}`);

  async function startSidecar(place: "client" | "server", workload: string, token: string): Promise<void> {
    const state = join(dir, place);
    const file = join(dir, `${place}.token`);
    mkdirSync(state, { mode: 0o700 });
    chownSync(state, PROXY_UID, PROXY_UID);
    writeFileSync(file, token, { mode: 0o644 });
    const { ipv4 } = ADDRESSES.world;
    spaces.start(
      place,
      place,
      "setpriv",
      ...[`--reuid=${PROXY_UID}`, `--regid=${PROXY_UID}`, "--clear-groups"],
      // A checkout may lie where this user cannot read; an image does not.
      ...["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"],
      ...[process.execPath, CLI, "sidecar", "--capture", "on", "--workload", workload],
      ...["--bootstrap", `${ipv4}:16011`, "--control-plane", `${ipv4}:16012`, "--join-token-file", file],
      ...["--state-dir", state, "--mesh-listen", "[::]:16008", "--metrics-listen", "[::]:16020"],
      ...["--app", ADDRESSES[place].ipv4, "--app-metrics", "8080/stats"],
    );
    await until(uri(ADDRESSES[place], "ipv4", ":16020/readyz"), ({ status }) => status === "200");
  }

  beforeAll(async () => {
    chmodSync(dir, 0o755);
    spaces = new Namespaces(`cst${process.pid}`);
    mkdirSync(join(dir, "config"));
    writeFileSync(join(dir, "config", "mesh.yaml"), MESH);
    writeFileSync(join(dir, "config", "policy.yaml"), policyYaml("notebooks", "scorer", "notebook"));
    writeFileSync(join(dir, "config", "deny.yaml"), NO_DELETIONS);
    writeFileSync(join(dir, "config", "outside.yaml"), OUTSIDE);
    const world = OUTSIDE_HOSTS.join(" ");
    spaces.hosts("client", `${ADDRESSES.world.ipv4} ${world}\n${ADDRESSES.world.ipv6} ${world}\n`);
    const { ca, cert, key } = await edgeCertificate(OUTSIDE_HOSTS, Date.now());
    for (const [name, text] of Object.entries({ ca, cert, key }))
      writeFileSync(join(dir, `outside.${name}`), text);
    const outside = ["cert", "key"].map((name) => join(dir, `outside.${name}`));
    const tls = spaces.start("outside", "world", process.execPath, "-e", TLS_APP, ...outside);
    await tls.nextLine();
    const args = [
      "--disable-warning=ExperimentalWarning",
      CONTROL_PLANE,
      join(dir, "config"),
      join(dir, "cp"),
    ];
    mkdirSync(join(dir, "cp"), { mode: 0o700 });
    controlPlane = spaces.start("control plane", "world", process.execPath, ...args);
    const tokens = new Map<string, string>();
    for (let line = await controlPlane.nextLine(); line !== "serves"; line = await controlPlane.nextLine()) {
      const [workload = "", token = ""] = line.split(" ");
      tokens.set(workload, token);
    }
    const apps: [Place, ...string[]][] = [
      ["server", "8080", "8081"],
      ["world", "9000", "9001", "53", "80"],
    ];
    for (const [place, ...ports] of apps) {
      const app = spaces.start(`app of ${place}`, place, process.execPath, "-e", APP, ...ports);
      for (const _ of ports) await app.nextLine();
    }
    const init = [process.execPath, CLI, "capture-init", "--iptables", backend ?? "nft"] as const;
    spaces.exec("client", ...init, "--exclude-outbound-ports", "9001");
    spaces.exec("server", ...init, "--exclude-inbound-ports", "8081");
    await startSidecar("client", "lab/notebook", tokens.get("lab/notebook") ?? "");
    await startSidecar("server", "serving/scorer", tokens.get("serving/scorer") ?? "");
  });
  beforeEach(() => use({ mtls: "Strict", outbound: "Deny" }));
  afterAll(async () => {
    await spaces?.close();
    rmSync(dir, { recursive: true, force: true });
  });

  describe.each(["ipv4", "ipv6"] as const)("over %s", (family) => {
    const invoke = (addresses: typeof SCORER, rest: string, ...more: readonly string[]) =>
      spaces.curl("client", uri(addresses, family, rest), "-d", "{}", ...more);

    test("a cluster IP leads to the service's endpoints and their port", async () => {
      const { status, body } = await invoke(SCORER, "/invocations");
      expect({ status, body }).toMatchObject({ status: "200" });
      expect(body).toMatch(/^8080 POST \/invocations /);
    });

    test("a pod IP leads to that pod, by the port of its container", async () => {
      expect((await invoke(ADDRESSES.server, ":8080/invocations")).status).toBe("200");
      // The service's port means nothing there: it is outside.
      const outside = await invoke(ADDRESSES.server, "/invocations");
      expect(JSON.parse(outside.body)).toMatchObject({ reason: "OUTBOUND_DENIED" });
    });

    test.each(["Deny", "Allow"] as const)(
      "an allowed Host opens no forbidden address (outbound: %s)",
      async (outbound) => {
        await use({ mtls: "Strict", outbound });
        const passed = await captured("client", "outbound", "passed");
        const at = family === "ipv6" ? `[${VAULT.ipv6}]` : VAULT.ipv4;
        const answer = await invoke(VAULT, "/invocations", "-H", "host: scorer.serving");
        expect(answer.status).toBe("403");
        expect(JSON.parse(answer.body)).toMatchObject({ reason: "DEFAULT_DENY", target: `${at}:80` });
        // The same by the pod's own address.
        const pod = await invoke(ADDRESSES.world, ":9000/invocations", "-H", "host: scorer.serving");
        expect(JSON.parse(pod.body)).toMatchObject({ reason: "DEFAULT_DENY" });
        expect(await captured("client", "outbound", "passed")).toBe(passed);
      },
    );

    test("a forbidden Host leads nowhere else than the address", async () => {
      const answer = await invoke(SCORER, "/invocations", "-H", "host: vault.sec");
      expect(answer).toMatchObject({ status: "200", body: "8080 POST /invocations vault.sec " });
    });

    test("`outbound` decides on what is not of the mesh, and only on that", async () => {
      const outside = uri(ADDRESSES.world, family, "/");
      const denied = await spaces.curl("client", outside);
      expect(JSON.parse(denied.body)).toMatchObject({ reason: "OUTBOUND_DENIED" });
      await use({ mtls: "Strict", outbound: "Allow" });
      const before = await captured("client", "outbound", "passed");
      expect((await spaces.curl("client", outside)).body).toMatch(/^80 GET \/ /);
      expect(await captured("client", "outbound", "passed")).toBe(before + 1);
      // What is not of the mesh and cannot be reached stays that.
      expect((await spaces.curl("client", uri(ADDRESSES.server, family, ":8081/"))).status).toBe("200");
      await use({ mtls: "Strict", outbound: "Deny" });
      expect((await spaces.curl("client", outside)).status).toBe("403");
    });

    test.each(["Deny", "Allow"] as const)(
      "TLS of the application to a declared host is decided on by its name, which it goes to (outbound: %s)",
      async (outbound) => {
        await use({ mtls: "Strict", outbound });
        const get = (name: string, address: string) => {
          const at = `${name}:443:${family === "ipv6" ? `[${address}]` : address}`;
          return spaces.curl(
            "client",
            `https://${name}/`,
            "--cacert",
            join(dir, "outside.ca"),
            "--resolve",
            at,
          );
        };
        const counts = () =>
          Promise.all(["external", "passed", "reset"].map((one) => captured("client", "outbound", one)));
        const [external = 0, passed = 0, reset = 0] = await counts();
        const at = ADDRESSES.world[family];
        expect(await get("open.example", at)).toMatchObject({ status: "200", body: "at open.example" });
        // The address is not what is believed.
        expect(await get("open.example", NOWHERE[family])).toMatchObject({
          status: "200",
          body: "at open.example",
        });
        expect(await get("closed.example", at)).toMatchObject({ status: "000", body: "" });
        expect(await counts()).toEqual([external + 3, passed, reset]);
        // What nobody declares is decided by the settings alone.
        const isPassed = outbound === "Allow";
        expect((await get("other.example", at)).status).toBe(isPassed ? "200" : "000");
        expect(await counts()).toEqual([
          external + 3,
          passed + (isPassed ? 1 : 0),
          reset + (isPassed ? 0 : 1),
        ]);
      },
    );

    test("names are asked for, excluded ports and loopback are reached uncaptured", async () => {
      const counts = () =>
        Promise.all(["mesh", "passed", "refused", "reset"].map((one) => captured("client", "outbound", one)));
      const before = await counts();
      expect((await spaces.curl("client", uri(ADDRESSES.world, family, ":53/"))).body).toMatch(/^53 GET/);
      expect((await spaces.curl("client", uri(ADDRESSES.world, family, ":9001/"))).body).toMatch(/^9001 GET/);
      // Nobody listens there: refused by the kernel, not by the sidecar.
      expect(
        (await spaces.curl("client", `http://${family === "ipv6" ? "[::1]" : "127.0.0.1"}:7/`)).code,
      ).toBe(7);
      expect(await counts()).toEqual(before);
    });

    test("plaintext callers are let in while the namespace is permissive, and say nothing of themselves", async () => {
      const call = (...more: readonly string[]) =>
        spaces.curl(
          "world",
          uri(ADDRESSES.server, family, ":8080/a"),
          "-H",
          "x-mesh-caller: root",
          "-H",
          "host: s",
          ...more,
        );
      expect(JSON.parse((await call()).body)).toMatchObject({ reason: "AUTHN_MTLS_REQUIRED" });
      await use({ mtls: "Permissive" });
      const before = await captured("server", "inbound", "plaintext");
      expect(await call()).toMatchObject({ status: "200", body: "8080 GET /a s " });
      expect(await captured("server", "inbound", "plaintext")).toBe(before + 1);
      const denied = await call("-X", "DELETE");
      expect(denied.status).toBe("403");
      expect(JSON.parse(denied.body)).toMatchObject({ reason: "DENIED_BY_POLICY", caller: "plaintext" });
      const [undeclared] = [await spaces.curl("world", uri(ADDRESSES.server, family, ":8090/"))];
      expect(undeclared.status).toBe("400");
      // Callers of the mesh come with their identity as before.
      expect((await invoke(SCORER, "/secrets")).status).toBe("403");
      await use({ mtls: "Strict" });
      expect((await call()).status).toBe("403");
    });
  });

  test("names are asked for over UDP", async () => {
    const ask = `const s = require("node:dgram").createSocket("udp4");
      s.on("message", (m) => { console.log(String(m)); s.close(); });
      s.send("which?", 53, "${ADDRESSES.world.ipv4}"); setTimeout(() => process.exit(1), 60_000).unref();`;
    expect((await spaces.run("client", process.execPath, "-e", ask)).stdout).toBe("which?\n");
  });

  test("the application's metrics come through the sidecar's port, and nothing else does", async () => {
    const page = (path: string) => spaces.curl("world", uri(ADDRESSES.server, "ipv4", `:16020${path}`));
    expect((await page("/app-metrics")).body).toContain("app_calls_total 3\n");
    const { body } = await page("/merged-metrics");
    expect(body).toContain("\napp_calls_total 3\n");
    expect(body).toContain("countersign_app_metrics_up 1\n");
    expect(body).not.toContain("forged");
    expect((await page("/stats")).status).toBe("404");
    expect((await page("/app-metrics/../invocations")).status).toBe("404");
  });
});
