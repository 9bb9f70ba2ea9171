// One replica's certificate authority as a process of its own: opens it from the Secret, follows it, and when told leads
// it. Says as a line of JSON what it has after each change.
import { createInterface } from "node:readline";
import { runAuthorityMaintenance } from "../../../control-plane/ca/maintenance.ts";
import { openCertificateAuthority } from "../../../control-plane/ca/root.ts";
import { ALONE_LIMITS, RootRotation, runRootRotation } from "../../../control-plane/ca/root-rotation.ts";
import { SecretAuthorityStore } from "../../../control-plane/ca/secret-store.ts";
import { loadKubernetes } from "../../../control-plane/kubernetes/client.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../../sidecar/core/runtime/errors.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";

const [kubeconfig, namespace = "", trustDomain = "", role = ""] = process.argv.slice(2);
const say = (value: object): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
const clock = systemClock;
const log = createLogger("error", { role });

try {
  const { core } = await loadKubernetes({ kubeconfig, context: undefined });
  const ca = await openCertificateAuthority({
    store: new SecretAuthorityStore({ core, namespace }),
    trustDomain,
    clock,
  });
  let leads = role === "leader";
  const isLeader = (): boolean => leads;
  const show = (): void =>
    say({
      roots: ca.roots.map(({ fingerprint256 }) => fingerprint256),
      sequence: ca.sequence,
      stage: ca.rotation?.record.stage ?? "none",
      issuing: ca.issuing.keyIdentifier.toString("hex"),
    });
  ca.subscribe(show);
  show();
  const rotation = new RootRotation({
    ca,
    // A mesh whose sidecars answer at once has nobody to wait for.
    sidecars: () => [],
    clock,
    log,
    isLeader,
    heartbeatMs: 100,
    limits: ALONE_LIMITS,
  });
  createInterface({ input: process.stdin }).on("line", (line) => {
    if (line === "lead") leads = true;
    if (line === "rotate") rotation.start().catch((error: unknown) => say({ error: messageOf(error) }));
  });
  const { signal } = new AbortController();
  await Promise.all([
    runAuthorityMaintenance({ ca, clock, log, onBundle: () => {}, isLeader }, signal),
    runRootRotation(rotation, { ca, clock, log }, signal),
  ]);
} catch (error) {
  say({ error: messageOf(error) });
  process.exitCode = 1;
}
