// Holds the Dockerfile, .dockerignore and the packer of the test cluster to one list of files.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "@jest/globals";
import { BUILD_INPUTS, COMMAND, DEPENDENCIES, PROGRAM, PROXY_USER, SIDECAR_PACKAGES } from "./image-files.ts";

const root = join(import.meta.dirname, "../..");
const readLines = (file: string) =>
  readFileSync(join(root, file), "utf8")
    .replaceAll("\\\n", " ")
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));

interface Stage {
  readonly name: string;
  readonly base: string;
  readonly lines: string[];
}

function stagesOf(dockerfile: readonly string[]): ReadonlyMap<string, Stage> {
  const stages: Stage[] = [];
  for (const line of dockerfile) {
    const from = /^FROM (?:--platform=\S+ )?(\S+) AS (\S+)$/.exec(line);
    if (from) stages.push({ base: from[1]!, name: from[2]!, lines: [] });
    else stages.at(-1)?.lines.push(line);
  }
  return new Map(stages.map((stage) => [stage.name, stage]));
}

const stages = stagesOf(readLines("Dockerfile"));
const linesOf = (stage: string) => stages.get(stage)?.lines ?? [];
/** What a stage copies from the repository, or from another stage. */
const copies = (stage: string, from?: string) =>
  linesOf(stage).flatMap((line) => {
    const copy = /^COPY (?:--from=(\S+) )?(?:--chmod=\d+ )?(\S+) (\S+)$/.exec(line);
    return copy && copy[1] === from ? [{ from: copy[2], to: copy[3] }] : [];
  });
const asCopied = (files: readonly { from: string; to: string }[]) =>
  files.map(({ from, to }) => ({ from: `/src/${from}`, to }));

describe("the Dockerfile holds what the test cluster's images hold", () => {
  test("the build stage copies the build's inputs and the licence, each to its own place", () => {
    const inputs = [...BUILD_INPUTS, "LICENSE"].sort();
    expect(
      copies("build")
        .map((copy) => copy.from)
        .sort(),
    ).toEqual(inputs);
    expect(copies("build").every((copy) => copy.from === copy.to)).toBe(true);
    expect(inputs.filter((path) => !existsSync(join(root, path)))).toEqual([]);
  });

  test(".dockerignore lets in exactly these", () => {
    const [first, ...exceptions] = readLines(".dockerignore");
    expect(first).toBe("*");
    expect(exceptions.sort()).toEqual(
      [...BUILD_INPUTS, "LICENSE"]
        .sort()
        .map((path) => `!${path}`)
        .sort(),
    );
  });

  test("the image gets the program and the production dependencies, and of the base only node", () => {
    expect(copies("control-plane", "build")).toEqual(asCopied(PROGRAM));
    expect(copies("control-plane", "dependencies")).toEqual([
      { from: "/usr/local/bin/node", to: "/usr/local/bin/node" },
      ...asCopied(DEPENDENCIES),
    ]);
    expect(copies("control-plane")).toEqual([]);
    expect(copies("sidecar")).toEqual([]);
  });

  test("dependencies are installed without development dependencies and without their scripts", () => {
    const installs = linesOf("dependencies").filter((line) => line.includes("npm install"));
    expect(installs).toEqual(["RUN npm install --omit=dev --ignore-scripts --no-audit --no-fund"]);
  });

  test("the command is on the PATH and is the entry point", () => {
    expect(linesOf("control-plane").join("\n")).toContain(`ln -s ${COMMAND.target} ${COMMAND.link}`);
    expect(linesOf("control-plane")).toContain('ENTRYPOINT ["countersign"]');
    expect(
      existsSync(join(root, COMMAND.target.replace("/opt/countersign/dist/", "").replace(/\.js$/, ".ts"))),
    ).toBe(true);
  });

  test("both images end as the proxy's user", () => {
    for (const stage of ["control-plane", "sidecar"])
      expect(
        linesOf(stage)
          .filter((line) => line.startsWith("USER "))
          .at(-1),
      ).toBe(`USER ${PROXY_USER}:${PROXY_USER}`);
  });

  test("the sidecar is the control plane's image with the packages that capture needs", () => {
    expect(stages.get("sidecar")?.base).toBe("control-plane");
    const installed = linesOf("sidecar").flatMap(
      (line) =>
        /apt-get install --yes --no-install-recommends ([a-z0-9 -]+?) &&/.exec(line)?.[1]?.split(" ") ?? [],
    );
    expect(installed).toEqual(Object.keys(SIDECAR_PACKAGES));
  });

  test("every base is Debian's slim image, with or without Node 24", () => {
    const bases = [...stages.values()].map((stage) => stage.base).filter((base) => !stages.has(base));
    expect(new Set(bases)).toEqual(new Set(["node:24-bookworm-slim", "debian:bookworm-slim"]));
  });
});
