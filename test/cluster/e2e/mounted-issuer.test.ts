// The product below an issuing certificate made elsewhere, as cert-manager keeps one in a Secret: a corporate root that knows
// nothing of SPIFFE, a certificate between, and a renewal under traffic.
import { execFile } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import type { CertifiedKey } from "../../../control-plane/ca/certificates.ts";
import { plainAuthority } from "../../fakes/plain-authority.ts";
import { describeOnCluster } from "../gate.ts";
import { apply, kubectl, waitFor } from "../kube.ts";
import { adminKubeconfig } from "../layout.ts";
import {
  begin,
  callFrom,
  deployPlatform,
  install,
  NOTEBOOK,
  platformFile,
  SYSTEM,
  uninstall,
  waitForStatus,
} from "../release.ts";

const cli = fileURLToPath(new URL("../../../control-plane/cli/main.ts", import.meta.url));
const SCORER = "http://fraud-scorer.ml-serving:8080";

/** `countersign ca VERB` as an operator runs it. */
function ca(verb: "status" | "rotate"): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve) => {
    const env = { ...process.env, KUBECONFIG: adminKubeconfig() };
    const command = ["--disable-warning=ExperimentalWarning", cli, "ca", verb, "--json"];
    execFile(process.execPath, command, { env, timeout: 40_000 }, (error, text, errors) => {
      const status = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
      resolve({ status, text: text + errors });
    });
  });
}

describeOnCluster("a mounted issuer", { testMs: 300_000, suiteMs: 480_000 }, () => {
  let root: CertifiedKey;
  let department: CertifiedKey;

  /** What cert-manager does when it issues: the Secret has the certificate with its chain, its key and the root. */
  async function issue(days: number): Promise<X509Certificate> {
    const issuing = await plainAuthority("mesh issuer", department, Date.now(), days);
    const stringData = {
      "tls.crt": [issuing.certificate, department.certificate].join(""),
      "tls.key": issuing.key.export({ type: "sec1", format: "pem" }).toString(),
      "ca.crt": root.certificate.toString(),
    };
    const metadata = { name: "mesh-issuer", namespace: SYSTEM };
    await apply([{ apiVersion: "v1", kind: "Secret", type: "kubernetes.io/tls", metadata, stringData }]);
    return issuing.certificate;
  }

  beforeAll(async () => {
    root = await plainAuthority("corporate root", undefined, Date.now());
    department = await plainAuthority("department", root, Date.now());
    await begin();
    await apply([{ apiVersion: "v1", kind: "Namespace", metadata: { name: SYSTEM } }]);
    await issue(40);
    await install(["--set=issuer.existingSecret=mesh-issuer"]);
    await deployPlatform();
    await kubectl(["apply", "-f", platformFile("policies")]);
  }, 2_200_000);
  afterAll(uninstall, 240_000);

  test("carries the mesh, and its root is not ours to rotate", async () => {
    await waitForStatus(200, 30_000, `${SCORER}/ping`);
    const pem = await kubectl([
      ...["get", "configmap", "countersign-bundle", "-n", "ml-dev", "-o", "jsonpath={.data.roots\\.pem}"],
    ]);
    expect(new X509Certificate(pem).fingerprint256).toBe(root.certificate.fingerprint256);
    const secret = JSON.parse(await kubectl(["get", "secret", "countersign-ca", "-n", SYSTEM, "-o", "json"]));
    // No key that certificates are signed with: those of tokens only.
    expect(Object.keys(secret.data).sort()).toEqual([
      "authority.json",
      expect.stringMatching(/^session-/),
      expect.stringMatching(/^tts-/),
      "wit.pem",
    ]);
    expect(await ca("rotate")).toMatchObject({
      status: 1,
      text: expect.stringMatching(/the root comes from mounted files; rotate it where it is made/),
    });
  });

  test("a renewed one is taken up, and calls go on", async () => {
    const next = await issue(80);
    const until = new Date(next.validTo).toISOString().slice(0, 10);
    let failed = 0;
    await waitFor(
      async () => {
        if ((await callFrom(NOTEBOOK, `${SCORER}/ping`)).status !== 200) failed += 1;
        const { text } = await ca("status");
        // The chain is no longer than its shortest certificate.
        return text.includes(until);
      },
      200_000,
      `an issuing certificate until ${until}`,
    );
    await kubectl(["delete", "pod", "nb-alice-0", "-n", "ml-dev", "--grace-period=1"]);
    await kubectl(["rollout", "status", "statefulset/nb-alice", "-n", "ml-dev", "--timeout=90s"], {
      timeoutMs: 100_000,
    });
    await waitForStatus(200, 30_000, `${SCORER}/ping`);
    expect(failed).toBe(0);
  });
});
