// Bodies of requests: JSON objects or forms, of known fields, each once. PURE.
import { parseClaimsJson } from "../../sidecar/core/identity/claims.ts";
import { malformed } from "./refusal.ts";

/** Fields with text as value; a JSON body may have objects, too. */
export type TokenRequest = ReadonlyMap<string, unknown>;

export const MAX_BODY_BYTES = 98_304;

/** @throws TokenRefusal `REQUEST_MALFORMED`. */
export function parseTokenRequest(contentType: string | undefined, body: Buffer): TokenRequest {
  const type = contentType?.split(";", 1)[0]?.trim().toLowerCase();
  if (type === "application/json") {
    const json = parseClaimsJson(body, MAX_BODY_BYTES);
    if (!json.ok) throw malformed(`the body is ${json.error}`);
    return new Map(Object.entries(json.value));
  }
  if (type !== "application/x-www-form-urlencoded")
    throw malformed("send the body as `application/json` or `application/x-www-form-urlencoded`");
  const fields = new Map<string, unknown>();
  for (const [name, value] of new URLSearchParams(body.toString("utf8"))) {
    // RFC 6749 section 3.2: no parameter more than once, and an empty one counts as left out.
    if (fields.has(name)) throw malformed(`\`${name.slice(0, 64)}\` is given twice`);
    if (value !== "") fields.set(name, value);
  }
  return fields;
}

/** @throws TokenRefusal `REQUEST_MALFORMED` for a field that the request does not have. */
export function checkFields(request: TokenRequest, known: readonly string[]): void {
  for (const name of request.keys())
    if (!known.includes(name))
      throw malformed(`unknown field \`${name.slice(0, 64)}\`, known are: ${known.join(", ")}`);
}

export function optionalText(request: TokenRequest, name: string): string | undefined {
  const value = request.get(name);
  if (value === undefined) return undefined;
  if (typeof value !== "string" || value === "") throw malformed(`\`${name}\` is no text`);
  return value;
}

export function requiredText(request: TokenRequest, name: string): string {
  const value = optionalText(request, name);
  if (value === undefined) throw malformed(`\`${name}\` is missing`);
  return value;
}

/** A JSON object as a member, or as text in a form. */
export function optionalObject(request: TokenRequest, name: string): Readonly<Record<string, unknown>> {
  const value = request.get(name);
  if (value === undefined) return {};
  if (typeof value === "string") {
    const json = parseClaimsJson(Buffer.from(value));
    if (!json.ok) throw malformed(`\`${name}\` is ${json.error}`);
    return json.value;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw malformed(`\`${name}\` is no object`);
  return value as Readonly<Record<string, unknown>>; // just checked; each member is read as unknown
}
