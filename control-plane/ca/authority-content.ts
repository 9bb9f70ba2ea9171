// What an authority's files say, read into keys and certificates that fit together, and written back. PURE but for the
// keys it reads; where the files lie is authority-store.ts's business.
import { createPrivateKey, createPublicKey, type KeyObject, X509Certificate } from "node:crypto";
import { TOKEN_ALGORITHM, type TokenJwk } from "../../sidecar/core/identity/claims.ts";
import { DerReader, DerTag, Oid } from "../../sidecar/core/identity/der.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { MANIFEST_FILE } from "./authority-store.ts";
import { type CertifiedKey, keyName } from "./certificates.ts";
import { isRotationRecord, type RotationRecord } from "./rotation.ts";
import {
  encodeTokenServiceKeys,
  readTokenServiceKeys,
  type TokenServiceKeys,
  tokenServiceManifest,
} from "./token-service-keys.ts";

/** Names of an authority that never rotated its root; those made later are named for their key. */
export const ROOT_FILE = "root.pem";
export const ISSUING_FILE = "issuing.pem";
export const WIT_FILE = "wit.pem";

/** The issuing certificate with what each leaf copies from it. */
export interface IssuingAuthority {
  /** What a leaf is followed by: the issuing certificate, and whatever stands between it and the root. */
  readonly chainDer: readonly Buffer[];
  /** The same as PEM. */
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
  readonly file: string;
}

/** A root with the issuing certificate below it. */
export interface RootAuthority {
  readonly rootFile: string;
  readonly root: CertifiedKey;
  readonly issuingFile: string;
  readonly issuingPair: CertifiedKey;
  readonly issuing: IssuingAuthority;
}

/** A rotation under way: the root that is to take over, and how far it has come. */
export interface RotationContent {
  readonly record: RotationRecord;
  readonly to: RootAuthority;
  /** Key identifiers, hex, of the issuing certificates below `to` since it signs. */
  readonly issuerIds: readonly string[];
}

export interface AuthorityContent {
  readonly trustDomain: string;
  /** Of the trust bundle. */
  readonly sequence: number;
  /** undefined: root and issuing certificate come from mounted files. */
  readonly own: RootAuthority | undefined;
  /** Fingerprints of the mounted roots that `sequence` speaks of. */
  readonly mountedRoots: string | undefined;
  /** In order of `signsFromMs`. */
  readonly witSigners: readonly WitSigner[];
  readonly tokenService: TokenServiceKeys;
  readonly rotation: RotationContent | undefined;
}

/** Where files come from, for messages. */
export interface Origin {
  readonly place: string;
  readonly another: string;
}

/** The authority that is stored cannot be used. */
export function unusable(place: string, what: string, cause?: unknown): MeshError {
  return new MeshError(
    "bad_config",
    `the certificate authority in ${place} cannot be used: ${what}; restore it from a backup, or remove it to begin a new mesh`,
    { cause },
  );
}

export function encodeKey(key: KeyObject): string {
  return key.export({ type: "pkcs8", format: "pem" }).toString();
}

function encodePair(pair: CertifiedKey): string {
  return encodeKey(pair.key) + pair.certificate.toString();
}

/** The files of an authority; every one of them is named in the manifest. */
export function encodeAuthority(content: AuthorityContent): ReadonlyMap<string, string> {
  const { trustDomain, sequence, own, mountedRoots, witSigners, tokenService, rotation } = content;
  const files = new Map<string, string>();
  for (const one of [own, rotation?.to]) {
    if (one === undefined) continue;
    files.set(one.rootFile, encodePair(one.root));
    files.set(one.issuingFile, encodePair(one.issuingPair));
  }
  for (const { file, key } of witSigners) files.set(file, encodeKey(key));
  for (const [file, text] of encodeTokenServiceKeys(tokenService)) files.set(file, text);
  const names = (one: RootAuthority): object => ({ root: one.rootFile, issuing: one.issuingFile });
  const manifest = {
    version: 1,
    trustDomain,
    sequence,
    ...(own === undefined ? { mountedRoots } : names(own)),
    witKeys: witSigners.map(({ file, signsFromMs }) => ({ file, signsFromMs })),
    tokenService: tokenServiceManifest(tokenService),
    ...(rotation === undefined
      ? {}
      : { rotation: { ...rotation.record, ...names(rotation.to), issuerIds: rotation.issuerIds } }),
  };
  return files.set(MANIFEST_FILE, JSON.stringify(manifest));
}

type Json = Readonly<Record<string, unknown>>;

class Reader {
  readonly #files: ReadonlyMap<string, string>;
  readonly #place: string;

  constructor(files: ReadonlyMap<string, string>, place: string) {
    this.#files = files;
    this.#place = place;
  }

  text(name: string): string {
    const text = this.#files.get(name);
    if (text === undefined) throw unusable(this.#place, `\`${name}\` is missing`);
    return text;
  }

  key(name: string): KeyObject {
    const text = this.text(name);
    try {
      const key = createPrivateKey(text);
      if (key.asymmetricKeyDetails?.namedCurve !== "prime256v1") throw new Error("not on P-256");
      return key;
    } catch (cause) {
      throw unusable(this.#place, `the key in \`${name}\` cannot be read`, cause);
    }
  }

  pair(name: string): CertifiedKey {
    const key = this.key(name);
    let certificate: X509Certificate;
    try {
      certificate = new X509Certificate(this.text(name));
    } catch (cause) {
      throw unusable(this.#place, `the certificate in \`${name}\` cannot be read`, cause);
    }
    if (!certificate.ca || !certificate.checkPrivateKey(key))
      throw unusable(this.#place, `key and certificate in \`${name}\` do not match`);
    return { certificate, key };
  }

  /** @param names object with the names of both files; those of the first authority where it has none. */
  authority(names: Json, trustDomain: string, nowMs: number): RootAuthority {
    const { root: rootFile = ROOT_FILE, issuing: issuingFile = ISSUING_FILE } = names;
    if (typeof rootFile !== "string" || typeof issuingFile !== "string")
      throw unusable(this.#place, `\`${MANIFEST_FILE}\` names files by something else than text`);
    const root = this.pair(rootFile);
    if (root.certificate.subjectAltName !== `URI:spiffe://${trustDomain}`)
      throw unusable(this.#place, `\`${rootFile}\` is of another trust domain`);
    if (nowMs >= Date.parse(root.certificate.validTo))
      throw unusable(this.#place, `the root in \`${rootFile}\` has expired`);
    const issuingPair = this.pair(issuingFile);
    if (!issuingPair.certificate.verify(root.certificate.publicKey))
      throw unusable(this.#place, `\`${issuingFile}\` was not signed by \`${rootFile}\``);
    return rootAuthority({ rootFile, root, issuingFile, issuingPair });
  }

  manifest(): Json {
    let manifest: unknown;
    try {
      manifest = JSON.parse(this.text(MANIFEST_FILE));
    } catch (cause) {
      if (cause instanceof MeshError) throw cause;
      throw unusable(this.#place, `\`${MANIFEST_FILE}\` is not JSON`, cause);
    }
    if (typeof manifest !== "object" || manifest === null)
      throw unusable(this.#place, `\`${MANIFEST_FILE}\` is not an object`);
    return manifest as Json; // just checked; each member is read as unknown
  }
}

function isWitKey(value: unknown): value is { readonly file: string; readonly signsFromMs: number } {
  if (typeof value !== "object" || value === null || !("file" in value) || !("signsFromMs" in value))
    return false;
  return (
    typeof value.file === "string" &&
    /^wit[a-z0-9-]*\.pem$/.test(value.file) &&
    typeof value.signsFromMs === "number"
  );
}

/**
 * Reads what `encodeAuthority` (of this build or an earlier one) wrote.
 *
 * @throws MeshError `bad_config`: incomplete, damaged, or of another trust domain.
 */
export function decodeAuthority(
  files: ReadonlyMap<string, string>,
  expect: { readonly trustDomain: string; readonly origin: Origin; readonly nowMs: number },
): AuthorityContent {
  const { nowMs, origin } = expect;
  const { place, another } = origin;
  const reader = new Reader(files, place);
  const manifest = reader.manifest();
  const { trustDomain, sequence, mountedRoots, rotation } = manifest;
  // Written before keys rotated: the one key there is begins its time now.
  const listed: unknown = manifest["witKeys"] ?? [{ file: WIT_FILE, signsFromMs: nowMs }];
  const witKeys = Array.isArray(listed) ? listed.filter(isWitKey) : [];
  if (typeof trustDomain !== "string" || typeof sequence !== "number" || witKeys.length === 0)
    throw unusable(place, `\`${MANIFEST_FILE}\` lacks trustDomain, sequence or witKeys`);
  if (trustDomain !== expect.trustDomain)
    throw new MeshError(
      "bad_config",
      `the certificate authority in ${place} is of trust domain \`${trustDomain}\`, not \`${expect.trustDomain}\`; ${another}`,
    );
  const isMounted = typeof mountedRoots === "string";
  const own = isMounted ? undefined : reader.authority(manifest, trustDomain, nowMs);
  const witSigners = witKeys
    .sort((a, b) => a.signsFromMs - b.signsFromMs)
    .map((one) => witSigner(reader.key(one.file), one));
  return {
    trustDomain,
    sequence,
    own,
    mountedRoots: isMounted ? mountedRoots : undefined,
    witSigners,
    tokenService: readTokenServiceKeys(manifest["tokenService"], {
      text: (name) => reader.text(name),
      key: (name) => reader.key(name),
      broken: (what) => unusable(place, `\`${MANIFEST_FILE}\`: ${what}`),
    }),
    rotation:
      rotation === undefined ? undefined : readRotation(reader, rotation, { place, trustDomain, nowMs }),
  };
}

function readRotation(
  reader: Reader,
  value: unknown,
  at: { readonly place: string; readonly trustDomain: string; readonly nowMs: number },
): RotationContent {
  if (!isRotationRecord(value))
    throw unusable(at.place, `\`${MANIFEST_FILE}\` has a root rotation that cannot be read`);
  const names: Json = { ...value };
  const { stage, aborting, startedAtMs, stageSinceMs, forced } = value;
  const ids: unknown = names["issuerIds"];
  const to = reader.authority(names, at.trustDomain, at.nowMs);
  return {
    record: { stage, aborting, startedAtMs, stageSinceMs, forced },
    to,
    issuerIds: Array.isArray(ids) ? ids.filter((id) => typeof id === "string") : [],
  };
}

/** Adds what leaves copy. */
export function rootAuthority(parts: Omit<RootAuthority, "issuing">): RootAuthority {
  return { ...parts, issuing: issuingAuthority([parts.issuingPair.certificate], parts.issuingPair.key) };
}

/** @param chain the issuing certificate first. */
export function issuingAuthority(chain: readonly X509Certificate[], key: KeyObject): IssuingAuthority {
  const [certificate] = chain;
  if (certificate === undefined) throw new MeshError("bad_token", "there is no issuing certificate");
  const tbs = new DerReader(certificate.raw).enter(DerTag.sequence).enter(DerTag.sequence);
  tbs.skip(DerTag.context0);
  tbs.skip(DerTag.integer);
  tbs.skip(DerTag.sequence); // algorithm
  tbs.skip(DerTag.sequence); // issuer
  tbs.skip(DerTag.sequence); // validity
  const nameDer = Buffer.from(tbs.element(DerTag.sequence));
  return {
    chainDer: chain.map(({ raw }) => raw),
    certificatePem: chain.map(String).join(""),
    key,
    nameDer,
    keyIdentifier: subjectKeyIdentifier(certificate.raw),
    notAfterMs: Math.min(...chain.map(({ validTo }) => Date.parse(validTo))),
  };
}

function subjectKeyIdentifier(certificateDer: Buffer): Buffer {
  const tbs = new DerReader(certificateDer).enter(DerTag.sequence).enter(DerTag.sequence);
  while (!tbs.atEnd && tbs.tag !== DerTag.context3) tbs.skip(tbs.tag);
  const extensions = tbs.enter(DerTag.context3).enter(DerTag.sequence);
  while (!extensions.atEnd) {
    const one = extensions.enter(DerTag.sequence);
    const oid = one.content(DerTag.oid).toString("hex");
    if (one.tag === DerTag.boolean) one.boolean();
    const value = one.enter(DerTag.octetString);
    if (oid === Oid.subjectKeyIdentifier) return Buffer.from(value.content(DerTag.octetString));
  }
  throw new MeshError("bad_token", "the issuing certificate has no subject key identifier");
}

export function witSigner(key: KeyObject, about: Pick<WitSigner, "file" | "signsFromMs">): WitSigner {
  const publicKey = createPublicKey(key);
  const { x, y } = publicKey.export({ format: "jwk" });
  if (x === undefined || y === undefined) throw new MeshError("bad_token", "the token key is not an EC key");
  const kid = `wit-${keyName(key)}`;
  const { file, signsFromMs } = about;
  return { kid, key, jwk: { alg: TOKEN_ALGORITHM, kty: "EC", crv: "P-256", x, y }, file, signsFromMs };
}
