// `countersign describe pod|svc`: is it meshed, who is it, which policies bind it, what is wrong with it.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import type { MeshPod, MeshService } from "../sources/store.ts";
import { type Fields, fieldsOf, listOf, numberOf, textOf } from "./answers.ts";
import { printBindings } from "./authz.ts";
import { type Bindings, bindingsOf, portsText } from "./bindings.ts";
import type { Mesh } from "./mesh.ts";
import { counted, EXIT, type ExitStatus, type Output, plain, printJson } from "./print.ts";
import { durationText } from "./proxy-status.ts";
import { routeLines } from "./route-text.ts";
import { readStatus } from "./sidecars.ts";
import { listed } from "./workload-names.ts";
import { type World, worldOfMesh } from "./world.ts";

interface Target {
  readonly namespace: string;
  readonly name: string;
  readonly json?: boolean | undefined;
}

/** Why a pod is not meshed, from what the API server has of it. @throws MeshError `bad_config` when there is no such pod. */
export type WhyUnknown = (namespace: string, pod: string) => Promise<string>;

/**
 * Describes a pod.
 *
 * @returns `EXIT.no` when it is not meshed, or its sidecar is not in step.
 * @throws MeshError `bad_config` when there is no such pod.
 */
export async function describePod(
  mesh: Mesh,
  target: Target,
  whyUnknown: WhyUnknown,
  output: Output,
): Promise<ExitStatus> {
  const { namespace, name, json } = target;
  const [world, status] = await Promise.all([worldOfMesh(mesh), readStatus(mesh)]);
  const { state } = world.compiled;
  const pod = [...state.pods.values()].find((one) => one.namespace === namespace && one.name === name);
  const bindings = pod === undefined ? undefined : bindingsOfPod(world, pod);
  // The state has pods without a sidecar too; why they have none only the API server can tell.
  if (pod === undefined || bindings === undefined) {
    const why = await whyUnknown(namespace, name);
    if (json === true) printJson(output, { pod: `${namespace}/${name}`, meshed: false, why });
    else output.out(`pod ${plain(`${namespace}/${name}`)}\n  meshed    NO: ${plain(why)}\n`);
    return EXIT.no;
  }
  const sidecar = listOf(status["sidecars"]).find((one) => textOf(one["pod"]) === pod.uid);
  const services = [...state.services].flatMap(([key, service]) =>
    service.endpoints.some(({ address }) => pod.addresses.includes(address)) ? [key] : [],
  );
  const isWell = sidecar?.["state"] === "synced";
  if (json === true) {
    printJson(output, { pod, meshed: true, sidecar: sidecar ?? null, services, ...bindings });
    return isWell ? EXIT.ok : EXIT.no;
  }
  const program = world.compiled.programs.get(bindings.key);
  output.out(`pod ${plain(`${namespace}/${name}`)}\n`);
  output.out(`  meshed    ${sidecarText(sidecar)}\n`);
  output.out(`  identity  ${plain(bindings.spiffeId)}\n`);
  output.out(`  workload  ${plain(bindings.workload)}${factsText(world, bindings.key)}\n`);
  output.out(`  serves    ${(program === undefined ? [] : portsText(program)).join("; ") || "nothing"}\n`);
  if (services.length > 0) output.out(`  services  ${services.map(plain).join(", ")}\n`);
  output.out("\n");
  printBindings(bindings, output);
  return isWell ? EXIT.ok : EXIT.no;
}

function bindingsOfPod({ compiled }: World, { workload: key }: MeshPod): Bindings | undefined {
  const workload = key === undefined ? undefined : compiled.state.workloads.get(key);
  return key === undefined || workload === undefined ? undefined : bindingsOf(compiled, key, workload);
}

function sidecarText(sidecar: Fields | undefined): string {
  if (sidecar === undefined)
    return "yes, but its sidecar has not connected yet; see its logs (container countersign-proxy)";
  const state = textOf(sidecar["state"]);
  const since = numberOf(sidecar["sinceMs"]);
  const age = since === undefined ? "" : ` for ${durationText(Date.now() - since)}`;
  const nack = textOf(sidecar["nack"]);
  const text = `yes: sidecar ${plain(textOf(sidecar["softwareVersion"]))}, ${plain(state)}${age}`;
  if (nack !== "") return `${text}; it refused its configuration: ${plain(nack)}`;
  return state === "disconnected" ? `${text}; it goes on with its last good table` : text;
}

function factsText({ compiled }: World, key: string): string {
  const workload = compiled.state.workloads.get(key);
  const facts = [
    workload?.owner === undefined ? "" : `owner ${workload.owner}`,
    workload?.runAs === undefined ? "" : `runs as ${workload.runAs}`,
    workload?.env === undefined ? "" : `env ${workload.env}`,
  ].filter((fact) => fact !== "");
  return facts.length === 0 ? "" : plain(` (${facts.join(", ")})`);
}

/**
 * Describes a Service: where it leads, and which policies bind the workloads behind it.
 *
 * @returns `EXIT.no` when no meshed pod is behind it.
 * @throws MeshError `bad_config` when the mesh knows no such Service.
 */
export async function describeService(mesh: Mesh, target: Target, output: Output): Promise<ExitStatus> {
  const { namespace, name, json } = target;
  const world = await worldOfMesh(mesh);
  const { state } = world.compiled;
  const service = state.services.get(`${namespace}/${name}`);
  if (service === undefined) {
    const near = [...state.services.keys()].filter((key) => key.startsWith(`${namespace}/`));
    throw new MeshError(
      "bad_config",
      `the mesh knows no Service \`${namespace}/${name}\`: there is none, or no meshed pod is behind it; known in \`${namespace}\`: ${listed(near) || "none"}`,
    );
  }
  const behind = service.members.flatMap((key) => {
    const workload = state.workloads.get(key);
    return workload === undefined ? [] : [bindingsOf(world.compiled, key, workload)];
  });
  const isMeshed = service.members.length > 0;
  const route = world.compiled.routes.routes.get(`${namespace}/${name}`);
  if (json === true) {
    printJson(output, { service, meshed: isMeshed, route: route ?? null, workloads: behind });
    return isMeshed ? EXIT.ok : EXIT.no;
  }
  printService(service, output);
  if (route !== undefined) for (const line of routeLines(route)) output.out(`  ${plain(line)}\n`);
  for (const bindings of behind) {
    output.out(`\n${plain(bindings.workload)} (${plain(bindings.spiffeId)})\n`);
    printBindings(bindings, output);
  }
  return isMeshed ? EXIT.ok : EXIT.no;
}

function printService(
  { namespace, name, addresses, ports, endpoints, members }: MeshService,
  output: Output,
): void {
  output.out(`service ${plain(`${namespace}/${name}`)}\n`);
  output.out(`  addresses ${addresses.map(plain).join(", ") || "none (headless)"}\n`);
  const text = ports.map(
    ({ port, targetPort, protocol }) =>
      `${port}${targetPort === port ? "" : ` -> ${targetPort}`} ${protocol}`,
  );
  output.out(`  ports     ${text.join("; ") || "none"}\n`);
  output.out(
    `  meshed    ${members.length === 0 ? "NO: no meshed pod is behind it" : `${counted(endpoints.length, "endpoint")} ready of ${counted(members.length, "workload")}`}\n`,
  );
}

/** Asks the API server why the mesh does not know a pod. `read`: one document, undefined when it does not exist. */
export function createWhyUnknown(
  read: (path: string, what: string) => Promise<Fields | undefined>,
): WhyUnknown {
  return async (namespace, name) => {
    const base = `/api/v1/namespaces/${encodeURIComponent(namespace)}`;
    const [pod, scope] = await Promise.all([
      read(`${base}/pods/${encodeURIComponent(name)}`, `pod \`${namespace}/${name}\``),
      read(base, `namespace \`${namespace}\``),
    ]);
    if (pod === undefined)
      throw new MeshError(
        "bad_config",
        `there is no pod \`${name}\` in namespace \`${namespace}\`; choose the namespace with \`-n\``,
      );
    const labelOf = (object: Fields | undefined) =>
      textOf(fieldsOf(fieldsOf(object?.["metadata"])["labels"])["countersign.dev/inject"]);
    if (labelOf(pod) === "disabled") return "its label `countersign.dev/inject: disabled` keeps it out";
    if (fieldsOf(pod["spec"])["hostNetwork"] === true)
      return "it uses the network of its node (hostNetwork), which cannot be meshed";
    const phase = textOf(fieldsOf(pod["status"])["phase"]);
    if (phase === "Succeeded" || phase === "Failed") return `it has ended (${phase})`;
    if (labelOf(pod) === "enabled" || labelOf(scope) === "enabled")
      return "it should be: it was made before its namespace was labelled, or while the webhook did not answer; make it anew";
    return `its namespace is not in the mesh; put it there with: kubectl label namespace ${namespace} countersign.dev/inject=enabled, then make the pod anew`;
  };
}
