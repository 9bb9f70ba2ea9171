// What a meshed pod may not have, because it would let a container pass its sidecar or read the sidecar's keys. PURE.
import {
  INJECTED,
  isOwnPort,
  OPT_OUT,
  OWN_CONTAINERS,
  OWN_PORTS,
  OWN_VOLUMES,
  PROXY_CONTAINER,
  PROXY_UID,
} from "./own-names.ts";
import { type ContainerView, fieldsAt, objectsOf, type PodView } from "./pod-view.ts";
import type { UnknownFields } from "./review.ts";

const FORBIDDEN_CAPABILITIES: ReadonlySet<string> = new Set(["ALL", "NET_ADMIN", "NET_RAW"]);
const HOST_FIELDS = {
  hostNetwork: "has the node's network, where nothing can be captured",
  hostPID: "sees the node's processes, the sidecar's too",
  shareProcessNamespace: "shows the sidecar's process to the other containers",
} as const;

/**
 * Why a pod cannot be meshed: one line each, with what to do; empty when it can. Looks at all containers that are not ours.
 *
 * INVARIANT: a pod that passes has no container, volume, port, user or group of ours.
 */
export function podProblems(pod: PodView): readonly string[] {
  const problems: string[] = [];
  const { spec } = pod;
  if (isWindows(spec)) problems.push(`it is a Windows pod, which cannot be meshed; ${OPT_OUT}`);
  for (const [field, why] of Object.entries(HOST_FIELDS))
    if (spec[field] === true) problems.push(`\`${field}\` ${why}; remove it, or ${OPT_OUT}`);
  for (const field of usersIn(fieldsAt(spec, "securityContext"), "spec.securityContext"))
    problems.push(takenUser(field));
  for (const volume of pod.volumes) {
    const name = volume["name"];
    if (typeof name === "string" && OWN_VOLUMES.includes(name))
      problems.push(`volume \`${name}\` has the name of one of the mesh's; rename it`);
  }
  for (const container of pod.containers) problems.push(...containerProblems(container));
  return problems;
}

/**
 * Why an ephemeral container cannot join a meshed pod; empty when it can, or the pod has no sidecar.
 *
 * @param before the pod as it is: containers that it has already are not judged again.
 */
export function ephemeralProblems(after: PodView, before: PodView | undefined): readonly string[] {
  const isMeshed = after.containers.some(
    ({ list, name }) => list === "initContainers" && name === PROXY_CONTAINER,
  );
  if (!isMeshed) return [];
  const isEphemeral = ({ list }: ContainerView): boolean => list === "ephemeralContainers";
  const known = new Set(before?.containers.filter(isEphemeral).map(({ name }) => name));
  return after.containers
    .filter((container) => isEphemeral(container) && !known.has(container.name))
    .flatMap((container) => {
      const target = container.fields["targetContainerName"];
      return [
        ...containerProblems(container),
        ...(typeof target === "string" && OWN_CONTAINERS.includes(target)
          ? [
              `container \`${container.name}\` targets \`${target}\`, which holds the pod's keys; target another`,
            ]
          : []),
      ];
    });
}

function containerProblems({ name, fields }: ContainerView): string[] {
  const problems: string[] = [];
  const title = `container \`${name}\``;
  const security = fieldsAt(fields, "securityContext");
  if (OWN_CONTAINERS.includes(name))
    problems.push(
      `${title} has the name of one of the mesh's, but the pod was not injected (it lacks the annotation \`${INJECTED}\`); rename it`,
    );
  if (security["privileged"] === true)
    problems.push(`${title} is privileged, so it could pass the sidecar; remove it, or ${OPT_OUT}`);
  for (const capability of addedCapabilities(security))
    problems.push(
      `${title} adds the capability \`${capability}\`, which could pass the sidecar; remove it, or ${OPT_OUT}`,
    );
  for (const field of usersIn(security, `securityContext of ${title}`)) problems.push(takenUser(field));
  for (const port of objectsOf(fields["ports"]) ?? []) {
    const number = port["containerPort"];
    if (typeof number === "number" && isOwnPort(number))
      problems.push(
        `${title} has port ${number}; ports ${OWN_PORTS.first} to ${OWN_PORTS.last} belong to the mesh: let it listen on another`,
      );
  }
  for (const mount of objectsOf(fields["volumeMounts"]) ?? []) {
    const volume = mount["name"];
    if (typeof volume === "string" && OWN_VOLUMES.includes(volume))
      problems.push(`${title} mounts \`${volume}\`, which is the sidecar's alone; remove the mount`);
  }
  return problems;
}

/** As container runtimes read them: in any case, with or without `CAP_`. */
function addedCapabilities(security: UnknownFields): string[] {
  const add = fieldsAt(security, "capabilities")["add"];
  if (!Array.isArray(add)) return [];
  const names = add
    .filter((one): one is string => typeof one === "string")
    .map((one) =>
      one
        .trim()
        .toUpperCase()
        .replace(/^(CAP_)+/, ""),
    );
  return [...new Set(names.filter((one) => FORBIDDEN_CAPABILITIES.has(one)))];
}

function usersIn(security: UnknownFields, where: string): string[] {
  const found = ["runAsUser", "runAsGroup", "fsGroup"].filter((field) => security[field] === PROXY_UID);
  const groups = security["supplementalGroups"];
  if (Array.isArray(groups) && groups.includes(PROXY_UID)) found.push("supplementalGroups");
  return found.map((field) => `\`${field}\` in ${where}`);
}

const takenUser = (field: string): string =>
  `${field} is ${PROXY_UID}, which is the sidecar's user and group: whoever has it passes the sidecar; choose another`;

function isWindows(spec: UnknownFields): boolean {
  return (
    fieldsAt(spec, "os")["name"] === "windows" ||
    fieldsAt(spec, "nodeSelector")["kubernetes.io/os"] === "windows"
  );
}
