// The certificate authority of one trust domain, kept in `{stateDir}/ca`: a name-constrained root, an issuing
// certificate of 90 days below it, and the keys that sign WITs. Made on first start, re-opened afterwards. `maintain`
// renews all but the root (whose rotation goes by stages over the sidecars and has its place beside it).
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
import {
  type CertifiedKey,
  createAuthorityCertificate,
  generateKey,
  MAX_IDENTITY_TTL_MS,
} from "./certificates.ts";
import { readPrivateFile, writePrivateFile } from "./files.ts";

const DAY_MS = 86_400_000;
const ROOT_LIFETIME_MS = 3650 * DAY_MS;
const ISSUING_LIFETIME_MS = 90 * DAY_MS;
const ISSUING_RENEW_MS = 30 * DAY_MS;
/** A WIT key signs for so long … */
const WIT_SIGN_MS = 30 * DAY_MS;
/** … and its successor is published this long before: far more than three refresh hints of the bundle (DOMAIN 2.8). */
const WIT_AHEAD_MS = DAY_MS;
/** After its successor took over, a key stays published until the longest token has expired, plus this. */
const WIT_SKEW_MS = 5 * 60_000;
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
  /** Unix milliseconds from which it signs; published earlier. */
  readonly signsFromMs: number;
  /** Name below the authority's directory. */
  readonly file: string;
}

interface About {
  readonly trustDomain: string;
  readonly sequence: number;
  /** In order of `signsFromMs`. */
  readonly witKeys: readonly { readonly file: string; readonly signsFromMs: number }[];
}

/** An open authority. Holds keys: never log it. */
export class CertificateAuthority {
  readonly trustDomain: string;
  /** Newest first; what the trust bundle publishes. */
  readonly roots: readonly X509Certificate[];
  /** base64url SHA-256 of the root's public key: what join tokens pin. */
  readonly rootSpkiSha256: string;
  readonly #root: CertifiedKey;
  readonly #dir: string;
  readonly #clock: Pick<Clock, "nowMs">;
  #issuing: IssuingAuthority;
  #witSigners: readonly WitSigner[];
  #sequence: number;
  #turn: Promise<unknown> = Promise.resolve();

  /** Made by `openCertificateAuthority` only. */
  constructor(parts: {
    readonly deps: AuthorityDeps;
    readonly dir: string;
    readonly root: CertifiedKey;
    readonly issuing: CertifiedKey;
    readonly witSigners: readonly WitSigner[];
    readonly sequence: number;
  }) {
    this.trustDomain = parts.deps.trustDomain;
    this.#clock = parts.deps.clock;
    this.#dir = parts.dir;
    this.#root = parts.root;
    this.roots = [parts.root.certificate];
    this.rootSpkiSha256 = spkiSha256(parts.root.certificate);
    this.#issuing = issuingAuthority(parts.issuing);
    this.#witSigners = parts.witSigners;
    this.#sequence = parts.sequence;
  }

  /** `spiffe_sequence` of the trust bundle: grows with each change of it. */
  get sequence(): number {
    return this.#sequence;
  }

  /** All published keys, in order of their use: those that sign, will sign, or signed what has not expired yet. */
  get witSigners(): readonly WitSigner[] {
    return this.#witSigners;
  }

  /** The key that signs now. */
  get wit(): WitSigner {
    const nowMs = this.#clock.nowMs();
    const signer = this.#witSigners.findLast((one) => one.signsFromMs <= nowMs) ?? this.#witSigners[0];
    if (signer === undefined) throw new MeshError("bad_config", "the certificate authority has no token key");
    return signer;
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

  /**
   * To be called now and then (hourly): rotates the issuing certificate when less than 30 days are left; publishes the
   * next WIT key a day before it signs, and drops a key when the longest token of it has expired.
   *
   * @returns whether anything changed; the bundle did when `sequence` grew.
   * @throws MeshError `io_failed`; what was in use stays in use.
   */
  maintain(): Promise<boolean> {
    const run = this.#turn.then(async () => {
      const rotated = this.#clock.nowMs() >= this.#issuing.notAfterMs - ISSUING_RENEW_MS;
      if (rotated) await this.rotateIssuing();
      return (await this.#maintainWitKeys()) || rotated;
    });
    this.#turn = run.catch(() => {});
    return run;
  }

  async #maintainWitKeys(): Promise<boolean> {
    const nowMs = this.#clock.nowMs();
    const signers = this.#witSigners.filter((_, i) => {
      const successor = this.#witSigners[i + 1];
      return successor === undefined || nowMs < successor.signsFromMs + MAX_IDENTITY_TTL_MS + WIT_SKEW_MS;
    });
    const newest = signers.at(-1);
    if (newest !== undefined && nowMs >= newest.signsFromMs + WIT_SIGN_MS - WIT_AHEAD_MS)
      signers.push(
        await this.#createWitKey(Math.max(nowMs + WIT_AHEAD_MS, newest.signsFromMs + WIT_SIGN_MS)),
      );
    else if (signers.length === this.#witSigners.length) return false;
    const sequence = this.#sequence + 1;
    await writePrivateFile(
      join(this.#dir, ABOUT_FILE),
      encodeAbout({ trustDomain: this.trustDomain, sequence, witKeys: signers }),
    );
    const dropped = this.#witSigners.filter((one) => !signers.includes(one));
    this.#witSigners = signers;
    this.#sequence = sequence;
    for (const { file } of dropped) await rm(join(this.#dir, file), { force: true });
    return true;
  }

  /** On disk before it is named anywhere. */
  async #createWitKey(signsFromMs: number): Promise<WitSigner> {
    const key = generateKey();
    const { kid } = witSigner(key, { file: "", signsFromMs });
    const file = `${kid}.pem`;
    await writePrivateFile(join(this.#dir, file), encodeKey(key));
    return witSigner(key, { file, signsFromMs });
  }
}

function encodeAbout({ trustDomain, sequence, witKeys }: About): string {
  const keys = witKeys.map(({ file, signsFromMs }) => ({ file, signsFromMs }));
  return JSON.stringify({ version: 1, trustDomain, sequence, witKeys: keys });
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

function witSigner(key: KeyObject, about: Pick<WitSigner, "file" | "signsFromMs">): WitSigner {
  const publicKey = createPublicKey(key);
  const { x, y } = publicKey.export({ format: "jwk" });
  if (x === undefined || y === undefined) throw new MeshError("bad_token", "the token key is not an EC key");
  const digest = createHash("sha256").update(publicKey.export({ type: "spki", format: "der" }));
  const kid = `wit-${digest.digest("hex").slice(0, 16)}`;
  return { kid, key, jwk: { alg: TOKEN_ALGORITHM, kty: "EC", crv: "P-256", x, y }, ...about };
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
      encodeAbout({ trustDomain, sequence: 1, witKeys: [{ file: WIT_FILE, signsFromMs: nowMs }] }),
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

async function readAbout(dir: string, nowMs: number): Promise<About> {
  const text = await readRequired(dir, ABOUT_FILE);
  let about: unknown;
  try {
    about = JSON.parse(text);
  } catch (cause) {
    throw unusable(dir, `\`${ABOUT_FILE}\` is not JSON`, cause);
  }
  if (typeof about === "object" && about !== null && "trustDomain" in about && "sequence" in about) {
    const { trustDomain, sequence } = about;
    // Written before keys rotated: the one key there is begins its time now.
    const listed = "witKeys" in about ? about.witKeys : [{ file: WIT_FILE, signsFromMs: nowMs }];
    const witKeys = Array.isArray(listed) ? listed.filter(isWitKey) : [];
    if (typeof trustDomain === "string" && typeof sequence === "number" && witKeys.length > 0)
      return { trustDomain, sequence, witKeys: witKeys.sort((a, b) => a.signsFromMs - b.signsFromMs) };
  }
  throw unusable(dir, `\`${ABOUT_FILE}\` lacks trustDomain, sequence or witKeys`);
}

function isWitKey(value: unknown): value is About["witKeys"][number] {
  if (typeof value !== "object" || value === null || !("file" in value) || !("signsFromMs" in value))
    return false;
  return (
    typeof value.file === "string" &&
    /^wit[a-z0-9-]*\.pem$/.test(value.file) &&
    typeof value.signsFromMs === "number"
  );
}

/**
 * Opens the authority in `{stateDir}/ca`, making it when there is none (root 10 years, issuing certificate 90 days), and
 * renews what is due.
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
  const about = await readAbout(dir, deps.clock.nowMs());
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
  const witSigners: WitSigner[] = [];
  for (const one of about.witKeys)
    witSigners.push(witSigner(decodeKey(dir, one.file, await readRequired(dir, one.file)), one));
  const { sequence } = about;
  const authority = new CertificateAuthority({ deps, dir, root, issuing, witSigners, sequence });
  await authority.maintain();
  return authority;
}
