// Which authorities vouch for hosts outside the mesh: those that Node takes for good, those of a file, and those that the
// mesh's settings name, which change while the process runs.
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createSecureContext, getCACertificates, type SecureContext } from "node:tls";
import { MeshError, messageOf } from "../core/runtime/errors.ts";

export class ExternalAuthorities {
  readonly #file: readonly string[];
  /** Of the settings. */
  #named: readonly string[] = [];
  /** Made with the first call that needs it. */
  #context: SecureContext | undefined;

  /**
   * @param file more authorities (PEM); undefined: none.
   * @throws MeshError `bad_config` when the file cannot be used.
   */
  constructor(file: string | undefined) {
    this.#file = [];
    if (file === undefined) return;
    try {
      const text = readFileSync(file, "utf8");
      // Node passes over what it cannot read; the first one at least has to be one.
      new X509Certificate(text);
      this.#file = [text];
      this.#context = contextOf(this.#file);
    } catch (error) {
      const message = `--external-ca-file: cannot use \`${file}\`: ${messageOf(error)}`;
      throw new MeshError("bad_config", message, { cause: error });
    }
  }

  /** For connections that begin now. */
  get context(): SecureContext {
    this.#context ??= contextOf([...this.#file, ...this.#named]);
    return this.#context;
  }

  /**
   * Takes what the settings say.
   *
   * @param named one PEM for each; undefined: none.
   * @returns whether other authorities count from now on, so that connections made before must not be used for new calls.
   */
  use(named: readonly string[] = []): boolean {
    if (named.length === this.#named.length && named.every((one, i) => one === this.#named[i])) return false;
    this.#named = named;
    this.#context = undefined;
    return true;
  }
}

const contextOf = (more: readonly string[]): SecureContext =>
  createSecureContext({ minVersion: "TLSv1.2", ca: [...getCACertificates("default"), ...more] });
