// Weekly schedules in IANA time zones (DOMAIN 3.3 "Time"): from inclusive, to exclusive, a window over midnight
// belongs to the day it starts on.
import { type Schedule, WEEKDAYS } from "./rule.ts";

const MINUTE_MS = 60_000;

/**
 * Local weekday and minute of day in one zone. Keeps the last minute it was asked for: `Intl` costs about 1 µs, and
 * calls of one sidecar share their minute.
 */
export class ZoneClock {
  readonly #format: Intl.DateTimeFormat;
  #minute = Number.NaN;
  /** Minutes since Monday 00:00 local time. */
  #local = 0;

  /** @throws RangeError for a zone that this build does not know. */
  constructor(timeZone: string) {
    this.#format = new Intl.DateTimeFormat("en-US", {
      timeZone,
      hourCycle: "h23",
      weekday: "short",
      hour: "2-digit",
      minute: "2-digit",
    });
  }

  weekMinute(nowMs: number): number {
    const minute = Math.floor(nowMs / MINUTE_MS);
    if (minute === this.#minute) return this.#local;
    let day = 0;
    let hours = 0;
    let minutes = 0;
    for (const part of this.#format.formatToParts(nowMs)) {
      if (part.type === "weekday") day = (WEEKDAYS as readonly string[]).indexOf(part.value);
      else if (part.type === "hour") hours = Number(part.value);
      else if (part.type === "minute") minutes = Number(part.value);
    }
    this.#local = day * 1440 + hours * 60 + minutes;
    this.#minute = minute;
    return this.#local;
  }
}

export interface CompiledSchedule {
  readonly zone: ZoneClock;
  /** By weekday, Monday first. */
  readonly days: readonly boolean[];
  readonly fromMinute: number;
  readonly toMinute: number;
}

/** Minutes of `HH:MM` (`24:00` is the end of the day); undefined when it is none. */
export function parseTimeOfDay(text: string): number | undefined {
  const match = /^([01][0-9]|2[0-4]):([0-5][0-9])$/.exec(text);
  if (match === null) return undefined;
  const minutes = Number(match[1]) * 60 + Number(match[2]);
  return minutes > 1440 ? undefined : minutes;
}

/**
 * @param zones clocks shared by all schedules of a program.
 * @returns undefined when the zone or a time is not known.
 */
export function compileSchedule(
  schedule: Schedule,
  zones: Map<string, ZoneClock>,
): CompiledSchedule | undefined {
  let zone = zones.get(schedule.timeZone);
  if (zone === undefined) {
    try {
      zone = new ZoneClock(schedule.timeZone);
    } catch {
      return undefined; // RangeError: an unknown zone is the caller's problem to report
    }
    zones.set(schedule.timeZone, zone);
  }
  const fromMinute = schedule.from === undefined ? 0 : parseTimeOfDay(schedule.from);
  const toMinute = schedule.to === undefined ? 1440 : parseTimeOfDay(schedule.to);
  if (fromMinute === undefined || toMinute === undefined) return undefined;
  const days = WEEKDAYS.map((day) => schedule.days === undefined || schedule.days.includes(day));
  return { zone, days, fromMinute, toMinute };
}

/** Whether the schedule is open at an instant (Unix milliseconds). */
export function isOpen(schedule: CompiledSchedule, nowMs: number): boolean {
  const week = schedule.zone.weekMinute(nowMs);
  const day = Math.floor(week / 1440);
  const minute = week - day * 1440;
  const { days, fromMinute, toMinute } = schedule;
  if (fromMinute <= toMinute) return days[day] === true && minute >= fromMinute && minute < toMinute;
  if (minute >= fromMinute) return days[day] === true;
  return minute < toMinute && days[(day + 6) % 7] === true;
}
