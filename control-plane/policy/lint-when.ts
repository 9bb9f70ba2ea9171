// Conditions of time, place and login: whether one holds whenever another does, and whether one can hold at all. PURE.
import { cidrContains, parseCidr } from "../../sidecar/core/policy/cidr.ts";
import { type Schedule, WEEKDAYS, type When } from "../../sidecar/core/policy/rule.ts";
import { compileSchedule, parseTimeOfDay } from "../../sidecar/core/policy/schedule.ts";
import { includesAll } from "./lint-cover.ts";

const DAY = 1440;
const WEEK = 7 * DAY;
const MINUTE_MS = 60_000;

/** By minute of the local week, Monday first; undefined for a time that is none. */
function openMinutes({ days, from, to }: Schedule): readonly boolean[] | undefined {
  const start = from === undefined ? 0 : parseTimeOfDay(from);
  const end = to === undefined ? DAY : parseTimeOfDay(to);
  if (start === undefined || end === undefined) return undefined;
  const open = new Array<boolean>(WEEK).fill(false);
  for (const [day, name] of WEEKDAYS.entries()) {
    if (days !== undefined && !days.includes(name)) continue;
    // Over midnight a window belongs to the day it starts on; equal times are no window.
    const last = start <= end ? end : DAY + end;
    for (let minute = start; minute < last; minute++) open[(day * DAY + minute) % WEEK] = true;
  }
  return open;
}

function scheduleCovers(wide: Schedule, narrow: Schedule): boolean {
  if (wide.timeZone !== narrow.timeZone) return false;
  const outer = openMinutes(wide);
  return openMinutes(narrow)?.every((open, minute) => !open || outer?.[minute] === true) === true;
}

function networksCover(wide: readonly string[], narrow: readonly string[]): boolean {
  const blocks = wide.flatMap((text) => parseCidr(text) ?? []);
  return narrow.every((text) => {
    const inner = parseCidr(text);
    return (
      inner !== undefined && blocks.some((one) => one.prefix <= inner.prefix && cidrContains(one, inner))
    );
  });
}

/** Whether `wide` is at least as true as `narrow` for every call, also where one of them cannot be told. */
export function whenCovers(wide: When | undefined, narrow: When | undefined): boolean {
  if (wide === undefined) return true;
  if (narrow === undefined) return Object.values(wide).every((value) => value === undefined);
  const { notBeforeMs, notAfterMs, schedule, environments, sourceCidrs, authn, cel } = wide;
  if (notBeforeMs !== undefined && (narrow.notBeforeMs ?? Number.NEGATIVE_INFINITY) < notBeforeMs)
    return false;
  if (notAfterMs !== undefined && (narrow.notAfterMs ?? Number.POSITIVE_INFINITY) > notAfterMs) return false;
  if (schedule !== undefined && (narrow.schedule === undefined || !scheduleCovers(schedule, narrow.schedule)))
    return false;
  if (!includesAll(environments, narrow.environments)) return false;
  if (
    sourceCidrs !== undefined &&
    (narrow.sourceCidrs === undefined || !networksCover(sourceCidrs, narrow.sourceCidrs))
  )
    return false;
  if (cel !== undefined && cel !== narrow.cel) return false;
  return authn === undefined || (narrow.authn !== undefined && authnCovers(authn, narrow.authn));
}

function authnCovers(wide: NonNullable<When["authn"]>, narrow: NonNullable<When["authn"]>): boolean {
  if (wide.maxAgeMs !== undefined && (narrow.maxAgeMs === undefined || narrow.maxAgeMs > wide.maxAgeMs))
    return false;
  return includesAll(wide.amr, narrow.amr) && includesAll(wide.acr, narrow.acr);
}

/** Whether a rule that lives no longer than a week ends before its schedule opens. */
export function neverOpens({ notBeforeMs, notAfterMs, schedule }: When): boolean {
  if (schedule === undefined || notBeforeMs === undefined || notAfterMs === undefined) return false;
  if (notAfterMs - notBeforeMs > WEEK * MINUTE_MS || notAfterMs <= notBeforeMs) return false;
  const zone = compileSchedule(schedule, new Map())?.zone;
  const open = openMinutes(schedule);
  if (zone === undefined || open === undefined) return false;
  // Schedules open on the minute, so the minutes of the window say it all. Asking a zone is slow: twice an hour is
  // enough where no clock changes in between.
  for (
    let hour = Math.floor(notBeforeMs / MINUTE_MS) * MINUTE_MS;
    hour < notAfterMs;
    hour += 60 * MINUTE_MS
  ) {
    const first = zone.weekMinute(hour);
    const steady = (zone.weekMinute(hour + 60 * MINUTE_MS) - first + WEEK) % WEEK === 60;
    for (let at = hour, minute = 0; minute < 60 && at < notAfterMs; at += MINUTE_MS, minute++)
      if (open[steady ? (first + minute) % WEEK : zone.weekMinute(at)] === true) return false;
  }
  return true;
}
