// What is not plain HTTP, in real pods with transparent capture: gRPC, WebSocket, events, TCP whose server speaks first, and
// TLS of the application, by Service, headless Service and address, declared and found; and two replicas that share a limit
// and are balanced by a TrafficPolicy.
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { describeOnCluster } from "../gate.ts";
import { apply, exec, kubectl, read, tryKubectl, waitFor, waitForObject } from "../kube.ts";
import {
  ask,
  makeSecret,
  metricsOf,
  NAMESPACE,
  talk,
  tally,
  traffic,
  untilRecorded,
} from "../protocol-pods.ts";
import { begin, install, platformFile, uninstall } from "../release.ts";

const MODEL = "http://model.protocols";

describeOnCluster("what applications speak, in pods", { testMs: 60_000, suiteMs: 300_000 }, () => {
  /** Names and the address by which the application is reached. */
  let hosts: readonly string[];

  beforeAll(async () => {
    await begin();
    await install();
    await apply([
      {
        ...{ apiVersion: "v1", kind: "Namespace" },
        metadata: { name: NAMESPACE, labels: { "countersign.dev/inject": "enabled" } },
      },
    ]);
    await makeSecret();
    await waitFor(
      async () => (await tryKubectl(["get", "serviceaccount", "default", "-n", NAMESPACE])).code === 0,
      20_000,
    );
    await kubectl(["apply", "-f", platformFile("protocols.yaml")]);
    for (const one of ["pod/things", "pod/friend", "pod/stranger"])
      await waitForObject(NAMESPACE, one, "condition=Ready", 60_000);
    await waitForObject(NAMESPACE, "deployment/model", "condition=Available", 60_000);
    hosts = [
      "things.protocols",
      "things-pods.protocols",
      await read(NAMESPACE, "pod/things", "{.status.podIP}"),
    ];
    await waitFor(async () => (await ask(`${MODEL}/who`)).status === 200, 20_000, "the policies in force");
  }, 2_000_000);

  afterAll(async () => {
    await tryKubectl(["delete", "namespace", NAMESPACE, "--wait=false"]);
    await tryKubectl(["delete", "pods", "--all", "-n", NAMESPACE, "--grace-period=1", "--wait=false"]);
    await uninstall();
  }, 240_000);

  const DENIED = { code: 7, info: expect.arrayContaining(["NO_MATCHING_ALLOW", "google.rpc.ErrorInfo"]) };

  test.each([
    { name: "a port that is named so", port: 9000 },
    { name: "a port that says nothing", port: 9100 },
  ])("gRPC on $name: unary, both ways at once, and refused by method and by message", async ({ port }) => {
    for (const host of hosts)
      expect([host, await talk("friend", "rpc", `${host}:${port}`)]).toMatchObject([
        host,
        {
          get: "got open-1",
          remove: DENIED,
          chat: { heard: ["heard open-1", "heard open-2", "heard open-3"] },
          secret: DENIED,
        },
      ]);
    const refused = await talk("stranger", "rpc", `${hosts[0]}:${port}`);
    expect(refused).toMatchObject({ get: DENIED, remove: DENIED, chat: DENIED });
    await untilRecorded("things", { operation: "store.get", caller: "service/friend", effect: "Allow" });
    await untilRecorded("things", {
      operation: "store.remove",
      caller: "service/friend",
      reason: "NO_MATCHING_ALLOW",
    });
    await untilRecorded("things", { operation: "store.chat", caller: "service/friend", effect: "Deny" });
    await untilRecorded("stranger", { caller: "service/stranger", effect: "Deny" });
  });

  test("a WebSocket: echoed, refused at the handshake, and ended when its policy goes", async () => {
    const url = (host: string | undefined) => `ws://${host}:8888/channel`;
    for (const host of hosts)
      expect(await talk("friend", "socket", url(host))).toEqual({
        echoes: ["one", "two"],
        code: 1000,
        reason: "enough",
      });
    const refused = await talk("stranger", "socket", url(hosts[0]));
    expect(refused).toMatchObject({ status: 403, body: expect.stringContaining("NO_MATCHING_ALLOW") });
    const script = `talk held-socket ${url(hosts[0])} </dev/null >/tmp/channel 2>&1 &`;
    await exec(NAMESPACE, "friend", ["sh", "-c", script]);
    const said = async () => (await exec(NAMESPACE, "friend", ["cat", "/tmp/channel"])).stdout;
    await waitFor(async () => (await said()).includes('["one","two"]'), 10_000, "the open channel");
    await kubectl(["delete", "acp", "channels", "-n", NAMESPACE]);
    await waitFor(async () => (await said()).includes('"code"'), 10_000, "the end of the channel");
    expect(JSON.parse((await said()).trim().split("\n").at(-1) ?? "")).toMatchObject({
      echoes: ["one", "two"],
      code: 1008,
      reason: expect.stringMatching(/^[A-Z_]+ d-[0-9a-f]+$/),
    });
    await untilRecorded("things", {
      operation: "channel.open",
      caller: "service/friend",
      effect: "Allow",
    });
    await untilRecorded("stranger", { caller: "service/stranger", effect: "Deny" });
  });

  test("events arrive one by one", async () => {
    for (const host of hosts)
      expect(await talk("friend", "events", `http://${host}:8888`)).toEqual({
        status: 200,
        seen: ["data: 0", "data: 1", "data: 2", "data: 3", "data: 4"],
      });
    await untilRecorded("things", { operation: "events.read", caller: "service/friend", effect: "Allow" });
  });

  test.each([
    { name: "declared", port: 7000 },
    { name: "found by its silence", port: 7100 },
  ])(
    "TCP whose server speaks first, $name: greeting, half-close, and nothing for a stranger",
    async ({ port }) => {
      for (const host of hosts)
        expect([host, await talk("friend", "greeter", host, String(port))]).toEqual([
          host,
          { lines: ["220 things", "QUIT", "221 bye"] },
        ]);
      expect(await talk("stranger", "greeter", hosts[0] ?? "", String(port))).toMatchObject({ lines: [] });
      await untilRecorded("things", { operation: "unknown", caller: "service/friend", effect: "Allow" });
      await untilRecorded("stranger", { operation: "unknown", effect: "Deny", reason: "NO_MATCHING_ALLOW" });
    },
  );

  test("TLS of the application passes by its server name", async () => {
    for (const host of hosts)
      expect(await talk("friend", "tls", host, "8443", "vault.things")).toEqual({
        said: "hello over TLS\n",
        peer: "things",
      });
    expect(await talk("friend", "tls", hosts[0] ?? "", "8443", "other.things")).toEqual({
      error: "ECONNRESET",
    });
    expect(await talk("stranger", "tls", hosts[0] ?? "", "8443", "vault.things")).toEqual({
      error: "ECONNRESET",
    });
    // Nobody but the TLS client with the other name is refused by the callee for bytes.
    await untilRecorded("things", {
      operation: "unknown",
      caller: "service/friend",
      reason: "NO_MATCHING_ALLOW",
    });
  });

  test("HTTP on a port that says nothing is found, and what was found is counted", async () => {
    expect(await ask(`http://${hosts[0]}:8081/`)).toMatchObject({ status: 200, body: "page" });
    const metrics = await metricsOf("friend");
    for (const protocol of ["http", "h2c", "tcp"])
      expect(metrics).toMatch(
        new RegExp(`^countersign_detected_protocols_total\\{protocol="${protocol}"\\} [1-9]`, "m"),
      );
  });

  test("two replicas admit together what the limit says", async () => {
    // An hour's worth at once: nothing comes back while this runs.
    expect(await tally("status", "-n", "80", `${MODEL}/limited`)).toEqual(
      new Map([
        ["200", 40],
        ["429", 40],
      ]),
    );
  });

  test("a TrafficPolicy keeps sessions together", async () => {
    await traffic({ lb: "consistentHash", hashBy: "header:x-session" });
    const found = new Set<string>();
    for (let session = 0; session < 12; session++) {
      const [[replica = "", count] = []] = await tally(
        "body",
        ...["-H", `x-session: ${session}`, "-n", "8", `${MODEL}/who`],
      );
      expect([session, count]).toEqual([session, 8]);
      found.add(replica);
    }
    expect(found.size).toBe(2);
  });

  /** Tells one replica something, past the balancing. */
  const tell = async (replica: string, what: string): Promise<void> => {
    const address = await read(NAMESPACE, `pod/${replica}`, "{.status.podIP}");
    expect(await ask("-X", "POST", `http://${address}:8080/${what}`)).toMatchObject({ status: 200 });
  };
  const replicas = async (): Promise<readonly string[]> =>
    (
      await kubectl([
        "get",
        "pods",
        "-n",
        NAMESPACE,
        "-l",
        "app=model",
        "-o",
        "jsonpath={.items[*].metadata.name}",
      ])
    ).split(" ");

  test("a replica that fails is asked again elsewhere, and then left alone", async () => {
    const [broken = "", other = ""] = await replicas();
    await tell(broken, "fail");
    await traffic({
      lb: "roundRobin",
      retries: { attempts: 1, retryOn: ["503"], budgetPercent: 100 },
      outlier: { consecutive5xx: 5, ejectFor: "5m", maxEjectPercent: 50 },
    });
    expect(await tally("body", "-n", "40", `${MODEL}/who`)).toEqual(new Map([[other, 40]]));
    const metrics = await metricsOf("friend");
    expect(metrics).toMatch(
      /countersign_retries_total\{service="protocols\/model",cause="503",result="sent"\} 5$/m,
    );
    expect(metrics).toMatch(
      /countersign_endpoint_ejections_total\{service="protocols\/model",reason="failures"\} 1$/m,
    );
    await tell(broken, "mend");
  });

  test("a replica that is unwell is found by asking it, and back when it is well", async () => {
    const [other = "", sick = ""] = await replicas();
    await traffic({
      lb: "roundRobin",
      healthCheck: { type: "http", path: "/health", interval: "1s", unhealthyThreshold: 1 },
    });
    await tell(sick, "sicken");
    const seen = async () => [...(await tally("body", "-n", "8", `${MODEL}/who`)).keys()].sort();
    await waitFor(async () => (await seen()).join() === other, 15_000, "only the replica that is well");
    await tell(sick, "mend");
    await waitFor(async () => (await seen()).length === 2, 15_000, "both replicas");
  });
});
