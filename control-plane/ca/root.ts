// The certificate authority of one trust domain, kept in `{stateDir}/ca`: a name-constrained root, an issuing
// certificate of 90 days below it, and the key that signs WITs. Made on first start, re-opened afterwards.
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  type KeyObject,
  randomBytes,
  X509Certificate,
} from "node:crypto";
import { chmod, mkdir, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { TOKEN_ALGORITHM, type TokenJwk } from "../../sidecar/core/identity/claims.ts";
import { DerReader, DerTag, Oid } from "../../sidecar/core/identity/der.ts";
import { isTrustDomain } from "../../sidecar/core/identity/spiffe-id.ts";
import { spkiSha256 } from "../../sidecar/core/identity/trust-bundle.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, systemCodeOf } from "../../sidecar/core/runtime/errors.ts";
import { type CertifiedKey, createAuthorityCertificate, generateKey } from "./certificates.ts";
import { readPrivateFile, writePrivateFile } from "./files.ts";

const DAY_MS = 86_400_000;
const ROOT_LIFETIME_MS = 3650 * DAY_MS;
const ISSUING_LIFETIME_MS = 90 * DAY_MS;
const ISSUING_RENEW_MS = 30 * DAY_MS;
const ROOT_FILE = "root.pem";
const ISSUING_FILE = "issuing.pem";
const WIT_FILE = "wit.pem";
const ABOUT_FILE = "authority.json";

export interface AuthorityDeps {
  /** Directory of the control plane; made with mode 0700 when missing. */
  readonly stateDir: string;
  readonly trustDomain: string;
  readonly clock: Pick<Clock, "nowMs">;
}

/** The issuing certificate with what each leaf copies from it. */
export interface IssuingAuthority {
  readonly certificateDer: Buffer;
  readonly certificatePem: string;
  readonly key: KeyObject;
  /** Its subject, DER: the issuer name of leaves. */
  readonly nameDer: Buffer;
  readonly keyIdentifier: Buffer;
  readonly notAfterMs: number;
}

export interface WitSigner {
  readonly kid: string;
  readonly key: KeyObject;
  readonly jwk: TokenJwk;
}

/** An open authority. Holds keys: never log it. */
export class CertificateAuthority {
  readonly trustDomain: string;
  /** Newest first; what the trust bundle publishes. */
  readonly roots: readonly X509Certificate[];
  /** base64url SHA-256 of the root's public key: what join tokens pin. */
  readonly rootSpkiSha256: string;
  readonly wit: WitSigner;
  /** `spiffe_sequence` of the trust bundle. */
  readonly sequence: number;
  readonly #root: CertifiedKey;
  readonly #dir: string;
  readonly #clock: Pick<Clock, "nowMs">;
  #issuing: IssuingAuthority;

  /** Made by `openCertificateAuthority` only. */
  constructor(parts: {
    readonly deps: AuthorityDeps;
    readonly dir: string;
    readonly root: CertifiedKey;
    readonly issuing: CertifiedKey;
    readonly witKey: KeyObject;
    readonly sequence: number;
  }) {
    this.trustDomain = parts.deps.trustDomain;
    this.#clock = parts.deps.clock;
    this.#dir = parts.dir;
    this.#root = parts.root;
    this.roots = [parts.root.certificate];
    this.rootSpkiSha256 = spkiSha256(parts.root.certificate);
    this.#issuing = issuingAuthority(parts.issuing);
    this.wit = witSigner(parts.witKey);
    this.sequence = parts.sequence;
  }

  get issuing(): IssuingAuthority {
    return this.#issuing;
  }

  /** Replaces the issuing certificate; leaves of the old one stay good, they carry their chain. */
  async rotateIssuing(): Promise<void> {
    const issuing = await createIssuing(this.#root, this.trustDomain, this.#clock.nowMs());
    await writePrivateFile(join(this.#dir, ISSUING_FILE), encodePair(issuing));
    this.#issuing = issuingAuthority(issuing);
  }

  /** To be called now and then (daily): rotates the issuing certificate when less than 30 days are left. */
  async maintain(): Promise<boolean> {
    if (this.#clock.nowMs() < this.#issuing.notAfterMs - ISSUING_RENEW_MS) return false;
    await this.rotateIssuing();
    return true;
  }
}

function issuingAuthority(pair: CertifiedKey): IssuingAuthority {
  const certificateDer = pair.certificate.raw;
  const tbs = new DerReader(certificateDer).enter(DerTag.sequence).enter(DerTag.sequence);
  tbs.skip(DerTag.context0);
  tbs.skip(DerTag.integer);
  tbs.skip(DerTag.sequence); // algorithm
  tbs.skip(DerTag.sequence); // issuer
  tbs.skip(DerTag.sequence); // validity
  const nameDer = Buffer.from(tbs.element(DerTag.sequence));
  tbs.skip(DerTag.sequence); // public key
  return {
    certificateDer,
    certificatePem: pair.certificate.toString(),
    key: pair.key,
    nameDer,
    keyIdentifier: subjectKeyIdentifier(tbs.enter(DerTag.context3).enter(DerTag.sequence)),
    notAfterMs: Date.parse(pair.certificate.validTo),
  };
}

function subjectKeyIdentifier(extensions: DerReader): Buffer {
  while (!extensions.atEnd) {
    const one = extensions.enter(DerTag.sequence);
    const oid = one.content(DerTag.oid).toString("hex");
    if (one.tag === DerTag.boolean) one.boolean();
    const value = one.enter(DerTag.octetString);
    if (oid === Oid.subjectKeyIdentifier) return Buffer.from(value.content(DerTag.octetString));
  }
  throw new MeshError("bad_token", "the issuing certificate has no subject key identifier");
}

function witSigner(key: KeyObject): WitSigner {
  const publicKey = createPublicKey(key);
  const { x, y } = publicKey.export({ format: "jwk" });
  if (x === undefined || y === undefined) throw new MeshError("bad_token", "the token key is not an EC key");
  const digest = createHash("sha256").update(publicKey.export({ type: "spki", format: "der" }));
  const kid = `wit-${digest.digest("hex").slice(0, 16)}`;
  return { kid, key, jwk: { alg: TOKEN_ALGORITHM, kty: "EC", crv: "P-256", x, y } };
}

function encodeKey(key: KeyObject): string {
  return key.export({ type: "pkcs8", format: "pem" }).toString();
}

function encodePair(pair: CertifiedKey): string {
  return encodeKey(pair.key) + pair.certificate.toString();
}

function createIssuing(root: CertifiedKey, trustDomain: string, nowMs: number): Promise<CertifiedKey> {
  const lifetimeMs = Math.min(ISSUING_LIFETIME_MS, Date.parse(root.certificate.validTo) - nowMs);
  return createAuthorityCertificate({
    trustDomain,
    commonName: `${trustDomain} issuing`.slice(0, 64),
    nowMs,
    lifetimeMs,
    issuer: root,
  });
}

/** Makes a whole authority in a directory beside the final one, then gives it its name: there is never half of one. */
async function createDirectory(deps: AuthorityDeps, dir: string): Promise<void> {
  const { trustDomain } = deps;
  const nowMs = deps.clock.nowMs();
  const commonName = `${trustDomain} root`.slice(0, 64);
  const root = await createAuthorityCertificate({
    trustDomain,
    commonName,
    nowMs,
    lifetimeMs: ROOT_LIFETIME_MS,
    issuer: undefined,
  });
  const issuing = await createIssuing(root, trustDomain, nowMs);
  const temporary = `${dir}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    await mkdir(temporary, { mode: 0o700 });
    await writePrivateFile(join(temporary, ROOT_FILE), encodePair(root));
    await writePrivateFile(join(temporary, ISSUING_FILE), encodePair(issuing));
    await writePrivateFile(join(temporary, WIT_FILE), encodeKey(generateKey()));
    await writePrivateFile(
      join(temporary, ABOUT_FILE),
      JSON.stringify({ version: 1, trustDomain, sequence: 1 }),
    );
    await rename(temporary, dir);
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true });
    throw new MeshError("io_failed", `cannot make the certificate authority in \`${dir}\``, { cause });
  }
}

async function isDirectoryThere(dir: string): Promise<boolean> {
  try {
    // A directory that somebody made empty holds no authority yet.
    return (await readdir(dir)).length > 0;
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return false;
    throw new MeshError("io_failed", `cannot read \`${dir}\``, { cause: error });
  }
}

function unusable(dir: string, what: string, cause?: unknown): MeshError {
  return new MeshError(
    "bad_config",
    `the certificate authority in \`${dir}\` cannot be used: ${what}; restore it from a backup, or remove the directory to begin a new mesh`,
    { cause },
  );
}

async function readRequired(dir: string, name: string): Promise<string> {
  const text = await readPrivateFile(join(dir, name));
  if (text === undefined) throw unusable(dir, `\`${name}\` is missing`);
  return text;
}

function decodeKey(dir: string, name: string, text: string): KeyObject {
  try {
    const key = createPrivateKey(text);
    if (key.asymmetricKeyDetails?.namedCurve !== "prime256v1") throw new Error("not on P-256");
    return key;
  } catch (cause) {
    throw unusable(dir, `the key in \`${name}\` cannot be read`, cause);
  }
}

async function readPair(dir: string, name: string): Promise<CertifiedKey> {
  const text = await readRequired(dir, name);
  const key = decodeKey(dir, name, text);
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(text);
  } catch (cause) {
    throw unusable(dir, `the certificate in \`${name}\` cannot be read`, cause);
  }
  if (!certificate.ca || !certificate.checkPrivateKey(key))
    throw unusable(dir, `key and certificate in \`${name}\` do not match`);
  return { certificate, key };
}

async function readAbout(dir: string): Promise<{ trustDomain: string; sequence: number }> {
  const text = await readRequired(dir, ABOUT_FILE);
  try {
    const about: unknown = JSON.parse(text);
    if (typeof about === "object" && about !== null && "trustDomain" in about && "sequence" in about) {
      const { trustDomain, sequence } = about;
      if (typeof trustDomain === "string" && typeof sequence === "number") return { trustDomain, sequence };
    }
  } catch (cause) {
    throw unusable(dir, `\`${ABOUT_FILE}\` is not JSON`, cause);
  }
  throw unusable(dir, `\`${ABOUT_FILE}\` lacks trustDomain or sequence`);
}

/**
 * Opens the authority in `{stateDir}/ca`, making it when there is none (root 10 years, issuing certificate 90 days), and
 * renews the issuing certificate when it is due.
 *
 * @throws MeshError `bad_config` for a bad trust domain, and for a directory that is incomplete, damaged, readable by
 *   others or of another trust domain; `io_failed`.
 */
export async function openCertificateAuthority(deps: AuthorityDeps): Promise<CertificateAuthority> {
  const { stateDir, trustDomain } = deps;
  if (!isTrustDomain(trustDomain)) {
    throw new MeshError(
      "bad_config",
      `\`${trustDomain}\` is not a trust domain; use lower-case letters, digits, \`.\`, \`-\` and \`_\``,
    );
  }
  const dir = join(stateDir, "ca");
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  if (!(await isDirectoryThere(dir))) await createDirectory(deps, dir);
  await chmod(dir, 0o700);
  const about = await readAbout(dir);
  if (about.trustDomain !== trustDomain) {
    throw new MeshError(
      "bad_config",
      `the certificate authority in \`${dir}\` is of trust domain \`${about.trustDomain}\`, not \`${trustDomain}\`; use another state directory`,
    );
  }
  const root = await readPair(dir, ROOT_FILE);
  if (root.certificate.subjectAltName !== `URI:spiffe://${trustDomain}`) {
    throw unusable(dir, `\`${ROOT_FILE}\` is of another trust domain`);
  }
  if (deps.clock.nowMs() >= Date.parse(root.certificate.validTo)) throw unusable(dir, "the root has expired");
  const issuing = await readPair(dir, ISSUING_FILE);
  if (!issuing.certificate.verify(root.certificate.publicKey))
    throw unusable(dir, `\`${ISSUING_FILE}\` was not signed by \`${ROOT_FILE}\``);
  const witKey = decodeKey(dir, WIT_FILE, await readRequired(dir, WIT_FILE));
  const authority = new CertificateAuthority({ deps, dir, root, issuing, witKey, sequence: about.sequence });
  await authority.maintain();
  return authority;
}
