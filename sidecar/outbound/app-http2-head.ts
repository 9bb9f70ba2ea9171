// PURE. The head of a request that the application sent over HTTP/2, held against the same rules as one over HTTP/1.1
// (DOMAIN M2; RFC 9113 section 8.3.1). What makes a field list malformed was checked by the codec.
import { upgradeOf } from "../core/http/websocket.ts";
import type { Field } from "../wire/field.ts";
import { FieldFlag } from "../wire/field.ts";
import { isToken } from "../wire/field-syntax.ts";
import { authorityProblem, isTarget, sameAuthority } from "../wire/http1/target.ts";
import type { OutboundHead } from "./app-side.ts";

const MAX_METHOD_CHARS = 32;
const MAX_TARGET_CHARS = 8_192;
const NO_NAMES: readonly string[] = [];

/** @returns the head, and what is wrong with it; empty: nothing. */
export function readHttp2Head(fields: readonly Field[]): { head: OutboundHead; malformed: string } {
  let method = "";
  let target = "";
  let authority: string | undefined;
  let scheme = "";
  let host: string | undefined;
  let upgrade: string | undefined;
  let malformed = "";
  for (const { name, value, flags } of fields) {
    if ((flags & (FieldFlag.pseudo | FieldFlag.framing)) === 0) continue;
    if (name === ":method") method = value;
    else if (name === ":path") target = value;
    else if (name === ":authority") authority = value;
    else if (name === ":scheme") scheme = value;
    else if (name === ":protocol") {
      upgrade = value;
      if ((upgradeOf(value) ?? "") === "") malformed = "the :protocol is none that can be switched to";
    } else if (name === "host") {
      if (host !== undefined) malformed = "there is more than one Host field";
      host = value;
    }
  }
  const named = authority ?? host ?? "";
  if (named === "" || authorityProblem(named) !== undefined)
    malformed = "the authority is missing or malformed";
  else if (host !== undefined && (authorityProblem(host) !== undefined || !sameAuthority(host, named)))
    malformed = "the Host field differs from :authority";
  // A tunnel to a host alone (RFC 9113 section 8.5), which is refused in words.
  const isOpaque = method === "CONNECT" && upgrade === undefined;
  if (!isOpaque && scheme !== "http" && scheme !== "https")
    malformed = "the scheme is neither http nor https";
  if (!isToken(method) || method.length > MAX_METHOD_CHARS) malformed = "the method is malformed";
  if (!isOpaque && !isTarget(target)) malformed = "the request target is malformed";
  if (target.length > MAX_TARGET_CHARS) malformed = "the request target is too long";
  // In the words of HTTP/1.1 (RFC 8441 section 5).
  if (method === "CONNECT" && upgrade !== undefined) method = "GET";
  const head = { method, target, authority: named, fields, upgrade, connectionNames: NO_NAMES };
  return { head, malformed };
}
