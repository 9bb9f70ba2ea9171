// Measures DESIGN's promise "policy edit on disk -> enforced in all sidecars" with many policies present: a real
// control plane and six discovery clients on loopback. `node test/bench/control-plane/edits.bench.ts [policies] [files]`.

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { eventually, policyYaml, TestMesh, type TestSidecar } from "../../fakes/mesh.ts";

const POLICIES = Number(process.argv[2] ?? 10_000);
const FILES = Number(process.argv[3] ?? 100);
const SIDECARS = 6;

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

const mesh = new TestMesh();
const workloads = Array.from(
  { length: SIDECARS },
  (_, i) => `---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: w${i}, namespace: serving}
spec: {kind: serving, serviceAccount: w${i}, addresses: [127.0.0.1], meshPort: ${17_000 + i}, service: w${i}, ports: [{port: 8080, protocol: http, packs: [mlflow-scoring]}]}
`,
).join("");
mesh.write(
  "mesh.yaml",
  `apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: test.example}
${workloads}`,
);
const texts = Array.from({ length: POLICIES }, (_, i) => policyYaml(`p${i}`, `w${i % SIDECARS}`, "notebook"));
for (let f = 0; f < FILES; f++) {
  const per = Math.ceil(POLICIES / FILES);
  const folder = join(mesh.configDir, `d${f % 50}`);
  mkdirSync(folder, { recursive: true });
  mesh.write(`d${f % 50}/f${f}.yaml`, texts.slice(f * per, (f + 1) * per).join("---\n"));
}
const startMs = performance.now();
await mesh.start();
console.log(
  JSON.stringify({ row: "start", policies: POLICIES, files: FILES, ms: performance.now() - startMs }),
);
const sidecars: TestSidecar[] = [];
for (let i = 0; i < SIDECARS; i++) sidecars.push(await mesh.sidecar(`serving/w${i}`));
for (const sidecar of sidecars) await sidecar.until(({ tables }) => tables.length > 0, 60_000);
// The first statuses are written meanwhile: ten thousand files, twice.
const last = join(mesh.stateDir, "status", "AccessPolicy", "serving", `p${POLICIES - 1}.yaml`);
await eventually(
  () => (existsSync(last) ? readFileSync(last, "utf8") : ""),
  (text) => text.includes("1/1 proxies"),
  60_000,
);
const delay = monitorEventLoopDelay({ resolution: 5 });

async function measure(row: string, rounds: number, edit: (round: number) => void): Promise<void> {
  const times: number[] = [];
  delay.enable();
  delay.reset();
  const cpu = process.cpuUsage();
  for (let round = 0; round < rounds; round++) {
    const name = `${row}-${round}`;
    const sinceMs = performance.now();
    edit(round);
    await Promise.all(
      sidecars.map((one) =>
        one.until(({ table }) => table.program.policies.some((policy) => policy.name === name), 60_000),
      ),
    );
    times.push(performance.now() - sinceMs);
    await new Promise((resolve) => setTimeout(resolve, 700));
  }
  delay.disable();
  const used = process.cpuUsage(cpu);
  console.log(
    JSON.stringify({
      row,
      medianMs: Math.round(median(times)),
      maxMs: Math.round(Math.max(...times)),
      loopMaxMs: Math.round(delay.max / 1e6),
      cpuMsPerRound: Math.round((used.user + used.system) / 1000 / rounds),
    }),
  );
}

const everywhere = (name: string): string =>
  policyYaml(name, "w0", "job").replace(
    "names: [w0]",
    `names: [${sidecars.map((_, i) => `w${i}`).join(", ")}]`,
  );
await measure("one-edit", 8, (round) => mesh.write("edit.yaml", everywhere(`one-edit-${round}`)));
await measure("burst-of-20", 4, (round) => {
  for (let i = 0; i < 20; i++)
    mesh.write(`b${i}.yaml`, everywhere(i === 19 ? `burst-of-20-${round}` : `b${i}-${round}`));
});
await measure("checkout-of-500", 3, (round) => {
  const per = Math.ceil(POLICIES / FILES);
  const count = Math.max(1, Math.min(FILES, Math.round(500 / per)));
  for (let f = 0; f < count; f++)
    mesh.write(
      `d${f % 50}/f${f}.yaml`,
      texts
        .slice(f * per, (f + 1) * per)
        .join("---\n")
        .replaceAll("notebook", round % 2 === 0 ? "job" : "notebook"),
    );
  mesh.write("edit.yaml", everywhere(`checkout-of-500-${round}`));
});
await mesh.close();
