// SPIFFE IDs: strict parsing, formatting, and the workload path of this mesh.
import { MeshError, type Result } from "../runtime/errors.ts";

/** A validated SPIFFE ID, for example `spiffe://corp.example/ns/lab/sa/notebook/notebook/nb-1`. */
export type SpiffeId = string & { readonly __brand: "SpiffeId" };
export type SpiffeIdProblem = "not_spiffe_uri" | "too_long" | "bad_trust_domain" | "bad_path";

/** The parts of `spiffe://{td}/ns/{ns}/sa/{sa}/{kind}/{name}`. */
export interface WorkloadPath {
  readonly trustDomain: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly kind: string;
  readonly name: string;
}

const SCHEME = "spiffe://";
const MAX_BYTES = 2048;
const MAX_TRUST_DOMAIN = 255;

function isLowerOrDigit(code: number): boolean {
  return (code >= 97 && code <= 122) || (code >= 48 && code <= 57);
}

/** `.`, `-` and `_`. */
function isMark(code: number): boolean {
  return code === 46 || code === 45 || code === 95;
}

/** True for a trust domain name: lower-case letters, digits, `.`, `-`, `_`, 1 to 255 of them (SPIFFE-ID section 2.1). */
export function isTrustDomain(text: string): boolean {
  if (text.length === 0 || text.length > MAX_TRUST_DOMAIN) return false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (!isLowerOrDigit(code) && !isMark(code)) return false;
  }
  return true;
}

function isPath(text: string, start: number): boolean {
  let segmentStart = start + 1;
  for (let i = segmentStart; i <= text.length; i++) {
    const code = i < text.length ? text.charCodeAt(i) : 47;
    if (code === 47) {
      const length = i - segmentStart;
      if (length === 0) return false;
      if (length <= 2 && text.charCodeAt(segmentStart) === 46 && text.charCodeAt(i - 1) === 46) return false;
      segmentStart = i + 1;
    } else if (!isLowerOrDigit(code) && !isMark(code) && !(code >= 65 && code <= 90)) return false;
  }
  return true;
}

/**
 * Parses a SPIFFE ID of a workload (SPIFFE-ID section 2): no percent escapes, port, query or fragment, and a path that
 * is not the root.
 *
 * @param text URI as found in a certificate SAN; at most 2048 bytes.
 * @returns The ID, or the first rule of the standard that it breaks.
 */
export function parseSpiffeId(text: string): Result<SpiffeId, SpiffeIdProblem> {
  if (text.length > MAX_BYTES) return { ok: false, error: "too_long" };
  if (!text.startsWith(SCHEME)) return { ok: false, error: "not_spiffe_uri" };
  const slash = text.indexOf("/", SCHEME.length);
  const end = slash < 0 ? text.length : slash;
  if (!isTrustDomain(text.slice(SCHEME.length, end))) return { ok: false, error: "bad_trust_domain" };
  if (slash < 0 || !isPath(text, slash)) return { ok: false, error: "bad_path" };
  // Every character was checked against the ASCII sets above, so bytes equal characters and the brand holds.
  return { ok: true, value: text as SpiffeId };
}

/** The trust domain of an ID. */
export function trustDomainOf(id: SpiffeId): string {
  return id.slice(SCHEME.length, id.indexOf("/", SCHEME.length));
}

/** The parts of a workload's ID, or undefined when the path has another form. */
export function workloadOf(id: SpiffeId): WorkloadPath | undefined {
  const [, , trustDomain, ns, namespace, sa, serviceAccount, kind, name, rest] = id.split("/");
  if (ns !== "ns" || sa !== "sa" || rest !== undefined) return undefined;
  if (trustDomain === undefined || namespace === undefined || serviceAccount === undefined) return undefined;
  if (kind === undefined || name === undefined) return undefined;
  return { trustDomain, namespace, serviceAccount, kind, name };
}

/**
 * Builds the ID of a workload.
 *
 * @throws MeshError `bad_config` when a part has characters that a SPIFFE ID cannot carry.
 */
export function formatSpiffeId(parts: WorkloadPath): SpiffeId {
  const { trustDomain, namespace, serviceAccount, kind, name } = parts;
  const text = `${SCHEME}${trustDomain}/ns/${namespace}/sa/${serviceAccount}/${kind}/${name}`;
  const parsed = parseSpiffeId(text);
  // Round trip: a `/` inside a part would otherwise move the other parts.
  const back = parsed.ok ? workloadOf(parsed.value) : undefined;
  if (!parsed.ok || back?.name !== name || back.kind !== kind || back.serviceAccount !== serviceAccount) {
    throw new MeshError(
      "bad_config",
      `\`${text}\` is not a SPIFFE ID; use letters, digits, \`.\`, \`-\` and \`_\``,
    );
  }
  return parsed.value;
}
