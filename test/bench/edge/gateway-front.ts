// A gateway in a process of its own, so that its CPU can be told: everybody is signed in (a session that is looked up in a
// map), and one local port means the same service without TLS and without people. Ends with its standard input.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { loadIdentity } from "../../../sidecar/certs/identity-store.ts";
import { parseSidecarConfig } from "../../../sidecar/config.ts";
import { holdTxn } from "../../../sidecar/core/identity/held-txn.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { boundYoungGeneration } from "../../../sidecar/core/runtime/young-generation.ts";
import { DataPlane } from "../../../sidecar/data-plane.ts";
import type { Admitted, People } from "../../../sidecar/gateway/people.ts";
import { GatewayPlane } from "../../../sidecar/gateway-plane.ts";
import { APP, FRONT, gatewayOf, route } from "../../integration/gateway/edge.ts";
import { table } from "../../integration/sidecar/world.ts";

/** What the parent leaves in `world.json`. */
export interface FrontWorld {
  readonly meshPort: number;
  readonly bundle: string;
  readonly txnToken: string;
}

/** What it prints. */
export interface FrontPorts {
  readonly pid: number;
  readonly tls: number;
  readonly plain: number;
}

if (import.meta.main) {
  const dir = process.argv[2] ?? "";
  boundYoungGeneration(new AbortController().signal, process.execArgv);
  // Written by the parent in this form.
  const world = JSON.parse(readFileSync(join(dir, "world.json"), "utf8")) as FrontWorld;
  const identity = await loadIdentity(dir, Date.now());
  const txn = holdTxn(world.txnToken);
  if (!identity.ok || identity.value === undefined || !txn.ok) throw new Error("no identity or no token");
  const any = { kind: "tcp", host: "127.0.0.1", port: 0 } as const;
  const base = parseSidecarConfig(["--state-dir", dir, "--workload", "edge/front"]);
  const plane = new DataPlane(
    {
      ...base,
      meshListen: any,
      outboundProxy: undefined,
      localServices: [{ listen: any, service: "ml/app", port: 8888 }],
    },
    {
      log: silentLogger,
      clock: systemClock,
      random: Math.random,
      meshNowMs: () => Date.now(),
      resolve: () => Promise.resolve({ kind: "refused", reason: "UNKNOWN_DESTINATION" }),
    },
  );
  const { local } = await plane.start();
  await plane.setIdentity(identity.value);
  const services = [{ service: APP, meshPort: world.meshPort }];
  const used = plane.setTable(table({ self: FRONT, services, bundle: world.bundle }));
  if (!used.ok) throw new Error(used.error);
  const settings = {
    secretsDir: dir,
    address: "127.0.0.1",
    ports: new Map([[8443, { host: "127.0.0.1", port: 0 }]]),
  };
  const gateway = new GatewayPlane({ plane, settings, clock: systemClock, log: silentLogger });
  const sessions = new Map<string, Admitted>([
    [
      "__Host-session=0123456789abcdef0123456789abcdef0123456789a",
      { kind: "admitted", txn: txn.value, session: "s-1", setCookie: [], cookie: undefined },
    ],
  ]);
  const people: People = {
    authenticate: (request) =>
      sessions.get(request.field("cookie") ?? "") ?? { kind: "answer", status: 401, fields: [], body: "" },
    serve: () => Promise.reject(new Error("not asked for")),
    explain: () => undefined,
    onSessionEnd: () => {},
  };
  gateway.people = people;
  const listeners = [{ name: "main", port: 8443, hosts: ["localhost"], secretName: "edge-tls" }];
  await gateway.adopt(
    gatewayOf({
      listeners,
      redirectPort: undefined,
      routes: [route({ hosts: ["localhost"], access: "Login" })],
    }),
  );
  const line: FrontPorts = { pid: process.pid, tls: gateway.portOf(8443) ?? 0, plain: local[0] ?? 0 };
  process.stdout.write(`${JSON.stringify(line)}\n`);
  process.stdin.resume().on("end", () => process.exit(0));
}
