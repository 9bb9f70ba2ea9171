// The resource that a JSON body names, beside what the query says: two places that name it make the request malformed.
import { foldCase } from "../http/path.ts";
import type { Result } from "../runtime/errors.ts";
import type { Resource } from "./call.ts";
import { type Classified, type Pending, withResource } from "./classified.ts";
import { isIdentityEncoding, isJson, resourceText, scanJsonObject } from "./json-key.ts";
import type { BodyFacts } from "./mcp.ts";
import { queryValue } from "./query-key.ts";
import { resourceOf } from "./resource-value.ts";

const malformed = (error: string): Result<never, string> => ({ ok: false, error });

/** Finishes a classification that waited for a JSON body; fails on a body or query that names the resource twice. */
export function withJson(
  classified: Classified,
  pending: Extract<Pending, { kind: "body" }>,
  body: Buffer,
  facts: BodyFacts,
): Result<Classified, string> {
  const { key, type, from } = pending;
  const inQuery = queryValue(classified.query, key);
  if (!inQuery.ok) return inQuery;
  const unknown: Resource = { kind: "unknown", type };
  const keep = { ...classified, pending: undefined };
  if (body.length === 0 && !facts.truncated)
    return { ok: true, value: from === "query" ? keep : withResource(classified, unknown) };
  const readable = !facts.truncated && isIdentityEncoding(facts.contentEncoding);
  const scan = readable ? scanJsonObject(body) : undefined;
  if (scan?.kind === "duplicate")
    return malformed("json body has a key twice (also when only the case differs)");
  if (scan?.kind !== "object" || !isJson(facts.contentType))
    return { ok: true, value: withResource(classified, unknown) };
  const member = scan.members.get(key);
  const otherCase =
    member === undefined && [...scan.members.keys()].some((each) => foldCase(each) === foldCase(key));
  const inBody = member !== undefined || otherCase;
  if (inBody && inQuery.value.kind !== "absent")
    return malformed(`\`${key}\` is given in the query and in the body`);
  if (from === "query") return { ok: true, value: inBody ? withResource(classified, unknown) : keep };
  const text = inQuery.value.kind === "absent" ? resourceText(member) : undefined;
  return { ok: true, value: withResource(classified, resourceOf(type, text)) };
}
