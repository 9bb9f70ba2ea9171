// How an answer ends whose caller lost the permission in the middle of it: in the words of what is spoken, where it has any,
// so that the client knows why and does not take what it has for all there is.
import { joinedField } from "../core/http/headers.ts";
import { closeFrame, type FrameBoundary } from "../core/http/websocket.ts";
import { isGrpcContentType } from "../core/policy/operations.ts";
import { REASONS, type Reason } from "../core/policy/reason.ts";
import type { AnswerWriter } from "../wire/answers.ts";
import type { Field } from "../wire/field.ts";
import type { CallerStream } from "./caller-side.ts";

const CANCEL = 0x8;
/** RFC 6455 section 7.4.1. */
const POLICY_VIOLATION = 1008;

export interface LastWords {
  readonly answers: AnswerWriter<CallerStream>;
  readonly stream: CallerStream;
  readonly reason: Reason;
  readonly decisionId: string;
  /** Content type of the request. */
  readonly requestType: string | undefined;
  readonly answerFields: readonly Field[];
  /** The answer announced its length: nothing can be added to it. */
  readonly hasLength: boolean;
  /** Towards the caller, of a WebSocket. */
  readonly frames: FrameBoundary | undefined;
  /** Both directions are bytes. */
  readonly isSwitched: boolean;
}

/** Ends the answer, with words or by a reset. */
export function writeLastWords(last: LastWords): void {
  const { answers, stream, reason, decisionId, frames } = last;
  if (frames?.between === true)
    answers.sendData(stream, closeFrame(POLICY_VIOLATION, `${reason} ${decisionId}`), true);
  else if (last.isSwitched) answers.resetStream(stream, CANCEL);
  else if (isGrpcContentType(last.requestType)) {
    answers.beginHeaders(stream);
    answers.putPair("grpc-status", String(REASONS[reason].grpc));
    answers.putPair("grpc-message", `${reason} ${decisionId}`);
    answers.endHeaders(true);
  } else if (!last.hasLength && isEventStream(last.answerFields)) {
    // The empty line ends an event that may be under way.
    const data = JSON.stringify({ reason, decisionId });
    answers.sendData(stream, Buffer.from(`\n\nevent: error\ndata: ${data}\n\n`), true);
  } else answers.resetStream(stream, CANCEL);
}

function isEventStream(fields: readonly Field[]): boolean {
  const type = joinedField(fields, "content-type")?.toLowerCase() ?? "";
  return type.startsWith("text/event-stream") && joinedField(fields, "content-encoding") === undefined;
}
