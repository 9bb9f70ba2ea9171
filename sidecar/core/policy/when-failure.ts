// A condition of `when` that did not hold, in words: what the call has and what the rule wants.
import type { Call } from "./call.ts";
import type { Schedule, When } from "./rule.ts";

/** Values in backticks, for a message. */
export const quoted = (values: readonly (string | number)[]): string =>
  values.map((value) => `\`${value}\``).join(", ");

/** Wall-clock time in a zone, as a schedule is compared with it. */
function localTime(nowMs: number, timeZone: string): string {
  const format = new Intl.DateTimeFormat("en-CA", {
    timeZone,
    hourCycle: "h23",
    weekday: "short",
    year: "numeric",
    month: "2-digit",
    day: "2-digit",
    hour: "2-digit",
    minute: "2-digit",
  });
  const parts = new Map(format.formatToParts(nowMs).map(({ type, value }) => [type as string, value]));
  const of = (type: string): string => parts.get(type) ?? "";
  return `${of("weekday").slice(0, 3)} ${of("year")}-${of("month")}-${of("day")} ${of("hour")}:${of("minute")}`;
}

function scheduleFailure({ timeZone, days, from, to }: Schedule, nowMs: number): string {
  const onDays = days === undefined ? "every day" : days.join(", ");
  const open = `${onDays} ${from ?? "00:00"} to ${to ?? "24:00"}`;
  return `when.schedule: closed at ${localTime(nowMs, timeZone)} in \`${timeZone}\`, rule is open ${open}`;
}

/** @param when with the one field that failed; @param error it could not be told, rather than was false. */
export function whenFailure(when: When, call: Call, error: boolean): string {
  const at = new Date(call.nowMs).toISOString();
  if (when.notBeforeMs !== undefined) return `when.notBefore: it is ${at}, too early`;
  if (when.notAfterMs !== undefined) return `when.notAfter: it is ${at}, too late`;
  if (when.schedule !== undefined) return scheduleFailure(when.schedule, call.nowMs);
  if (when.environments !== undefined) {
    return error
      ? "when.environments: the caller's environment is not set"
      : `when.environments: caller is in \`${call.caller.env ?? ""}\`, rule wants ${quoted(when.environments)}`;
  }
  if (when.sourceCidrs !== undefined) {
    return error
      ? "when.sourceCIDRs: the source address is not known"
      : `when.sourceCIDRs: source is \`${call.sourceIp ?? ""}\`, rule wants ${quoted(when.sourceCidrs)}`;
  }
  if (when.authn !== undefined) {
    return call.user === undefined
      ? "when.authn: call has no user"
      : "when.authn: the user's sign-in is too old or too weak";
  }
  return error ? "when.cel: the condition could not be evaluated" : "when.cel: the condition is false";
}
