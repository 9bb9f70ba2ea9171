// PURE. What can be said in the middle of the answer of a host outside the mesh about why it goes no further.
import { closeFrame, type FrameBoundary } from "../core/http/websocket.ts";
import type { Reason } from "../core/policy/reason.ts";

/** RFC 6455 section 7.4.1. */
const POLICY_VIOLATION = 1008;

interface Interrupted {
  readonly reason: Reason;
  readonly decisionId: string;
  /** Of a WebSocket that is open. */
  readonly frames: FrameBoundary | undefined;
  /** And an event can be added to it. */
  readonly isEventStream: boolean;
}

/** @returns the last bytes of the answer; undefined: nothing can be said there. */
export function externalLastWords(of: Interrupted): Buffer | undefined {
  const { reason, frames } = of;
  if (frames !== undefined)
    return frames.between ? closeFrame(POLICY_VIOLATION, `${reason} ${of.decisionId}`) : undefined;
  // The empty line ends an event that may be under way.
  return of.isEventStream
    ? Buffer.from(`\n\nevent: error\ndata: ${JSON.stringify({ reason })}\n\n`)
    : undefined;
}
