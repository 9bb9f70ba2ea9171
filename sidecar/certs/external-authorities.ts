// Which authorities vouch for hosts outside the mesh: those that Node takes for good, and those of a file.
import { readFileSync } from "node:fs";
import { createSecureContext, getCACertificates, type SecureContext } from "node:tls";
import { MeshError, messageOf } from "../core/runtime/errors.ts";

const create = (more: readonly string[]): SecureContext =>
  createSecureContext({ minVersion: "TLSv1.2", ca: [...getCACertificates("default"), ...more] });

/**
 * @param file more authorities (PEM); undefined: none, and the context is made with the first call that needs it.
 * @throws MeshError `bad_config` when the file cannot be used.
 */
export function externalContext(file: string | undefined): () => SecureContext {
  let context: SecureContext | undefined;
  if (file !== undefined) {
    try {
      context = create([readFileSync(file, "utf8")]);
    } catch (error) {
      const message = `--external-ca-file: cannot use \`${file}\`: ${messageOf(error)}`;
      throw new MeshError("bad_config", message, { cause: error });
    }
  }
  return () => {
    context ??= create([]);
    return context;
  };
}
