// PURE. The character rules of header fields (RFC 9110 sections 5.1, 5.5 and 5.6.2), shared by both codecs.

const TCHAR = new Uint8Array(256);
for (const c of "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
  TCHAR[c.charCodeAt(0)] = 1;
}

/** Whether the text is a `token` (RFC 9110 section 5.6.2): at least one character, no white space, no separators. */
export function isToken(text: string): boolean {
  const length = text.length;
  for (let i = 0; i < length; i++) {
    const c = text.charCodeAt(i);
    if (c > 255 || TCHAR[c] === 0) return false;
  }
  return length > 0;
}

/** Whether one byte may stand in a `token`. */
export function isTokenByte(byte: number): boolean {
  return TCHAR[byte] === 1;
}

/**
 * Whether the text may be a field value: visible ASCII, space, tab and obs-text (bytes 128 to 255), so no CR, LF, NUL or
 * another control character (RFC 9110 section 5.5). White space at either end is not looked at.
 */
export function isFieldValue(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c < 32 ? c !== 9 : c === 127 || c > 255) return false;
  }
  return true;
}
