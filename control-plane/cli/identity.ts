// `countersign identity export` and `join-token`: identities for clients without a sidecar, and for new sidecars.
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { type Fields, fieldsOf, listOf, numberOf, textOf } from "./answers.ts";
import type { Mesh } from "./mesh.ts";
import { EXIT, type ExitStatus, type Output, printJson, timeText } from "./print.ts";
import { writePrivateFile } from "./private-file.ts";

/**
 * Writes `svid.pem` (chain), `key.pem` and `bundle.pem` for a client such as curl.
 *
 * @param workload `namespace/name` of a declared workload.
 * @throws MeshError `bad_object` when the control plane refuses, `io_failed` when `options.out` cannot be written.
 */
export async function exportIdentity(
  mesh: Mesh,
  workload: string,
  options: {
    readonly out: string;
    readonly ttlSeconds: number;
    readonly json?: boolean;
  },
  output: Output,
): Promise<ExitStatus> {
  const { out, ttlSeconds } = options;
  const issued = fieldsOf(await mesh.manage("POST", "/v1/identity-export", { workload, ttlSeconds }));
  const svid = join(out, "svid.pem");
  const key = join(out, "key.pem");
  const bundle = join(out, "bundle.pem");
  try {
    // Not `recursive`: Node never returns from that below /proc, and a mistyped path should not become a tree.
    if (!existsSync(out)) mkdirSync(out, { mode: 0o700 });
    writePrivateFile(key, textOf(issued["keyPem"]));
    writePrivateFile(svid, textOf(issued["certificatePem"]));
    writePrivateFile(bundle, textOf(issued["caPem"]));
  } catch (error) {
    throw new MeshError("io_failed", `cannot write to \`${out}\`: ${messageOf(error)}`, { cause: error });
  }
  const spiffeId = textOf(issued["spiffeId"]);
  const notAfter = textOf(issued["notAfter"]);
  // The key stays in its file, whatever is printed.
  if (options.json === true) {
    printJson(output, { spiffeId, notAfter, files: { svid, key, bundle } });
    return EXIT.ok;
  }
  const url = urlOf(fieldsOf(await mesh.manage("GET", "/v1/state")), workload);
  output.out(`${spiffeId}, valid until ${timeText(Date.parse(notAfter))}\n`);
  output.out(
    `  ${svid}    certificate chain\n  ${key}     private key (0600)\n  ${bundle}  roots of the mesh\n`,
  );
  output.out("\ntry it (`--insecure`: an SVID carries no DNS name, so curl cannot check whom it reaches):\n");
  output.out(`  curl --http2 --insecure --cert ${quoted(svid)} --key ${quoted(key)} ${url}\n`);
  return EXIT.ok;
}

/** The mesh port of some workload that can be called, as an example. */
function urlOf(state: Fields, caller: string): string {
  for (const [id, value] of Object.entries(fieldsOf(state["workloads"]))) {
    const workload = fieldsOf(value);
    const [address] = Array.isArray(workload["addresses"]) ? workload["addresses"].map(textOf) : [];
    const ports = listOf(workload["ports"]);
    const meshPort = numberOf(workload["meshPort"]);
    if (id === caller || address === undefined || meshPort === undefined || ports.length === 0) continue;
    const host = address.includes(":") ? `[${address}]` : address;
    const port =
      ports.length > 1 ? `--header ${quoted(`countersign-port: ${textOf(ports[0]?.["port"])}`)} ` : "";
    return `${port}https://${host}:${meshPort}/`;
  }
  return "https://ADDRESS:16008/";
}

/** For a POSIX shell. */
function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * Makes a one-time token. Standard output gets the token alone, so that it can go into a file.
 *
 * @throws MeshError `bad_object` when the control plane refuses.
 */
export async function createToken(
  mesh: Mesh,
  workload: string,
  options: { readonly ttlSeconds: number; readonly json?: boolean },
  output: Output,
): Promise<ExitStatus> {
  const { ttlSeconds } = options;
  const created = fieldsOf(await mesh.manage("POST", "/v1/join-tokens", { workload, ttlSeconds }));
  const token = textOf(created["token"]);
  const expiresAt = textOf(created["expiresAt"]);
  if (token === "") throw new MeshError("protocol_error", "the control plane answered without a token");
  if (options.json === true) printJson(output, { token, expiresAt, workload });
  else {
    output.err(`for \`${workload}\`, to be used once before ${expiresAt}; keep it as a secret\n`);
    output.out(`${token}\n`);
  }
  return EXIT.ok;
}
