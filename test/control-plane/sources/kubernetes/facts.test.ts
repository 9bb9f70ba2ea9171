import { describe, expect, test } from "@jest/globals";
import { podFacts } from "../../../../control-plane/sources/kubernetes/facts.ts";

describe("readiness of a pod", () => {
  const read = (conditions: Readonly<Record<string, string>>, meta: object = {}, spec: object = {}) =>
    podFacts({
      metadata: { name: "p", namespace: "ns", resourceVersion: "1", ...meta },
      spec,
      status: { conditions: Object.entries(conditions).map(([type, status]) => ({ type, status })) },
    });

  test.each([
    { name: "ready", conditions: { Ready: "True", ContainersReady: "True" }, ready: true, serving: true },
    {
      name: "whose probe fails",
      conditions: { Ready: "False", ContainersReady: "False" },
      ready: false,
      serving: false,
    },
    {
      name: "on a node that was not heard of",
      conditions: { Ready: "False", ContainersReady: "True" },
      ready: false,
      serving: true,
    },
    { name: "that nobody has looked at yet", conditions: {}, ready: false, serving: false },
    {
      name: "that is being deleted",
      conditions: { Ready: "False", ContainersReady: "True" },
      meta: { deletionTimestamp: "2026-11-21T12:00:00Z" },
      ready: false,
      serving: false,
    },
    {
      name: "that its own readiness gate holds back",
      conditions: { Ready: "False", ContainersReady: "True" },
      spec: { readinessGates: [{ conditionType: "example.com/warm" }] },
      ready: false,
      serving: false,
    },
  ])("$name", ({ conditions, meta, spec, ready, serving }) => {
    expect(read(conditions, meta, spec)).toMatchObject({ ready, serving });
  });
});
