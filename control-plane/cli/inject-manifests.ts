// Injection of YAML files: finds the pods in Kubernetes objects, also in templates and lists, and leaves every other document
// as it stands. PURE.
import { parseDocument, stringify, type Tags } from "yaml";
import { type InjectContext, injectPod } from "../admission/inject.ts";
import { applyPatch } from "../admission/json-patch.ts";
import { isFields, type UnknownFields } from "../admission/review.ts";
import { MAX_DOCUMENTS, splitDocuments } from "../sources/yaml-files.ts";

export interface InjectedManifests {
  /** All documents, in their order. */
  readonly text: string;
  /** `Kind namespace/name: …`, one line each. */
  readonly warnings: readonly string[];
  /** What cannot be read or meshed; the text is not to be used then. */
  readonly problems: readonly string[];
  /** How many pods and templates got a sidecar. */
  readonly injected: number;
}

const TEMPLATE = ["spec", "template"];
/** Where the pod stands in an object, by `group/kind`. */
const POD_PATHS: Readonly<Record<string, readonly string[]>> = {
  "/Pod": [],
  "/PodTemplate": ["template"],
  "/ReplicationController": TEMPLATE,
  "apps/Deployment": TEMPLATE,
  "apps/StatefulSet": TEMPLATE,
  "apps/DaemonSet": TEMPLATE,
  "apps/ReplicaSet": TEMPLATE,
  "batch/Job": TEMPLATE,
  "batch/CronJob": ["spec", "jobTemplate", ...TEMPLATE],
};

/**
 * YAML as kubectl reads it: 1.1, so that `yes` is a boolean, but without times and base 60. What is written quotes every
 * text that either would take for something else.
 */
const READING = {
  version: "1.1",
  customTags: (tags: Tags): Tags =>
    tags.filter(
      (tag) =>
        typeof tag === "string" ||
        (!("format" in tag && tag.format === "TIME") && tag.tag !== "tag:yaml.org,2002:timestamp"),
    ),
} as const;
const MAX_ALIASES = 50;
const MAX_TEXT = 64 * 1024 * 1024;

/** Documents without a pod come out byte for byte; of the others comments and layout are lost. */
export function injectManifests(text: string, context: InjectContext): InjectedManifests {
  const warnings: string[] = [];
  const problems: string[] = [];
  const nothing = (problem: string): InjectedManifests => ({
    text: "",
    warnings,
    problems: [problem],
    injected: 0,
  });
  if (text.length > MAX_TEXT) return nothing(`the file is larger than ${MAX_TEXT} characters`);
  const documents = splitDocuments(text);
  if (documents.length > MAX_DOCUMENTS) return nothing(`the file has more than ${MAX_DOCUMENTS} documents`);
  const output: string[] = [];
  let injected = 0;
  for (const document of documents) {
    const parsed = parseDocument(document.text, READING);
    const [error] = parsed.errors;
    if (error !== undefined) {
      problems.push(`line ${document.line}: not YAML: ${error.message.split("\n", 1)[0]}`);
      continue;
    }
    let value: unknown;
    try {
      value = parsed.toJS({ maxAliasCount: MAX_ALIASES });
    } catch {
      problems.push(`line ${document.line}: too many aliases`);
      continue;
    }
    const seen = { count: 0 };
    const changed = injectObject(value, context, (object, outcome) => {
      if (outcome.kind === "injected") seen.count++;
      if (outcome.kind === "refused")
        problems.push(`line ${document.line}: ${titleOf(object)}: ${outcome.reason}`);
      for (const warning of outcome.warnings)
        warnings.push(`line ${document.line}: ${titleOf(object)}: ${warning}`);
    });
    injected += seen.count;
    output.push(
      changed === value
        ? document.text
        : `---\n${stringify(changed, { version: "1.1", lineWidth: 0, aliasDuplicateObjects: false })}`,
    );
  }
  return { text: joined(output), warnings, problems, injected };
}

/** A document that begins without a marker gets one, unless it is the first. */
function joined(documents: readonly string[]): string {
  return documents
    .map((text, index) => {
      const start = index > 0 && !/^(?:---|\.\.\.)(?=\s|$)/.test(text) ? "---\n" : "";
      return start + (text.endsWith("\n") ? text : `${text}\n`);
    })
    .join("");
}

type Tell = (object: UnknownFields, outcome: ReturnType<typeof injectPod>) => void;

/** @returns the very same value when nothing in it changes. */
function injectObject(value: unknown, context: InjectContext, tell: Tell): unknown {
  if (!isFields(value)) return value;
  const { kind, apiVersion, items } = value;
  if (typeof kind !== "string" || typeof apiVersion !== "string") return value;
  if (kind.endsWith("List") && Array.isArray(items)) {
    const changed = items.map((item: unknown) => injectObject(item, context, tell));
    return changed.every((item, index) => item === items[index]) ? value : { ...value, items: changed };
  }
  const group = apiVersion.includes("/") ? (apiVersion.split("/", 1)[0] ?? "") : "";
  const path = Object.hasOwn(POD_PATHS, `${group}/${kind}`) ? POD_PATHS[`${group}/${kind}`] : undefined;
  return path === undefined
    ? value
    : changedAt(value, path, (pod) => {
        const outcome = injectPod(pod, context);
        tell(value, outcome);
        return outcome.kind === "refused" || outcome.patch.length === 0
          ? pod
          : applyPatch(pod, outcome.patch);
      });
}

function changedAt(
  object: UnknownFields,
  [field, ...rest]: readonly string[],
  change: (pod: UnknownFields) => UnknownFields,
): UnknownFields {
  if (field === undefined) return change(object);
  const inner = object[field];
  if (!isFields(inner)) return object;
  const changed = changedAt(inner, rest, change);
  return changed === inner ? object : { ...object, [field]: changed };
}

function titleOf({ kind, metadata }: UnknownFields): string {
  const { namespace, name, generateName } = isFields(metadata) ? metadata : {};
  const parts = [namespace, name ?? generateName].filter((part) => typeof part === "string");
  return `${String(kind)} ${parts.join("/") || "without a name"}`;
}
