// The answer that agrees to an extended CONNECT.
import type { AnswerWriter } from "../answers.ts";
import type { Field } from "../field.ts";

/** Where HTTP/1.1 says 101 (RFC 8441 section 5). @param fields of the answer that may go on. */
export function writeConnectAgreed<S>(answers: AnswerWriter<S>, stream: S, fields: readonly Field[]): void {
  answers.beginHeaders(stream);
  answers.putStatus(200);
  for (const field of fields) answers.putField(field);
  answers.endHeaders(false);
}
