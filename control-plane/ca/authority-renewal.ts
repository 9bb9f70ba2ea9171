// Makes what an authority is made of, and renews what is due: roots, issuing certificates and token keys. Nothing here is
// stored; root.ts does that.
import {
  type AuthorityContent,
  ISSUING_FILE,
  ROOT_FILE,
  type RootAuthority,
  rootAuthority,
  type WitSigner,
  witSigner,
} from "./authority-content.ts";
import {
  type CertifiedKey,
  createAuthorityCertificate,
  generateKey,
  keyName,
  MAX_IDENTITY_TTL_MS,
} from "./certificates.ts";
import { renewTokenServiceKeys } from "./token-service-keys.ts";

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

/** Key identifier of its issuing certificate, hex: what leaves name as their issuer. */
export function issuerId({ issuing }: RootAuthority): string {
  return issuing.keyIdentifier.toString("hex");
}

function createWitSigner(signsFromMs: number): WitSigner {
  const key = generateKey();
  return witSigner(key, { file: `wit-${keyName(key)}.pem`, signsFromMs });
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

/** Leaves of the certificate before stay good, they carry their chain. */
async function renewIssuing(one: RootAuthority, trustDomain: string, nowMs: number): Promise<RootAuthority> {
  return rootAuthority({ ...one, issuingPair: await createIssuing(one.root, trustDomain, nowMs) });
}

/**
 * A root with an issuing certificate below it.
 *
 * @param named whether its files are named for its key: there is another root beside it.
 */
export async function createRootAuthority(
  trustDomain: string,
  nowMs: number,
  named: boolean,
): Promise<RootAuthority> {
  const root = await createAuthorityCertificate({
    trustDomain,
    commonName: `${trustDomain} root`.slice(0, 64),
    nowMs,
    lifetimeMs: ROOT_LIFETIME_MS,
    issuer: undefined,
  });
  const issuingPair = await createIssuing(root, trustDomain, nowMs);
  const name = named ? `-${keyName(root.key)}` : "";
  return rootAuthority({
    rootFile: named ? `root${name}.pem` : ROOT_FILE,
    root,
    issuingFile: named ? `issuing${name}.pem` : ISSUING_FILE,
    issuingPair,
  });
}

/** Renews issuing certificates of which less than 30 days are left. @returns the same object when none is due. */
export async function renewIssuers(content: AuthorityContent, nowMs: number): Promise<AuthorityContent> {
  const isDue = (one: RootAuthority | undefined): one is RootAuthority =>
    one !== undefined && nowMs >= one.issuing.notAfterMs - ISSUING_RENEW_MS;
  const { own, rotation, trustDomain } = content;
  let next = content;
  if (isDue(own)) next = { ...next, own: await renewIssuing(own, trustDomain, nowMs) };
  if (rotation !== undefined && isDue(rotation.to)) {
    const to = await renewIssuing(rotation.to, trustDomain, nowMs);
    next = { ...next, rotation: { ...rotation, to, issuerIds: [...rotation.issuerIds, issuerId(to)] } };
  }
  return next;
}

/** Adds the next WIT key a day before it signs, and drops what no token rests on. @returns the same list when none is due. */
function renewWitKeys(before: readonly WitSigner[], nowMs: number): readonly WitSigner[] {
  const signers = before.filter((_, i) => {
    const successor = before[i + 1];
    return successor === undefined || nowMs < successor.signsFromMs + MAX_IDENTITY_TTL_MS + WIT_SKEW_MS;
  });
  const newest = signers.at(-1);
  if (newest !== undefined && nowMs >= newest.signsFromMs + WIT_SIGN_MS - WIT_AHEAD_MS)
    signers.push(createWitSigner(Math.max(nowMs + WIT_AHEAD_MS, newest.signsFromMs + WIT_SIGN_MS)));
  else if (signers.length === before.length) return before;
  return signers;
}

/** Renews the keys of WITs and of the token service; those that sign are in the bundle. @returns the same object when none is due. */
export function renewTokenKeys(content: AuthorityContent, nowMs: number): AuthorityContent {
  const witSigners = renewWitKeys(content.witSigners, nowMs);
  const tokenService = renewTokenServiceKeys(content.tokenService, nowMs);
  const isPublished =
    witSigners !== content.witSigners || tokenService.signers !== content.tokenService.signers;
  if (!isPublished && tokenService === content.tokenService) return content;
  return { ...content, witSigners, tokenService, sequence: content.sequence + (isPublished ? 1 : 0) };
}
