// UUIDs within a text as their 16 bytes: directories name groups by them, and what is random deflates to no less. PURE.

/** Neither byte is ever part of UTF-8; what is no text may have them. */
const [LITERAL, UUID] = [0xfe, 0xff];
const UUID_BYTES = 16;
/** Most characters that a byte becomes. */
const MOST = 3;
const HEX = Buffer.from("0123456789abcdef");
const DASH = 0x2d;
const TO_SHORTEN = /[\xfe\xff]|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;

/** @returns bytes from which {@link longUuids} makes the same again, whatever they are. */
export function shortUuids(bytes: Buffer): Buffer {
  const text = bytes
    .toString("latin1")
    .replace(TO_SHORTEN, (found) =>
      found.length === 1
        ? String.fromCharCode(LITERAL) + found
        : String.fromCharCode(UUID) + Buffer.from(found.replaceAll("-", ""), "hex").toString("latin1"),
    );
  return Buffer.from(text, "latin1");
}

/** @param bytes by {@link shortUuids}. A loop: it is done when somebody comes back, and `replace` takes twice as long. */
export function longUuids(bytes: Buffer): Buffer {
  const text = Buffer.allocUnsafe(bytes.length * MOST);
  let end = 0;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at] ?? 0;
    if (byte < LITERAL) text[end++] = byte;
    else if (byte === LITERAL) text[end++] = bytes[++at] ?? 0;
    else {
      for (let i = 0; i < UUID_BYTES; i++) {
        const pair = bytes[++at] ?? 0;
        text[end++] = HEX[pair >> 4] ?? 0;
        text[end++] = HEX[pair & 15] ?? 0;
        if (i === 3 || i === 5 || i === 7 || i === 9) text[end++] = DASH;
      }
    }
  }
  return text.subarray(0, end);
}
