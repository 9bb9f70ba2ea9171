// What `countersign check` finds in a cluster: one line each, with what to do. PURE.
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";

export interface CheckResult {
  readonly outcome: "ok" | "warning" | "failed";
  /** What was looked at, such as `webhooks`. */
  readonly check: string;
  readonly detail: string;
  /** What to do; empty when nothing. */
  readonly todo: string;
}

export const ok = (check: string, detail: string): CheckResult => ({
  ...{ outcome: "ok", check, detail, todo: "" },
});
export const warning = (check: string, detail: string, todo: string): CheckResult => ({
  ...{ outcome: "warning", check, detail, todo },
});
export const failed = (check: string, detail: string, todo: string): CheckResult => ({
  ...{ outcome: "failed", check, detail, todo },
});

/** One question; what it cannot find out is a finding too. */
export interface Check {
  readonly name: string;
  /** Whether not knowing means that something is wrong, or only that it is not known. */
  readonly needed: boolean;
  readonly run: () => Promise<readonly CheckResult[]>;
}

/** Runs checks at once; a result stands where its check does. */
export async function runChecks(checks: readonly Check[]): Promise<readonly CheckResult[]> {
  const results = await Promise.all(
    checks.map(async ({ name, needed, run }) => {
      try {
        return await run();
      } catch (error) {
        if (!(error instanceof MeshError)) throw error;
        return [(needed ? failed : warning)(name, messageOf(error), "")];
      }
    }),
  );
  return results.flat();
}

/** At most five of many, and how many more. */
export function some(names: readonly string[]): string {
  const shown = names.slice(0, 5).join(", ");
  return names.length > 5 ? `${shown} and ${names.length - 5} more` : shown;
}
