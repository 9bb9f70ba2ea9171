// What `countersign login` keeps: one short token per gateway, in a file for its owner alone.
import { mkdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { MeshError, messageOf, systemCodeOf } from "../../sidecar/core/runtime/errors.ts";
import { fieldsOf, textOf } from "./answers.ts";
import { writePrivateFile } from "./private-file.ts";

export interface KeptLogin {
  /** `https://host[:port]`. */
  readonly gateway: string;
  readonly token: string;
  /** `idp|id`. */
  readonly user: string;
  /** Unix milliseconds. */
  readonly expiresMs: number;
  /** File with the roots of the gateway's certificate; undefined: the system's. */
  readonly caFile: string | undefined;
}

export interface KeptLogins {
  /** The gateway of the last login; undefined: there was none. */
  readonly current: string | undefined;
  readonly logins: ReadonlyMap<string, KeptLogin>;
}

/** `$XDG_CONFIG_HOME/countersign/logins.json`, by default below `~/.config`. */
export function loginsFile(env: Readonly<Record<string, string | undefined>>): string {
  const base = env["XDG_CONFIG_HOME"] || join(env["HOME"] || homedir(), ".config");
  return join(base, "countersign", "logins.json");
}

/** @throws MeshError `io_failed` for a file that cannot be read; one that is broken or missing is empty. */
export function readLogins(file: string): KeptLogins {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    const code = systemCodeOf(error);
    if (code !== undefined && code !== "ENOENT")
      throw new MeshError("io_failed", `cannot read \`${file}\`: ${messageOf(error)}`, { cause: error });
  }
  const { current, logins } = fieldsOf(json);
  const kept = new Map<string, KeptLogin>();
  for (const [gateway, value] of Object.entries(fieldsOf(logins))) {
    const { token, user, expiresAt, caFile } = fieldsOf(value);
    const expiresMs = Date.parse(textOf(expiresAt));
    if (typeof token === "string" && !Number.isNaN(expiresMs))
      kept.set(gateway, {
        ...{ gateway, token, expiresMs, user: textOf(user) },
        caFile: typeof caFile === "string" ? caFile : undefined,
      });
  }
  return { current: typeof current === "string" ? current : undefined, logins: kept };
}

/** Keeps a login and makes its gateway the current one. @throws MeshError `io_failed`. */
export function keepLogin(file: string, login: KeptLogin): void {
  const { logins } = readLogins(file);
  write(file, { current: login.gateway, logins: new Map(logins).set(login.gateway, login) });
}

/** Forgets a login; its gateway stays the current one, to sign in at again. @throws MeshError `io_failed`. */
export function forgetLogin(file: string, gateway: string): void {
  const { current, logins } = readLogins(file);
  const left = new Map(logins);
  left.delete(gateway);
  write(file, { current, logins: left });
}

function write(file: string, { current, logins }: KeptLogins): void {
  const entries = Array.from(logins.values(), ({ gateway, token, user, expiresMs, caFile }) => [
    gateway,
    { token, user, expiresAt: new Date(expiresMs).toISOString(), caFile },
  ]);
  try {
    mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
    writePrivateFile(file, `${JSON.stringify({ current, logins: Object.fromEntries(entries) }, null, 2)}\n`);
  } catch (error) {
    throw new MeshError("io_failed", `cannot write \`${file}\`: ${messageOf(error)}`, { cause: error });
  }
}
