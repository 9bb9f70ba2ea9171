// The heads that cross from one side to the other: the request as the application gets it, and its answers as the caller
// gets them. Framing and host are written by us, identity headers from what was decided.
import { isWebSocketKey, WEBSOCKET_HOP_FIELDS, webSocketAccept } from "../core/http/websocket.ts";
import { COUNTERSIGN_STATUS } from "../core/identity/claims.ts";
import type { AnswerWriter } from "../wire/answers.ts";
import { createField, type Field, FieldFlag } from "../wire/field.ts";
import { CHUNKED_LINE, requestLine } from "../wire/http1/serializer.ts";
import type { AnswerHead } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerStream } from "./caller-side.ts";
import type { Duties } from "./duties.ts";
import { identityFields } from "./identity-fields.ts";
import { STRIPPED } from "./request-head.ts";

const STRIPPED_RESPONSE = FieldFlag.hopByHop | FieldFlag.framing | FieldFlag.identity | FieldFlag.pseudo;

/** The whole head of the request to the application, with its empty line. @param more lines that belong to this hop. */
export function requestHead(facts: CallFacts, more = ""): string {
  const { head } = facts;
  if (head.upgrade !== "")
    return (
      `${requestLine(head.method, head.target)}host: ${head.authority}\r\n${head.lines}` +
      `connection: Upgrade\r\nupgrade: ${head.upgrade}\r\n${more}${identityLines(facts)}\r\n`
    );
  let text = `${requestLine(head.method, head.target)}host: ${head.authority}\r\n${head.lines}`;
  if (head.contentLength >= 0) text += `content-length: ${head.contentLength}\r\n`;
  else if (!facts.bodyless) text += CHUNKED_LINE;
  return `${text}${identityLines(facts)}\r\n`;
}

function identityLines(facts: CallFacts): string {
  let lines = "";
  for (const [name, value] of identityFields(facts)) lines += `${name}: ${value}\r\n`;
  return lines;
}

/** A 1xx answer. */
export function writeInformational(
  answers: AnswerWriter<CallerStream>,
  stream: CallerStream,
  head: AnswerHead,
): void {
  answers.beginHeaders(stream);
  answers.putStatus(head.status);
  for (const field of head.fields)
    if ((field.flags & STRIPPED_RESPONSE) === 0 && !head.connectionNames.includes(field.name))
      answers.putField(field);
  answers.endHeaders(false);
}

/**
 * The fields of the answer to an upgrade that was agreed to, without those of the application's hop.
 *
 * @param key of the caller's hop: over HTTP/2 RFC 8441 needs none, but proxies such as Envoy pass theirs on and let the callee
 *   answer it.
 */
export function switchedFields({ fields, connectionNames }: AnswerHead, key: string): readonly Field[] {
  const kept = fields.filter(
    ({ flags, name }) =>
      (flags & STRIPPED_RESPONSE) === 0 && !connectionNames.includes(name) && !WEBSOCKET_HOP_FIELDS.has(name),
  );
  if (isWebSocketKey(key)) kept.push(createField("sec-websocket-accept", webSocketAccept(key)));
  return kept;
}

/**
 * The head of the answer.
 *
 * @param call method of the request, whether the answer ends with the head (undefined: its length and status say so), what
 *   adds fields of its own, and whether it is a 2xx that must not be taken for agreeing to a CONNECT: then it crosses as a
 *   502, the status beside it.
 * @returns whether the answer ends with it.
 */
export function writeAnswerHead(
  answers: AnswerWriter<CallerStream>,
  stream: CallerStream,
  head: AnswerHead,
  call: {
    readonly method: string;
    readonly ended: boolean | undefined;
    readonly duties: Duties | undefined;
    readonly agreesNot?: boolean;
  },
): boolean {
  answers.beginHeaders(stream);
  if (call.agreesNot === true) {
    answers.putStatus(502);
    answers.putPair(COUNTERSIGN_STATUS, String(head.status));
  } else answers.putStatus(head.status);
  const { fields, connectionNames, contentLength, status } = head;
  for (let i = 0; i < fields.length; i++) {
    const field = fields[i];
    if (field === undefined) continue;
    if ((field.flags & STRIPPED_RESPONSE) !== 0) {
      if (contentLength >= 0 && field.name === "content-length") answers.putField(field);
    } else if (connectionNames.length === 0 || !connectionNames.includes(field.name)) answers.putField(field);
  }
  call.duties?.writeFields(answers);
  const empty =
    call.ended ?? (call.method === "HEAD" || status === 204 || status === 304 || contentLength === 0);
  answers.endHeaders(empty);
  return empty;
}

/** The trailers of an answer, of those that may go on. @returns false: there are none, nothing was written. */
export function writeTrailers(
  answers: AnswerWriter<CallerStream>,
  stream: CallerStream,
  trailers: readonly Field[],
): boolean {
  const kept = trailers.filter((field) => (field.flags & STRIPPED) === 0);
  if (kept.length === 0) return false;
  answers.beginHeaders(stream);
  for (const field of kept) answers.putField(field);
  answers.endHeaders(true);
  return true;
}
