// Holds the rules of the repository that no tool checks: which folder may import which, which files are pure, and that
// what the docs list is what the code has.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { describe, expect, test } from "@jest/globals";
import { REASONS } from "../sidecar/core/policy/reason.ts";
import { ERROR_CODES } from "../sidecar/core/runtime/errors.ts";

const root = join(import.meta.dirname, "..");
const SOURCE_FOLDERS = ["proto", "sidecar", "control-plane"];

interface SourceFile {
  /** Relative to the repository, with forward slashes. */
  readonly path: string;
  readonly text: string;
  readonly imports: readonly {
    readonly target: string;
    readonly typeOnly: boolean;
    readonly dynamic: boolean;
  }[];
}

function filesBelow(folder: string, ending: RegExp): string[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && ending.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)));
}

const IMPORT = /^(?:import|export)\s+(type\s+)?(?:[^;"']*?\sfrom\s+)?"([^"]+)"|\bimport\("([^"]+)"\)/gm;

const sources: readonly SourceFile[] = SOURCE_FOLDERS.flatMap((folder) => filesBelow(folder, /\.ts$/))
  .filter((path) => !path.startsWith("proto/gen/"))
  .map((path) => {
    const text = readFileSync(join(root, path), "utf8");
    const imports = [...text.matchAll(IMPORT)].map((match) => {
      const named = match[2] ?? match[3] ?? "";
      const target = named.startsWith(".") ? join(dirname(path), named) : named;
      return { target, typeOnly: match[1] !== undefined, dynamic: match[3] !== undefined };
    });
    return { path, text, imports };
  });

const stageOf = (path: string) => path.split("/").slice(0, 2).join("/");
const isTopFile = (path: string) => path.split("/").length === 2;

/** Stages, in the order data flows; a stage may import only types of the others. */
const STAGES = new Set(
  ["discovery", "certs", "inbound", "outbound", "audit", "gateway"]
    .map((name) => `sidecar/${name}`)
    .concat(
      [
        "sources",
        "resources",
        "discovery",
        "ca",
        "tokens",
        "admission",
        "status",
        "leader",
        "management",
      ].map((name) => `control-plane/${name}`),
    ),
);

const PURE = [
  /^sidecar\/core\/(policy|identity|http)\//,
  /^sidecar\/wire\/http[12]\//,
  /^sidecar\/balance\/(pick|outlier|budget|limits)\.ts$/,
  /^sidecar\/audit\/record\.ts$/,
  /^control-plane\/policy\/(?!packs\.ts)/,
  /^control-plane\/resources\/build\.ts$/,
  /^control-plane\/discovery\/session\.ts$/,
];
const IMPURE =
  /"node:(fs|fs\/promises|net|http|http2|https|tls|timers|timers\/promises|child_process)"|\bDate\.now\(|\bMath\.random\(|\bset(Timeout|Interval|Immediate)\(|@grpc\/grpc-js|@kubernetes\/client-node|\bperformance\.now\(/;

describe("imports point one way", () => {
  test("there are sources to look at", () => {
    expect(sources.length).toBeGreaterThan(50);
    expect(sources.flatMap((file) => file.imports).length).toBeGreaterThan(100);
  });

  test.each([
    {
      name: "sidecar/ and proto/ never import control-plane/",
      breaks: (from: string, to: string) =>
        /^(sidecar|proto)\//.test(from) && to.startsWith("control-plane/"),
    },
    {
      name: "control-plane/ imports of sidecar/ only core/",
      breaks: (from: string, to: string, dynamic: boolean) =>
        from.startsWith("control-plane/") &&
        to.startsWith("sidecar/") &&
        !to.startsWith("sidecar/core/") &&
        !(dynamic && from.startsWith("control-plane/cli/")),
    },
    {
      name: "sidecar/core/ imports nothing outside core/ and proto/",
      breaks: (from: string, to: string) =>
        from.startsWith("sidecar/core/") &&
        /^(sidecar|control-plane)\//.test(to) &&
        !to.startsWith("sidecar/core/"),
    },
    {
      name: "sidecar/wire/ imports only core/http/ and core/runtime/errors.ts",
      breaks: (from: string, to: string) =>
        from.startsWith("sidecar/wire/") &&
        /^(sidecar|control-plane|proto)\//.test(to) &&
        !to.startsWith("sidecar/wire/") &&
        !to.startsWith("sidecar/core/http/") &&
        to !== "sidecar/core/runtime/errors.ts",
    },
    {
      name: "nothing imports test/, a main.ts or cli/",
      breaks: (from: string, to: string, dynamic: boolean) =>
        to.startsWith("test/") ||
        (/\/main\.ts$/.test(to) && !(dynamic && from.startsWith("control-plane/cli/"))) ||
        (to.startsWith("control-plane/cli/") && !from.startsWith("control-plane/cli/")),
    },
  ])("$name", ({ breaks }) => {
    const broken = sources.flatMap((file) =>
      file.imports
        .filter((one) => breaks(file.path, one.target, one.dynamic))
        .map((one) => `${file.path} -> ${one.target}`),
    );
    expect(broken).toEqual([]);
  });

  test("stages meet only in main.ts; of each other they import types only", () => {
    const broken = sources
      .filter((file) => STAGES.has(stageOf(file.path)) && !isTopFile(file.path))
      .flatMap((file) =>
        file.imports
          .filter(
            (one) =>
              STAGES.has(stageOf(one.target)) && stageOf(one.target) !== stageOf(file.path) && !one.typeOnly,
          )
          .map((one) => `${file.path} -> ${one.target}`),
      );
    expect(broken).toEqual([]);
  });
});

test("pure files touch no clock, chance, disk, network or timer", () => {
  const broken = sources
    .filter((file) => PURE.some((pattern) => pattern.test(file.path)))
    .filter((file) => IMPURE.test(file.text.replace(/\/\/.*$|\/\*[\s\S]*?\*\//gm, "")))
    .map((file) => file.path);
  expect(broken).toEqual([]);
});

test("every source file begins with a comment on its duty", () => {
  expect(sources.filter((file) => !/^(#!.*\n)?(\/\/|\/\*)/.test(file.text)).map((file) => file.path)).toEqual(
    [],
  );
});

test("file names are kebab-case and say what is inside", () => {
  const names = sources.map((file) => file.path.split("/").at(-1) ?? "");
  expect(
    names.filter(
      (name) =>
        !/^[a-z0-9]+(-[a-z0-9]+)*\.ts$/.test(name) ||
        /^(utils?|helpers?|common|misc|types|index)\.ts$/.test(name),
    ),
  ).toEqual([]);
});

describe("the docs list what the code has", () => {
  const coreReadme = () => readFileSync(join(root, "sidecar/core/README.md"), "utf8");

  test.each(Object.keys(REASONS))("reason %s is documented", (reason) => {
    expect(coreReadme()).toContain(`| \`${reason}\` |`);
  });

  test.each(Object.keys(ERROR_CODES))("error code %s is documented", (code) => {
    expect(coreReadme()).toContain(`| \`${code}\` |`);
  });

  test("every metric is in a README table, and every one in a table exists", () => {
    const declared = new Set<string>();
    for (const file of sources)
      for (const match of file.text.matchAll(/"(countersign_[a-z0-9_]+)"/g))
        if (match[1]) declared.add(match[1]);
    const documented = new Set<string>();
    for (const readme of ["sidecar/README.md", "control-plane/README.md"]) {
      for (const match of readFileSync(join(root, readme), "utf8").matchAll(
        /^\| `(countersign_[a-z0-9_]+)`/gm,
      ))
        if (match[1]) documented.add(match[1]);
    }
    expect([...documented].sort()).toEqual([...declared].sort());
  });

  test("the README's map names every folder of the source", () => {
    const readme = readFileSync(join(root, "README.md"), "utf8");
    const folders = new Set(
      sources.map((file) => stageOf(file.path)).filter((folder) => !folder.endsWith(".ts")),
    );
    expect(
      [...folders].filter((folder) => folder !== "proto/mesh" && !readme.includes(`${folder}/`)),
    ).toEqual([]);
  });
});
