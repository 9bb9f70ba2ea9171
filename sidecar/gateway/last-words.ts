// How the answer under way ends when its session does: in the words of what is spoken, where it has any.
import { closeFrame, type FrameBoundary } from "../core/http/websocket.ts";
import type { AnswerWriter } from "../wire/answers.ts";

const CANCEL = 0x8;
/** `PERMISSION_DENIED`. */
const GRPC_DENIED = "7";
/** RFC 6455 section 7.4.1. */
const POLICY_VIOLATION = 1008;

const WHY = "the session ended, sign in again";

/** What is known of the answer. */
export interface OpenAnswer {
  /** And something can be added to it. */
  readonly isEventStream: boolean;
  readonly isGrpc: boolean;
  /** Of a WebSocket, towards the client. */
  readonly frames: FrameBoundary | undefined;
}

export function endWithSession<S>(
  answers: AnswerWriter<S>,
  stream: S,
  { frames, isGrpc, isEventStream }: OpenAnswer,
): void {
  if (frames?.between === true) answers.sendData(stream, closeFrame(POLICY_VIOLATION, WHY), true);
  else if (frames === undefined && isGrpc) {
    answers.beginHeaders(stream);
    answers.putPair("grpc-status", GRPC_DENIED);
    answers.putPair("grpc-message", WHY);
    answers.endHeaders(true);
  } else if (frames === undefined && isEventStream)
    // The empty line ends an event that may be under way.
    answers.sendData(stream, Buffer.from('\n\nevent: error\ndata: {"reason":"LOGIN_REQUIRED"}\n\n'), true);
  else answers.resetStream(stream, CANCEL);
}
