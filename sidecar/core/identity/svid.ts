// Facts of an X509-SVID from one walk over its DER: what the TLS layer does not tell, or tells in ambiguous text
// (Node quotes `subjectAltName`, so it must never be split). Signatures and chains are OpenSSL's business, not ours.
import { hash } from "node:crypto";
import { MeshError, type Result } from "../runtime/errors.ts";
import { DerReader, DerTag, Oid } from "./der.ts";
import { parseSpiffeId, type SpiffeId, trustDomainOf } from "./spiffe-id.ts";

export interface SvidFacts {
  readonly spiffeId: SpiffeId;
  readonly trustDomain: string;
  /** Unix milliseconds. */
  readonly notBeforeMs: number;
  /** Unix milliseconds; the certificate is good up to and including this second. */
  readonly notAfterMs: number;
  /** `serialNumber` attribute of the subject: pod UID or instance; empty when absent. */
  readonly instance: string;
  /** Serial number of the certificate, hex. */
  readonly serial: string;
  /** Key identifier of the certificate that issued it, hex; empty when it names none. */
  readonly issuerKeyId: string;
  /** base64url SHA-256 of the certificate (`x5t#S256`). */
  readonly leafThumbprint: string;
}

/** What the verifier needs to know about the other end of a mesh connection. */
export type PeerFacts = SvidFacts;

export type SvidProblem =
  | "malformed_certificate"
  | "trailing_bytes"
  | "no_uri_san"
  | "several_uri_sans"
  | "bad_spiffe_id"
  | "is_ca"
  | "bad_key_usage"
  | "bad_extended_key_usage"
  | "unknown_critical_extension"
  | "expired"
  | "not_yet_valid"
  | "foreign_trust_domain";

/** One sentence per problem, for logs and answers. */
export const SVID_PROBLEMS: Readonly<Record<SvidProblem, string>> = {
  malformed_certificate: "the certificate is not strict DER or not X.509 version 3",
  trailing_bytes: "there are bytes behind the certificate",
  no_uri_san: "the certificate names no URI; an SVID has exactly one SPIFFE ID",
  several_uri_sans: "the certificate names more than one URI; an SVID has exactly one SPIFFE ID",
  bad_spiffe_id: "the certificate's URI is not a SPIFFE ID of a workload",
  is_ca: "the certificate is a CA certificate; a workload shows a leaf",
  bad_key_usage:
    "the certificate needs a critical key usage with digitalSignature and without keyCertSign and cRLSign",
  bad_extended_key_usage: "the certificate needs the extended key usages serverAuth and clientAuth",
  unknown_critical_extension: "the certificate has a critical extension that is not understood",
  expired: "the certificate has expired",
  not_yet_valid: "the certificate is not valid yet; compare the clocks",
  foreign_trust_domain: "the certificate belongs to another trust domain",
};

interface Extensions {
  uris: string[];
  isCa: boolean;
  keyUsage: boolean;
  extendedKeyUsage: boolean;
  unknownCritical: boolean;
  issuerKeyId: string;
}

class SvidError extends Error {
  readonly problem: SvidProblem;
  constructor(problem: SvidProblem) {
    super(problem);
    this.problem = problem;
  }
}

const DIGITAL_SIGNATURE = 0x80;
/** Context tag [0], primitive: keyIdentifier of AuthorityKeyIdentifier. */
const KEY_IDENTIFIER = 0x80;
const CERT_OR_CRL_SIGN = 0x06;
const MAX_CERTIFICATE_BYTES = 16_384;

function readSubjectInstance(subject: DerReader): string {
  let instance = "";
  while (!subject.atEnd) {
    const set = subject.enter(DerTag.set);
    while (!set.atEnd) {
      const attribute = set.enter(DerTag.sequence);
      const oid = attribute.content(DerTag.oid).toString("hex");
      const value = attribute.content(attribute.tag);
      attribute.finish();
      if (oid === Oid.subjectSerialNumber) instance = value.toString("latin1");
    }
  }
  return instance;
}

function readExtension(oid: string, critical: boolean, value: Buffer, facts: Extensions): void {
  const reader = new DerReader(value);
  switch (oid) {
    case Oid.subjectAltName: {
      const names = reader.enter(DerTag.sequence);
      while (!names.atEnd) {
        const tag = names.tag;
        const content = names.content(tag);
        if (tag === DerTag.uri) facts.uris.push(content.toString("latin1"));
      }
      break;
    }
    case Oid.basicConstraints: {
      const constraints = reader.enter(DerTag.sequence);
      if (constraints.tag === DerTag.boolean) facts.isCa = constraints.boolean();
      break;
    }
    case Oid.keyUsage: {
      const bits = reader.content(DerTag.bitString);
      const first = bits.length >= 2 ? bits.readUInt8(1) : 0;
      facts.keyUsage = critical && (first & DIGITAL_SIGNATURE) !== 0 && (first & CERT_OR_CRL_SIGN) === 0;
      break;
    }
    case Oid.extendedKeyUsage: {
      const uses = reader.enter(DerTag.sequence);
      let found = 0;
      while (!uses.atEnd) {
        const use = uses.content(DerTag.oid).toString("hex");
        if (use === Oid.serverAuth) found |= 1;
        else if (use === Oid.clientAuth) found |= 2;
      }
      facts.extendedKeyUsage = found === 3;
      break;
    }
    case Oid.authorityKeyIdentifier: {
      // Issuer name and serial number may follow it: not used.
      const names = reader.enter(DerTag.sequence);
      if (names.tag === KEY_IDENTIFIER) facts.issuerKeyId = names.content(KEY_IDENTIFIER).toString("hex");
      if (critical) facts.unknownCritical = true;
      break;
    }
    default:
      if (critical && oid !== Oid.certificatePolicies) facts.unknownCritical = true;
      return;
  }
  reader.finish();
}

function readExtensions(list: DerReader): Extensions {
  const facts: Extensions = {
    uris: [],
    isCa: false,
    keyUsage: false,
    extendedKeyUsage: false,
    unknownCritical: false,
    issuerKeyId: "",
  };
  const seen = new Set<string>();
  while (!list.atEnd) {
    const extension = list.enter(DerTag.sequence);
    const oid = extension.content(DerTag.oid).toString("hex");
    const critical = extension.tag === DerTag.boolean ? extension.boolean() : false;
    const value = extension.content(DerTag.octetString);
    extension.finish();
    if (seen.has(oid)) throw new SvidError("malformed_certificate");
    seen.add(oid);
    readExtension(oid, critical, value, facts);
  }
  return facts;
}

function walk(bytes: Buffer): SvidFacts {
  const outer = new DerReader(bytes);
  const certificate = outer.enter(DerTag.sequence);
  if (!outer.atEnd) throw new SvidError("trailing_bytes");
  const tbs = certificate.enter(DerTag.sequence);
  certificate.skip(DerTag.sequence);
  certificate.skip(DerTag.bitString);
  certificate.finish();

  const version = tbs.enter(DerTag.context0).content(DerTag.integer);
  if (version.length !== 1 || version[0] !== 2) throw new SvidError("malformed_certificate");
  const serial = tbs.content(DerTag.integer).toString("hex");
  tbs.skip(DerTag.sequence); // signature algorithm
  tbs.skip(DerTag.sequence); // issuer
  const validity = tbs.enter(DerTag.sequence);
  const notBeforeMs = validity.time();
  const notAfterMs = validity.time();
  validity.finish();
  const instance = readSubjectInstance(tbs.enter(DerTag.sequence));
  tbs.skip(DerTag.sequence); // public key
  const wrapper = tbs.enter(DerTag.context3);
  tbs.finish();
  const facts = readExtensions(wrapper.enter(DerTag.sequence));
  wrapper.finish();

  if (facts.isCa) throw new SvidError("is_ca");
  const [uri] = facts.uris;
  if (uri === undefined) throw new SvidError("no_uri_san");
  if (facts.uris.length > 1) throw new SvidError("several_uri_sans");
  if (!facts.keyUsage) throw new SvidError("bad_key_usage");
  if (!facts.extendedKeyUsage) throw new SvidError("bad_extended_key_usage");
  if (facts.unknownCritical) throw new SvidError("unknown_critical_extension");
  const parsed = parseSpiffeId(uri);
  if (!parsed.ok) throw new SvidError("bad_spiffe_id");
  const leafThumbprint = hash("sha256", bytes, "base64url");
  const spiffeId = parsed.value;
  const { issuerKeyId } = facts;
  return {
    spiffeId,
    trustDomain: trustDomainOf(spiffeId),
    notBeforeMs,
    notAfterMs,
    instance,
    serial,
    issuerKeyId,
    leafThumbprint,
  };
}

/**
 * Reads the facts of a leaf (X509-SVID sections 2 to 5). Does not look at the clock: see `checkSvid`.
 *
 * @param bytes one DER certificate, at most 16 KiB, as TLS delivered it.
 */
export function parseSvid(bytes: Buffer): Result<SvidFacts, SvidProblem> {
  if (bytes.length > MAX_CERTIFICATE_BYTES) return { ok: false, error: "malformed_certificate" };
  try {
    return { ok: true, value: walk(bytes) };
  } catch (error) {
    if (error instanceof SvidError) return { ok: false, error: error.problem };
    if (error instanceof MeshError) return { ok: false, error: "malformed_certificate" };
    throw error;
  }
}

/** Validity now, and membership of one of the trust domains whose bundle is held; undefined: fine. */
export function checkSvid(
  facts: SvidFacts,
  at: { readonly nowMs: number; readonly trustDomains: readonly string[] },
): SvidProblem | undefined {
  if (!at.trustDomains.includes(facts.trustDomain)) return "foreign_trust_domain";
  // notAfter is inclusive to the second (RFC 5280 section 4.1.2.5).
  if (at.nowMs >= facts.notAfterMs + 1000) return "expired";
  if (at.nowMs < facts.notBeforeMs) return "not_yet_valid";
  return undefined;
}
