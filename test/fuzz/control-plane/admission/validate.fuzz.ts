// Any object in a review: the answer comes, in bounded time, without a throw; and what is accepted a source accepts too.
import fc from "fast-check";
import { validateChange } from "../../../../control-plane/admission/validate.ts";
import { createAdmitter } from "../../../../control-plane/policy/admit.ts";
import { createLinter } from "../../../../control-plane/policy/lint.ts";
import { loadBuiltInPacks } from "../../../../control-plane/policy/packs.ts";
import { createObjectParser } from "../../../../control-plane/policy/typed-object.ts";
import { KINDS, loadSchemas } from "../../../../control-plane/sources/schema.ts";
import { stateOfYaml } from "../../../fakes/yaml-state.ts";
import { OBJECT_CASES } from "../../../fixtures/objects/table.ts";
import { cpuMs } from "../../cpu-time.ts";

const MAX_MS = 2000;

const texts = OBJECT_CASES.flatMap(({ object }) =>
  typeof object === "object" && object !== null && "kind" in object ? [JSON.stringify(object)] : [],
);
const isFields = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** A part of one object in the place of a part of another. */
function graft(target: unknown, part: unknown, at: readonly number[]): unknown {
  const [first, ...rest] = at;
  if (first === undefined) return part;
  if (Array.isArray(target)) {
    const index = target.length === 0 ? 0 : first % target.length;
    return target.map((item, i) => (i === index ? graft(item, part, rest) : item));
  }
  if (!isFields(target)) return part;
  const keys = Object.keys(target);
  const key = keys[keys.length === 0 ? 0 : first % keys.length];
  return key === undefined ? target : { ...target, [key]: graft(target[key], part, rest) };
}

function partOf(value: unknown, at: readonly number[]): unknown {
  const [first, ...rest] = at;
  if (first === undefined || typeof value !== "object" || value === null) return value;
  const parts = Object.values(value);
  return parts.length === 0 ? value : partOf(parts[first % parts.length], rest);
}

const path = fc.array(fc.nat({ max: 7 }), { maxLength: 6 });
const reviews = fc.record({
  object: fc.constantFrom(...texts),
  other: fc.constantFrom(...texts),
  old: fc.option(fc.constantFrom(...texts), { nil: undefined }),
  into: path,
  from: path,
  status: fc.boolean(),
});

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const packs = loadBuiltInPacks();
  const state = stateOfYaml(
    "{kind: Workload, metadata: {name: a, namespace: lab}, spec: {kind: job, serviceAccount: s, service: a, ports: [{port: 80, packs: [openai]}]}}",
  );
  const schemas = loadSchemas();
  const admitter = createAdmitter(packs, { mode: "kubernetes" });
  const parse = createObjectParser();
  const context = {
    state,
    schemas,
    admitter,
    parse,
    linter: createLinter(packs),
    nowMs: 0,
    trustDomain: undefined,
  };
  const endMs = performance.now() + options.seconds * 1000;
  let cases = 0;
  let seed = options.seed;
  while (performance.now() < endMs) {
    fc.assert(
      fc.property(reviews, ({ object, other, old, into, from, status }) => {
        const made = graft(JSON.parse(object), partOf(JSON.parse(other), from), into);
        if (!isFields(made)) return;
        const { kind, metadata } = made;
        const namespace = isFields(metadata) ? metadata["namespace"] : undefined;
        const startMs = cpuMs();
        const verdict = validateChange(
          {
            uid: "",
            operation: old === undefined ? "CREATE" : "UPDATE",
            kind: {
              group: "countersign.dev",
              version: "v1alpha1",
              kind: KINDS.find((one) => one === kind) ?? "Pod",
            },
            resource: { group: "countersign.dev", version: "v1alpha1", resource: "x" },
            subResource: status ? "status" : undefined,
            name: "x",
            namespace: typeof namespace === "string" ? namespace : undefined,
            user: { username: "", uid: undefined, groups: [], extra: new Map() },
            object: made,
            oldObject: old === undefined ? undefined : JSON.parse(old),
            options: undefined,
            dryRun: false,
          },
          context,
        );
        const tookMs = cpuMs() - startMs;
        if (tookMs > MAX_MS) throw new Error(`took ${Math.round(tookMs)} ms`);
        if (verdict.kind === "refused" || status || old !== undefined) return;
        const checked = schemas.validate(made);
        const typed = checked.ok ? parse(checked.value, 0) : undefined;
        if (!checked.ok || !typed?.ok || admitter.against([])(typed.value, checked.value).length > 0)
          throw new Error("the webhook takes what a source refuses");
      }),
      { numRuns: 100, seed: seed++ },
    );
    cases += 100;
    await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}
