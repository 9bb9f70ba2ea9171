// What the chart `countersign-crds` renders is the schemas, kept on uninstall.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { parse } from "yaml";
import { SCHEMAS } from "./generated-files.ts";
import { chartFolder, describeWithHelm, type Manifest, render, templateArgs, tryHelm } from "./helm.ts";

const root = join(import.meta.dirname, "../..");

describeWithHelm("the chart countersign-crds", () => {
  const rendered = new Map(render("countersign-crds").map((one) => [one.metadata.name, one]));
  const files = SCHEMAS.flatMap((folder) =>
    readdirSync(join(root, folder))
      .filter((name) => name.endsWith(".yaml"))
      .map((name) => `${folder}/${name}`),
  );

  test("passes lint", () => {
    const { ok } = tryHelm(["lint", chartFolder("countersign-crds"), "--strict", "--kube-version=1.30.0"]);
    expect(ok).toBe(true);
  });

  test("holds every schema and nothing else", () => {
    expect(files.length).toBeGreaterThan(10);
    expect(rendered.size).toBe(files.length);
  });

  test.each(files)("%s is as it is, apart from the annotation that keeps it and our labels", (file) => {
    const source = parse(readFileSync(join(root, file), "utf8")) as Manifest;
    const { metadata, ...rest } = rendered.get(source.metadata.name)!;
    expect(metadata.annotations).toEqual({ "helm.sh/resource-policy": "keep" });
    expect(metadata.labels).toEqual({
      "app.kubernetes.io/part-of": "countersign",
      "app.kubernetes.io/managed-by": "Helm",
    });
    expect({ ...rest, metadata: { name: metadata.name } }).toEqual(source);
  });

  test("refuses settings and old clusters", () => {
    const { stderr } = tryHelm(templateArgs("countersign-crds", ["--set=keep=false"]));
    expect(stderr).toContain("'keep' not allowed");
    expect(tryHelm(templateArgs("countersign-crds", ["--kube-version", "1.29.9"])).stderr).toContain(
      "requires kubeVersion",
    );
  });
});
