// Routes on a real cluster: a RoutePolicy, and an HTTPRoute of kinds that this test alone installs.
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { describeOnCluster } from "../gate.ts";
import { apply, kubectl, tryKubectl, waitFor } from "../kube.ts";
import {
  begin,
  callFrom,
  conditionsOf,
  deployPlatform,
  install,
  NOTEBOOK,
  platformFile,
  uninstall,
  waitForStatus,
} from "../release.ts";

const PING = "http://fraud-scorer.ml-serving:8080/ping";
const CANARY = ["-H", "x-canary: yes", PING] as const;

const routePolicy = (backend: object) => ({
  apiVersion: "countersign.dev/v1alpha1",
  kind: "RoutePolicy",
  metadata: { name: "canary", namespace: "ml-serving" },
  spec: {
    service: "fraud-scorer",
    rules: [
      {
        match: { headers: [{ name: "x-canary", exact: "yes" }] },
        backends: [backend],
        headers: { response: { set: { "x-routed": "policy" } } },
      },
    ],
  },
});

const httpRoute = {
  apiVersion: "gateway.networking.k8s.io/v1",
  kind: "HTTPRoute",
  metadata: { name: "ping", namespace: "ml-serving" },
  spec: {
    parentRefs: [{ group: "", kind: "Service", name: "fraud-scorer" }],
    rules: [
      {
        matches: [{ path: { type: "Exact", value: "/ping" } }],
        filters: [
          {
            type: "ResponseHeaderModifier",
            responseHeaderModifier: { set: [{ name: "x-routed", value: "gateway" }] },
          },
        ],
        backendRefs: [{ name: "fraud-scorer", port: 8080 }],
      },
    ],
  },
};

const parents = async (): Promise<string> =>
  kubectl(["get", "httproute", "ping", "-n", "ml-serving", "-o", "jsonpath={.status.parents}"]);

describeOnCluster("routes", { testMs: 60_000, suiteMs: 400_000 }, () => {
  beforeAll(async () => {
    await begin();
    await tryKubectl(["delete", "-f", platformFile("gateway-api.yaml"), "--ignore-not-found"]);
    await kubectl(["apply", "-f", platformFile("gateway-api.yaml")]);
    await kubectl([
      "wait",
      "crd",
      "httproutes.gateway.networking.k8s.io",
      "--for=condition=Established",
      "--timeout=90s",
    ]);
    await install(["--set=gatewayAPI.writeStatus=true"]);
    await deployPlatform();
    await kubectl(["apply", "-f", platformFile("policies")]);
    await waitForStatus(200, 20_000, PING);
  }, 2_000_000);

  afterAll(async () => {
    await tryKubectl(["delete", "-f", platformFile("gateway-api.yaml"), "--ignore-not-found"]);
    await uninstall();
  }, 240_000);

  test("a RoutePolicy chooses another service, which decides for itself", async () => {
    await apply([routePolicy({ service: "llm-chat", port: 80 })]);
    await waitForStatus(403, 10_000, ...CANARY);
    const denied = await callFrom(NOTEBOOK, ...CANARY);
    expect(JSON.parse(denied.body)).toMatchObject({ reason: "DEFAULT_DENY", target: "serving/llm-chat" });
    expect(await callFrom(NOTEBOOK, PING)).toMatchObject({ status: 200 });
    // Its backend is there, but no policy lets anybody call it.
    expect(await conditionsOf("crp/canary", "ml-serving")).toMatchObject({
      Accepted: "True/Accepted",
      ResolvedRefs: "True/NoCallers",
    });
    await waitFor(
      async () => (await conditionsOf("crp/canary", "ml-serving"))["Programmed"] === "True/Programmed",
      10_000,
      "Programmed=True",
    );
  });

  test("a backend that is not there is told, and its share refused", async () => {
    await apply([routePolicy({ service: "nobody" })]);
    await waitForStatus(503, 10_000, ...CANARY);
    await waitFor(
      async () =>
        (await conditionsOf("crp/canary", "ml-serving"))["ResolvedRefs"] === "False/BackendNotFound",
      10_000,
      "ResolvedRefs=False",
    );
    await kubectl(["delete", "crp", "canary", "-n", "ml-serving"]);
    await waitForStatus(200, 10_000, ...CANARY);
  });

  test("an HTTPRoute with the Service as parent counts, and says so beside other controllers", async () => {
    await apply([httpRoute]);
    await waitFor(
      async () => (await callFrom(NOTEBOOK, PING)).headers["x-routed"] === "gateway",
      10_000,
      "the header of the route",
    );
    // What no rule of it matches is refused.
    expect(await callFrom(NOTEBOOK, PING.replace("/ping", "/invocations"))).toMatchObject({ status: 503 });
    await waitFor(async () => (await parents()).includes("countersign.dev/mesh"), 15_000, "status.parents");
    expect(JSON.parse(await parents())).toMatchObject([
      {
        parentRef: { kind: "Service", name: "fraud-scorer" },
        conditions: [
          { type: "Accepted", status: "True" },
          { type: "ResolvedRefs", status: "True" },
        ],
      },
    ]);
  });

  test("a RoutePolicy beats it, and its status says so", async () => {
    await apply([routePolicy({ service: "fraud-scorer" })]);
    await waitFor(
      async () => (await callFrom(NOTEBOOK, ...CANARY)).headers["x-routed"] === "policy",
      10_000,
      "the header of the policy",
    );
    await waitFor(async () => (await parents()).includes("Overridden"), 15_000, "Overridden");
  });
});
