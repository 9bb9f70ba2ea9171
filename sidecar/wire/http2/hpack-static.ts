// The static table of HPACK (RFC 7541 Appendix A) and its reverse look-ups.

/** Entry 1 of the RFC is element 0. */
export const STATIC_TABLE: readonly (readonly [name: string, value: string])[] = [
  [":authority", ""],
  [":method", "GET"],
  [":method", "POST"],
  [":path", "/"],
  [":path", "/index.html"],
  [":scheme", "http"],
  [":scheme", "https"],
  [":status", "200"],
  [":status", "204"],
  [":status", "206"],
  [":status", "304"],
  [":status", "400"],
  [":status", "404"],
  [":status", "500"],
  ["accept-charset", ""],
  ["accept-encoding", "gzip, deflate"],
  ["accept-language", ""],
  ["accept-ranges", ""],
  ["accept", ""],
  ["access-control-allow-origin", ""],
  ["age", ""],
  ["allow", ""],
  ["authorization", ""],
  ["cache-control", ""],
  ["content-disposition", ""],
  ["content-encoding", ""],
  ["content-language", ""],
  ["content-length", ""],
  ["content-location", ""],
  ["content-range", ""],
  ["content-type", ""],
  ["cookie", ""],
  ["date", ""],
  ["etag", ""],
  ["expect", ""],
  ["expires", ""],
  ["from", ""],
  ["host", ""],
  ["if-match", ""],
  ["if-modified-since", ""],
  ["if-none-match", ""],
  ["if-range", ""],
  ["if-unmodified-since", ""],
  ["last-modified", ""],
  ["link", ""],
  ["location", ""],
  ["max-forwards", ""],
  ["proxy-authenticate", ""],
  ["proxy-authorization", ""],
  ["range", ""],
  ["referer", ""],
  ["refresh", ""],
  ["retry-after", ""],
  ["server", ""],
  ["set-cookie", ""],
  ["strict-transport-security", ""],
  ["transfer-encoding", ""],
  ["user-agent", ""],
  ["vary", ""],
  ["via", ""],
  ["www-authenticate", ""],
];

/** Entries of the static table; the dynamic table begins at the next index. */
export const STATIC_ENTRIES = 61;

/** Lowest static index with this name. */
export const STATIC_NAMES: ReadonlyMap<string, number> = new Map(
  [...STATIC_TABLE.entries()].reverse().map(([at, [name]]) => [name, at + 1]),
);

/** Static index of a whole field, by `pairKey`. */
export const STATIC_PAIRS: ReadonlyMap<string, number> = new Map(
  STATIC_TABLE.map(([name, value], at) => [pairKey(name, value), at + 1]),
);

/** One string for name and value; neither can hold NUL. */
export function pairKey(name: string, value: string): string {
  return `${name}\0${value}`;
}
