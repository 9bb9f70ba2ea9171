// What helm does with the chart's webhooks and settings on a real API server: upgrade and rollback keep what the leader and
// people wrote, uninstalling takes the webhooks and keeps the settings. The rest of the chart is left out here.
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { chartFolder } from "../../charts/helm.ts";
import { describeOnCluster } from "../gate.ts";
import { apply, createNamespace, helm, kubectl, type TestNamespace, tryKubectl, waitFor } from "../kube.ts";
import { inHome } from "../layout.ts";
import { provideSchema } from "../provide-schema.ts";

const CRD = readFileSync(join(import.meta.dirname, "../../../crds/meshconfigs.yaml"), "utf8");

describeOnCluster("helm and the chart's webhooks and settings", { testMs: 60_000, suiteMs: 180_000 }, () => {
  const id = `h${process.pid.toString(36)}${Math.random().toString(36).slice(2, 5)}`;
  const crd = `meshconfigs.${id}.test`;
  const folder = mkdtempSync(join(tmpdir(), "countersign-charts-"));
  let namespace: TestNamespace;
  let takeAway: () => Promise<void>;

  const postRenderer = (timeoutSeconds: number) => {
    const path = join(folder, `confine-${timeoutSeconds}.sh`);
    const script = join(import.meta.dirname, "../confine-release.ts");
    writeFileSync(path, `#!/bin/sh\nexec '${process.execPath}' '${script}' ${id} ${timeoutSeconds}\n`);
    chmodSync(path, 0o700);
    return path;
  };
  const release = (verb: "install" | "upgrade", timeoutSeconds: number, ...values: string[]) =>
    helm([
      ...[verb, id, chartFolder("countersign"), "--namespace", namespace.name],
      ...["--post-renderer", postRenderer(timeoutSeconds)],
      ...values.map((value) => `--set=${value}`),
    ]);
  const webhooks = async (field: string) => {
    const found: string[] = [];
    for (const kind of ["mutating", "validating"]) {
      const path = `jsonpath={.webhooks[*].${field}}`;
      const text = await kubectl(["get", `${kind}webhookconfiguration`, id, "--output", path]);
      found.push(...text.split(" ").filter((one) => one !== ""));
    }
    return found;
  };
  const settings = async () =>
    JSON.parse(await kubectl(["get", crd, "default", "--output=jsonpath={.spec}"])) as Record<
      string,
      unknown
    >;
  const bundles = () => webhooks("clientConfig.caBundle");
  /** Any certificate will do: nothing is asked of the webhooks. */
  const caBundle = () => readFileSync(inHome("pki", "ca.crt")).toString("base64");
  /** Two for injection, two for our kinds. */
  const WEBHOOKS = 4;
  const whole = () => Array.from({ length: WEBHOOKS }, caBundle);
  const timeouts = (seconds: number) => Array.from({ length: WEBHOOKS }, () => String(seconds));

  beforeAll(async () => {
    // The chart looks whether the kinds are there.
    takeAway = await provideSchema("meshconfigs");
    await apply(CRD.replaceAll("countersign.dev", `${id}.test`));
    await kubectl(["wait", "crd", crd, "--for=condition=Established", "--timeout=90s"]);
    namespace = await createNamespace("charts");
  });
  afterAll(async () => {
    for (const kind of ["mutating", "validating"])
      await tryKubectl(["delete", `${kind}webhookconfiguration`, id, "--ignore-not-found"]);
    await tryKubectl(["delete", "crd", crd, "--ignore-not-found", "--wait=false"]);
    await namespace?.delete();
    await takeAway?.();
    rmSync(folder, { recursive: true, force: true });
  });

  test("an installation has no caBundle, and settings as the values say", async () => {
    await release("install", 8, "trustDomain=corp.example", "meshConfig.maxHops=4");
    expect(await bundles()).toEqual([]);
    expect(await webhooks("timeoutSeconds")).toEqual(timeouts(8));
    expect(await settings()).toMatchObject({
      trustDomain: "corp.example",
      maxHops: 4,
      defaultAction: "Deny",
    });
  });

  test("an upgrade changes what the chart changed, and nothing that the leader or people wrote", async () => {
    for (const kind of ["mutating", "validating"]) {
      const patch = Array.from({ length: WEBHOOKS / 2 }, (_, at) => ({
        op: "add",
        path: `/webhooks/${at}/clientConfig/caBundle`,
        value: caBundle(),
      }));
      await kubectl([
        ...["patch", `${kind}webhookconfiguration`, id, "--type=json", `--patch=${JSON.stringify(patch)}`],
      ]);
    }
    const edited = { defaultAction: "Allow", protectedLabels: ["data-class"] };
    await kubectl(["patch", crd, "default", "--type=merge", `--patch=${JSON.stringify({ spec: edited })}`]);
    expect(await bundles()).toEqual(whole());
    await release("upgrade", 9, "trustDomain=corp.example", "meshConfig.maxHops=6");
    expect(await webhooks("timeoutSeconds")).toEqual(timeouts(9));
    expect(await bundles()).toEqual(whole());
    expect(await settings()).toMatchObject({ ...edited, maxHops: 6 });
  });

  test("a rollback does the same", async () => {
    await helm(["rollback", id, "1", "--namespace", namespace.name]);
    expect(await webhooks("timeoutSeconds")).toEqual(timeouts(8));
    expect(await bundles()).toEqual(whole());
    expect(await settings()).toMatchObject({
      defaultAction: "Allow",
      protectedLabels: ["data-class"],
      maxHops: 4,
    });
  });

  test("another trust domain is refused with the reason, and breaks nothing", async () => {
    await expect(release("upgrade", 9, "trustDomain=other.example")).rejects.toThrow(
      "the trust domain cannot change",
    );
    expect(await bundles()).toEqual(whole());
    expect(await settings()).toMatchObject({ trustDomain: "corp.example" });
  });

  test("uninstalling takes the webhooks, keeps the settings, and the next installation goes on with them", async () => {
    await helm(["uninstall", id, "--namespace", namespace.name]);
    for (const kind of ["mutating", "validating"])
      expect((await tryKubectl(["get", `${kind}webhookconfiguration`, id])).stderr).toContain("NotFound");
    expect(await settings()).toMatchObject({ trustDomain: "corp.example", protectedLabels: ["data-class"] });
    await release("install", 8, "trustDomain=corp.example");
    expect(await settings()).toMatchObject({ trustDomain: "corp.example", protectedLabels: ["data-class"] });
    expect(await bundles()).toEqual([]);
    await helm(["uninstall", id, "--namespace", namespace.name]);
  });

  test("a namespace that was not made by `helm test` is never its own", async () => {
    await waitFor(async () => (await tryKubectl(["get", "namespace", namespace.name])).code === 0, 5_000);
    const other = await createNamespace("charts-other");
    try {
      await expect(release("install", 8, `test.namespace=${other.name}`)).rejects.toThrow(
        "was not made by `helm test`",
      );
    } finally {
      await other.delete();
    }
  });
});
