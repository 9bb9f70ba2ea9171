// Reads `when` and `with` of a rule: conditions on time, place and login, and what a call must meet; PURE.
import { isPolicyField } from "../../sidecar/core/http/headers.ts";
import {
  AUDIT_LEVELS,
  IDENTITY_HEADERS,
  LIMIT_KEYS,
  type LimitKey,
  type Obligations,
  type Schedule,
  WEEKDAYS,
  type When,
} from "../../sidecar/core/policy/rule.ts";
import type { FieldReader } from "./field-reader.ts";

function checkHeader(name: string): string | undefined {
  if (!/^[a-z0-9][a-z0-9-]{0,63}$/.test(name))
    return `\`${name.slice(0, 60)}\` is not a header name in small letters`;
  if (!isPolicyField(name)) {
    return `\`${name}\` belongs to the mesh or to HTTP itself: a policy cannot change it`;
  }
  return undefined;
}

function isTimeZone(zone: string): boolean {
  try {
    new Intl.DateTimeFormat("en", { timeZone: zone });
    // An offset such as `+02:00` is taken too, but it is no zone: it has no clock changes.
    return /^[A-Za-z]/.test(zone);
  } catch {
    return false;
  }
}

const CLOCK = /^([01]\d|2[0-3]):[0-5]\d$/;

function readSchedule(fields: FieldReader): Schedule {
  fields.require("timeZone");
  const timeZone = fields.text("timeZone") ?? "UTC";
  if (!isTimeZone(timeZone))
    fields.report(
      `\`${timeZone.slice(0, 64)}\` is not an IANA time zone`,
      "timeZone",
      "write one such as `Europe/Berlin`",
    );
  const days = fields.choices("days", WEEKDAYS);
  const from = fields.text("from");
  const to = fields.text("to");
  for (const [name, text] of [
    ["from", from],
    ["to", to],
  ] as const) {
    if (text !== undefined && !CLOCK.test(text)) fields.report("must be a local time as `HH:MM`", name);
  }
  if ((from === undefined) !== (to === undefined))
    fields.report("`from` and `to` belong together: give both or none");
  if (from !== undefined && from === to)
    fields.report("`from` and `to` are equal: leave both out for the whole day");
  if (days === undefined && from === undefined) fields.report("a schedule needs `days`, or `from` and `to`");
  return { timeZone, days, from, to };
}

/** Says what is wrong with a network: `address/bits` in IPv4 or IPv6. */
function checkCidr(text: string): string | undefined {
  const [address = "", bits = ""] = text.split("/");
  const width = /^\d{1,3}$/.test(bits) ? Number(bits) : -1;
  if (!address.includes(":")) {
    const parts = address.split(".");
    const good =
      parts.length === 4 && parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) <= 255);
    return good && width >= 0 && width <= 32 ? undefined : "is not a network such as `10.0.0.0/8`";
  }
  return isIpv6(address) && width >= 0 && width <= 128 ? undefined : "is not a network such as `fd00::/8`";
}

/** Whether `text` is an IPv6 address (the URL parser decides; it knows no zones). */
function isIpv6(text: string): boolean {
  return /^[0-9A-Fa-f:.]{2,45}$/.test(text) && URL.canParse(`http://[${text}]/`);
}

/** Whether `text` is an IPv4 or IPv6 address. */
export function isIpAddress(text: string): boolean {
  return checkCidr(`${text}/${text.includes(":") ? 128 : 32}`) === undefined;
}

export function readWhen(fields: FieldReader): When {
  const notBeforeMs = fields.timeMs("notBefore");
  const notAfterMs = fields.timeMs("notAfter");
  if (notBeforeMs !== undefined && notAfterMs !== undefined && notBeforeMs >= notAfterMs) {
    fields.report("`notAfter` is not later than `notBefore`, so the rule could never match");
  }
  const cel = fields.text("cel");
  if (cel !== undefined && cel.length > 1024) fields.report("is longer than 1024 characters", "cel");
  return {
    notBeforeMs,
    notAfterMs,
    schedule: fields.object("schedule", readSchedule),
    environments: fields.texts("environments"),
    sourceCidrs: fields.texts("sourceCIDRs", checkCidr),
    authn: fields.object("authn", (authn) => ({
      maxAgeMs: authn.durationMs("maxAge"),
      amr: authn.texts("amr"),
      acr: authn.texts("acr"),
    })),
    cel,
  };
}

function readKey(fields: FieldReader): readonly LimitKey[] {
  const keys: LimitKey[] = [];
  for (const part of (fields.text("key") ?? "").split("+")) {
    const key = LIMIT_KEYS.find((known) => known === part);
    if (key === undefined || keys.includes(key))
      fields.report(`must be different ones of \`${LIMIT_KEYS.join("`, `")}\`, joined by \`+\``, "key");
    else keys.push(key);
  }
  return keys;
}

export function readObligations(fields: FieldReader): Obligations {
  return {
    rateLimit: fields.object("rateLimit", (limit) => {
      limit.require("key", "requests", "per");
      const requests = limit.integer("requests", 1, 1e9) ?? 1;
      return {
        key: readKey(limit),
        requests,
        perMs: limit.durationMs("per") ?? 1,
        burst: limit.integer("burst", 1, 1e9) ?? requests,
      };
    }),
    tokenLimit: fields.object("tokenLimit", (limit) => {
      limit.require("key", "tokens", "per");
      return {
        key: readKey(limit),
        tokens: limit.integer("tokens", 1, 1e12) ?? 1,
        perMs: limit.durationMs("per") ?? 1,
        count: limit.oneOf("count", ["total", "input", "output"] as const) ?? "total",
      };
    }),
    concurrency: fields.integer("concurrency", 1, 100_000),
    audit: fields.object("audit", (audit) => {
      audit.require("level");
      return {
        level: audit.oneOf("level", AUDIT_LEVELS) ?? "Metadata",
        sample: audit.share("sample") ?? 1,
        mode: audit.oneOf("mode", ["BestEffort", "Required"] as const) ?? "BestEffort",
      };
    }),
    headers: fields.object("headers", (headers) => ({
      set: headers.textMap("set", checkHeader) ?? new Map<string, string>(),
      remove: headers.texts("remove", checkHeader) ?? [],
    })),
    identity: fields.object("identity", (identity) => {
      identity.require("forward");
      return { forward: identity.choices("forward", IDENTITY_HEADERS) ?? [] };
    }),
    replay: fields.oneOf("replay", ["Strict"] as const),
  };
}
