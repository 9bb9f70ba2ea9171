// How soon a person who is revoked is refused everywhere: a control plane as a process, and a hundred discovery clients as
// sidecars have them. From the request that `countersign revoke --user` sends to the moment at which the table that refuses
// the person's tokens is in force at each of them.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { SidecarTable } from "../../../sidecar/discovery/table.ts";
import { startControlPlane, until } from "../../demo/mesh-processes.ts";
import type { RunningProcess } from "../../demo/process.ts";
import { TestMesh } from "../../fakes/mesh.ts";
import { atMost, type BenchRow, median, row } from "../measure.ts";

const SIDECARS = 100;
const REVOCATIONS = 10;
/** The control plane takes few joins a second from one address. */
const JOIN_EVERY_MS = 120;

function configuration(): string {
  const workloads = Array.from(
    { length: SIDECARS },
    (_, at) => `---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: w-${at}, namespace: lab}
spec: {kind: job, serviceAccount: jobs}
`,
  );
  return `apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: lake.example}
---
apiVersion: countersign.dev/v1alpha1
kind: IdentityProvider
metadata: {name: main}
spec: {type: oidc, issuer: "https://idp.example", clientID: client}
${workloads.join("")}`;
}

/** Who is being revoked, and when each sidecar began to refuse them. */
class Watch {
  #user = "";
  #issuedAt = 0;
  readonly refusedAtMs = new Map<number, number>();

  begin(user: string): void {
    this.#user = user;
    this.#issuedAt = Math.floor(Date.now() / 1000) - 60;
    this.refusedAtMs.clear();
  }

  see(sidecar: number, { revocations }: SidecarTable): void {
    const token = { sub: this.#user, iat: this.#issuedAt, rctx: {} };
    if (!this.refusedAtMs.has(sidecar) && revocations.coversTxn(token))
      this.refusedAtMs.set(sidecar, performance.now());
  }
}

export async function benchRevocation(options: {
  rounds: number;
  say: (text: string) => void;
}): Promise<BenchRow[]> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-revocation-"));
  const running: RunningProcess[] = [];
  const mesh = new TestMesh();
  try {
    mkdirSync(join(dir, "config"));
    writeFileSync(join(dir, "config/mesh.yaml"), configuration());
    const { ports, manage } = await startControlPlane(join(dir, "config"), join(dir, "state"), running);
    mesh.handle = { ports, managementSocket: join(dir, "state/management.sock"), done: Promise.resolve() };
    const watch = new Watch();
    for (let at = 0; at < SIDECARS; at++) {
      const onTable = (table: SidecarTable): { ok: true; value: undefined } => {
        watch.see(at, table);
        return { ok: true, value: undefined };
      };
      const sidecar = await mesh.sidecar(`lab/w-${at}`, { onTable });
      await sidecar.until(({ tables }) => tables.length > 0);
      await delay(JOIN_EVERY_MS);
    }
    const times: number[] = [];
    const last: number[] = [];
    for (let round = 0; round < options.rounds * REVOCATIONS; round++) {
      const user = `main|user-${round}`;
      watch.begin(user);
      const startedMs = performance.now();
      const { status } = await manage("POST", "/v1/revocations", { user, reason: "bench" });
      if (status >= 300) throw new Error(`the control plane refused a revocation: ${status}`);
      await until("everybody", () => (watch.refusedAtMs.size === SIDECARS ? true : undefined), 60_000);
      const took = [...watch.refusedAtMs.values()].map((atMs) => atMs - startedMs);
      times.push(...took);
      last.push(Math.max(...took));
      await delay(100);
    }
    const sorted = times.toSorted((a, b) => a - b);
    const p99 = sorted[Math.ceil(sorted.length * 0.99) - 1] ?? Number.NaN;
    options.say(`revocation: median ${median(times).toFixed(0)} ms, p99 ${p99.toFixed(0)} ms`);
    const name = `revocation of a person, ${SIDECARS} sidecars`;
    return [
      row("revocation", `${name}, median`, median(times), "ms"),
      row("revocation", `${name}, p99`, p99, "ms", undefined, atMost("ours", 1_000, 250)),
      row("revocation", `${name}, the last one, slowest`, Math.max(...last), "ms"),
    ];
  } finally {
    await mesh.close();
    await Promise.all(running.map((one) => one.stop()));
    rmSync(dir, { recursive: true, force: true });
  }
}
