// `countersign check` of a cluster: before installation whether it can run the mesh, afterwards whether the mesh is well.
import { systemClock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import { fieldsOf, listOf } from "./answers.ts";
import { checkAuthority, checksAfter } from "./check-after.ts";
import { checkApiServer, checkCrds, checksBefore } from "./check-before.ts";
import { checkPods, checkPolicies, checkSidecars } from "./check-workloads.ts";
import { type Cluster, findReplicas, openCluster, type Replica } from "./cluster.ts";
import { type CheckResult, failed, runChecks } from "./findings.ts";
import { type ClusterOptions, withMesh } from "./mesh.ts";
import { counted, EXIT, type ExitStatus, type Output, plain, printJson } from "./print.ts";
import { readStatus } from "./sidecars.ts";

/**
 * @param options.pre looks at the cluster as if nothing were installed.
 * @returns `EXIT.no` when something failed; warnings do not count.
 * @throws MeshError `bad_config` without a usable kubeconfig.
 */
export async function checkCluster(
  options: ClusterOptions & { readonly pre?: boolean; readonly json?: boolean },
  output: Output,
  nowMs: number = systemClock.nowMs(),
): Promise<ExitStatus> {
  const cluster = await openCluster(options);
  const api = await runChecks([{ name: "API server", needed: true, run: () => checkApiServer(cluster) }]);
  // Without an API server every other line would say the same.
  const isReached = api.every(({ outcome }) => outcome === "ok");
  const replicas = isReached && options.pre !== true ? await findReplicas(cluster) : undefined;
  const results = [...api];
  if (isReached && replicas === undefined) results.push(...(await runChecks(checksBefore(cluster))));
  if (replicas !== undefined) results.push(...(await checkInstalled(cluster, replicas, options, nowMs)));
  const count = (outcome: CheckResult["outcome"]) => results.filter((one) => one.outcome === outcome).length;
  const verdict = { failed: count("failed"), warnings: count("warning") };
  if (options.json === true)
    printJson(output, { installed: replicas !== undefined, ...verdict, checks: results });
  else print(results, verdict, replicas !== undefined, output);
  return verdict.failed > 0 ? EXIT.no : EXIT.ok;
}

async function checkInstalled(
  cluster: Cluster,
  replicas: readonly Replica[],
  options: ClusterOptions,
  nowMs: number,
): Promise<readonly CheckResult[]> {
  const image = replicas.find(({ ready }) => ready)?.image ?? "";
  const results = await runChecks([
    ...checksAfter(cluster, replicas, nowMs),
    { name: "custom resources", needed: true, run: () => checkCrds(cluster, true) },
    { name: "pods", needed: false, run: () => checkPods(cluster, image) },
  ]);
  try {
    const asked = await withMesh(options, async (mesh) => {
      const [status, policies, authority] = await Promise.all([
        readStatus(mesh),
        mesh.manage("GET", "/v1/policies").then((answer) => listOf(fieldsOf(answer)["policies"])),
        mesh.manage("GET", "/v1/ca").then(fieldsOf),
      ]);
      return [
        ...(await runChecks([
          { name: "authority", needed: false, run: async () => checkAuthority(authority, nowMs) },
        ])),
        ...checkSidecars(status),
        ...checkPolicies(status, policies),
      ];
    });
    return [...results, ...asked];
  } catch (error) {
    return [
      ...results,
      failed("management", messageOf(error), "what it knows of sidecars and policies could not be asked"),
    ];
  }
}

function print(
  results: readonly CheckResult[],
  verdict: { readonly failed: number; readonly warnings: number },
  installed: boolean,
  output: Output,
): void {
  const width = Math.max(...results.map(({ check }) => check.length));
  for (const { outcome, check, detail, todo } of results) {
    output.out(`${outcome.padEnd(7)}  ${check.padEnd(width)}  ${plain(detail)}\n`);
    if (todo !== "") output.out(`${" ".repeat(width + 11)}-> ${plain(todo)}\n`);
  }
  const found = `${counted(verdict.failed, "failure")}, ${counted(verdict.warnings, "warning")}`;
  const next =
    verdict.failed > 0
      ? ""
      : installed
        ? "; see `countersign status`"
        : "; next: helm install countersign-crds, then countersign (see the README)";
  output.out(`\n${installed ? "installed" : "not installed yet"}: ${found}${next}\n`);
}
