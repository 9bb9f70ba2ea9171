// A Java that Keycloak runs on: from JAVA_HOME, the PATH, or where distributions put them.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

/** Of Keycloak 26.7. */
const LEAST = 21;
const FOLDERS = ["/usr/lib/jvm", "/usr/java", "/opt/java", "/opt"];

/** Major version of a `java`; 0: it does not run. */
function versionOf(java: string): number {
  const { status, stderr } = spawnSync(java, ["-version"], { encoding: "utf8", timeout: 100_000 });
  return status === 0 ? Number(/version "(\d+)/.exec(stderr)?.[1] ?? 0) : 0;
}

/** Home of a JDK (with `jar`) of version 21 or newer; undefined: there is none. */
export function findJdk(): string | undefined {
  const onPath = spawnSync("sh", ["-c", 'readlink -f "$(command -v java)"'], { encoding: "utf8" });
  const homes = [process.env["JAVA_HOME"], onPath.stdout.trim().replace(/\/bin\/java$/, "")];
  for (const folder of FOLDERS)
    if (existsSync(folder)) homes.push(...readdirSync(folder).map((name) => join(folder, name)));
  return homes.find(
    (home) =>
      home !== undefined &&
      existsSync(join(home, "bin", "jar")) &&
      versionOf(join(home, "bin", "java")) >= LEAST,
  );
}
