// The heads and trailers of an answer as they cross to the application: without what belongs to the mesh hop.
import { COUNTERSIGN_STATUS } from "../core/identity/claims.ts";
import type { AnswerWriter } from "../wire/answers.ts";
import { createField, type Field } from "../wire/field.ts";
import type { HeaderEdit } from "./header-edit.ts";
import { STRIPPED } from "./mesh-request.ts";

/**
 * Begins an informational or final head and writes its fields; `endHeaders` is left to the caller.
 *
 * @param fields as the mesh connection gave them: INVARIANT: the codec refuses a response whose first field is not a
 *   `:status` of three digits, and one with more than one content-length.
 * @param edit what a route changes; of the final head only.
 * @returns the status.
 */
export function writeAnswerFields<S>(
  answers: AnswerWriter<S>,
  stream: S,
  fields: readonly Field[],
  edit?: HeaderEdit,
): number {
  const status = Number(fields[0]?.value);
  answers.beginHeaders(stream);
  answers.putStatus(status);
  for (let i = 1; i < fields.length; i++) {
    const field = fields[i];
    if (field === undefined || edit?.dropped.has(field.name) === true) continue;
    if ((field.flags & STRIPPED) === 0 || (field.name === "content-length" && status >= 200))
      answers.putField(field);
  }
  if (edit !== undefined) for (const field of edit.put) answers.putField(field);
  return status;
}

/**
 * The head of a 2xx of the callee's application that ignored an upgrade (RFC 9110 section 7.8). A 2xx to the CONNECT would say
 * that it agreed, so the callee's sidecar sends a failure, with the status beside it.
 *
 * @returns undefined: it is not such an answer.
 */
export function answerBesideConnect(fields: readonly Field[]): readonly Field[] | undefined {
  const status = fields.find(({ name }) => name === COUNTERSIGN_STATUS)?.value ?? "";
  if (!/^2[0-9][0-9]$/.test(status) || Number(fields[0]?.value) < 300) return undefined;
  return [createField(":status", status), ...fields.slice(1)];
}

/** Ends a message with its trailers, of those that may go on, or without any. */
export function writeTrailers<S>(
  to: Pick<AnswerWriter<S>, "beginHeaders" | "putField" | "endHeaders" | "sendData">,
  stream: S,
  trailers: readonly Field[],
): void {
  const kept = trailers.filter((field) => (field.flags & STRIPPED) === 0);
  if (kept.length === 0) {
    to.sendData(stream, EMPTY, true);
    return;
  }
  to.beginHeaders(stream);
  for (const field of kept) to.putField(field);
  to.endHeaders(true);
}

const EMPTY = Buffer.alloc(0);
