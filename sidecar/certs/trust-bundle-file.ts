// The roots that a pod is given as a file (ConfigMap `countersign-bundle`): by them the control plane is known before
// there is an identity. The file comes when the control plane has written it, and changes when roots do.
import { X509Certificate } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { isTrustDomain } from "../core/identity/spiffe-id.ts";
import { MeshError, messageOf, type Result, systemCodeOf } from "../core/runtime/errors.ts";

export interface TrustedRoots {
  /** CA certificates, PEM, one after the other. */
  readonly pem: string;
  readonly roots: readonly X509Certificate[];
  readonly trustDomain: string;
}

const MAX_BYTES = 262_144;
const MAX_ROOTS = 64;
const BLOCK = /-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g;

/**
 * Reads roots from PEM text; what stands between the blocks is skipped, a block that is no CA certificate refuses all.
 *
 * @param trustDomain whose roots they are; undefined: the name in their URI SANs, which must be one.
 */
export function parseRoots(text: string, trustDomain: string | undefined): Result<TrustedRoots, string> {
  if (text.length > MAX_BYTES) return { ok: false, error: "it is larger than 256 KiB" };
  const blocks = text.match(BLOCK) ?? [];
  if (blocks.length === 0 || blocks.length > MAX_ROOTS)
    return { ok: false, error: "it holds no certificate, or more than 64" };
  const roots: X509Certificate[] = [];
  const names = new Set<string>();
  for (const block of blocks) {
    try {
      roots.push(new X509Certificate(block));
    } catch {
      return { ok: false, error: "a certificate in it cannot be read" };
    }
  }
  for (const root of roots) {
    if (!root.ca) return { ok: false, error: "a certificate in it is not a CA's" };
    const name = /^URI:spiffe:\/\/([a-z0-9._-]+)$/.exec(root.subjectAltName ?? "")?.[1];
    if (name !== undefined) names.add(name);
  }
  if (trustDomain !== undefined) names.add(trustDomain);
  const [found] = names;
  if (names.size > 1)
    return {
      ok: false,
      error: `it is for more than one trust domain: ${[...names].map((name) => `\`${name}\``).join(", ")}`,
    };
  if (found === undefined || !isTrustDomain(found))
    return { ok: false, error: "its certificates name no trust domain; give `--trust-domain`" };
  return {
    ok: true,
    value: { pem: roots.map((root) => root.toString()).join(""), roots, trustDomain: found },
  };
}

/**
 * Reads the file anew.
 *
 * @throws MeshError `not_ready` (it is not there yet), `io_failed`, `bad_token` (what is in it cannot be used).
 */
export async function readTrustBundleFile(
  path: string,
  trustDomain: string | undefined,
): Promise<TrustedRoots> {
  let text: string;
  try {
    // Before reading: a directory mounted by mistake or a huge file ends here.
    if ((await stat(path)).size > MAX_BYTES)
      throw new MeshError("bad_token", `\`${path}\` cannot be used: it is larger than 256 KiB`);
    text = await readFile(path, "utf8");
  } catch (cause) {
    if (cause instanceof MeshError) throw cause;
    if (systemCodeOf(cause) === "ENOENT")
      throw new MeshError(
        "not_ready",
        `\`${path}\` is not there yet: the control plane writes ConfigMap \`countersign-bundle\` into this namespace`,
        { cause },
      );
    throw new MeshError("io_failed", `cannot read \`${path}\`: ${messageOf(cause)}`, { cause });
  }
  const parsed = parseRoots(text, trustDomain);
  if (!parsed.ok) throw new MeshError("bad_token", `\`${path}\` cannot be used: ${parsed.error}`);
  return parsed.value;
}
