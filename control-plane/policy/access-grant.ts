// AccessGrant: time-bound access, typed; PURE. Only an active grant allows anything.
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { AccessGrant } from "../sources/store.ts";
import { FieldReader } from "./field-reader.ts";
import { readOperation, readTarget } from "./rule-fields.ts";

const PHASES = ["Pending", "Approved", "Active", "Expired", "Revoked", "Rejected"] as const;

function readApproval(fields: FieldReader): number {
  fields.texts("fromRoles");
  fields.flag("selfApproval");
  return fields.integer("required", 0, 5) ?? 1;
}

/**
 * The typed form of a grant. Its phase comes from `status`; without one it is pending, except that a grant which
 * needs no approval (`approval.required: 0`) is active from its acceptance on.
 *
 * @param acceptedAtMs when the grant was first accepted, Unix milliseconds.
 */
export function parseAccessGrant(
  object: ValidObject,
  acceptedAtMs?: number,
): Result<AccessGrant, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const fields = new FieldReader(object.spec, "spec", problems);
  fields.require("subject", "duration", "reason");
  const operations = fields.objects("operations", readOperation);
  const roles = fields.texts("roles");
  if ((operations === undefined) === (roles === undefined))
    fields.report("a grant gives `operations` or `roles`: give exactly one");
  const subject = fields.object("subject", (who) => {
    if (who.has("user") === who.has("workload"))
      who.report("a grant is for one `user` or one `workload`: give exactly one");
    return { user: who.text("user"), workload: who.text("workload") };
  });
  const durationMs = fields.durationMs("duration") ?? 1;
  const required = fields.object("approval", readApproval) ?? 1;
  const targets = fields.objects("targets", (target) => readTarget(target, false));
  const reason = fields.text("reason") ?? "";
  fields.end();
  const status = new FieldReader(object.status ?? {}, "status", problems);
  const stated = {
    phase: status.oneOf("phase", PHASES),
    fromMs: status.timeMs("activeFrom"),
    untilMs: status.timeMs("activeUntil"),
  };
  const active = activeTime(stated, required, durationMs, acceptedAtMs);
  if (problems.length > 0) return { ok: false, error: problems };
  const { name, namespace = "" } = object;
  return {
    ok: true,
    value: {
      name,
      namespace,
      subject: subject ?? {},
      operations,
      roles,
      targets,
      durationMs,
      reason,
      ...active,
    },
  };
}

type Phase = (typeof PHASES)[number];

function activeTime(
  stated: { phase: Phase | undefined; fromMs: number | undefined; untilMs: number | undefined },
  required: number,
  durationMs: number,
  acceptedAtMs: number | undefined,
): Pick<AccessGrant, "phase" | "activeFromMs" | "activeUntilMs"> {
  const none = { activeFromMs: undefined, activeUntilMs: undefined };
  if (stated.phase === undefined && required === 0 && acceptedAtMs !== undefined) {
    return { phase: "Active", activeFromMs: acceptedAtMs, activeUntilMs: acceptedAtMs + durationMs };
  }
  const phase = stated.phase ?? "Pending";
  if (phase !== "Approved" && phase !== "Active") return { phase, ...none };
  // Approved, but nobody said from when: it stays without a time, so it allows nothing.
  if (stated.fromMs === undefined) return { phase: "Pending", ...none };
  const latest = stated.fromMs + durationMs;
  return { phase, activeFromMs: stated.fromMs, activeUntilMs: Math.min(stated.untilMs ?? latest, latest) };
}
