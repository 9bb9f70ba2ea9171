// A real Keycloak: fetched once from Maven Central into the user's cache, made ready there (augmented, with a database that
// has the master realm), and started from a copy of that, so that a start takes seconds. Spoken to by its admin API.
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess, startProgram } from "../demo/process.ts";
import { installed, runInstaller } from "../interop/installed.ts";
import { canTest, leaveOut } from "../left-out.ts";
import { findJdk } from "./jdk.ts";

const VERSION = "26.7.3";
const ADMIN = { username: "admin", password: "admin" };
/** On a busy machine, with a database to make. */
const START_MS = 300_000;

/** Short-lived: compiling well costs more than it gives. */
const JVM = [
  ...["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"],
  ...["-Djava.util.logging.manager=org.jboss.logmanager.LogManager", "-Dpicocli.disable.closures=true"],
  "-Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
  ...["java.util", "java.util.concurrent", "java.security", "java.lang"].map(
    (name) => `--add-opens=java.base/${name}=ALL-UNNAMED`,
  ),
  "--enable-native-access=ALL-UNNAMED",
];

interface Installed {
  readonly java: string;
  /** Folder that is started from, never in. */
  readonly template: string;
}

/** Keycloak in the cache; undefined: left out here, which is said at the end. */
export async function installedKeycloak(what: string): Promise<Installed | undefined> {
  const needs = { mvn: "Debian's maven", flock: "Debian's util-linux" };
  if (!canTest(what, needs)) return undefined;
  const jdk = findJdk();
  if (jdk === undefined) {
    leaveOut(`${what}: needs a JDK of version 21 or newer, in JAVA_HOME, on the PATH or in /usr/lib/jvm`);
    return undefined;
  }
  const java = join(jdk, "bin", "java");
  // What is made ready depends on the options, too.
  const manifest = [VERSION, ...JVM, "1"].join("\n");
  const folder = await installed("keycloak", manifest, async (target) => {
    const artifact = `org.keycloak:keycloak-quarkus-dist:${VERSION}:zip`;
    const plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy";
    await runInstaller("mvn", [
      ...["--batch-mode", "--quiet", plugin, `-Dartifact=${artifact}`, `-DoutputDirectory=${target}`],
    ]);
    const archive = join(target, `keycloak-quarkus-dist-${VERSION}.zip`);
    await runInstaller("sh", [
      "-c",
      'cd "$1" && "$2" xf "$3"',
      "sh",
      target,
      join(jdk, "bin", "jar"),
      archive,
    ]);
    rmSync(archive);
    await makeReady(java, join(target, `keycloak-${VERSION}`));
  });
  return folder === undefined ? undefined : { java, template: join(folder, `keycloak-${VERSION}`) };
}

/** By which it says that it has augmented itself and wants to be started again. */
const AUGMENTED = 10;

/** Starts it where it lies: that augments it, and leaves a database with the master realm. */
async function makeReady(java: string, home: string): Promise<void> {
  const [port = 0] = await freePorts(1);
  const augmenting = start(java, home, port, []);
  const code = await new Promise<number | null>((resolve) => augmenting.child.once("exit", resolve));
  if (code !== AUGMENTED) throw new Error(`keycloak ended with ${code}:\n${augmenting.errors()}`);
  const process = start(java, home, port, ["-Dkc.config.built=true"]);
  try {
    await untilServing(process, port);
  } finally {
    await process.stop(60_000);
  }
}

function start(java: string, home: string, port: number, more: readonly string[]): RunningProcess {
  return startProgram(
    "keycloak",
    java,
    [
      ...JVM,
      ...[`-Dkc.home.dir=${home}`, `-Djboss.server.config.dir=${join(home, "conf")}`],
      ...more.filter((one) => one.startsWith("-D")),
      ...["-cp", join(home, "lib", "quarkus-run.jar"), "io.quarkus.bootstrap.runner.QuarkusEntryPoint"],
      ...["start-dev", "--http-host=127.0.0.1", `--http-port=${port}`],
      ...more.filter((one) => !one.startsWith("-D")),
    ],
    {
      KC_BOOTSTRAP_ADMIN_USERNAME: ADMIN.username,
      KC_BOOTSTRAP_ADMIN_PASSWORD: ADMIN.password,
      ...{ HTTP_PROXY: "", HTTPS_PROXY: "", http_proxy: "", https_proxy: "" },
    },
  );
}

async function untilServing(process: RunningProcess, port: number): Promise<void> {
  let log = "";
  process.child.stdout?.on("data", (text: string) => {
    log = (log + text).slice(-8_192);
  });
  await until(
    "keycloak",
    async () => {
      if (process.child.exitCode !== null) throw new Error(`keycloak ended:\n${log}${process.errors()}`);
      const answer = await fetch(`http://127.0.0.1:${port}/realms/master`).catch(() => undefined);
      return answer?.ok === true ? true : undefined;
    },
    START_MS,
  );
}

export class Keycloak {
  readonly url: string;
  readonly #process: RunningProcess;
  readonly #dir: string;

  private constructor(url: string, process: RunningProcess, dir: string) {
    this.url = url;
    this.#process = process;
    this.#dir = dir;
  }

  /**
   * @param ca PEM that it trusts for back-channel logouts.
   * @param hosts names that it finds on loopback.
   */
  static async start(
    { java, template }: Installed,
    { ca, hosts }: { readonly ca: string; readonly hosts: readonly string[] },
  ): Promise<Keycloak> {
    const dir = mkdtempSync(join(tmpdir(), "countersign-keycloak-"));
    const home = join(dir, "home");
    mkdirSync(home);
    for (const name of ["lib", "conf", "providers", "themes"])
      symlinkSync(join(template, name), join(home, name));
    cpSync(join(template, "data", "h2"), join(home, "data", "h2"), { recursive: true });
    writeFileSync(join(dir, "ca.pem"), ca);
    writeFileSync(join(dir, "hosts"), hosts.map((host) => `127.0.0.1 ${host}\n`).join(""));
    const [port = 0] = await freePorts(1);
    const process = start(java, home, port, [
      `-Djdk.net.hosts.file=${join(dir, "hosts")}`,
      `--truststore-paths=${join(dir, "ca.pem")}`,
    ]);
    const keycloak = new Keycloak(`http://127.0.0.1:${port}`, process, dir);
    try {
      await untilServing(process, port);
    } catch (error) {
      await keycloak.close();
      throw error;
    }
    return keycloak;
  }

  issuer(realm: string): string {
    return `${this.url}/realms/${realm}`;
  }

  /** One request to the admin API, below `/admin/realms`; throws unless it succeeds. */
  async admin(method: string, path: string, body?: unknown): Promise<unknown> {
    const token = await this.token("master", { client_id: "admin-cli", ...ADMIN });
    const answer = await fetch(`${this.url}/admin/realms${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`keycloak answered ${method} ${path} with ${answer.status}: ${text}`);
    return text === "" ? undefined : JSON.parse(text);
  }

  /** Ids of the keys that it publishes. */
  async keys(realm: string): Promise<string[]> {
    const answer = await fetch(`${this.issuer(realm)}/protocol/openid-connect/certs`);
    return ((await answer.json()) as { keys: { kid: string }[] }).keys.map(({ kid }) => kid);
  }

  /** An access token by the resource owner's password, which no person's browser is needed for. */
  async token(realm: string, form: Readonly<Record<string, string>>): Promise<string> {
    const answer = await fetch(`${this.issuer(realm)}/protocol/openid-connect/token`, {
      method: "POST",
      body: new URLSearchParams({ grant_type: "password", ...form }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`keycloak gave no token: ${text}`);
    return (JSON.parse(text) as { access_token: string }).access_token;
  }

  async close(): Promise<void> {
    await this.#process.stop(20_000);
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
