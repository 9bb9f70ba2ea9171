// People on a real cluster: the gateway's chart with two replicas on one Redis, an identity provider of a company with an
// authority of its own, a notebook of Alice and a model. From her sign-in to the model's record, and what goes wrong.
import { execFile } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import WebSocket from "ws";
import type { NetBrowser } from "../../integration/gateway/people-mesh.ts";
import { fieldOf, textOf } from "../../sidecar/gateway/login/browser.ts";
import { describeOnCluster } from "../gate.ts";
import { kubectl, tryKubectl, waitFor, waitForObject } from "../kube.ts";
import { adminKubeconfig } from "../layout.ts";
import { createAs, HOST, NOTEBOOKS, notebook, PeopleOnCluster, recorded } from "../people-pods.ts";
import { callFrom, SYSTEM } from "../release.ts";

const cli = fileURLToPath(new URL("../../../control-plane/cli/main.ts", import.meta.url));

/** The command line, by kubeconfig. */
const run = (...args: string[]): Promise<{ status: number; text: string; errors: string }> =>
  new Promise((resolve) => {
    const env = { ...process.env, KUBECONFIG: adminKubeconfig() };
    const command = ["--disable-warning=ExperimentalWarning", cli, ...args];
    execFile(process.execPath, command, { env, timeout: 40_000 }, (error, text, errors) =>
      resolve({ status: error === null ? 0 : Number(error.code ?? -1), text, errors }),
    );
  });

describeOnCluster("people on a cluster", { testMs: 60_000, suiteMs: 180_000 }, () => {
  const people = new PeopleOnCluster();
  let alice: NetBrowser;
  const origin = `https://${HOST}`;
  const go = (browser: NetBrowser, path: string) => browser.go(`${origin}${path}`);
  const ask = (browser: NetBrowser, path: string) => browser.ask(path, { host: HOST });

  beforeAll(async () => {
    await people.start();
    alice = people.browser("alice");
  }, 2_000_000);
  afterAll(() => people.stop(), 240_000);

  async function openWebSocket(browser: NetBrowser): Promise<WebSocket> {
    const socket = new WebSocket(`wss://${people.address}/channel`, {
      ...{ ca: people.edgeCa, servername: HOST, origin },
      headers: { host: HOST, cookie: browser.jar.field(HOST) ?? "" },
    });
    socket.on("error", () => {}); // told of by its end
    await once(socket, "open");
    return socket;
  }
  const echo = async (socket: WebSocket, text: string): Promise<string> => {
    const answer = once(socket, "message");
    socket.send(text);
    return String((await answer)[0]);
  };
  const lineOf = async (matches: (line: Awaited<ReturnType<typeof recorded>>[number]) => boolean) => {
    let found: Awaited<ReturnType<typeof recorded>>[number] | undefined;
    await waitFor(
      async () => {
        found = (await recorded()).find(matches);
        return found !== undefined;
      },
      20_000,
      "the model's record",
    );
    return found;
  };

  test("Alice signs in, opens her notebook, and the model's record names her and her path", async () => {
    let answer = (await go(alice, "/run")).answer;
    await waitFor(
      async () => {
        if (answer.kind !== "answer" || answer.status !== 200) answer = await ask(alice, "/run");
        return answer.kind === "answer" && answer.status === 200;
      },
      20_000,
      "the policies in force",
    );
    expect(textOf(answer)).toContain("predictions");
    const line = await lineOf(({ decision }) => decision.effect === "Allow");
    expect(line).toMatchObject({
      actionName: "serving.invoke.predict",
      userIdentity: { id: "acme|alice", roles: ["fraud-ds"], email: "alice@acme.example" },
      identityMetadata: { caller: "notebook/nb-alice", origin: "gateway/people", hops: 2 },
      decision: { reason: "ALLOWED", rule: "scientists" },
      txn: expect.stringMatching(/^[0-9a-f-]{36}$/),
    });
    expect(line?.identityMetadata.chain.map(({ s }) => s)).toEqual(["gateway/people", "notebook/nb-alice"]);
  });

  test("nobody but Alice opens Alice's notebook", async () => {
    expect((await go(people.browser("bob"), "/run")).answer).toMatchObject({ status: 403 });
    const nobody = await people.browser().ask("/run", { host: HOST, fields: { accept: "application/json" } });
    expect(nobody).toMatchObject({ status: 401 });
  });

  test("the chart says what is needed beside it, and how to reach it", () => {
    for (const line of [
      `kubectl get secret edge-tls --namespace ${SYSTEM}`,
      "https://HOST/.countersign/callback/IDP ",
      "kubectl port-forward service/people 8443:443",
      "session: {store: {type: redis",
    ])
      expect(people.notes).toContain(line);
    expect(people.notes).not.toContain("WARNING");
  });

  test("the gateway has no rights in the cluster, and its NetworkPolicy is about its pods", async () => {
    const rights = (account: string) =>
      kubectl(["auth", "can-i", "--list", `--as=system:serviceaccount:${SYSTEM}:${account}`, "-n", SYSTEM]);
    expect(await rights("people")).toBe(await rights("default"));
    const policy = JSON.parse(await kubectl(["get", "networkpolicy", "people", "-n", SYSTEM, "-o", "json"]));
    const selector = Object.entries(policy.spec.podSelector.matchLabels as Record<string, string>)
      .map(([key, value]) => `${key}=${value}`)
      .join();
    const selected = await kubectl(["get", "pods", "-n", SYSTEM, "-l", selector, "-o", "name"]);
    expect(selected.trim().split("\n")).toHaveLength(2);
    const budget = await kubectl([
      "get",
      "pdb",
      "people",
      "-n",
      SYSTEM,
      "-o",
      "jsonpath={.status.disruptionsAllowed}",
    ]);
    expect(budget).toBe("1");
  });

  test("a pod that somebody else makes Alice's is nobody's", async () => {
    const labels = { app: "nb-alice", "notebook-name": "nb-alice" };
    const asserted = { labels, annotations: { "hub.jupyter.org/username": "acme|alice" } };
    expect(await createAs("bob", notebook("forged", asserted))).toContain("asserts a user");
    // Its labels name the same workload, which is all that labels can do.
    expect(await createAs("bob", notebook("alike", { labels }))).toBeUndefined();
    await waitForObject(NOTEBOOKS, "pod/alike", "condition=Ready", 40_000);
    const alike = { namespace: NOTEBOOKS, name: "alike", container: "app" };
    const score = ["-d", "{}", "http://fraud-scorer.ml-serving:8080/invocations"];
    expect(await callFrom(alike, ...score)).toMatchObject({ status: 403 });
    const line = await lineOf(({ decision }) => decision.effect === "Deny");
    expect(line).toMatchObject({ userIdentity: null, identityMetadata: { caller: "notebook/nb-alice" } });
    // The real one acts for Alice also without a request of hers: she is signed in.
    const real = { namespace: NOTEBOOKS, name: "nb-alice", container: "app" };
    expect(await callFrom(real, ...score)).toMatchObject({ status: 200 });
    // The Service now stands for both, so the host that is Alice's alone is nobody's until the stranger is gone.
    const answers = new Set<string>();
    const opened = async (): Promise<number> => {
      const answer = await ask(alice, "/");
      answers.add(answer.status === 200 ? textOf(answer) : String(answer.status));
      return answer.status;
    };
    await waitFor(async () => (await opened()) === 404, 20_000, "the host taken away");
    for (let i = 0; i < 10; i++) await opened();
    await kubectl(["delete", "pod", "alike", "-n", NOTEBOOKS, "--grace-period=1", "--wait=false"]);
    await waitFor(async () => (await opened()) === 200, 30_000, "the host back");
    expect(answers).not.toContain("alike");
  });

  test("a replica that is killed signs nobody out", async () => {
    const sockets = await Promise.all(Array.from({ length: 4 }, () => openWebSocket(alice)));
    for (const socket of sockets) expect(await echo(socket, "before")).toBe("before");
    const [[victim = ""] = []] = await people.replicas();
    const killing = kubectl(["delete", "pod", victim, "-n", SYSTEM, "--grace-period=0", "--force"]);
    const statuses = new Set<number>();
    let good = 0;
    await waitFor(
      async () => {
        const answer = await ask(alice, "/run");
        statuses.add(answer.status);
        good = answer.status === 200 ? good + 1 : 0;
        return good >= 10;
      },
      40_000,
      "answers of the replica that is left",
    );
    await killing;
    // Not once was she sent to sign in.
    for (const status of [302, 303, 401]) expect(statuses).not.toContain(status);
    const socket = await openWebSocket(alice);
    expect(await echo(socket, "after")).toBe("after");
    for (const each of [...sockets, socket]) each.terminate();
    await waitForObject(SYSTEM, "deployment/people", "condition=Available", 40_000);
    await waitFor(async () => (await people.replicas()).length === 2, 40_000, "two replicas");
  });

  test("certificates and client secrets are taken up while it runs", async () => {
    const socket = await openWebSocket(alice);
    await Promise.all([people.newCertificate(), people.newClientSecret()]);
    await waitFor(() => people.isCertificateNew(), 50_000, "the new certificate at both replicas");
    await waitFor(
      async () => {
        const { answer } = await go(people.browser("alice"), "/run");
        return answer.kind === "answer" && answer.status === 200;
      },
      50_000,
      "a sign-in with the new secret",
    );
    expect(await echo(socket, "still here")).toBe("still here");
    socket.terminate();
  });

  test("what Alice may do is shown, and revoking her ends sessions and streams", async () => {
    const again = people.browser("alice");
    await go(again, "/run");
    const socket = await openWebSocket(again);
    const roles = await run("roles", "acme|alice", "--group", "fraud");
    expect(roles).toMatchObject({ status: 0, text: expect.stringContaining("fraud-ds") });
    expect(roles.text).toContain("scientists-score");
    const closed = once(socket, "close");
    const revoked = await run("revoke", "--user", "acme|alice", "--reason", "lost laptop");
    expect(revoked).toMatchObject({ status: 0, errors: "" });
    expect((await closed)[0]).toBe(1008);
    // Whoever hears of it first refuses: the model's and the notebook's sidecar with 403, then the gateway.
    await waitFor(
      async () => {
        const asked = await ask(again, "/run");
        expect(asked.status).not.toBe(200);
        return asked.status === 302 && fieldOf(asked, "location")?.startsWith("/.countersign/login") === true;
      },
      10_000,
      "the way to sign in",
    );
    // Signed in anew she is back; what was issued in the very second of the revocation is refused too.
    await waitFor(
      async () => {
        const { answer } = await go(again, "/run");
        return answer.kind === "answer" && answer.status === 200;
      },
      20_000,
      "the notebook after signing in anew",
    );
    const { code } = await tryKubectl(["get", "revocations.countersign.dev", "-n", SYSTEM]);
    expect(code).toBe(0);
  });
});
