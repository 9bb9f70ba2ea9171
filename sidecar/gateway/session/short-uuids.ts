// UUIDs within a text as their 16 bytes: directories name groups by them, and what is random deflates to no less. PURE.

/** Neither byte is ever part of UTF-8; what is no text may have them. */
const UUID = "\xff";
const LITERAL = "\xfe";
const TO_SHORTEN = /[\xfe\xff]|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;
const TO_LENGTHEN = /\xff([\s\S]{16})|\xfe([\s\S])/g;
const UUID_PARTS = /^(.{8})(.{4})(.{4})(.{4})(.{12})$/;

/** @returns bytes from which {@link longUuids} makes the same again, whatever they are. */
export function shortUuids(bytes: Buffer): Buffer {
  const text = bytes
    .toString("latin1")
    .replace(TO_SHORTEN, (found) =>
      found.length === 1
        ? LITERAL + found
        : UUID + Buffer.from(found.replaceAll("-", ""), "hex").toString("latin1"),
    );
  return Buffer.from(text, "latin1");
}

/** @param bytes by {@link shortUuids}. */
export function longUuids(bytes: Buffer): Buffer {
  const text = bytes
    .toString("latin1")
    .replace(TO_LENGTHEN, (_found, uuid: string | undefined, literal: string | undefined) =>
      uuid === undefined
        ? (literal ?? "")
        : Buffer.from(uuid, "latin1").toString("hex").replace(UUID_PARTS, "$1-$2-$3-$4-$5"),
    );
  return Buffer.from(text, "latin1");
}
