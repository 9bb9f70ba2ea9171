// Capture as in pods: two network namespaces with real iptables rules, a real control plane between them, sidecars under
// their own user, and clients and applications that know nothing of the mesh.
import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type RunningProcess, repositoryRoot } from "../../demo/process.ts";
import { policyYaml } from "../../fakes/mesh.ts";
import { ADDRESSES, canMakeNamespaces, hasBackend, Namespaces, type Place } from "./namespaces.ts";

const CLI = join(repositoryRoot, "dist/control-plane/cli/main.js");
const PROXY_UID = 61_600;
const able = canMakeNamespaces("capture in network namespaces");

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
`;

/** An application that tells what it got; also what stands outside the mesh. */
const APP = `
const { createServer } = require("node:http");
const ports = process.argv.slice(1).map(Number);
for (const port of ports)
  createServer((request, response) => {
    if (request.url === "/unwell") response.statusCode = 500;
    response.end("app " + port + " saw " + request.method + " " + request.url);
  }).listen(port, "::", () => console.log("listening"));
`;

const uri = (place: Place, family: "ipv4" | "ipv6", port: number, path = "/"): string => {
  const address = ADDRESSES[place][family];
  return `http://${family === "ipv6" ? `[${address}]` : address}:${port}${path}`;
};

const backends = able ? (["nft", "legacy"] as const).filter(hasBackend) : [];

(backends.length > 0 ? describe.each(backends) : describe.skip.each(["nft"] as const))(
  "capture with %s iptables",
  (backend) => {
    const dir = mkdtempSync(join(tmpdir(), "countersign-capture-"));
    let spaces: Namespaces;
    const sidecars = new Map<Place, RunningProcess>();

    async function until(place: Place, url: string, status: string): Promise<void> {
      for (let attempt = 0; attempt < 1_000; attempt++) {
        const answer = await spaces.curl(place, url);
        if (answer.status === status) return;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      throw new Error(`${url} never answered ${status}: ${sidecars.get(place)?.errors()}`);
    }

    async function startSidecar(place: "client" | "server", workload: string): Promise<void> {
      const state = join(dir, place);
      const token = join(dir, `${place}.token`);
      mkdirSync(state, { recursive: true, mode: 0o700 });
      chownSync(state, PROXY_UID, PROXY_UID);
      writeFileSync(
        token,
        execFileSync(process.execPath, [
          CLI,
          "identity",
          "join-token",
          workload,
          "--state-dir",
          join(dir, "cp"),
        ]),
        { mode: 0o644 },
      );
      const world = ADDRESSES.world.ipv4;
      const probes = {
        "app/readiness": { httpGet: { path: "/ready", port: 8080 } },
        "app/liveness": { tcpSocket: { port: 8080 } },
        "app/startup": { httpGet: { path: "/unwell", port: 8080 } },
        "gone/liveness": { tcpSocket: { port: 8099 } },
      };
      sidecars.set(
        place,
        spaces.start(
          place,
          place,
          "setpriv",
          ...[`--reuid=${PROXY_UID}`, `--regid=${PROXY_UID}`, "--clear-groups"],
          // A checkout may lie where this user cannot read; an image does not.
          ...["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"],
          ...[process.execPath, CLI, "sidecar", "--capture", "on", "--workload", workload],
          ...[
            "--bootstrap",
            `${world}:16011`,
            "--control-plane",
            `${world}:16012`,
            "--join-token-file",
            token,
          ],
          ...["--state-dir", state, "--mesh-listen", "[::]:16008", "--metrics-listen", "[::]:16020"],
          ...[
            "--app",
            ADDRESSES[place].ipv4,
            "--probes",
            JSON.stringify(probes),
            "--audit-file",
            join(state, "audit"),
          ],
        ),
      );
      await until(place, uri(place, "ipv4", 16_020, "/readyz"), "200");
    }

    async function metric(place: Place, direction: string, result: string): Promise<number> {
      const { body } = await spaces.curl(place, uri(place, "ipv4", 16_020, "/metrics"));
      const line = `countersign_captured_connections_total{direction="${direction}",result="${result}"} `;
      return Number(
        body
          .split("\n")
          .find((one) => one.startsWith(line))
          ?.slice(line.length) ?? 0,
      );
    }

    beforeAll(async () => {
      chmodSync(dir, 0o755);
      spaces = new Namespaces(`cs${process.pid}-${backend}`);
      mkdirSync(join(dir, "config"));
      writeFileSync(join(dir, "config", "mesh.yaml"), MESH);
      writeFileSync(join(dir, "config", "policy.yaml"), policyYaml("notebooks", "scorer", "notebook"));
      spaces.start(
        "control plane",
        "world",
        process.execPath,
        ...[CLI, "control-plane", "--config-dir", join(dir, "config"), "--state-dir", join(dir, "cp")],
        ...["--listen", "0.0.0.0", "--metrics-listen", "0.0.0.0"],
      );
      const apps: [Place, ...string[]][] = [
        ["server", "8080", "8081"],
        ["world", "9000", "9001", "80"],
      ];
      for (const [place, ...ports] of apps) {
        const app = spaces.start(`app of ${place}`, place, process.execPath, "-e", APP, ...ports);
        for (const _ of ports) await app.nextLine();
      }
      await until("world", uri("world", "ipv4", 16_014, "/readyz"), "200");
      const init = [process.execPath, CLI, "capture-init", "--iptables", backend] as const;
      spaces.exec("client", ...init, "--exclude-outbound-ports", "9001");
      spaces.exec("server", ...init, "--exclude-inbound-ports", "8081");
      // Doing it again changes nothing.
      const before = spaces.exec("client", `iptables-${backend}`, "-t", "nat", "-S");
      spaces.exec("client", ...init, "--exclude-outbound-ports", "9001");
      expect(spaces.exec("client", `iptables-${backend}`, "-t", "nat", "-S")).toBe(before);
      await startSidecar("client", "lab/notebook");
      await startSidecar("server", "serving/scorer");
    });
    afterAll(async () => {
      await spaces?.close();
      rmSync(dir, { recursive: true, force: true });
    });

    describe.each(["ipv4", "ipv6"] as const)("over %s", (family) => {
      test("an unmodified client reaches an allowed operation through both sidecars", async () => {
        const answer = await spaces.curl("client", uri("server", family, 8080, "/invocations"), "-d", "{}");
        expect(answer).toEqual({ code: 0, status: "200", body: "app 8080 saw POST /invocations" });
      });

      test("a forbidden operation is denied with its reason", async () => {
        const answer = await spaces.curl("client", uri("server", family, 8080, "/secrets"));
        expect(answer.status).toBe("403");
        expect(JSON.parse(answer.body)).toMatchObject({
          caller: "notebook/notebook",
          target: "serving/scorer",
        });
      });

      test("the Host field chooses no destination", async () => {
        const answer = await spaces.curl(
          "client",
          uri("world", family, 9000),
          "-H",
          "host: scorer.serving:8080",
        );
        expect(answer.status).toBe("403");
      });

      test("a destination outside the mesh is refused: in words over HTTP, by a reset otherwise", async () => {
        const before = await metric("client", "outbound", "reset");
        const answer = await spaces.curl("client", uri("world", family, 9000));
        expect(answer.status).toBe("403");
        expect(JSON.parse(answer.body)).toMatchObject({ reason: "OUTBOUND_DENIED" });
        const raw = await spaces.curl("client", uri("world", family, 9000).replace("http:", "https:"));
        expect(raw).toMatchObject({ code: 35, status: "000" });
        expect(await metric("client", "outbound", "reset")).toBe(before + 1);
      });

      test("an excluded port and the sidecar's own user pass", async () => {
        expect((await spaces.curl("client", uri("world", family, 9001))).body).toBe("app 9001 saw GET /");
        const own = ["--reuid=61600", "--regid=61600", "--clear-groups", "curl", "--silent", "--globoff"];
        const { stdout } = await spaces.run("client", "setpriv", ...own, uri("world", family, 9000));
        expect(stdout).toBe("app 9000 saw GET /");
      });

      test("plaintext from outside never reaches the application, but for an excluded port", async () => {
        const answer = await spaces.curl("world", uri("server", family, 8080, "/invocations"), "-d", "{}");
        expect(answer.status).toBe("403");
        expect(JSON.parse(answer.body)).toMatchObject({ reason: "AUTHN_MTLS_REQUIRED" });
        expect((await spaces.curl("world", uri("server", family, 8081))).body).toBe("app 8081 saw GET /");
      });

      test("connections made straight to the capture ports are refused", async () => {
        const before = await metric("client", "outbound", "loop");
        const loopback = family === "ipv4" ? "127.0.0.1" : "[::1]";
        for (const path of ["/", "/again"])
          expect((await spaces.curl("client", `http://${loopback}:16001${path}`)).status).toBe("000");
        expect(await metric("client", "outbound", "loop")).toBe(before + 2);
        expect((await spaces.curl("world", uri("server", family, 16_006))).status).toBe("000");
        expect((await spaces.curl("world", uri("server", family, 16_001))).status).toBe("000");
        // Another pod's ports of the mesh are not for applications.
        expect((await spaces.curl("client", uri("server", family, 16_020, "/metrics"))).status).toBe("000");
      });

      test("probes are relayed, and nothing but what was declared", async () => {
        const probe = async (key: string) =>
          (await spaces.curl("world", uri("server", family, 16_020, `/probe/${key}`))).status;
        expect(await probe("app/readiness")).toBe("200");
        expect(await probe("app/liveness")).toBe("200");
        expect(await probe("app/startup")).toBe("500");
        expect(await probe("gone/liveness")).toBe("503");
        expect(await probe("other/liveness")).toBe("404");
      });
    });

    test("a sidecar without the init step does not start", async () => {
      const bare = new Namespaces(`cs${process.pid}-bare`);
      try {
        const { code, stderr } = await bare.run(
          "client",
          process.execPath,
          ...[
            CLI,
            "sidecar",
            "--capture",
            "on",
            "--workload",
            "lab/notebook",
            "--state-dir",
            join(dir, "bare"),
          ],
          ...["--admin-socket", "none"],
        );
        expect(code).toBe(3);
        expect(stderr).toContain("capture of IPv4 does not work");
        expect(stderr).toContain("countersign capture-init");
      } finally {
        await bare.close();
      }
    });

    test("a sidecar under another user does not start: its own calls would come back to it", async () => {
      for (const place of ["client"] as const) sidecars.get(place)?.child.kill("SIGKILL");
      await sidecars.get("client")?.stop();
      const { code, stderr } = await spaces.run(
        "client",
        process.execPath,
        ...[
          CLI,
          "sidecar",
          "--capture",
          "on",
          "--workload",
          "lab/notebook",
          "--state-dir",
          join(dir, "root"),
        ],
        ...["--admin-socket", "none", "--metrics-listen", "none"],
      );
      expect(code).toBe(3);
      expect(stderr).toContain("takes the sidecar's own calls");
    });

    test("a sidecar that was killed leaves no way around it", async () => {
      for (const place of ["client", "server"] as const) sidecars.get(place)?.child.kill("SIGKILL");
      for (const place of ["client", "server"] as const) await sidecars.get(place)?.stop();
      for (const family of ["ipv4", "ipv6"] as const) {
        // 7: refused.
        expect((await spaces.curl("client", uri("world", family, 9000))).code).toBe(7);
        expect((await spaces.curl("client", uri("server", family, 8080))).code).toBe(7);
        expect((await spaces.curl("world", uri("server", family, 8080))).code).toBe(7);
      }
    });
  },
);
