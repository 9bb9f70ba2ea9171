// W3C Trace Context, level 1: reads the trace id for correlation and logs; never an input of a decision.
import type { RandomIds } from "./random-ids.ts";

/** True for `00-<32 hex>-<16 hex>-<2 hex>` with ids other than zero (and for later versions that begin like it). */
export function isTraceparent(value: string): boolean {
  if (
    value.length < 55 ||
    value.charCodeAt(2) !== 45 ||
    value.charCodeAt(35) !== 45 ||
    value.charCodeAt(52) !== 45
  )
    return false;
  for (let i = 0; i < 55; i++) {
    if (i === 2 || i === 35 || i === 52) continue;
    const c = value.charCodeAt(i);
    if (!((c >= 48 && c <= 57) || (c >= 97 && c <= 102))) return false;
  }
  if (value.startsWith("ff")) return false;
  if (value.length > 55 && (value.startsWith("00") || value.charCodeAt(55) !== 45)) return false;
  return (
    !value.startsWith("00000000000000000000000000000000", 3) && !value.startsWith("0000000000000000", 36)
  );
}

/** The trace id of a valid `traceparent`. */
export function traceIdOf(traceparent: string): string {
  return traceparent.slice(3, 35);
}

/** A new sampled trace. */
export function createTraceparent(ids: RandomIds): string {
  return `00-${ids.hex(16)}-${ids.hex(8)}-01`;
}
