// The certificates that the gateway shows, from files (mounted Secrets): `DIR/NAME/tls.crt` and `DIR/NAME/tls.key`. Looked
// at every two seconds; new connections get the new one, a pair that cannot be used leaves the one before in force.
import { X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createSecureContext, type SecureContext } from "node:tls";
import type { Clock } from "../core/runtime/clock.ts";
import { messageOf } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";

/** TLS 1.3 alone: what it has no weak settings for. */
export const EDGE_TLS = { minVersion: "TLSv1.3" } as const;
const LOOK_EVERY_MS = 2_000;
const MAX_BYTES = 256 * 1024;
const SECRET_NAME = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/;

export interface EdgeCertificate {
  readonly context: SecureContext;
  /** Unix milliseconds. */
  readonly notAfterMs: number;
}

interface Kept {
  /** Both files as last read, whether they could be used or not. */
  text: string;
  problem: string;
  certificate: EdgeCertificate | undefined;
}

export interface CertificatesDeps {
  /** undefined: no folder of Secrets is given. */
  readonly dir: string | undefined;
  readonly clock: Clock;
  readonly log: Logger;
}

export class EdgeCertificates {
  readonly #deps: CertificatesDeps;
  readonly #kept = new Map<string, Kept>();
  #names: readonly string[] = [];
  #looking: Promise<void> | undefined;
  #nextMs = 0;

  constructor(deps: CertificatesDeps) {
    this.#deps = deps;
  }

  get(name: string): EdgeCertificate | undefined {
    return this.#kept.get(name)?.certificate;
  }

  /** Names with their certificates, of those that are there. */
  all(): [string, EdgeCertificate][] {
    return this.#names.flatMap((name) => {
      const certificate = this.get(name);
      return certificate === undefined ? [] : [[name, certificate] as [string, EdgeCertificate]];
    });
  }

  /** These are needed from now on. Resolves when they were looked for. */
  async use(names: readonly string[]): Promise<void> {
    this.#names = [...new Set(names)];
    for (const name of this.#kept.keys()) if (!this.#names.includes(name)) this.#kept.delete(name);
    await this.#looking;
    await this.#look();
  }

  /** Looks whether they changed, when it is time to. */
  sweep(nowMs: number): void {
    if (nowMs < this.#nextMs || this.#looking !== undefined) return;
    this.#nextMs = nowMs + LOOK_EVERY_MS;
    this.#looking = this.#look().finally(() => {
      this.#looking = undefined;
    });
  }

  async #look(): Promise<void> {
    for (const name of this.#names) await this.#read(name);
  }

  async #read(name: string): Promise<void> {
    const kept = this.#kept.get(name) ?? { text: "", problem: "", certificate: undefined };
    try {
      const [cert, key] = await this.#files(name);
      const text = `${cert}\n${key}`;
      if (text === kept.text) return;
      kept.text = text;
      const leaf = new X509Certificate(cert);
      const context = createSecureContext({ ...EDGE_TLS, cert, key });
      kept.certificate = { context, notAfterMs: leaf.validToDate.getTime() };
      kept.problem = "";
      this.#deps.log.info("certificate in force", { secret: name, until: leaf.validTo });
    } catch (error) {
      // A removed Secret does not take the certificate away: what is shown is still valid.
      const problem = messageOf(error);
      if (problem !== kept.problem)
        this.#deps.log.warn("certificate not usable", { secret: name, reason: problem });
      kept.problem = problem;
    }
    if (this.#names.includes(name)) this.#kept.set(name, kept);
  }

  async #files(name: string): Promise<[string, string]> {
    const { dir } = this.#deps;
    if (dir === undefined) throw new Error("no folder of secrets is given (--gateway-secrets)");
    // It comes from a resource that was checked; a path must not be made of it all the same.
    if (!SECRET_NAME.test(name)) throw new Error(`\`${name}\` is no name of a Secret`);
    const read = async (file: string): Promise<string> => {
      const bytes = await readFile(join(dir, name, file));
      if (bytes.length > MAX_BYTES) throw new Error(`\`${file}\` is longer than ${MAX_BYTES} bytes`);
      return bytes.toString("utf8");
    };
    return [await read("tls.crt"), await read("tls.key")];
  }
}
