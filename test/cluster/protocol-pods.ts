// What the suite of platform/protocols.yaml does in its pods: calls of its clients, records and metrics of their sidecars.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run } from "./commands.ts";
import { apply, exec, kubectl, read, waitFor } from "./kube.ts";
import { type Answer, callFrom, conditionsOf } from "./release.ts";

export const NAMESPACE = "protocols";
type Caller = "friend" | "stranger";

/** What `talk` says in a pod. */
export async function talk(caller: Caller, ...args: readonly string[]): Promise<Record<string, unknown>> {
  const { stdout, stderr } = await exec(NAMESPACE, caller, ["talk", ...args]);
  try {
    return JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
  } catch {
    throw new Error(`no answer: ${stdout} ${stderr}`);
  }
}

/** Calls from the client that may. */
export const ask = (...args: readonly string[]): Promise<Answer> =>
  callFrom({ namespace: NAMESPACE, name: "friend", container: "app" }, ...args);

/** Bodies (here: names of replicas) or statuses of many calls, with how often each came. */
export async function tally(
  what: "body" | "status",
  ...args: readonly string[]
): Promise<Map<string, number>> {
  const { stdout } = await exec(NAMESPACE, "friend", ["call", ...args], { timeoutMs: 40_000 });
  const counts = new Map<string, number>();
  for (const line of stdout.trim().split("\n")) {
    const seen = String(JSON.parse(line)[what]);
    counts.set(seen, (counts.get(seen) ?? 0) + 1);
  }
  return counts;
}

/** Until the sidecar of this pod has recorded a call like this. */
export async function untilRecorded(
  pod: Caller | "things",
  wanted: Readonly<Record<string, unknown>>,
): Promise<void> {
  const matches = (line: string): boolean => {
    if (!line.includes('"actionName"')) return false;
    const { actionName: operation, identityMetadata, decision } = JSON.parse(line).data;
    const { caller } = identityMetadata;
    const { effect, reason } = decision;
    const seen = { operation, caller, effect, reason } as Record<string, unknown>;
    return Object.entries(wanted).every(([name, value]) => seen[name] === value);
  };
  await waitFor(
    async () =>
      (await kubectl(["logs", pod, "-n", NAMESPACE, "-c", "countersign-proxy"])).split("\n").some(matches),
    10_000,
    `a record of ${JSON.stringify(wanted)} in ${pod}`,
  );
}

/** The metrics page of a pod's sidecar. */
export async function metricsOf(pod: string): Promise<string> {
  const address = await read(NAMESPACE, `pod/${pod}`, "{.status.podIP}");
  return (await fetch(`http://${address}:16020/metrics`)).text();
}

export async function traffic(spec: object): Promise<void> {
  await apply([
    {
      apiVersion: "countersign.dev/v1alpha1",
      kind: "TrafficPolicy",
      metadata: { name: "model", namespace: NAMESPACE },
      spec: { targets: [{ names: ["model"] }], ...spec },
    },
  ]);
  await waitFor(
    async () => {
      const generation = await read(
        NAMESPACE,
        "ctp/model",
        "{.metadata.generation} {.status.observedGeneration}",
      );
      const [wanted, observed] = generation.split(" ");
      return (
        wanted === observed &&
        (await conditionsOf("ctp/model", NAMESPACE))["Programmed"] === "True/Programmed"
      );
    },
    15_000,
    "the TrafficPolicy in force",
  );
}

/** A certificate and key for the application's own TLS, as a Secret. */
export async function makeSecret(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "countersign-protocols-"));
  try {
    await run("openssl", [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"],
      ...["-keyout", join(folder, "tls.key"), "-out", join(folder, "tls.crt"), "-subj", "/CN=things"],
    ]);
    const text = (name: string) => readFileSync(join(folder, name), "utf8");
    await apply([
      {
        ...{ apiVersion: "v1", kind: "Secret", metadata: { name: "things", namespace: NAMESPACE } },
        stringData: { "tls.key": text("tls.key"), "tls.crt": text("tls.crt") },
      },
    ]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
