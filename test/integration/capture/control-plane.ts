// A control plane for capture tests, started in a namespace of its own: the real one over a directory, made of its parts,
// with what only a cluster's configuration has laid over it: cluster IPs, `Permissive`, `outbound: Allow`.
// Standard input: one JSON object of overrides per line. Standard output: `{workload} {join token}` per workload, then
// `serves`, then `applied` per line, when every connected sidecar has acknowledged it.
import { createInterface } from "node:readline";
import { fileJoinTokens } from "../../../control-plane/ca/join-token-files.ts";
import { openCertificateAuthority } from "../../../control-plane/ca/root.ts";
import { createBootstrapServer } from "../../../control-plane/discovery/bootstrap.ts";
import { createDiscoveryServer } from "../../../control-plane/discovery/server.ts";
import { createIssuer } from "../../../control-plane/issuer.ts";
import { openHistory } from "../../../control-plane/management/history.ts";
import { createMetrics } from "../../../control-plane/metrics.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { Publisher } from "../../../control-plane/publisher.ts";
import { resolveDestination } from "../../../control-plane/resources/resolve.ts";
import { workloadOfSvid } from "../../../control-plane/resources/workload-of-svid.ts";
import { startServerCredentials } from "../../../control-plane/server-credentials.ts";
import { runDirectorySource } from "../../../control-plane/sources/directory.ts";
import type { SourceReport } from "../../../control-plane/sources/field-problem.ts";
import { loadSchemas } from "../../../control-plane/sources/schema.ts";
import type { ClusterState, MeshConfig, MeshService } from "../../../control-plane/sources/store.ts";
import { systemClock as clock } from "../../../sidecar/core/runtime/clock.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";

/** What a line may say; everything else stays as the directory has it. */
export interface Overrides {
  readonly config?: Partial<Pick<MeshConfig, "mtls" | "outbound">>;
  /** By service id: cluster IPs, and the port in front of the only one. */
  readonly services?: Readonly<
    Record<string, { readonly addresses: readonly string[]; readonly port: number }>
  >;
}

const [configDir = "", stateDir = ""] = process.argv.slice(2);
const log = createLogger("warn");
const stop = new AbortController();
process.once("SIGTERM", () => process.exit(0));

let live: { readonly state: ClusterState; readonly report: SourceReport } | undefined;
let overrides: Overrides = {};
let revision = 0;

function overlaid(state: ClusterState): ClusterState {
  const services = new Map<string, MeshService>(state.services);
  for (const [id, { addresses, port }] of Object.entries(overrides.services ?? {})) {
    const service = services.get(id);
    if (service === undefined) throw new Error(`no service ${id}`);
    services.set(id, { ...service, addresses, ports: service.ports.map((one) => ({ ...one, port })) });
  }
  revision++;
  return { ...state, revision, config: { ...state.config, ...overrides.config }, services };
}

const history = await openHistory(stateDir, log);
const publisher = new Publisher({
  history,
  numberedBySource: false,
  packs: loadBuiltInPacks(),
  cluster: "test",
  revocations: () => [],
  clock,
  log,
});
const publish = (): void => {
  if (live !== undefined) publisher.take(overlaid(live.state), live.report);
};
const onState = (state: ClusterState, report: SourceReport): void => {
  live = { state, report };
  publish();
};
void runDirectorySource(
  { dir: configDir, stateDir, clock, schemas: loadSchemas(), log, onState },
  stop.signal,
);
const trustDomain = await publisher.firstState;
const ca = await openCertificateAuthority({ stateDir, trustDomain, clock });
await publisher.begin(ca);
const { compiled, cache } = publisher;
const metrics = createMetrics({
  proxies: () => publisher.proxies(),
  revision: () => publisher.revision,
  pinned: () => undefined,
  objects: () => publisher.counts(),
  authority: () => ca,
});
const credentials = await startServerCredentials(ca, { log, clock }, stop.signal);
const issuer = createIssuer({
  ca,
  joinTokens: fileJoinTokens(stateDir),
  cluster: "test",
  clock,
  state: () => publisher.state,
  metrics,
});
const discovery = await createDiscoveryServer({
  host: "0.0.0.0",
  port: 16_012,
  credentials: credentials.discovery,
  trustDomain,
  softwareVersion: "test",
  heartbeatMs: 1_000,
  tables: {
    revision: () => publisher.revision,
    isCurrent: () => false,
    replicas: () => 0,
    table: (workload) => cache.table(workload),
    tableByDigest: (workload, digest) => cache.tableByDigest(workload, digest),
    isRevoked: () => false,
    workloadOf: (svid) => workloadOfSvid(publisher.state, trustDomain, svid),
    resolve: (workload, host, port) => resolveDestination(compiled(), cache, workload, host, port),
  },
  issue: issuer.renew,
  clock,
  log,
  onProxy: (workload, event) => publisher.proxyEvent(workload, event),
});
publisher.attach(discovery);
await createBootstrapServer({
  host: "0.0.0.0",
  port: 16_011,
  credentials: credentials.bootstrap,
  join: issuer.join,
  clock,
  log,
});
for (const workload of publisher.state.workloads.keys())
  console.log(`${workload} ${(await issuer.createToken(workload, 300)).token}`);
console.log("serves");
for await (const line of createInterface({ input: process.stdin })) {
  // Written by the test beside this file.
  overrides = JSON.parse(line) as Overrides;
  publish();
  const isSynced = (): boolean => publisher.proxies().every(({ state }) => state !== "stale");
  while (!isSynced()) await new Promise((resolve) => setTimeout(resolve, 5));
  console.log("applied");
}
