// The heads and trailers of an answer as they cross to the application: without what belongs to the mesh hop.
import type { AnswerWriter } from "../wire/answers.ts";
import type { Field } from "../wire/field.ts";
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
