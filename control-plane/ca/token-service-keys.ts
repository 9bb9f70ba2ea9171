// The keys of the token service, kept with the authority so that every replica has them: what signs Txn-Tokens, and what
// seals session handles. Made, renewed, written and read here; authority-content.ts keeps them beside the other files.
import { createPublicKey, createSecretKey, type KeyObject, randomBytes } from "node:crypto";
import { TOKEN_ALGORITHM, type TokenJwk } from "../../sidecar/core/identity/claims.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { generateKey, keyName } from "./certificates.ts";

/** A key pair of the token service. */
export interface TxnSigner {
  /** `tts-…`. */
  readonly kid: string;
  readonly key: KeyObject;
  readonly publicKey: KeyObject;
  readonly jwk: TokenJwk;
  /** Unix milliseconds from which it signs; published earlier. */
  readonly signsFromMs: number;
  readonly file: string;
}

/** A secret (256 bit) that seals session handles. */
export interface HandleKey {
  readonly kid: string;
  readonly key: KeyObject;
  /** Unix milliseconds from which new handles are sealed with it; every replica opens handles with it earlier. */
  readonly signsFromMs: number;
  readonly file: string;
}

export interface TokenServiceKeys {
  /** In order of `signsFromMs`. */
  readonly signers: readonly TxnSigner[];
  readonly handleKeys: readonly HandleKey[];
}

/** Of an authority that an earlier build wrote. */
export const NO_TOKEN_SERVICE_KEYS: TokenServiceKeys = { signers: [], handleKeys: [] };

const DAY_MS = 86_400_000;
/** Each key is used for so long … */
const USE_MS = 30 * DAY_MS;
/** … and its successor is known to sidecars and replicas this long before. */
const AHEAD_MS = DAY_MS;
/** Longest life of a session handle, and of what an operator may have it set to: nothing rests on a key for longer. */
const LONGEST_MS = 12 * 3_600_000 + 5 * 60_000;
const HANDLE_BYTES = 32;

const SIGNER_FILE = /^tts-[a-z0-9-]+\.pem$/;
const HANDLE_FILE = /^session-([0-9a-f]{16})\.key$/;

export function txnSigner(key: KeyObject, about: Pick<TxnSigner, "file" | "signsFromMs">): TxnSigner {
  const publicKey = createPublicKey(key);
  const { x, y } = publicKey.export({ format: "jwk" });
  if (x === undefined || y === undefined) throw new MeshError("bad_token", "the token key is not an EC key");
  const jwk: TokenJwk = { alg: TOKEN_ALGORITHM, kty: "EC", crv: "P-256", x, y };
  return { kid: `tts-${keyName(key)}`, key, publicKey, jwk, ...about };
}

function createTxnSigner(signsFromMs: number): TxnSigner {
  const key = generateKey();
  return txnSigner(key, { file: `tts-${keyName(key)}.pem`, signsFromMs });
}

function createHandleKey(signsFromMs: number): HandleKey {
  const kid = randomBytes(8).toString("hex");
  return {
    kid,
    key: createSecretKey(randomBytes(HANDLE_BYTES)),
    signsFromMs,
    file: `session-${kid}.key`,
  };
}

/** Adds a successor a day ahead, and drops what nothing rests on any more. @returns the same list when nothing is due. */
function renewed<T extends { readonly signsFromMs: number }>(
  before: readonly T[],
  create: (signsFromMs: number) => T,
  nowMs: number,
): readonly T[] {
  if (before.length === 0) return [create(nowMs)];
  const kept = before.filter((_, i) => {
    const successor = before[i + 1];
    return successor === undefined || nowMs < successor.signsFromMs + LONGEST_MS;
  });
  const newest = kept.at(-1);
  if (newest !== undefined && nowMs >= newest.signsFromMs + USE_MS - AHEAD_MS)
    kept.push(create(Math.max(nowMs + AHEAD_MS, newest.signsFromMs + USE_MS)));
  else if (kept.length === before.length) return before;
  return kept;
}

/** Makes the keys that are missing, and renews those that are due. @returns the same object when none is. */
export function renewTokenServiceKeys(keys: TokenServiceKeys, nowMs: number): TokenServiceKeys {
  const signers = renewed(keys.signers, createTxnSigner, nowMs);
  const handleKeys = renewed(keys.handleKeys, createHandleKey, nowMs);
  return signers === keys.signers && handleKeys === keys.handleKeys ? keys : { signers, handleKeys };
}

/** The one in use now: the newest whose time has come, else the first. */
export function inUse<T extends { readonly signsFromMs: number }>(
  keys: readonly T[],
  nowMs: number,
): T | undefined {
  return keys.findLast(({ signsFromMs }) => signsFromMs <= nowMs) ?? keys[0];
}

/** Files by name. */
export function encodeTokenServiceKeys({ signers, handleKeys }: TokenServiceKeys): Map<string, string> {
  const files = new Map<string, string>();
  for (const { file, key } of signers)
    files.set(file, key.export({ type: "pkcs8", format: "pem" }).toString());
  for (const { file, key } of handleKeys) files.set(file, `${key.export().toString("base64url")}\n`);
  return files;
}

/** What the manifest says of them. */
export function tokenServiceManifest({ signers, handleKeys }: TokenServiceKeys): object {
  const listed = (keys: readonly { readonly file: string; readonly signsFromMs: number }[]): object[] =>
    keys.map(({ file, signsFromMs }) => ({ file, signsFromMs }));
  return { signers: listed(signers), handleKeys: listed(handleKeys) };
}

/** How files are read; each throws what its caller wants told. */
export interface KeyFiles {
  text(name: string): string;
  key(name: string): KeyObject;
  broken(what: string): MeshError;
}

/** Reads what `tokenServiceManifest` wrote; undefined: an earlier build wrote the manifest. */
export function readTokenServiceKeys(value: unknown, files: KeyFiles): TokenServiceKeys {
  if (value === undefined) return NO_TOKEN_SERVICE_KEYS;
  if (typeof value !== "object" || value === null) throw files.broken("`tokenService` is not an object");
  const list = (name: string, file: RegExp): readonly { file: string; signsFromMs: number }[] => {
    const entries: unknown = Reflect.get(value, name);
    if (!Array.isArray(entries)) throw files.broken(`\`tokenService.${name}\` is not a list`);
    return entries
      .map((entry: unknown) => {
        const { file: named, signsFromMs } = Object(entry) as Readonly<Record<string, unknown>>; // members are unknown
        if (typeof named !== "string" || !file.test(named) || typeof signsFromMs !== "number")
          throw files.broken(`\`tokenService.${name}\` has an entry that is no key`);
        return { file: named, signsFromMs };
      })
      .sort((a, b) => a.signsFromMs - b.signsFromMs);
  };
  return {
    signers: list("signers", SIGNER_FILE).map((one) => txnSigner(files.key(one.file), one)),
    handleKeys: list("handleKeys", HANDLE_FILE).map((one) => {
      const bytes = Buffer.from(files.text(one.file).trim(), "base64url");
      if (bytes.length !== HANDLE_BYTES) throw files.broken(`\`${one.file}\` is not a key of 256 bit`);
      return { ...one, kid: HANDLE_FILE.exec(one.file)?.[1] ?? "", key: createSecretKey(bytes) };
    }),
  };
}
