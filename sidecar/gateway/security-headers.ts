// PURE. The fields that every answer of a gateway carries, whatever its backend says of them.
import type { Gateway } from "../core/gateway/gateway.ts";
import { createField, type Field } from "../wire/field.ts";

export interface SecurityHeaders {
  readonly fields: readonly Field[];
  /** Their names: what a backend sends under them is dropped. */
  readonly names: ReadonlySet<string>;
}

export function securityHeaders(settings: Gateway["securityHeaders"]): SecurityHeaders {
  const pairs: [string, string][] = [];
  if (settings.hstsMaxAgeSeconds > 0)
    pairs.push([
      "strict-transport-security",
      `max-age=${settings.hstsMaxAgeSeconds}${settings.hstsIncludeSubDomains ? "; includeSubDomains" : ""}${settings.hstsPreload ? "; preload" : ""}`,
    ]);
  if (settings.contentSecurityPolicy !== undefined)
    pairs.push(["content-security-policy", settings.contentSecurityPolicy]);
  if (settings.frameOptions !== undefined) pairs.push(["x-frame-options", settings.frameOptions]);
  if (settings.referrerPolicy !== undefined) pairs.push(["referrer-policy", settings.referrerPolicy]);
  if (settings.noSniff) pairs.push(["x-content-type-options", "nosniff"]);
  return {
    fields: pairs.map(([name, value]) => createField(name, value)),
    names: new Set(pairs.map(([name]) => name)),
  };
}
