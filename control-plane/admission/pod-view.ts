// A pod as an admission review or a YAML file has it, read as far as injection looks into it. PURE. Forged reviews come here
// too, so nothing is believed about types; the API server itself checks the fields that are only passed on.
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import { isFields, type UnknownFields } from "./review.ts";

const CONTAINER_LISTS = ["initContainers", "containers", "ephemeralContainers"] as const;
export type ContainerList = (typeof CONTAINER_LISTS)[number];

export interface ContainerView {
  readonly list: ContainerList;
  /** Position in its list. */
  readonly index: number;
  readonly name: string;
  /** Runs beside the others, so that the kubelet probes it: not an init step that ends. */
  readonly isLasting: boolean;
  readonly fields: UnknownFields;
}

export interface PodView {
  readonly object: UnknownFields;
  readonly labels: ReadonlyMap<string, string>;
  readonly annotations: ReadonlyMap<string, string>;
  readonly spec: UnknownFields;
  /** In the order of `CONTAINER_LISTS`. */
  readonly containers: readonly ContainerView[];
  readonly volumes: readonly UnknownFields[];
}

const refuse = (error: string): Result<never, string> => ({ ok: false, error });

/** @returns the pod, or which field is not what a pod has there. */
export function readPod(object: UnknownFields): Result<PodView, string> {
  const metadata = object["metadata"] ?? {};
  if (!isFields(metadata)) return refuse("`metadata` is not an object");
  const labels = textMap(metadata["labels"]);
  const annotations = textMap(metadata["annotations"]);
  if (labels === undefined) return refuse("`metadata.labels` is not an object of texts");
  if (annotations === undefined) return refuse("`metadata.annotations` is not an object of texts");
  const spec = object["spec"];
  if (!isFields(spec)) return refuse("`spec` is not an object");
  const volumes = objectsOf(spec["volumes"]);
  if (volumes === undefined) return refuse("`spec.volumes` is not a list of objects");
  const containers: ContainerView[] = [];
  for (const list of CONTAINER_LISTS) {
    const items = objectsOf(spec[list]);
    if (items === undefined) return refuse(`\`spec.${list}\` is not a list of objects`);
    for (const [index, fields] of items.entries()) {
      const name = fields["name"];
      if (typeof name !== "string") return refuse(`\`spec.${list}[${index}].name\` is missing`);
      const isLasting = list === "containers" || fields["restartPolicy"] === "Always";
      containers.push({ list, index, name, isLasting, fields });
    }
  }
  if (!containers.some(({ list }) => list === "containers")) return refuse("`spec.containers` is missing");
  return { ok: true, value: { object, labels, annotations, spec, containers, volumes } };
}

/** Absent and null count as empty; undefined: not a list of objects. */
export function objectsOf(value: unknown): readonly UnknownFields[] | undefined {
  if (value === undefined || value === null) return [];
  return Array.isArray(value) && value.every(isFields) ? value : undefined;
}

function textMap(value: unknown): ReadonlyMap<string, string> | undefined {
  const map = new Map<string, string>();
  if (value === undefined || value === null) return map;
  if (!isFields(value)) return undefined;
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== "string") return undefined;
    map.set(key, text);
  }
  return map;
}

/** The object at `name`, or an empty one. */
export function fieldsAt(fields: UnknownFields, name: string): UnknownFields {
  const value = fields[name];
  return isFields(value) ? value : {};
}
