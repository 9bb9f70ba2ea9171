// Readers of single claims, for every kind of token: each gives the value in its type, or throws a ClaimError that `parsed`
// turns into a result. PURE.
import type { Result } from "../runtime/errors.ts";
import { parseSpiffeId, type SpiffeId } from "./spiffe-id.ts";

/** A JSON object of which nothing is known. */
export type Json = Readonly<Record<string, unknown>>;

/** A claim is not what it must be; the message names it. */
export class ClaimError extends Error {}

const LONGEST_TEXT = 1024;
// Largest accepted time, Unix seconds: the year 9999. `1e300` is a number too.
const LAST_TIME = 253_402_300_799;

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function own(object: Json, name: string): unknown {
  return Object.hasOwn(object, name) ? object[name] : undefined;
}

function hasControl(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 0x20 || code === 0x7f) return true;
  }
  return false;
}

export function optionalText(object: Json, name: string): string | undefined {
  const value = own(object, name);
  if (value === undefined) return undefined;
  if (typeof value !== "string" || value.length > LONGEST_TEXT || hasControl(value))
    throw new ClaimError(`claim \`${name}\` is not a short string`);
  return value;
}

export function text(object: Json, name: string): string {
  const value = optionalText(object, name);
  if (value === undefined || value === "") throw new ClaimError(`claim \`${name}\` is missing`);
  return value;
}

export function optionalTime(object: Json, name: string): number | undefined {
  const value = own(object, name);
  if (value === undefined) return undefined;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > LAST_TIME) {
    throw new ClaimError(`claim \`${name}\` is not a time in whole seconds`);
  }
  return value;
}

export function time(object: Json, name: string): number {
  const value = optionalTime(object, name);
  if (value === undefined) throw new ClaimError(`claim \`${name}\` is missing`);
  return value;
}

export function object(parent: Json, name: string): Json {
  const value = own(parent, name);
  if (!isObject(value)) throw new ClaimError(`claim \`${name}\` is missing or not an object`);
  return value;
}

export function digest(parent: Json, name: string): string {
  const value = text(parent, name);
  if (!/^[A-Za-z0-9_-]{43}$/.test(value))
    throw new ClaimError(`claim \`${name}\` is not a base64url SHA-256`);
  return value;
}

export function spiffeId(parent: Json, name: string): SpiffeId {
  const parsed = parseSpiffeId(text(parent, name));
  if (!parsed.ok) throw new ClaimError(`claim \`${name}\` is not a SPIFFE ID`);
  return parsed.value;
}

/** Runs a reader of claims. @returns its value, or what is wrong in words. */
export function parsed<T>(parse: () => T): Result<T, string> {
  try {
    return { ok: true, value: parse() };
  } catch (error) {
    if (error instanceof ClaimError) return { ok: false, error: error.message };
    throw error;
  }
}
