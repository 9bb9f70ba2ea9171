// An issuing certificate from mounted files (`tls.crt`, `tls.key`, `ca.crt`), as cert-manager writes them: read again when
// they change, and checked before anything is signed with it.
import { createHash, createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { DerReader, DerTag } from "../../sidecar/core/identity/der.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { type IssuingAuthority, issuingAuthority } from "./authority-content.ts";

export interface MountedIssuer {
  readonly issuing: IssuingAuthority;
  /** All of `ca.crt`: what the trust bundle publishes. */
  readonly roots: readonly X509Certificate[];
  /** The root that the issuing certificate leads to. */
  readonly root: X509Certificate;
  /** Same files, same text. */
  readonly digest: string;
  /** Whether some certificate of the chain is limited to the trust domain. */
  readonly isConstrained: boolean;
}

const MAX_FILE_BYTES = 65_536;
const MAX_CHAIN = 3;
const MAX_ROOTS = 8;
/** Extension nameConstraints, 2.5.29.30. */
const NAME_CONSTRAINTS = "551d1e";
const PERMITTED = DerTag.context0;
const EXCLUDED = 0xa1;

function refused(dir: string, what: string, cause?: unknown): MeshError {
  return new MeshError("bad_config", `the issuer in \`${dir}\` cannot be used: ${what}`, { cause });
}

async function read(dir: string, name: string): Promise<string> {
  const text = await readFile(join(dir, name), "utf8").catch((cause: unknown) => {
    throw refused(dir, `\`${name}\` cannot be read: ${messageOf(cause)}`, cause);
  });
  if (text.length > MAX_FILE_BYTES) throw refused(dir, `\`${name}\` is larger than 64 KiB`);
  return text;
}

function certificates(dir: string, name: string, text: string, most: number): readonly X509Certificate[] {
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0 || blocks.length > most)
    throw refused(dir, `\`${name}\` has ${blocks.length} certificates, expected 1 to ${most}`);
  try {
    return blocks.map((block) => new X509Certificate(block));
  } catch (cause) {
    throw refused(dir, `a certificate in \`${name}\` cannot be read`, cause);
  }
}

function privateKey(dir: string, text: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey(text);
  } catch (cause) {
    throw refused(dir, "`tls.key` is not a private key without a password", cause);
  }
  if (key.asymmetricKeyDetails?.namedCurve !== "prime256v1")
    throw refused(
      dir,
      "`tls.key` is not a P-256 key; ask for one (cert-manager: `privateKey: {algorithm: ECDSA, size: 256}`)",
    );
  return key;
}

/**
 * Reads and checks the three files.
 *
 * @throws MeshError `bad_config` with the first thing that does not fit: not a CA, a key of another certificate, a chain that
 *   does not lead to `ca.crt`, expired, or name constraints that forbid the trust domain.
 */
export async function readMountedIssuer(
  dir: string,
  expect: { readonly trustDomain: string; readonly nowMs: number },
): Promise<MountedIssuer> {
  const [chainPem, keyPem, rootsPem] = await Promise.all([
    read(dir, "tls.crt"),
    read(dir, "tls.key"),
    read(dir, "ca.crt"),
  ]);
  const chain = certificates(dir, "tls.crt", chainPem, MAX_CHAIN);
  const roots = certificates(dir, "ca.crt", rootsPem, MAX_ROOTS);
  const key = privateKey(dir, keyPem);
  const [first] = chain;
  if (first === undefined || !first.checkPrivateKey(key))
    throw refused(dir, "`tls.key` is not the key of `tls.crt`");
  for (const [name, list] of [["tls.crt", chain] as const, ["ca.crt", roots] as const]) {
    if (!list.every(({ ca }) => ca))
      throw refused(dir, `\`${name}\` has a certificate that is not a CA's (cert-manager: \`isCA: true\`)`);
  }
  for (const certificate of chain) {
    if (expect.nowMs >= Date.parse(certificate.validTo))
      throw refused(dir, "a certificate of `tls.crt` has expired");
    if (expect.nowMs < Date.parse(certificate.validFrom))
      throw refused(dir, "a certificate of `tls.crt` is not valid yet");
  }
  const root = anchorOf(chain, roots, expect.nowMs);
  if (root === undefined) throw refused(dir, "`tls.crt` does not lead to a valid root in `ca.crt`");
  let isConstrained = false;
  for (const certificate of new Set([...chain, root])) {
    const allowed = allowsUriHost(certificate.raw, expect.trustDomain);
    if (allowed === false)
      throw refused(dir, `its name constraints do not permit URIs of \`${expect.trustDomain}\``);
    isConstrained ||= allowed === true;
  }
  return {
    issuing: issuingAuthority(chain, key),
    roots,
    root,
    digest: createHash("sha256").update(`${chainPem}\n${keyPem}\n${rootsPem}`).digest("base64url"),
    isConstrained,
  };
}

/** A mounted root that is new is published this long before anything below it is issued. */
const AHEAD_MS = 2 * 60_000;

/** The issuer that is in use, and the one that is about to be. */
export class MountedSource {
  readonly #dir: string;
  readonly #trustDomain: string;
  #current: MountedIssuer;
  /** Read, but its root is not known to the mesh yet. */
  #next: { readonly issuer: MountedIssuer; readonly fromMs: number } | undefined;

  private constructor(dir: string, trustDomain: string, current: MountedIssuer) {
    this.#dir = dir;
    this.#trustDomain = trustDomain;
    this.#current = current;
  }

  /** @throws MeshError `bad_config` as `readMountedIssuer`. */
  static async open(dir: string, trustDomain: string, nowMs: number): Promise<MountedSource> {
    return new MountedSource(dir, trustDomain, await readMountedIssuer(dir, { trustDomain, nowMs }));
  }

  get current(): MountedIssuer {
    return this.#current;
  }

  /** What the bundle publishes: the roots of the files, and while there is a wait those of before. */
  get roots(): readonly X509Certificate[] {
    const all = [...this.#current.roots, ...(this.#next?.issuer.roots ?? [])];
    return [...new Map(all.map((root) => [root.fingerprint256, root])).values()];
  }

  /** Reads the files again. @throws MeshError `bad_config`; the issuer of before stays in use. */
  async refresh(nowMs: number): Promise<void> {
    const read = await readMountedIssuer(this.#dir, { trustDomain: this.#trustDomain, nowMs });
    const [current, waiting] = [this.#current, this.#next];
    const isKnown = current.roots.some(({ fingerprint256 }) => fingerprint256 === read.root.fingerprint256);
    if (read.digest === current.digest) this.#next = undefined;
    else if (read.digest === waiting?.issuer.digest) {
      if (nowMs >= waiting.fromMs || nowMs >= current.issuing.notAfterMs) this.#use(read);
    } else if (isKnown) this.#use(read);
    else this.#next = { issuer: read, fromMs: nowMs + AHEAD_MS };
  }

  #use(issuer: MountedIssuer): void {
    this.#current = issuer;
    this.#next = undefined;
  }
}

/** The root that the chain leads to, if every link of it holds. */
function anchorOf(
  chain: readonly X509Certificate[],
  roots: readonly X509Certificate[],
  nowMs: number,
): X509Certificate | undefined {
  const isIssued = (one: X509Certificate | undefined, by: X509Certificate): boolean =>
    one?.checkIssued(by) === true && one.verify(by.publicKey);
  for (let at = 0; at + 1 < chain.length; at++) {
    const issuer = chain[at + 1];
    if (issuer === undefined || !isIssued(chain[at], issuer)) return undefined;
  }
  const last = chain.at(-1);
  return roots.find((root) => nowMs < Date.parse(root.validTo) && isIssued(last, root));
}

/**
 * Whether a CA may issue for URIs of this host (RFC 5280 section 4.2.1.10: a base with a leading dot means any host below
 * it, any other the host itself).
 *
 * @returns undefined when it says nothing about URIs; false also when what it says cannot be read.
 */
export function allowsUriHost(certificateDer: Buffer, host: string): boolean | undefined {
  try {
    const constraints = nameConstraintsOf(certificateDer);
    if (constraints === undefined) return undefined;
    const matches = (base: string): boolean => (base.startsWith(".") ? host.endsWith(base) : host === base);
    if (constraints.excluded.some((base) => base === "" || matches(base))) return false;
    return constraints.permitted.length === 0 ? undefined : constraints.permitted.some(matches);
  } catch (error) {
    if (error instanceof MeshError) return false;
    throw error;
  }
}

interface UriConstraints {
  readonly permitted: readonly string[];
  readonly excluded: readonly string[];
}

function nameConstraintsOf(certificateDer: Buffer): UriConstraints | undefined {
  const tbs = new DerReader(certificateDer).enter(DerTag.sequence).enter(DerTag.sequence);
  while (!tbs.atEnd && tbs.tag !== DerTag.context3) tbs.skip(tbs.tag);
  if (tbs.atEnd) return undefined;
  const extensions = tbs.enter(DerTag.context3).enter(DerTag.sequence);
  while (!extensions.atEnd) {
    const one = extensions.enter(DerTag.sequence);
    const oid = one.content(DerTag.oid).toString("hex");
    if (one.tag === DerTag.boolean) one.boolean();
    const value = one.enter(DerTag.octetString);
    if (oid !== NAME_CONSTRAINTS) continue;
    const subtrees = value.enter(DerTag.sequence);
    const found: { permitted: readonly string[]; excluded: readonly string[] } = {
      permitted: [],
      excluded: [],
    };
    while (!subtrees.atEnd) {
      const { tag } = subtrees;
      const bases = uriBases(subtrees.enter(tag));
      if (tag === PERMITTED) found.permitted = bases;
      else if (tag === EXCLUDED) found.excluded = bases;
    }
    return found;
  }
  return undefined;
}

function uriBases(list: DerReader): readonly string[] {
  const bases: string[] = [];
  while (!list.atEnd) {
    const subtree = list.enter(DerTag.sequence);
    const { tag } = subtree;
    const base = subtree.content(tag);
    if (tag === DerTag.uri) bases.push(base.toString("latin1").toLowerCase());
  }
  return bases;
}
