// The checks of `metadata` that an API server makes itself, outside of any CRD schema; PURE.
import { closestName } from "./closest-name.ts";
import type { FieldProblem } from "./field-problem.ts";
import { quote } from "./schema-errors.ts";

const FIELDS = ["name", "namespace", "labels", "annotations"];
/** Set by an API server: exported objects carry them, here they mean nothing. */
const IGNORED = [
  "uid",
  "generateName",
  "resourceVersion",
  "generation",
  "creationTimestamp",
  "deletionTimestamp",
  "deletionGracePeriodSeconds",
  "managedFields",
  "ownerReferences",
  "finalizers",
  "selfLink",
];

const DNS_LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const DNS_NAME = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/;
const LABEL_NAME = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;

/** Whether `key` is a label key: a name, optionally after a DNS prefix and `/`. */
function isLabelKey(key: string): boolean {
  const slash = key.indexOf("/");
  if (slash < 0) return LABEL_NAME.test(key);
  return slash <= 253 && DNS_NAME.test(key.slice(0, slash)) && LABEL_NAME.test(key.slice(slash + 1));
}

const isDnsName = (name: unknown): name is string =>
  typeof name === "string" && name.length <= 253 && DNS_NAME.test(name);

interface ObjectMeta {
  readonly name: string;
  readonly namespace: string | undefined;
  readonly labels: ReadonlyMap<string, string>;
}

function readTexts(
  value: unknown,
  field: "labels" | "annotations",
  problems: FieldProblem[],
): Map<string, string> {
  const texts = new Map<string, string>();
  const path = `metadata.${field}`;
  if (value === undefined) return texts;
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    problems.push({ path, message: "must be an object of strings" });
    return texts;
  }
  for (const [key, text] of Object.entries(value)) {
    if (!isLabelKey(key)) problems.push({ path, message: `${quote(key)} is not a valid key` });
    else if (typeof text !== "string")
      problems.push({
        path: `${path}.${key}`,
        message: `must be a string, but is ${quote(text)}`,
        hint: "put it in quotes",
      });
    else if (field === "labels" && text !== "" && !LABEL_NAME.test(text))
      problems.push({
        path: `${path}.${key}`,
        message: `${quote(text)} is not a label value: at most 63 letters, digits, \`.\`, \`_\` and \`-\``,
      });
    else texts.set(key, text);
  }
  return texts;
}

/** Checks and reads `metadata`; appends what is wrong to `problems`, in which case the result is not to be used. */
export function checkMetadata(
  value: unknown,
  kind: string,
  namespaced: boolean,
  problems: FieldProblem[],
): ObjectMeta {
  const none = { name: "", namespace: undefined, labels: new Map() };
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    problems.push({
      path: "metadata",
      message: value === undefined ? "is missing" : "must be an object with `name`",
    });
    return none;
  }
  const metadata = value as Readonly<Record<string, unknown>>;
  for (const field of Object.keys(metadata)) {
    if (FIELDS.includes(field) || IGNORED.includes(field)) continue;
    const closest = closestName(field, FIELDS);
    problems.push({
      path: `metadata.${field}`,
      message: `unknown field ${quote(`metadata.${field}`)}`,
      hint:
        closest === undefined
          ? "fields here are `name`, `namespace`, `labels`, `annotations`"
          : `did you mean \`${closest}\`?`,
    });
  }
  const { name, namespace } = metadata;
  if (name === undefined) problems.push({ path: "metadata.name", message: "is missing" });
  else if (!isDnsName(name))
    problems.push({
      path: "metadata.name",
      message: `${quote(name)} is not a name: lower-case letters, digits, \`-\` and \`.\``,
    });
  if (namespaced) {
    if (namespace === undefined)
      problems.push({
        path: "metadata.namespace",
        message: `is missing: \`${kind}\` belongs to a namespace`,
      });
    else if (typeof namespace !== "string" || !DNS_LABEL.test(namespace))
      problems.push({
        path: "metadata.namespace",
        message: `${quote(namespace)} is not a namespace: lower-case letters, digits and \`-\``,
      });
  } else if (namespace !== undefined) {
    const hint = kind === "ClusterAccessPolicy" ? "use `AccessPolicy` for one namespace" : "remove it";
    problems.push({ path: "metadata.namespace", message: `\`${kind}\` belongs to no namespace`, hint });
  }
  const labels = readTexts(metadata["labels"], "labels", problems);
  readTexts(metadata["annotations"], "annotations", problems);
  return {
    name: String(name ?? ""),
    namespace: namespaced && typeof namespace === "string" ? namespace : undefined,
    labels,
  };
}
