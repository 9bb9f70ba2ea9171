// The identity on disk: one private file in the sidecar's state directory, replaced whole, so that a restart goes on
// with the same certificate while the control plane is away.
import { createPrivateKey, randomBytes, X509Certificate } from "node:crypto";
import { chmod, mkdir, open, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { parseTrustBundle } from "../core/identity/trust-bundle.ts";
import { createWorkloadIdentity, type WorkloadIdentity } from "../core/identity/workload-identity.ts";
import { MeshError, messageOf, type Result, systemCodeOf } from "../core/runtime/errors.ts";

const FILE = "identity.json";
const VERSION = 1;
const MAX_FILE_BYTES = 1_048_576;

const MEMBERS = ["certificateChainPem", "tlsKeyPem", "tokenKeyPem", "wit", "bundle", "trustDomain"] as const;
type Stored = Readonly<Record<(typeof MEMBERS)[number], string>>;

function parseStored(text: string): Stored | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null || !("version" in value) || value.version !== VERSION)
    return undefined;
  const entries = new Map<string, unknown>(Object.entries(value));
  if (!MEMBERS.every((name) => typeof entries.get(name) === "string")) return undefined;
  return value as unknown as Stored; // every member was just checked to be a string
}

/**
 * Saves the identity to `{stateDir}/identity.json` (0600, directory 0700).
 *
 * @throws MeshError `io_failed`; the file before, if any, is then untouched.
 */
export async function saveIdentity(stateDir: string, identity: WorkloadIdentity): Promise<void> {
  const stored: Stored & { version: number } = {
    version: VERSION,
    trustDomain: identity.trustDomain,
    certificateChainPem: identity.certificateChainPem,
    tlsKeyPem: identity.tlsKey.export({ type: "pkcs8", format: "pem" }).toString(),
    tokenKeyPem: identity.tokenKey.export({ type: "pkcs8", format: "pem" }).toString(),
    wit: identity.wit,
    bundle: identity.bundle.json,
  };
  const path = join(stateDir, FILE);
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    await mkdir(stateDir, { recursive: true, mode: 0o700 });
    await chmod(stateDir, 0o700);
    const file = await open(temporary, "wx", 0o600);
    try {
      await file.writeFile(JSON.stringify(stored));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    const advice =
      systemCodeOf(cause) === "EPERM" ? "; --state-dir must be a directory of this user's own" : "";
    throw new MeshError(
      "io_failed",
      `cannot save the identity to \`${path}\`: ${messageOf(cause)}${advice}`,
      { cause },
    );
  }
}

function unusable(path: string, what: string): { ok: false; error: MeshError } {
  return {
    ok: false,
    error: new MeshError("bad_config", `the identity in \`${path}\` is not used: ${what}`),
  };
}

/**
 * Loads the saved identity.
 *
 * @returns undefined when there is none; an error when there is one that cannot be used (damaged, expired, readable by
 *   others): to be logged, and then treated as none.
 */
export async function loadIdentity(
  stateDir: string,
  nowMs: number,
): Promise<Result<WorkloadIdentity | undefined, MeshError>> {
  const path = join(stateDir, FILE);
  let text: string;
  try {
    const { mode, size } = await stat(path);
    if ((mode & 0o077) !== 0) return unusable(path, "others may read it; remove it or set its mode to 0600");
    if (size > MAX_FILE_BYTES) return unusable(path, "it is larger than 1 MiB");
    text = await readFile(path, "utf8");
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return { ok: true, value: undefined };
    return unusable(path, messageOf(error));
  }
  const stored = parseStored(text);
  if (stored === undefined) return unusable(path, "it is damaged or of another version");
  const bundle = parseTrustBundle(stored.bundle, stored.trustDomain);
  if (!bundle.ok) return unusable(path, bundle.error);
  try {
    const blocks =
      stored.certificateChainPem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
    const identity = createWorkloadIdentity({
      chainDer: blocks.map((block) => new X509Certificate(block).raw),
      tlsKey: createPrivateKey(stored.tlsKeyPem),
      tokenKey: createPrivateKey(stored.tokenKeyPem),
      wit: stored.wit,
      bundle: bundle.value,
      nowMs,
    });
    return identity.ok ? identity : unusable(path, identity.error);
  } catch {
    return unusable(path, "a key or certificate in it cannot be read");
  }
}
