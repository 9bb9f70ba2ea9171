// The name of an operation as a proof carries it. PURE.
import type { Classified } from "../core/policy/classified.ts";

/** Label of an operation in a proof: both sides put `mcp` on a port with that pack (DOMAIN V6). */
export function labelOf(classified: Classified): string {
  if (classified.pending?.kind === "mcp") return "mcp";
  return classified.operation.kind === "known"
    ? classified.operation.name
    : classified.operation.kind === "unknown"
      ? "unknown"
      : "undetermined";
}
