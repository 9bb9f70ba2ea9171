import { describe, expect, test } from "@jest/globals";
import { createAdmitter } from "../../../../control-plane/policy/admit.ts";
import { loadBuiltInPacks } from "../../../../control-plane/policy/packs.ts";
import { createObjectParser } from "../../../../control-plane/policy/typed-object.ts";
import {
  KubernetesObjects,
  type StoredObject,
} from "../../../../control-plane/sources/kubernetes/objects.ts";
import { loadSchemas } from "../../../../control-plane/sources/schema.ts";

const deps = {
  schemas: loadSchemas(),
  parse: createObjectParser(),
  admitter: createAdmitter(loadBuiltInPacks(), { mode: "kubernetes" }),
};

const policy = (action: string, rule: object, over: Partial<StoredObject> = {}): StoredObject => ({
  kind: "AccessPolicy",
  namespace: "ns",
  name: "p",
  generation: 1,
  createdAtMs: 0,
  labels: undefined,
  spec: { action, rules: [{ name: "r", ...rule }] },
  status: undefined,
  ...over,
});
const KEY = "AccessPolicy/ns/p";
const deny = (cel = "true"): object => ({ when: { cel } });
const broken = deny("nonsense(");
const catalog: StoredObject = {
  ...policy("", {}),
  kind: "OperationCatalog",
  namespace: undefined,
  name: "own",
  spec: { packs: [{ name: "own", text: "own.read GET /own - read -" }] },
};
const REFUSED = { conditions: [{ type: "Accepted", status: "False", observedGeneration: 5 }] };

function settle(objects: KubernetesObjects): ReadonlySet<string> {
  const steps = objects.settle();
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
  }
}

/** Objects that have been read once. */
function opened(...stored: readonly StoredObject[]): KubernetesObjects {
  const objects = new KubernetesObjects(deps);
  for (const one of stored) objects.put(KEY, one);
  settle(objects);
  return objects;
}

const inForce = (objects: KubernetesObjects) =>
  [...objects.accepted()].map(({ key, valid, current, closed }) => ({
    key,
    generation: valid.generation,
    current,
    ...(closed ? { closed } : {}),
  }));

describe("objects of a cluster", () => {
  test("a refused Deny stays as it was accepted last, and says so", () => {
    const objects = opened(policy("Deny", deny()));
    objects.put(KEY, policy("Deny", broken, { generation: 2 }));
    expect([...settle(objects)]).toEqual([]);
    expect(inForce(objects)).toEqual([{ key: KEY, generation: 1, current: false }]);
    expect(objects.problems()).toMatchObject([
      { object: "AccessPolicy ns/p", reason: "InvalidCEL", standing: "earlier" },
    ]);
    expect(objects.standIns()).toMatchObject([{ key: KEY, generation: 1, spec: { action: "Deny" } }]);
    objects.put(KEY, policy("Deny", deny(), { generation: 3 }));
    settle(objects);
    expect(inForce(objects)).toEqual([{ key: KEY, generation: 3, current: true }]);
    expect(objects.standIns()).toEqual([]);
  });

  test("a Deny that became an Allow that is refused is a Deny still", () => {
    const objects = opened(policy("Deny", deny()));
    objects.put(
      KEY,
      policy("Allow", { ...broken, from: [{ any: true }], operations: [{ any: true }] }, { generation: 2 }),
    );
    settle(objects);
    expect(inForce(objects)).toEqual([{ key: KEY, generation: 1, current: false }]);
  });

  test("a refused Allow is left out", () => {
    const allow = { from: [{ any: true }], operations: [{ any: true }] };
    const objects = opened(policy("Allow", allow));
    objects.put(KEY, policy("Allow", { ...allow, ...broken }, { generation: 2 }));
    expect([...settle(objects)]).toEqual(["AccessPolicy"]);
    expect(inForce(objects)).toEqual([]);
    expect(objects.problems()).toMatchObject([{ standing: "none" }]);
  });

  test.each([
    [
      "kept by its status",
      { ...REFUSED, lastAccepted: JSON.stringify({ generation: 4, spec: policy("Deny", deny()).spec }) },
      [{ key: KEY, generation: 4, current: false }],
    ],
    ["never accepted, as its status says", REFUSED, []],
    [
      "refused once, and nobody knows what came in between",
      { conditions: [{ type: "Accepted", status: "False", observedGeneration: 4 }] },
      [{ key: KEY, generation: 5, current: false, closed: true }],
    ],
    [
      "nobody knows: everything to its targets is denied",
      undefined,
      [{ key: KEY, generation: 5, current: false, closed: true }],
    ],
    [
      "what was kept cannot be read: the same",
      { ...REFUSED, lastAccepted: "{" },
      [{ key: KEY, generation: 5, current: false, closed: true }],
    ],
  ])("after a restart, a refused Deny: %s", (_title, status, expected) => {
    expect(inForce(opened(policy("Deny", broken, { generation: 5, status })))).toEqual(expected);
  });

  test("a refused Deny that was seen from its creation on was never in force", () => {
    const objects = opened();
    objects.put(KEY, policy("Deny", broken));
    settle(objects);
    expect(inForce(objects)).toEqual([]);
    expect(objects.problems()).toMatchObject([{ standing: "none" }]);
  });

  test("an object that is gone is gone, a Deny too", () => {
    const objects = opened(policy("Deny", deny()));
    objects.put(KEY, undefined);
    expect([...settle(objects)]).toEqual(["AccessPolicy"]);
    expect(inForce(objects)).toEqual([]);
  });

  test("what was refused for an unknown operation is looked at again when a catalog brings it", () => {
    const uses = { from: [{ any: true }], operations: [{ op: "own.read" }] };
    const objects = opened(policy("Allow", uses));
    expect(objects.problems()).toMatchObject([{ reason: "UnknownOperation" }]);
    objects.put("OperationCatalog/own", catalog);
    expect([...settle(objects)].sort()).toEqual(["AccessPolicy", "OperationCatalog"]);
    expect(objects.problems()).toEqual([]);
  });

  test("an edit of metadata alone changes nothing that is in force", () => {
    const objects = opened(policy("Deny", deny()));
    const [before] = objects.accepted();
    objects.put(KEY, policy("Deny", deny()));
    settle(objects);
    expect([...objects.accepted()][0]?.valid.spec).toEqual(before?.valid.spec);
  });
});
