// The directory source on real files with real file system events; waits end with an event, never by counting time.
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, test } from "@jest/globals";
import {
  type DirectoryReport,
  readDirectory,
  runDirectorySource,
} from "../../../control-plane/sources/directory.ts";
import { formatProblem } from "../../../control-plane/sources/field-problem.ts";
import { loadSchemas } from "../../../control-plane/sources/schema.ts";
import type { ClusterState } from "../../../control-plane/sources/store.ts";
import { type Clock, systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";

const schemas = loadSchemas();
const policy = (
  name: string,
  action: "Allow" | "Deny",
  extra = "",
): string => `apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: ${name}, namespace: lab}
spec:
  action: ${action}
  rules:
  - name: r
    from: [{any: true}]
    operations: [{any: true}]
${extra}`;

interface Publication {
  readonly state: ClusterState;
  readonly report: DirectoryReport;
}

/** A running source over two fresh folders. */
class Bench {
  readonly root: string;
  readonly published: Publication[] = [];
  /** What the source has waited of its own accord. */
  sleptMs = 0;
  readonly #clock: Clock = {
    ...systemClock,
    sleep: async (ms, signal) => {
      await systemClock.sleep(ms, signal);
      if (signal?.aborted !== true) this.sleptMs += ms;
    },
  };
  #waiters: (() => void)[] = [];
  #abort = new AbortController();
  #done: Promise<void> = Promise.resolve();

  constructor() {
    this.root = mkdtempSync(join(tmpdir(), "countersign-directory-"));
    mkdirSync(join(this.root, "config"));
  }

  path(file: string): string {
    return join(this.root, "config", file);
  }

  write(file: string, text: string): void {
    mkdirSync(dirname(this.path(file)), { recursive: true });
    writeFileSync(this.path(file), text);
  }

  async start(): Promise<void> {
    this.#abort = new AbortController();
    const before = this.published.length;
    this.#done = runDirectorySource(
      {
        dir: join(this.root, "config"),
        stateDir: join(this.root, "state"),
        clock: this.#clock,
        schemas,
        log: silentLogger,
        onState: (state, report) => {
          this.published.push({ state, report });
          for (const wake of this.#waiters.splice(0)) wake();
        },
      },
      this.#abort.signal,
    );
    await this.until(() => this.published.length > before);
  }

  get last(): Publication {
    return this.published.at(-1)!;
  }

  /** Names of the policies in force. */
  names(): string[] {
    return [...this.last.state.policies.values()].map(
      (entry) => `${entry.name}:${entry.action}:${entry.generation}`,
    );
  }

  problems(): string {
    return this.last.report.problems.map(formatProblem).join("\n");
  }

  /** Waits for a publication after which `holds` is true; jest's own time limit ends a wait that never does. */
  async until(holds: () => boolean): Promise<void> {
    while (this.published.length === 0 || !holds())
      await new Promise<void>((wake) => this.#waiters.push(wake));
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await this.#done;
  }

  async close(): Promise<void> {
    await this.stop();
    rmSync(this.root, { recursive: true, force: true });
  }
}

let bench: Bench;
afterEach(() => bench.close());

describe("directory source", () => {
  test("publishes what is there, with a notice that the MeshConfig is missing", async () => {
    bench = new Bench();
    bench.write("a.yaml", policy("a", "Allow"));
    await bench.start();
    expect(bench.names()).toEqual(["a:Allow:1"]);
    expect(bench.last.state.config.trustDomain).toBe("mesh.local");
    expect(bench.last.report.notices.map((notice) => notice.message).join()).toContain("no MeshConfig");
    expect([...bench.last.report.accepted.keys()]).toEqual(["a.yaml"]);
  });

  test("follows create, edit, rename and delete", async () => {
    bench = new Bench();
    await bench.start();
    bench.write("sub/deep/a.yaml", policy("a", "Allow"));
    await bench.until(() => bench.names().length === 1);
    bench.write(
      "sub/deep/a.yaml",
      policy("a", "Allow", "    with: {rateLimit: {key: workload, requests: 3, per: 1m}}\n"),
    );
    await bench.until(() => bench.names()[0] === "a:Allow:2");
    const typed = bench.last.state.policies.get("AccessPolicy/lab/a");
    renameSync(bench.path("sub/deep/a.yaml"), bench.path("b.yml"));
    await bench.until(() => bench.last.report.accepted.has("b.yml"));
    expect(bench.last.state.policies.get("AccessPolicy/lab/a")).toBe(typed);
    rmSync(bench.path("b.yml"));
    await bench.until(() => bench.names().length === 0);
  });

  test("waits at most 120 ms before it takes an edit, also one saved by renaming", async () => {
    bench = new Bench();
    for (let i = 0; i < 5; i++) bench.write(`p${i}.yaml`, policy(`p${i}`, "Allow"));
    await bench.start();
    // Readings after new watches were set are over when the next edit has been seen.
    bench.write(
      "p0.yaml",
      policy("p0", "Allow", "    with: {rateLimit: {key: workload, requests: 1, per: 1m}}\n"),
    );
    await bench.until(() => bench.names().includes("p0:Allow:2"));
    for (let i = 2; i < 7; i++) {
      bench.sleptMs = 0;
      writeFileSync(
        bench.path(".p1.yaml.swp"),
        policy("p1", "Allow", `    with: {rateLimit: {key: workload, requests: ${i}, per: 1m}}\n`),
      );
      renameSync(bench.path(".p1.yaml.swp"), bench.path("p1.yaml"));
      await bench.until(() => bench.names().includes(`p1:Allow:${i}`));
      expect(bench.sleptMs).toBeGreaterThan(0);
      expect(bench.sleptMs).toBeLessThanOrEqual(120);
    }
  });

  test("a bad object and a half-written file change nothing, after a restart neither", async () => {
    bench = new Bench();
    bench.write("a.yaml", policy("a", "Deny"));
    bench.write("b.yaml", `${policy("b", "Allow")}---\n${policy("c", "Deny")}`);
    await bench.start();
    expect(bench.names()).toEqual(["a:Deny:1", "b:Allow:1", "c:Deny:1"]);
    const before = bench.last.state;
    bench.write("a.yaml", policy("a", "Deny").replace("    from:", "    form:"));
    await bench.until(() => bench.problems().includes("unknown field"));
    expect(bench.problems()).toContain(
      "a.yaml:8: AccessPolicy lab/a: spec.rules[0].form: unknown field `spec.rules[0].form`; did you mean `from`?; the version accepted before stays in force",
    );
    expect(bench.last.state).toBe(before);
    bench.write("b.yaml", `${policy("b", "Allow")}---\nkind: {`);
    await bench.until(() => bench.problems().includes("b.yaml:"));
    expect(bench.last.state).toBe(before);
    bench.write("a.yaml", "");
    await bench.until(() => bench.problems().includes("is empty"));
    expect(bench.last.state).toBe(before);
    await bench.stop();
    await bench.start();
    expect(bench.names()).toEqual(["a:Deny:1", "b:Allow:1", "c:Deny:1"]);
    expect([...bench.last.report.accepted.values()].flat().map((object) => object.current)).toEqual([
      false,
      false,
      false,
    ]);
    bench.write("a.yaml", policy("a", "Deny", "    when: {environments: [dev]}\n"));
    await bench.until(() => bench.names().includes("a:Deny:2"));
  });

  test("an object whose kind or name is misspelled leaves what its file held in force", async () => {
    bench = new Bench();
    bench.write("a.yaml", policy("a", "Allow"));
    await bench.start();
    bench.write("a.yaml", policy("a", "Allow").replace("AccessPolicy", "AccesPolicy"));
    await bench.until(() => bench.problems().includes("did you mean `AccessPolicy`?"));
    expect(bench.names()).toEqual(["a:Allow:1"]);
  });

  test("of two files that define the same object the accepted one stays, and both are named", async () => {
    bench = new Bench();
    bench.write("b.yaml", policy("a", "Allow"));
    await bench.start();
    bench.write("a.yaml", policy("a", "Deny"));
    await bench.until(() => bench.problems() !== "");
    expect(bench.problems()).toContain("a.yaml:1: AccessPolicy lab/a: is defined in `b.yaml:1` too");
    expect(bench.names()).toEqual(["a:Allow:1"]);
    rmSync(bench.path("b.yaml"));
    await bench.until(() => bench.names()[0] === "a:Deny:2");
    expect(bench.problems()).toBe("");
  });

  test("a Deny that vanishes briefly never leaves the state; one that stays away does after 500 ms", async () => {
    bench = new Bench();
    bench.write("deny.yaml", policy("deny", "Deny"));
    bench.write("allow.yaml", policy("allow", "Allow"));
    await bench.start();
    rmSync(bench.path("deny.yaml"));
    rmSync(bench.path("allow.yaml"));
    await bench.until(() => !bench.names().includes("allow:Allow:1"));
    expect(bench.names()).toEqual(["deny:Deny:1"]);
    bench.write("deny.yaml", policy("deny", "Deny"));
    await bench.until(() => bench.last.report.accepted.get("deny.yaml")?.[0]?.current === true);
    expect(bench.published.every(({ state }) => state.policies.has("AccessPolicy/lab/deny"))).toBe(true);
    const startMs = performance.now();
    rmSync(bench.path("deny.yaml"));
    await bench.until(() => bench.names().length === 0);
    expect(performance.now() - startMs).toBeGreaterThan(500);
  });

  test("a mass change like a git checkout is one revision", async () => {
    bench = new Bench();
    for (let i = 0; i < 100; i++)
      bench.write(`d${i % 7}/p${i}.yaml`, policy(`p${i}`, i % 2 === 0 ? "Allow" : "Deny"));
    await bench.start();
    bench.write("seen.yaml", policy("seen", "Allow"));
    await bench.until(() => bench.names().includes("seen:Allow:1"));
    const revision = bench.last.state.revision;
    for (let i = 0; i < 100; i++) {
      rmSync(bench.path(`d${i % 7}/p${i}.yaml`));
      bench.write(
        `d${i % 7}/p${i}.yaml`,
        policy(`p${i}`, i % 2 === 0 ? "Allow" : "Deny", "    when: {environments: [dev]}\n"),
      );
    }
    await bench.until(() => bench.names().filter((name) => name.endsWith(":2")).length === 100);
    expect(bench.last.state.revision).toBe(revision + 1);
    expect(bench.last.state.policies.size).toBe(101);
  });

  test("an edit keeps the maps and objects of everything else", async () => {
    bench = new Bench();
    bench.write("a.yaml", policy("a", "Allow"));
    bench.write("b.yaml", policy("b", "Allow"));
    bench.write(
      "w.yaml",
      "apiVersion: countersign.dev/v1alpha1\nkind: Workload\nmetadata: {name: w, namespace: lab}\nspec: {kind: job, serviceAccount: sa}\n",
    );
    await bench.start();
    const before = bench.last.state;
    bench.write("b.yaml", policy("b", "Deny"));
    await bench.until(() => bench.names().includes("b:Deny:2"));
    expect(bench.last.state.workloads).toBe(before.workloads);
    expect(bench.last.state.policies.get("AccessPolicy/lab/a")).toBe(
      before.policies.get("AccessPolicy/lab/a"),
    );
    expect(before.policies.get("AccessPolicy/lab/b")?.action).toBe("Allow");
  });

  test("skips what editors and others leave, and links that lead outside", async () => {
    bench = new Bench();
    writeFileSync(join(bench.root, "outside.yaml"), policy("outside", "Allow"));
    mkdirSync(join(bench.root, "config", ".git"));
    for (const name of [".git/x.yaml", ".a.yaml", "#a.yaml#", "a.yaml~", "notes.txt", "a.yaml.swp"])
      bench.write(name, policy("skipped", "Allow"));
    bench.write("real.yaml", policy("real", "Allow"));
    symlinkSync("../outside.yaml", bench.path("link.yaml"));
    symlinkSync("nowhere.yaml", bench.path("broken.yaml"));
    await bench.start();
    expect(bench.names()).toEqual(["real:Allow:1"]);
    expect(bench.problems()).toContain("link.yaml: is a link that leads out of the directory");
    expect(bench.problems()).toContain("broken.yaml: cannot be read");
    bench.write("inner.txt", policy("inner", "Allow"));
    symlinkSync("inner.txt", bench.path("inner.yaml"));
    await bench.until(() => bench.names().includes("inner:Allow:1"));
  });

  test("refuses files that are too large or no text, and keeps what they held", async () => {
    bench = new Bench();
    bench.write("a.yaml", policy("a", "Allow"));
    bench.write("b.yaml", policy("b", "Deny"));
    await bench.start();
    appendFileSync(bench.path("a.yaml"), `# ${"x".repeat(1024 * 1024)}\n`);
    await bench.until(() => bench.problems().includes("a.yaml: is larger than 1048576 bytes"));
    writeFileSync(bench.path("b.yaml"), Buffer.from([0xff, 0xfe, 0x00]));
    await bench.until(() => bench.problems().includes("b.yaml: is not UTF-8 text"));
    expect(bench.names()).toEqual(["a:Allow:1", "b:Deny:1"]);
  });

  test("never writes into the directory, and survives a half line at the end of its journal", async () => {
    bench = new Bench();
    bench.write("a.yaml", policy("a", "Allow"));
    await bench.start();
    await bench.stop();
    expect(readdirSync(join(bench.root, "config"))).toEqual(["a.yaml"]);
    const journal = join(bench.root, "state", "accepted", "changes.jsonl");
    expect(readFileSync(journal, "utf8").split("\n")).toHaveLength(2);
    appendFileSync(journal, '{"put": {"key": "Acc');
    bench.write("a.yaml", "kind: [");
    await bench.start();
    expect(bench.names()).toEqual(["a:Allow:1"]);
  });

  test("the whole directory gone changes nothing until it can be read again", async () => {
    bench = new Bench();
    bench.write("a.yaml", policy("a", "Allow"));
    await bench.start();
    renameSync(join(bench.root, "config"), join(bench.root, "away"));
    await bench.until(() => bench.problems().includes("the directory cannot be read"));
    expect(bench.names()).toEqual(["a:Allow:1"]);
    renameSync(join(bench.root, "away"), join(bench.root, "config"));
    await bench.until(() => bench.problems() === "");
    bench.write("a.yaml", policy("a", "Deny"));
    await bench.until(() => bench.names()[0] === "a:Deny:2");
  });

  test("the trust domain cannot change while its MeshConfig stays", async () => {
    bench = new Bench();
    const config = (domain: string): string =>
      `apiVersion: countersign.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {trustDomain: ${domain}}\n`;
    bench.write("mesh.yaml", config("one.example"));
    await bench.start();
    bench.write("mesh.yaml", config("two.example"));
    await bench.until(() => bench.problems().includes("trust domain cannot change"));
    expect(bench.last.state.config.trustDomain).toBe("one.example");
  });
});

const denyOn = (op: string, name = "guard"): string => `apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: ${name}, namespace: lab}
spec:
  action: Deny
  rules:
  - name: r
    operations:
    - op: ${op}
`;

describe("what does not fit the rest of the configuration", () => {
  test("is refused, and the version before stays in force, after a restart too", async () => {
    bench = new Bench();
    bench.write("guard.yaml", denyOn("serving.admin"));
    bench.write("new.yaml", denyOn("serving.amdin", "new"));
    await bench.start();
    expect(bench.names()).toEqual(["guard:Deny:1"]);
    expect(bench.problems()).toMatch(
      /^new\.yaml:9: AccessPolicy lab\/new: spec\.rules\[0\]\.operations\[0\]\.op: .*did you mean `serving\.admin`$/,
    );
    expect(bench.last.report.problems[0]).toMatchObject({ reason: "UnknownOperation", standing: "none" });
    const before = bench.last.state.policies.get("AccessPolicy/lab/guard");
    bench.write("guard.yaml", denyOn("serving.nothing"));
    await bench.until(() => bench.problems().includes("lab/guard"));
    expect(bench.last.state.policies.get("AccessPolicy/lab/guard")).toBe(before);
    expect(bench.problems()).toContain("the version accepted before stays in force");
    await bench.stop();
    await bench.start();
    expect(bench.last.state.policies.get("AccessPolicy/lab/guard")).toEqual(before);
    expect(bench.problems()).toContain("guard.yaml:9: AccessPolicy lab/guard");
  });

  test("is taken once its catalog is there, and kept when the catalog goes", async () => {
    bench = new Bench();
    bench.write("guard.yaml", denyOn("features.read"));
    await bench.start();
    expect(bench.names()).toEqual([]);
    bench.write(
      "catalog.yaml",
      `apiVersion: countersign.dev/v1alpha1
kind: OperationCatalog
metadata: {name: extra}
spec:
  packs:
  - name: features
    text: |
      features.read GET /features/{id} feature<path:id read CAN_READ
`,
    );
    await bench.until(() => bench.names().length === 1 || bench.problems().includes("extra"));
    expect(bench.problems()).toBe("");
    rmSync(bench.path("catalog.yaml"));
    await bench.until(() => bench.last.state.catalogs.size === 0);
    // Now the compiler closes its targets: what turned wrong later fails closed.
    expect(bench.names()).toEqual(["guard:Deny:1"]);
  });
});

describe("a stored Deny that this build cannot read", () => {
  const later = (targets: string): string =>
    `{"put":{"key":"AccessPolicy/lab/guard","file":"guard.yaml","digest":"x","generation":7,"acceptedAtMs":1,"object":{"apiVersion":"countersign.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":"guard","namespace":"lab"},"spec":{"action":"Deny",${targets}"rules":[{"name":"r","fromTheFuture":true}]}}}}\n`;
  const store = (line: string): string => {
    const folder = join(bench.root, "state", "accepted");
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "snapshot.jsonl"), line);
    return join(folder, "snapshot.jsonl");
  };

  test.each([
    {
      name: "denies all traffic to its targets",
      targets: `"targets":[{"names":["a"]}],`,
      want: [{ names: ["a"] }],
    },
    {
      name: "denies its namespace when its targets cannot be read",
      targets: `"targets":[{"shape":"new"}],`,
      want: undefined,
    },
  ])("$name, and says so", async ({ targets, want }) => {
    bench = new Bench();
    const file = store(later(targets));
    bench.write("guard.yaml", denyOn("serving.admin").replace("name: r", "name: r\n    fromTheFuture: true"));
    await bench.start();
    const found = bench.last.state.policies.get("AccessPolicy/lab/guard");
    expect(found).toMatchObject({ action: "Deny", generation: 7, rules: [{ name: "not-accepted" }] });
    expect(found?.targets).toEqual(want);
    expect(found?.rules[0]?.from).toBeUndefined();
    expect(bench.problems()).toContain("denies all traffic to its targets");
    expect(bench.problems()).not.toContain("accepted before stays in force");
    expect(readFileSync(file, "utf8")).toContain("fromTheFuture");
    bench.write("guard.yaml", denyOn("serving.admin"));
    await bench.until(() => bench.problems() === "");
    expect(bench.names()).toEqual(["guard:Deny:8"]);
  });

  test("an Allow is left out", async () => {
    bench = new Bench();
    store(later("").replace(`"Deny"`, `"Allow"`));
    await bench.start();
    expect(bench.names()).toEqual([]);
  });
});

describe("readDirectory", () => {
  const examples = fileURLToPath(new URL("../../../crds/examples", import.meta.url));

  test("accepts every example of crds/examples but what this build does not enforce", () => {
    bench = new Bench();
    const { state, report } = readDirectory(examples, schemas, 0);
    expect(report.problems.map(({ object, reason, path }) => `${object} ${reason} ${path}`)).toEqual([
      "AccessGrant ml-serving/inc-42 Unsupported spec.approval.fromRoles",
      ...["trustedSpawners", "protectedLabels", "gateways"].map(
        (field) => `MeshConfig default Unsupported spec.${field}`,
      ),
    ]);
    expect(state.policies.size).toBe(10);
    expect(report.notices.map(({ message }) => message)).toEqual([
      "there is no MeshConfig, so the defaults hold and the trust domain is `mesh.local`",
    ]);
  });

  test("takes files, lists and several documents, and names line and closest field", () => {
    bench = new Bench();
    bench.write(
      "list.yaml",
      `apiVersion: v1\nkind: List\nitems:\n- ${policy("a", "Allow").trim().replaceAll("\n", "\n  ")}\n- {kind: AccessPolicy, metadata: {name: b}}\n`,
    );
    bench.write(
      "many.yaml",
      `# comment\n---\n${policy("c", "Allow")}...\n--- {apiVersion: v1, kind: Namespace, metadata: {name: lab, labels: {stage: "on"}}}\n---\n${policy("d", "Alow" as "Allow")}`,
    );
    const { state, report } = readDirectory([bench.path("list.yaml"), bench.path("many.yaml")], schemas, 0);
    expect([...state.policies.keys()]).toEqual(["AccessPolicy/lab/a", "AccessPolicy/lab/c"]);
    expect(state.namespaces.get("lab")).toEqual(new Map([["stage", "on"]]));
    const problems = report.problems.map((problem) =>
      formatProblem({ ...problem, file: problem.file?.split("/").at(-1) ?? "" }),
    );
    expect(problems[0]).toContain("list.yaml:13: AccessPolicy b: apiVersion: is missing");
    expect(problems[1]).toContain(
      "many.yaml:19: AccessPolicy lab/d: spec.action: `Alow` is not valid: it must be one of `Allow`, `Deny`, `Audit`; did you mean `Allow`?",
    );
  });

  test("throws for a path that does not exist", () => {
    bench = new Bench();
    expect(() => readDirectory(bench.path("none"), schemas, 0)).toThrow("none` cannot be read");
  });
});
