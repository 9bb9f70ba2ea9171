import { describe, expect, test } from "@jest/globals";
import { createInjectHandler } from "../../../control-plane/admission/inject-handler.ts";
import type { AdmissionRequest, UnknownFields } from "../../../control-plane/admission/review.ts";
import { injected, podOf, SETTINGS } from "./pod-fixture.ts";

const handler = createInjectHandler({
  settings: SETTINGS,
  trustedSpawners: () => ["hub/jupyterhub"],
  namespaceLabels: (name) =>
    name === "strict" ? new Map([["pod-security.kubernetes.io/enforce", "restricted"]]) : undefined,
  packs: () => new Set(["ray"]),
});

const request = (change: Partial<AdmissionRequest>): AdmissionRequest => ({
  uid: "705ab4f5-6393-11e8-b7cc-42010a800002",
  operation: "CREATE",
  kind: { group: "", version: "v1", kind: "Pod" },
  resource: { group: "", version: "v1", resource: "pods" },
  subResource: undefined,
  name: undefined,
  namespace: "lab",
  user: { username: "alice", uid: undefined, groups: [], extra: new Map() },
  object: podOf(),
  oldObject: undefined,
  options: undefined,
  dryRun: false,
  ...change,
});

describe("creation of a pod", () => {
  test("is answered with a patch, though this replica has not seen the namespace's label", async () => {
    const answer = await handler(request({}));
    expect(answer).toMatchObject({ allowed: true });
    expect(JSON.stringify(answer)).toContain("countersign-proxy");
  });

  test("is refused where the pod cannot be meshed", async () => {
    const object = podOf({ spec: { hostNetwork: true } });
    expect(await handler(request({ object }))).toMatchObject({
      allowed: false,
      code: 403,
      message: expect.stringMatching(/^the pod cannot be meshed: `hostNetwork`/),
    });
  });

  test("warns where pod security will refuse the init step", async () => {
    const answer = await handler(request({ namespace: "strict" }));
    expect(answer.warnings).toEqual([
      "the namespace enforces pod security `restricted`, which refuses the init step's NET_ADMIN; label it `pod-security.kubernetes.io/enforce: privileged`",
    ]);
  });
});

describe("an ephemeral container", () => {
  const meshed = injected(podOf()) as unknown as UnknownFields;
  const withDebugger = (pod: UnknownFields, container: UnknownFields): UnknownFields => ({
    ...pod,
    spec: { ...(pod["spec"] as UnknownFields), ephemeralContainers: [{ name: "debug", ...container }] },
  });
  const joining = (container: UnknownFields, pod = meshed, before: UnknownFields = pod) =>
    handler(
      request({
        operation: "UPDATE",
        subResource: "ephemeralcontainers",
        object: withDebugger(pod, container),
        oldObject: before,
      }),
    );

  test("without special rights joins", async () => {
    expect(await joining({ image: "busybox", targetContainerName: "app" })).toEqual({ allowed: true });
  });

  test.each([
    [
      "the sidecar's user",
      { securityContext: { runAsUser: 61600 } },
      "`runAsUser` in securityContext of container `debug` is 61600",
    ],
    [
      "NET_ADMIN",
      { securityContext: { capabilities: { add: ["NET_ADMIN"] } } },
      "container `debug` adds the capability `NET_ADMIN`",
    ],
    ["privilege", { securityContext: { privileged: true } }, "container `debug` is privileged"],
    [
      "the sidecar's keys",
      { volumeMounts: [{ name: "countersign-state" }] },
      "container `debug` mounts `countersign-state`",
    ],
    [
      "the sidecar as target",
      { targetContainerName: "countersign-proxy" },
      "container `debug` targets `countersign-proxy`",
    ],
  ])("with %s does not", async (_, container, reason) => {
    const answer = await joining(container as UnknownFields);
    expect(answer).toMatchObject({ allowed: false, code: 403 });
    expect("message" in answer && answer.message).toContain(reason);
  });

  test("that is there already is not judged again", async () => {
    const container = { securityContext: { privileged: true } };
    expect(await joining(container, meshed, withDebugger(meshed, container))).toEqual({ allowed: true });
  });

  test("joins a pod without a sidecar as it likes", async () => {
    expect(await joining({ securityContext: { privileged: true } }, podOf())).toEqual({ allowed: true });
  });
});

describe("an update of a pod", () => {
  const annotated = (value: string) => podOf({ annotations: { "countersign.dev/verified-owner": value } });

  test.each([
    ["changes", annotated("bob"), annotated("eve")],
    ["adds", podOf(), annotated("eve")],
    ["removes", annotated("bob"), podOf()],
  ])("that %s a verified fact is refused", async (_, oldObject, object) => {
    expect(await handler(request({ operation: "UPDATE", oldObject, object }))).toMatchObject({
      allowed: false,
      code: 403,
    });
  });

  test("of anything else is not ours to judge", async () => {
    expect(
      await handler(request({ operation: "UPDATE", oldObject: annotated("bob"), object: annotated("bob") })),
    ).toEqual({ allowed: true });
  });
});

test.each([
  { operation: "DELETE" },
  { operation: "CREATE", subResource: "binding" },
  { resource: { group: "apps", version: "v1", resource: "deployments" } },
  { kind: { group: "", version: "v1", kind: "Binding" } },
  { object: undefined },
  { operation: "UPDATE", object: {} },
] as const)("refuses what it was not made for: %j", async (change) => {
  expect(await handler(request(change))).toMatchObject({ allowed: false, code: 400 });
});
