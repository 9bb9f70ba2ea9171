// The root of the installed product is replaced while pods call each other, with two replicas of which the one that leads is
// killed half-way: no call fails, new pods come up throughout, and the old root is gone afterwards.
import { execFile } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { describeOnCluster } from "../gate.ts";
import { apply, kubectl, waitFor } from "../kube.ts";
import { adminKubeconfig } from "../layout.ts";
import {
  begin,
  deployPlatform,
  install,
  platformFile,
  SYSTEM,
  uninstall,
  waitForStatus,
} from "../release.ts";

const cli = fileURLToPath(new URL("../../../control-plane/cli/main.ts", import.meta.url));
const SCORER = "http://fraud-scorer.ml-serving:8080";

/** A notebook that calls the scorer five times a second and writes every answer down. */
const caller = (name: string) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, namespace: "ml-dev", labels: { "notebook-name": name } },
  spec: {
    serviceAccountName: "notebook",
    terminationGracePeriodSeconds: 1,
    containers: [
      {
        name: "app",
        image: "countersign.test/app:dev",
        imagePullPolicy: "IfNotPresent",
        command: ["call", "-n", "100000", "-i", "200", `${SCORER}/ping`],
      },
    ],
  },
});

interface Authority {
  readonly roots: readonly { readonly fingerprint256: string }[];
  readonly rotation: { readonly stage: string; readonly waitingFor: readonly string[] } | null;
}

/** `countersign ca VERB` as an operator runs it. */
function ca(verb: "status" | "rotate"): Promise<Authority> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, KUBECONFIG: adminKubeconfig() };
    const command = ["--disable-warning=ExperimentalWarning", cli, "ca", verb, "--json"];
    execFile(process.execPath, command, { env, timeout: 40_000 }, (error, text, errors) => {
      if (error === null) resolve(JSON.parse(text));
      else reject(new Error(`ca ${verb}: ${errors}`));
    });
  });
}

/** Roots in the ConfigMap of a namespace, by fingerprint. */
async function rootsIn(namespace: string): Promise<readonly string[]> {
  const path = "jsonpath={.data.roots\\.pem}";
  const pem = await kubectl(["get", "configmap", "countersign-bundle", "-n", namespace, "-o", path]);
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return blocks.map((block) => new X509Certificate(block).fingerprint256);
}

/** What the API server is told to trust of the webhooks, and who leads: for the message of a failure. */
async function webhookTrust(): Promise<string> {
  const path = "jsonpath={.webhooks[*].clientConfig.caBundle}";
  const bundles = await kubectl(["get", "mutatingwebhookconfiguration", "countersign", "-o", path]);
  const roots = bundles.split(" ").map((bundle) => {
    const pem = Buffer.from(bundle, "base64").toString();
    const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
    return blocks.map((block) => new X509Certificate(block).fingerprint256.slice(0, 8)).join("+");
  });
  return `caBundles ${roots.join(" ")}, leader ${await leader()}, ${JSON.stringify(await ca("status"))}`;
}

async function leader(): Promise<string> {
  const path = "jsonpath={.spec.holderIdentity}";
  return (await kubectl(["get", "lease", "countersign-leader", "-n", SYSTEM, "-o", path])).trim();
}

describeOnCluster("root rotation of the release", { testMs: 480_000, suiteMs: 720_000 }, () => {
  beforeAll(async () => {
    await begin();
    await install(["--set=replicas=2"]);
    await deployPlatform();
    await kubectl(["apply", "-f", platformFile("policies")]);
    await waitForStatus(200, 30_000, `${SCORER}/ping`);
  }, 2_200_000);
  afterAll(uninstall, 240_000);

  const until = async (stage: string, timeoutMs: number): Promise<void> => {
    let last: Authority | undefined;
    const isThere = async (): Promise<boolean> => {
      // The replica that is asked may be the one that ends just now.
      last = await ca("status").catch(() => last);
      return last !== undefined && (last.rotation?.stage ?? "none") === stage;
    };
    await waitFor(isThere, timeoutMs, `stage ${stage}`).catch((error: unknown) => {
      throw new Error(`${String(error)}; last: ${JSON.stringify(last)}`);
    });
  };
  const start = async (name: string): Promise<void> => {
    await apply([caller(name)]).catch(async (error: unknown) => {
      throw new Error(`${String(error)}; ${await webhookTrust()}`);
    });
    await kubectl(["wait", "--for=condition=Ready", `pod/${name}`, "-n", "ml-dev", "--timeout=60s"], {
      timeoutMs: 70_000,
    });
  };

  test("no call fails, whoever leads, and pods come up in every stage", async () => {
    const [old] = (await ca("status")).roots.map((root) => root.fingerprint256);
    expect(await rootsIn("ml-dev")).toEqual([old]);
    await start("before");

    expect((await ca("rotate")).rotation).toMatchObject({ stage: "distribute" });
    await waitFor(async () => (await rootsIn("ml-dev")).length === 2, 20_000, "both roots in the ConfigMap");
    await until("sign", 90_000);
    await start("between");
    await kubectl(["delete", "pod", await leader(), "-n", SYSTEM, "--grace-period=0", "--force"]);
    await until("none", 300_000);
    await start("after");

    const [root, ...more] = (await ca("status")).roots.map((one) => one.fingerprint256);
    expect(more).toEqual([]);
    expect(root).not.toBe(old);
    await waitFor(async () => (await rootsIn("ml-dev")).join() === root, 20_000, "one root in the ConfigMap");
    await waitForStatus(200, 30_000, `${SCORER}/ping`);
    for (const name of ["before", "between", "after"]) {
      const lines = (await kubectl(["logs", name, "-n", "ml-dev", "-c", "app"], { timeoutMs: 60_000 }))
        .split("\n")
        .filter((line) => line !== "");
      expect(lines.filter((line) => !line.includes('"status":200'))).toEqual([]);
      if (name === "before") expect(lines.length).toBeGreaterThan(500);
    }
  });
});
