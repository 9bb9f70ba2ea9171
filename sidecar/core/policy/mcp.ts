// Reads an MCP message (JSON-RPC over streamable HTTP): the body decides which method is called on what, and headers
// that say the same (MCP-Protocol-Version from 2026-07-28) must agree with it (DOMAIN M6).
import { foldCase } from "../http/path.ts";
import type { Result } from "../runtime/errors.ts";
import { isIdentityEncoding, isJson, type JsonMember, scanJsonObject } from "./json-key.ts";

/** A header of the request: undefined when absent, a list when it was sent more than once. */
export type HeaderLookup = (name: string) => string | readonly string[] | undefined;

export interface BodyFacts {
  readonly contentType: string | undefined;
  readonly contentEncoding: string | undefined;
  /** The body is longer than what was buffered. */
  readonly truncated: boolean;
  readonly header: HeaderLookup;
}

export type McpMessage =
  | { readonly kind: "call"; readonly method: string; readonly name: string | undefined }
  /** A response of the client to a request of the server: calls nothing. */
  | { readonly kind: "response" }
  /** It cannot be told what the server will read. */
  | { readonly kind: "undetermined" };

const UNDETERMINED: Result<McpMessage, string> = { ok: true, value: { kind: "undetermined" } };
const MISMATCH = "mcp header mismatch: ";
const FIRST_WITH_HEADERS = "2026-07-28";
const NAMED_METHODS = new Set(["tools/call", "resources/read", "prompts/get"]);
const METHOD_NAME = /^[A-Za-z$][A-Za-z0-9_./$-]{0,127}$/;

/** JSON-RPC error code for a problem of `withBody`: -32020 (HeaderMismatch) or -32600 (Invalid Request). */
export function jsonRpcCodeOf(problem: string): number {
  return problem.startsWith(MISMATCH) ? -32020 : -32600;
}

/**
 * The id of a JSON-RPC request, for its error answer (JSON-RPC 2.0 section 5).
 *
 * @param body undefined: it was not read.
 * @returns null when there is none that can be told.
 */
export function jsonRpcIdOf(body: Buffer | undefined): string | number | null {
  if (body === undefined) return null;
  const scan = scanJsonObject(body);
  const id = scan.kind === "object" ? scan.members.get("id") : undefined;
  if (id?.kind === "string") return id.text.length <= MAX_ID_CHARS ? id.text : null;
  if (id?.kind !== "number") return null;
  const number = Number(id.literal);
  // A number that JavaScript cannot keep would come back as another one.
  return Number.isSafeInteger(number) ? number : null;
}

const MAX_ID_CHARS = 256;

const malformed = (error: string): Result<never, string> => ({ ok: false, error });

interface McpHeaders {
  readonly required: boolean;
  readonly method: string | undefined;
  readonly name: string | undefined;
}

function single(header: HeaderLookup, name: string): Result<string | undefined, string> {
  const value = header(name);
  if (value === undefined || typeof value === "string") return { ok: true, value };
  return malformed(`${MISMATCH}\`${name}\` is sent more than once`);
}

function readHeaders(header: HeaderLookup): Result<McpHeaders, string> {
  const version = single(header, "mcp-protocol-version");
  const method = single(header, "mcp-method");
  const name = single(header, "mcp-name");
  if (!version.ok) return version;
  if (!method.ok) return method;
  if (!name.ok) return name;
  if (version.value !== undefined && !/^\d{4}-\d{2}-\d{2}$/.test(version.value)) {
    return malformed(`${MISMATCH}\`mcp-protocol-version\` is not a date`);
  }
  const required = version.value !== undefined && version.value >= FIRST_WITH_HEADERS;
  if (required && method.value === undefined)
    return malformed(`${MISMATCH}\`mcp-method\` is required by this protocol version`);
  return {
    ok: true,
    value: {
      required,
      method: method.value,
      name: name.value === undefined ? undefined : decodeName(name.value),
    },
  };
}

/** Names that are not plain ASCII travel as `=?base64?…?=`. */
function decodeName(value: string): string {
  const encoded = /^=\?base64\?([A-Za-z0-9+/]*={0,2})\?=$/.exec(value)?.[1];
  if (encoded === undefined) return value;
  const bytes = Buffer.from(encoded, "base64");
  return bytes.toString("base64") === encoded ? bytes.toString("utf8") : value;
}

/**
 * Reads the message of a POST.
 *
 * @param body at most 64 KiB; empty is `undetermined`.
 * @returns the message, or why the request is malformed: duplicate keys, a batch, headers that are missing, doubled or
 *   disagree with the body.
 */
export function readMcpMessage(body: Buffer, facts: BodyFacts): Result<McpMessage, string> {
  const headers = readHeaders(facts.header);
  if (!headers.ok) return headers;
  if (facts.truncated || !isIdentityEncoding(facts.contentEncoding)) return UNDETERMINED;
  const scan = scanJsonObject(body);
  if (scan.kind === "duplicate") return malformed("mcp message has a key twice");
  if (scan.kind === "array") return malformed("mcp batches are not accepted; send one message");
  if (scan.kind !== "object" || !isJson(facts.contentType)) return UNDETERMINED;
  const { members } = scan;
  // Servers that fold case would read `Method`.
  if (hasFoldedOnly(members, ["method", "params"])) return UNDETERMINED;
  const method = members.get("method");
  if (method === undefined) {
    const response = (members.has("result") || members.has("error")) && headers.value.method === undefined;
    return response ? { ok: true, value: { kind: "response" } } : UNDETERMINED;
  }
  if (method.kind !== "string" || !METHOD_NAME.test(method.text)) return UNDETERMINED;
  return finish(method.text, members.get("params"), body, headers.value);
}

function finish(
  method: string,
  params: JsonMember | undefined,
  body: Buffer,
  headers: McpHeaders,
): Result<McpMessage, string> {
  if (headers.method !== undefined && headers.method !== method)
    return malformed(`${MISMATCH}\`mcp-method\` and the body name different methods`);
  const key = method.startsWith("resources/") ? "uri" : "name";
  let name: string | undefined;
  if (params?.kind === "object") {
    const scan = scanJsonObject(body, params.start, params.end);
    if (scan.kind === "duplicate") return malformed("mcp message has a key of `params` twice");
    if (scan.kind !== "object" || hasFoldedOnly(scan.members, [key])) return UNDETERMINED;
    const member = scan.members.get(key);
    if (member?.kind === "string") name = member.text;
  } else if (params !== undefined && params.kind !== "null" && NAMED_METHODS.has(method)) return UNDETERMINED;
  if (
    NAMED_METHODS.has(method) &&
    (headers.name !== undefined || headers.required) &&
    headers.name !== name
  ) {
    return malformed(`${MISMATCH}\`mcp-name\` and the body name different things`);
  }
  return { ok: true, value: { kind: "call", method, name } };
}

function hasFoldedOnly(members: ReadonlyMap<string, JsonMember>, keys: readonly string[]): boolean {
  for (const key of members.keys()) {
    if (keys.includes(key)) continue;
    if (keys.includes(foldCase(key))) return true;
  }
  return false;
}
