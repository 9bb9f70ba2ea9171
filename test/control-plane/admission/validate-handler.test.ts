// Reviews in, answers out, with a state from YAML and an authorizer that says what it is told.
import { describe, expect, test } from "@jest/globals";
import type { V1SubjectAccessReview } from "@kubernetes/client-node";
import { parse as parseYaml } from "yaml";
import type {
  AdmissionAnswer,
  AdmissionRequest,
  UnknownFields,
} from "../../../control-plane/admission/review.ts";
import {
  type AdmittedObject,
  createValidateHandler,
} from "../../../control-plane/admission/validate-handler.ts";
import { createAdmitter } from "../../../control-plane/policy/admit.ts";
import { createLinter } from "../../../control-plane/policy/lint.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { createObjectParser } from "../../../control-plane/policy/typed-object.ts";
import { loadSchemas } from "../../../control-plane/sources/schema.ts";
import type { ClusterState } from "../../../control-plane/sources/store.ts";
import { ChangeActors } from "../../../control-plane/tokens/change-actors.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { stateOfYaml } from "../../fakes/yaml-state.ts";
import { OBJECT_CASES } from "../../fixtures/objects/table.ts";

const WORLD = stateOfYaml(`
{kind: MeshConfig, metadata: {name: default}, spec: {trustDomain: lake.example}}
---
{kind: Workload, metadata: {name: fraud-scorer, namespace: ml}, spec: {kind: serving, serviceAccount: fraud, service: fraud, ports: [{port: 8080, packs: [mlflow-scoring]}]}}
---
{kind: MeshRole, metadata: {name: fraud-ds}, spec: {}}
---
{kind: MeshRoleBinding, metadata: {name: b}, spec: {roles: [fraud-ds], subjects: [{serviceAccount: ml/fraud}]}}
---
{kind: OperationCatalog, metadata: {name: extra}, spec: {packs: [{name: features, text: "features.read GET /features/{id} - read -"}]}}
---
{kind: AccessPolicy, metadata: {name: readers, namespace: ml}, spec: {action: Deny, rules: [{name: r, operations: [{op: features.read}]}]}}
`);
const packs = loadBuiltInPacks();
const schemas = loadSchemas();
const clock = new FakeClock(Date.parse("2026-09-15T10:00:00Z"));

type Allowed = (attributes: string) => boolean | "fails" | "never";

interface Asked {
  readonly state?: ClusterState;
  readonly allowed?: Allowed;
  readonly trustDomain?: string;
  readonly asked?: V1SubjectAccessReview[];
  readonly admitted?: AdmittedObject[];
}

function handler({ state = WORLD, allowed = () => false, trustDomain, asked = [], admitted = [] }: Asked) {
  return createValidateHandler({
    state: () => state,
    schemas,
    admitter: createAdmitter(packs, { mode: "kubernetes" }),
    parse: createObjectParser(),
    linter: createLinter(packs),
    trustDomain,
    onAdmitted: (change) => void admitted.push(change),
    clock,
    log: silentLogger,
    authorization: {
      createSubjectAccessReview: async ({ body }) => {
        asked.push(body);
        const { verb, resource, namespace, name } = body.spec.resourceAttributes ?? {};
        const answer = allowed(
          [verb, resource, namespace, name].filter((one) => one !== undefined).join(" "),
        );
        if (answer === "fails") throw new Error("connect ECONNREFUSED");
        if (answer === "never") return new Promise<V1SubjectAccessReview>(() => {});
        return { ...body, status: { allowed: answer } };
      },
    },
  });
}

/** A review of a change from `old` to `now`, both YAML without `apiVersion`; undefined: there is none. */
function review(
  now: string | undefined,
  old?: string,
  more: Partial<AdmissionRequest> = {},
): AdmissionRequest {
  const read = (text: string | undefined): UnknownFields | undefined =>
    text === undefined ? undefined : { apiVersion: "countersign.dev/v1alpha1", ...parseYaml(text) };
  const [object, oldObject] = [read(now), read(old)];
  const { kind, metadata } = (object ?? oldObject) as {
    readonly kind: string;
    readonly metadata: { readonly name: string; readonly namespace?: string };
  };
  return {
    uid: "b2a1c9f4-0000-4000-8000-000000000000",
    operation: object === undefined ? "DELETE" : oldObject === undefined ? "CREATE" : "UPDATE",
    kind: { group: "countersign.dev", version: "v1alpha1", kind },
    resource: { group: "countersign.dev", version: "v1alpha1", resource: `${kind.toLowerCase()}s` },
    subResource: undefined,
    name: metadata.name,
    namespace: metadata.namespace,
    user: {
      username: "alice",
      uid: "u-1",
      groups: ["ml", "system:authenticated"],
      extra: new Map([["example.org/team", ["fraud"]]]),
    },
    object,
    oldObject,
    options: { fieldValidation: "Strict" },
    dryRun: false,
    ...more,
  };
}

const textOf = (answer: AdmissionAnswer): string =>
  answer.allowed ? ["yes", ...(answer.warnings ?? [])].join(" | ") : `${answer.code} ${answer.message}`;
const say = async (request: AdmissionRequest, asked: Asked = {}): Promise<string> =>
  textOf(await handler(asked)(request));

const policy = (rule: string, action = "Deny"): string =>
  `{kind: AccessPolicy, metadata: {name: p, namespace: ml}, spec: {action: ${action}, rules: [{name: r${rule === "" ? "" : `, ${rule}`}}]}}`;
const binding = (roles: string, subjects: string, more = ""): string =>
  `{kind: MeshRoleBinding, metadata: {name: b}, spec: {roles: [${roles}], subjects: [${subjects}]${more}}}`;
const grant = (spec: string, status = ""): string =>
  `{kind: AccessGrant, metadata: {name: g, namespace: ml}, spec: {subject: {workload: ml/fraud-scorer}, duration: 1h, reason: r, ${spec}}${status}}`;
const config = (spec: string, name = "default"): string =>
  `{kind: MeshConfig, metadata: {name: ${name}}, spec: {${spec}}}`;

describe("an object that is written", () => {
  test.each<{ name: string; request: AdmissionRequest; asked?: Asked; says: string | RegExp }>([
    {
      name: "a policy that is right",
      request: review(policy("operations: [{op: serving.invoke}]")),
      says: "yes",
    },
    {
      name: "what the schema refuses",
      request: review(policy("form: []")),
      says: /^422 spec\.rules\[0\]\.form: unknown field `spec\.rules\[0\]\.form`; did you mean `from`\?$/,
    },
    {
      name: "CEL that does not compile, and what else is wrong",
      request: review(policy('operations: [{op: serving.invok}], when: {cel: "caller.kind =="}')),
      says: /^422 2 problems: \(1\) spec\.rules\[0\]\.when\.cel: does not compile.* \(2\) spec\.rules\[0\]\.operations\[0\]\.op: .*did you mean `serving\.invoke`$/,
    },
    {
      name: "several operations that nobody defines",
      request: review(policy("operations: [{op: serving.invok}, {op: mlflow.lgo}]")),
      says: /^422 2 problems: \(1\) spec\.rules\[0\]\.operations\[0\]\.op: no operation pack defines `serving\.invok`; did you mean `serving\.invoke` \(2\) spec\.rules\[0\]\.operations\[1\]\.op: .*`mlflow\.log`$/,
    },
    {
      name: "a time zone that does not exist",
      request: review(policy("when: {schedule: {timeZone: Europe/Berln, days: [Mon]}}")),
      says: /^422 spec\.rules\[0\]\.when\.schedule\.timeZone: .*not an IANA time zone/,
    },
    {
      name: "a field that is not enforced",
      request: review(
        policy(
          "from: [{any: true}], operations: [{any: true}], when: {cel: \"caller.labels.a == 'b'\"}",
          "Allow",
        ),
      ),
      says: /^422 spec\.rules\[0\]\.when\.cel: no credential of this build/,
    },
    {
      name: "what has an effect in a cluster only",
      request: review(config("trustDomain: lake.example, outbound: Allow, trustedSpawners: [ml/hub]")),
      says: "yes",
    },
    {
      name: "a second MeshConfig",
      request: review(config("trustDomain: lake.example", "other")),
      says: /^422 .*its name is `default`$/,
    },
    {
      name: "another trust domain",
      request: review(config("trustDomain: other.example"), config("trustDomain: lake.example")),
      says: /^422 .*the trust domain cannot change/,
    },
    {
      name: "another trust domain after a deletion",
      request: review(config("trustDomain: other.example")),
      asked: { trustDomain: "lake.example" },
      says: /^422 spec\.trustDomain: `other\.example` is another mesh: every certificate of this one carries `lake\.example`; write `lake\.example`, or install/,
    },
    {
      name: "warnings: a target, a role, a scope",
      request: review(
        "{kind: AccessPolicy, metadata: {name: p, namespace: ml}, spec: {action: Deny, targets: [{names: [fraud-scorre]}], rules: [{name: r, from: [{workload: {kinds: [serving]}, user: {roles: [fraud-sd]}}]}]}}",
      ),
      says: /^yes \| .*name namespaces or service accounts too \| .*did you mean `fraud-ds` \| spec\.targets: no workload matches, the policy is in force nowhere \| spec\.targets\[0\]\.names\[0\]: .*did you mean `fraud-scorer`$/,
    },
    {
      name: "a warning: no MeshConfig",
      request: review(policy("")),
      asked: {
        state: stateOfYaml(
          "{kind: Workload, metadata: {name: a, namespace: ml}, spec: {kind: job, serviceAccount: s}}",
        ),
      },
      says: "yes | there is no MeshConfig, so the defaults hold; add one named `default`",
    },
    {
      name: "a warning: fields are not validated strictly",
      request: review(policy(""), undefined, { options: { fieldValidation: "Ignore" } }),
      says: /^yes \| unknown fields of this object are dropped in silence, not refused: apply it with `kubectl apply --validate=strict`$/,
    },
    {
      name: "a warning: a catalog that a policy needs",
      request: review(
        '{kind: OperationCatalog, metadata: {name: extra}, spec: {packs: [{name: features, text: "features.get GET /features/{id} - read -"}]}}',
        '{kind: OperationCatalog, metadata: {name: extra}, spec: {packs: [{name: features, text: "features.read GET /features/{id} - read -"}]}}',
      ),
      says: /^yes \| nobody defines `features\.read` any more, which `AccessPolicy\/ml\/readers` names: an Allow drops out, a Deny denies everything/,
    },
    {
      name: "a warning: a pack that nobody has",
      request: review(
        "{kind: Workload, metadata: {name: w, namespace: ml}, spec: {kind: serving, serviceAccount: s, service: s, ports: [{port: 80, packs: [mlfow]}]}}",
      ),
      says: /^yes \| spec\.ports\[0\]\.packs\[0\]: no operation pack is named `mlfow`.*did you mean `mlflow`\?$/,
    },
    {
      name: "another kind of this group",
      request: review("{kind: AuditSink, metadata: {name: r, namespace: ml}, spec: {}}"),
      says: /^422 kind: this build does not support `AuditSink` yet; remove the object$/,
    },
    {
      name: "a record of our own",
      request: review("{kind: MeshRevision, metadata: {name: r, namespace: ml}, spec: {}}"),
      says: "yes",
    },
    {
      name: "a kind of somebody else",
      request: review(policy(""), undefined, { kind: { group: "", version: "v1", kind: "Pod" } }),
      says: /^400 this webhook checks objects of `countersign\.dev\/v1alpha1`/,
    },
    {
      name: "a review whose object is in another namespace",
      request: review(policy(""), undefined, { namespace: "elsewhere" }),
      says: /^400 kind or namespace of the object are not those of the review$/,
    },
    {
      name: "a review whose old object is of another kind",
      request: review(
        policy(""),
        "{kind: AccessPolicy, metadata: {name: p, namespace: ml}, spec: {action: Audit, rules: [{name: r, with: {audit: {level: Metadata, sample: 0.1}}}]}}",
        {
          object: review(
            "{kind: Workload, metadata: {name: p, namespace: ml}, spec: {kind: job, serviceAccount: s}}",
          ).object,
        },
      ),
      says: /^400 kind or namespace of the object are not those of the review$/,
    },
    {
      name: "labels of an object that is not valid any more",
      request: review(
        "{kind: AccessPolicy, metadata: {name: p, namespace: ml, finalizers: []}, spec: {action: Dney}}",
        "{kind: AccessPolicy, metadata: {name: p, namespace: ml, finalizers: [a/b]}, spec: {action: Dney}}",
      ),
      says: "yes",
    },
    {
      name: "the status of a policy",
      request: review(policy(""), policy("operations: [{op: sql}]"), { subResource: "status" }),
      says: "yes",
    },
  ])("$name", async ({ request, asked, says }) => {
    const found = await say(request, asked);
    if (typeof says === "string") expect(found).toBe(says);
    else expect(found).toMatch(says);
  });

  test("a field that the API server dropped is named by what kubectl wrote down", async () => {
    const sent = {
      apiVersion: "countersign.dev/v1alpha1",
      kind: "AccessPolicy",
      metadata: { name: "p", namespace: "ml", annotations: {} },
      spec: { action: "Deny", targts: [{ kinds: ["job"] }], rules: [{ name: "r" }] },
    };
    const annotation = { "kubectl.kubernetes.io/last-applied-configuration": JSON.stringify(sent) };
    const object = {
      ...sent,
      spec: { action: "Deny", rules: [{ name: "r" }] },
      metadata: { ...sent.metadata, annotations: annotation },
    };
    const request = review(policy(""), undefined, { object, options: undefined });
    expect(await say(request)).toBe(
      "yes | spec.targts: is no field and was dropped; did you mean `targets`? | unknown fields of this object are dropped, not refused: apply it with `kubectl apply --validate=strict`",
    );
    const again = {
      ...request,
      operation: "UPDATE" as const,
      oldObject: { ...object, spec: { action: "Allow" } },
    };
    expect(await say(again)).not.toContain("targts");
  });
});

describe("what a source takes, the webhook takes", () => {
  const admitter = createAdmitter(packs, { mode: "kubernetes" });
  const parse = createObjectParser();
  const kinds = [
    "AccessPolicy",
    "ClusterAccessPolicy",
    "MeshRole",
    "Workload",
    "MeshConfig",
    "OperationCatalog",
  ];
  const cases = OBJECT_CASES.filter(({ object }) => {
    const { apiVersion, kind, metadata } = (object ?? {}) as Record<string, unknown>;
    return (
      apiVersion === "countersign.dev/v1alpha1" &&
      kinds.includes(String(kind)) &&
      typeof metadata === "object" &&
      metadata !== null
    );
  });

  test("and nothing else, for every object of the table", async () => {
    const differ: string[] = [];
    for (const { name, object } of cases) {
      const checked = schemas.validate(object);
      const typed = checked.ok ? parse(checked.value, 0) : undefined;
      const accepted =
        checked.ok &&
        typed?.ok === true &&
        admitter.against([...WORLD.catalogs.values()])(typed.value, checked.value).length === 0;
      const answer = await handler({})(review(JSON.stringify(object)));
      if (answer.allowed !== accepted) differ.push(`${name}: source ${accepted}, webhook ${textOf(answer)}`);
    }
    expect(differ).toEqual([]);
    expect(cases.length).toBeGreaterThan(100);
  });
});

describe("giving a role", () => {
  const fraud = "{serviceAccount: ml/fraud}";
  const two = `${fraud}, {serviceAccount: ml/other}`;

  test.each<{ name: string; now: string; old?: string; needs: string[] }>([
    {
      name: "a new binding",
      now: binding("fraud-ds, ops", fraud),
      needs: ["bind meshroles fraud-ds", "bind meshroles ops"],
    },
    {
      name: "one more role",
      now: binding("fraud-ds, ops", fraud),
      old: binding("fraud-ds", fraud),
      needs: ["bind meshroles ops"],
    },
    {
      name: "one more subject",
      now: binding("fraud-ds", two),
      old: binding("fraud-ds", fraud),
      needs: ["bind meshroles fraud-ds"],
    },
    { name: "one less subject", now: binding("fraud-ds", fraud), old: binding("fraud-ds", two), needs: [] },
    { name: "one less role", now: binding("ops", fraud), old: binding("ops, fraud-ds", fraud), needs: [] },
    {
      name: "namespaces that are let go",
      now: binding("ops", fraud),
      old: binding("ops", fraud, ", namespaces: [ml]"),
      needs: ["bind meshroles ops"],
    },
    {
      name: "a wider pattern",
      now: binding("ops", fraud, ", namespaces: ['m*']"),
      old: binding("ops", fraud, ", namespaces: ['ml*']"),
      needs: ["bind meshroles ops"],
    },
    {
      name: "a narrower pattern",
      now: binding("ops", fraud, ", namespaces: [ml-x]"),
      old: binding("ops", fraud, ", namespaces: ['ml*']"),
      needs: [],
    },
    {
      name: "an old binding that cannot be read",
      now: binding("ops", fraud),
      old: "{kind: MeshRoleBinding, metadata: {name: b}, spec: {rolls: [ops]}}",
      needs: ["bind meshroles ops"],
    },
  ])("takes bind: $name", async ({ now, old, needs }) => {
    const asked: V1SubjectAccessReview[] = [];
    const wanted = new Set(needs);
    const yes = await say(review(now, old), { asked, allowed: (right) => wanted.has(right) });
    expect(yes).toMatch(/^yes/);
    expect(asked).toHaveLength(needs.length);
    if (needs.length === 0) return;
    expect(asked[0]?.spec).toMatchObject({
      user: "alice",
      uid: "u-1",
      groups: ["ml", "system:authenticated"],
      extra: { "example.org/team": ["fraud"] },
      resourceAttributes: { group: "countersign.dev", verb: "bind", resource: "meshroles" },
    });
    const [missing = ""] = needs;
    expect(await say(review(now, old), { allowed: (right) => right !== missing })).toMatch(
      /^403 `alice` needs verb `bind` on meshroles\.countersign\.dev `[a-z-]+` to give role `[a-z-]+`; an administrator can give it with `kubectl create clusterrole bind-meshroles --verb=bind --resource=meshroles\.countersign\.dev --resource-name=[a-z-]+` and a binding$/,
    );
  });

  test("is refused while the API server does not answer", async () => {
    const request = review(binding("ops", fraud));
    const refusal = /^503 the API server did not say .*try again/;
    expect(await say(request, { allowed: () => "fails" })).toMatch(refusal);
    const late = say(request, { allowed: () => "never" });
    while (clock.sleeping === 0) await Promise.resolve();
    clock.advance(5_000);
    expect(await late).toMatch(refusal);
  });

  test("is refused when too much is being asked at once, and allowed again after", async () => {
    const answer = handler({ allowed: () => "never" });
    const request = review(binding(Array.from({ length: 16 }, (_, i) => `r${i}`).join(), fraud));
    const waiting = Array.from({ length: 4 }, () => answer(request));
    while (clock.sleeping < 64) await Promise.resolve();
    expect(textOf(await answer(request))).toMatch(/^503/);
    clock.advance(5_000);
    for (const one of await Promise.all(waiting)) expect(textOf(one)).toMatch(/^503/);
    const next = answer(review(binding("ops", fraud)));
    while (clock.sleeping === 0) await Promise.resolve();
    clock.advance(5_000);
    expect(textOf(await next)).toMatch(/^503/);
  });
});

describe("a grant", () => {
  const asks = "operations: [{any: true}]";
  const open = `${asks}, approval: {required: 0}`;
  const active = ", status: {phase: Active, activeFrom: '2026-09-15T10:00:00Z'}";

  test.each<{ name: string; request: AdmissionRequest; needs: string[] }>([
    { name: "that waits for approval", request: review(grant(asks)), needs: [] },
    { name: "that nobody approves", request: review(grant(open)), needs: ["approve accessgrants ml g"] },
    {
      name: "of a role that nobody approves",
      request: review(grant("roles: [break-glass], approval: {required: 0}")),
      needs: ["approve accessgrants ml g", "bind meshroles break-glass"],
    },
    {
      name: "that is turned into one that nobody approves",
      request: review(grant(open), grant(asks)),
      needs: ["approve accessgrants ml g"],
    },
    {
      name: "that is approved",
      request: review(grant(asks, active), grant(asks), { subResource: "status" }),
      needs: ["approve accessgrants ml g"],
    },
    {
      name: "of a role that is approved",
      request: review(grant("roles: [break-glass]", active), grant("roles: [break-glass]"), {
        subResource: "status",
      }),
      needs: ["approve accessgrants ml g", "bind meshroles break-glass"],
    },
    {
      name: "that is taken back",
      request: review(grant(asks, ", status: {phase: Revoked}"), grant(asks, active), {
        subResource: "status",
      }),
      needs: ["approve accessgrants ml g"],
    },
    {
      name: "whose conditions change",
      request: review(grant(asks, `${active.slice(0, -1)}, observedGeneration: 2}`), grant(asks, active), {
        subResource: "status",
      }),
      needs: [],
    },
  ])("$name", async ({ request, needs }) => {
    const asked: V1SubjectAccessReview[] = [];
    expect(await say(request, { asked, allowed: () => true })).toMatch(/^yes/);
    const rights = asked.map(({ spec: { resourceAttributes: of } }) =>
      [of?.verb, of?.resource, of?.namespace, of?.name].filter((one) => one !== undefined).join(" "),
    );
    expect(rights).toEqual(needs);
    if (needs.length > 0) expect(await say(request)).toMatch(/^403 /);
  });

  test("in force keeps its spec", async () => {
    expect(
      await say(review(grant(asks.replace("any: true", "op: sql"), active), grant(asks, active))),
    ).toMatch(/^422 .*the spec of a grant cannot change after its approval/);
  });
});

describe("an object that is deleted", () => {
  test.each<{ name: string; old: string; says: string | RegExp }>([
    { name: "a policy", old: policy(""), says: "yes" },
    {
      name: "the MeshConfig",
      old: config("trustDomain: lake.example"),
      says: /^yes \| 1 workload is in the mesh, and without a MeshConfig the defaults hold for them, with a trust domain that is not `lake\.example`: apply it again$/,
    },
    {
      name: "a role that is given",
      old: "{kind: MeshRole, metadata: {name: fraud-ds}, spec: {}}",
      says: "yes | `b` still give this role, which now carries no rules",
    },
    {
      name: "a catalog that is used",
      old: "{kind: OperationCatalog, metadata: {name: extra}, spec: {}}",
      says: /^yes \| nobody defines `features\.read` any more/,
    },
  ])("$name", async ({ old, says }) => {
    const found = await say(review(undefined, old));
    if (typeof says === "string") expect(found).toBe(says);
    else expect(found).toMatch(says);
  });
});

describe("who asked for a change is told", () => {
  const told = async (request: AdmissionRequest, asked: Asked = {}) => {
    const admitted: AdmittedObject[] = [];
    await say(request, { ...asked, admitted });
    return admitted;
  };
  const right = policy("operations: [{op: serving.invoke}]");
  const other = policy("operations: [{op: serving.metadata}]");

  test("with the very object that a source makes of it, so that its event finds the name", async () => {
    const [change] = await told(review(right));
    expect(change).toMatchObject({ kind: "AccessPolicy", name: "ml/p", username: "alice" });
    const now = stateOfYaml(right).policies.get("AccessPolicy/ml/p");
    const actors = new ChangeActors();
    actors.admitted({ kind: "AccessPolicy", name: "ml/p", value: change?.typed?.value, actor: "alice" }, 0);
    expect(now).toBeDefined();
    expect(actors.of("AccessPolicy", "ml/p", now, 1)).toBe("alice");
  });

  test("of a change of the spec, a deletion, and a cluster-scoped object", async () => {
    expect(await told(review(other, right))).toHaveLength(1);
    expect(await told(review(undefined, right))).toMatchObject([{ name: "ml/p", typed: undefined }]);
    const role = "{kind: MeshRole, metadata: {name: ds}, spec: {}}";
    expect(await told(review(undefined, role))).toMatchObject([{ kind: "MeshRole", name: "ds" }]);
  });

  test.each<[string, AdmissionRequest]>([
    ["a dry run", review(right, undefined, { dryRun: true })],
    ["a dry run of a deletion", review(undefined, right, { dryRun: true })],
    ["what is refused", review(policy("operations: [{op: nothing.known}]", "Allow"))],
    ["a right that is missing", review(binding("fraud-ds", "{serviceAccount: ml/other}"))],
    ["an object whose spec stays", review(right, right)],
  ])("but not of %s", async (_, request) => {
    expect(await told(request)).toEqual([]);
  });
});
