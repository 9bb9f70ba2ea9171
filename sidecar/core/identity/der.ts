// DER in the small: a strict reader (exact tags, minimal definite lengths, nothing left over) and a writer. Shared by
// the certificate walk, the CSR reader and the certificate and CSR writers.
import { MeshError } from "../runtime/errors.ts";

/** Tags used in certificates and requests (X.690); `contextN` are constructed unless named primitive. */
export const DerTag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  utf8String: 0x0c,
  printableString: 0x13,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
  context0: 0xa0,
  context3: 0xa3,
  /** GeneralName `uniformResourceIdentifier`, and name constraint bases of it: primitive [6]. */
  uri: 0x86,
} as const;

function malformed(what: string): MeshError {
  return new MeshError("bad_token", `malformed DER: ${what}`);
}

/**
 * A cursor over the content of one DER element. Every method throws MeshError `bad_token` on a wrong tag, a length that
 * is not minimal or indefinite, or content beyond its parent; the callers turn that into a value at their boundary.
 */
export class DerReader {
  readonly bytes: Buffer;
  readonly end: number;
  position: number;

  constructor(bytes: Buffer, start = 0, end: number = bytes.length) {
    this.bytes = bytes;
    this.position = start;
    this.end = end;
  }

  get atEnd(): boolean {
    return this.position === this.end;
  }

  /** Tag of the next element; -1 at the end. */
  get tag(): number {
    return this.position < this.end ? this.bytes.readUInt8(this.position) : -1;
  }

  /** Reads the header of the next element, moves behind the element and leaves the bounds of its content. */
  #next(tag: number): { start: number; end: number } {
    const { bytes, position, end } = this;
    if (position + 2 > end) throw malformed("truncated");
    if (bytes[position] !== tag) throw malformed(`expected tag ${tag} at byte ${position}`);
    let length = bytes.readUInt8(position + 1);
    let start = position + 2;
    if (length >= 0x80) {
      const count = length & 0x7f;
      if (count === 0 || count > 3 || start + count > end) throw malformed("bad length");
      length = bytes.readUIntBE(start, count);
      if (length < 0x80 || (count > 1 && length < 1 << (8 * (count - 1))))
        throw malformed("length is not minimal");
      start += count;
    }
    if (start + length > end) throw malformed("element is longer than its parent");
    this.position = start + length;
    return { start, end: start + length };
  }

  /** Enters a constructed (or wrapped) element of this tag and moves this cursor behind it. */
  enter(tag: number): DerReader {
    const { start, end } = this.#next(tag);
    return new DerReader(this.bytes, start, end);
  }

  /** Content bytes (a view) of the next element. */
  content(tag: number): Buffer {
    const { start, end } = this.#next(tag);
    return this.bytes.subarray(start, end);
  }

  /** The whole next element with its header (a view). */
  element(tag: number): Buffer {
    const from = this.position;
    this.#next(tag);
    return this.bytes.subarray(from, this.position);
  }

  /** Skips one element of this tag. */
  skip(tag: number): void {
    this.#next(tag);
  }

  /** Fails unless everything was read. */
  finish(): void {
    if (this.position !== this.end) throw malformed("unexpected bytes behind the last element");
  }

  /** A BOOLEAN; DER allows 0x00 and 0xff only. */
  boolean(): boolean {
    const content = this.content(DerTag.boolean);
    if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff)) throw malformed("bad boolean");
    return content[0] === 0xff;
  }

  /** A Time of RFC 5280 section 4.1.2.5, as Unix milliseconds. */
  time(): number {
    const tag = this.tag;
    const generalized = tag === DerTag.generalizedTime;
    const content = this.content(generalized ? DerTag.generalizedTime : DerTag.utcTime);
    const text = content.toString("latin1");
    const digits = generalized ? 14 : 12;
    if (text.length !== digits + 1 || !/^[0-9]+Z$/.test(text)) throw malformed("bad time");
    const year = generalized ? Number(text.slice(0, 4)) : utcYear(Number(text.slice(0, 2)));
    const at = (offset: number): number => Number(text.slice(digits - 10 + offset, digits - 8 + offset));
    const [month, day, hour, minute, second] = [at(0), at(2), at(4), at(6), at(8)];
    const ms = Date.UTC(year, month - 1, day, hour, minute, second);
    const back = new Date(ms);
    // Date.UTC carries over (31 April becomes 1 May); a time that changed was no time.
    if (back.getUTCMonth() !== month - 1 || back.getUTCDate() !== day || back.getUTCHours() !== hour)
      throw malformed("bad time");
    if (minute > 59 || second > 59) throw malformed("bad time");
    return ms;
  }
}

function utcYear(twoDigits: number): number {
  return twoDigits >= 50 ? 1900 + twoDigits : 2000 + twoDigits;
}

/** Writes one element; the parts are its content in order. */
export function der(tag: number, ...parts: readonly Buffer[]): Buffer {
  let length = 0;
  for (const part of parts) length += part.length;
  const header =
    length < 0x80
      ? [tag, length]
      : length < 0x100
        ? [tag, 0x81, length]
        : length < 0x10000
          ? [tag, 0x82, length >> 8, length & 0xff]
          : [tag, 0x83, length >> 16, (length >> 8) & 0xff, length & 0xff];
  return Buffer.concat([Buffer.from(header), ...parts]);
}

/** An INTEGER from big-endian magnitude bytes (leading zeros removed, sign byte added when needed). */
export function derUnsigned(magnitude: Buffer): Buffer {
  let start = 0;
  while (start < magnitude.length - 1 && magnitude[start] === 0) start++;
  const trimmed = magnitude.subarray(start);
  const first = trimmed[0] ?? 0;
  return der(DerTag.integer, first >= 0x80 ? Buffer.concat([Buffer.of(0), trimmed]) : trimmed);
}

/** A Time as RFC 5280 wants it: UTCTime to 2049, GeneralizedTime after; whole seconds. */
export function derTime(unixMs: number): Buffer {
  const text = `${new Date(unixMs).toISOString().slice(0, 19).replace(/[-:T]/g, "")}Z`;
  const year = Number(text.slice(0, 4));
  if (year >= 1950 && year < 2050) return der(DerTag.utcTime, Buffer.from(text.slice(2), "latin1"));
  return der(DerTag.generalizedTime, Buffer.from(text, "latin1"));
}

/** A BIT STRING without unused bits. */
export function derBitString(content: Buffer): Buffer {
  return der(DerTag.bitString, Buffer.of(0), content);
}

/** Encoded OIDs (content bytes in hex) of everything that appears in our certificates. */
export const Oid = {
  commonName: "550403",
  subjectSerialNumber: "550405",
  organization: "55040a",
  subjectKeyIdentifier: "551d0e",
  keyUsage: "551d0f",
  subjectAltName: "551d11",
  basicConstraints: "551d13",
  nameConstraints: "551d1e",
  certificatePolicies: "551d20",
  authorityKeyIdentifier: "551d23",
  extendedKeyUsage: "551d25",
  serverAuth: "2b06010505070301",
  clientAuth: "2b06010505070302",
  ecdsaWithSha256: "2a8648ce3d040302",
} as const;

/** An OBJECT IDENTIFIER from its content bytes in hex, as `Oid` lists them. */
export function derOid(hex: string): Buffer {
  return der(DerTag.oid, Buffer.from(hex, "hex"));
}

/** SubjectPublicKeyInfo of a P-256 key up to the point: 26 bytes, then 0x04 (uncompressed), x and y. */
export const P256_SPKI_PREFIX: Buffer = Buffer.from(
  "3059301306072a8648ce3d020106082a8648ce3d03010703420004",
  "hex",
);
export const P256_SPKI_BYTES = 91;

/** True for the one encoding of a P-256 public key that we accept (uncompressed point, named curve). */
export function isP256Spki(spki: Buffer): boolean {
  return (
    spki.length === P256_SPKI_BYTES && spki.subarray(0, P256_SPKI_PREFIX.length).equals(P256_SPKI_PREFIX)
  );
}
