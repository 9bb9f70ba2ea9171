// PURE. Cross-origin requests (Fetch standard, "CORS protocol"): what a route allows, said by the gateway and by nobody behind it.
import type { GatewayCors } from "../core/gateway/gateway.ts";

type Fields = readonly (readonly [string, string])[];

/** Fields of answers that a route with `cors` does not take from its backend. */
export const isCorsField = (name: string): boolean => name.startsWith("access-control-");

export interface Preflight {
  readonly origin: string;
  /** Access-Control-Request-Method. */
  readonly method: string;
  /** Access-Control-Request-Headers. */
  readonly headers: string | undefined;
}

/** The fields of the answer to a preflight request; undefined: it is not allowed. */
export function preflightFields(cors: GatewayCors, asked: Preflight): Fields | undefined {
  const fields = corsFields(cors, asked.origin);
  if (fields === undefined || !cors.allowMethods.includes(asked.method)) return undefined;
  const headers = (asked.headers ?? "")
    .toLowerCase()
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
  if (!headers.every((name) => cors.allowHeaders.includes(name))) return undefined;
  return [
    ...fields,
    ["access-control-allow-methods", cors.allowMethods.join(", ")],
    ...(cors.allowHeaders.length === 0
      ? []
      : [["access-control-allow-headers", cors.allowHeaders.join(", ")] as const]),
    ["access-control-max-age", String(cors.maxAgeSeconds)],
  ];
}

/** The fields of any other answer; undefined: the origin is not allowed, and its page may not read the answer. */
export function corsFields(cors: GatewayCors, origin: string): Fields | undefined {
  if (!cors.allowOrigins.includes(origin)) return undefined;
  return [
    ["access-control-allow-origin", origin],
    ...(cors.allowCredentials ? [["access-control-allow-credentials", "true"] as const] : []),
    ...(cors.exposeHeaders.length === 0
      ? []
      : [["access-control-expose-headers", cors.exposeHeaders.join(", ")] as const]),
  ];
}
