// One stream (RFC 9113 section 5.1) as the connection sees it. Owners see it as `Http2Stream`; everything else here is
// written by the connection and its send queue only.
import type { Field } from "../field.ts";
import { ChunkQueue } from "./chunk-queue.ts";
import type { ReceiveWindow } from "./flow.ts";

export class StreamState<T> {
  /** 0 for a client's stream until its first header block: identifiers must appear on the wire in order. */
  id: number;
  context: T;
  /** END_STREAM was written, or the stream was reset. */
  localClosed = false;
  remoteClosed = false;
  /** Not retired: not closed on both sides and not reset by either. */
  alive = true;
  sendWindow: number;
  /** Made with the first DATA received or queued; most streams have one of them at most. */
  receiveWindow: ReceiveWindow | undefined = undefined;
  queue: ChunkQueue | undefined = undefined;
  /** END_STREAM follows the queued bytes, on the last of them or on the trailers. */
  endQueued = false;
  /** Trailers that wait for the queued bytes: a header block cannot overtake them, nor be encoded before its turn. */
  trailers: Field[] | undefined = undefined;
  /** Waits in the ring of streams that can send. */
  ready = false;
  /** When the whole body was first seen to wait for the peer, monotonic milliseconds; -1: never. */
  unreadSinceMs = -1;
  /** RST_STREAM(NO_ERROR) follows END_STREAM. */
  resetAfterEnd = false;
  /** `sendData` answered false. */
  wantsWritable = false;
  /** The request (server) or the final response (client) has arrived. */
  headersReceived = false;
  /** Client: the request's method is HEAD, so content-length promises nothing. */
  headRequest = false;
  /** Opened by a CONNECT that was not refused: a tunnel, which has neither content-length nor trailers. */
  connect = false;
  /** Body bytes still promised by content-length; -1: nothing promised. */
  expectedBytes = -1;
  /** Delivered, but not yet reported as consumed. */
  unconsumed = 0;

  constructor(id: number, context: T, sendWindow: number) {
    this.id = id;
    this.context = context;
    this.sendWindow = sendWindow;
  }

  /** Bytes that wait to be written. */
  get queuedBytes(): number {
    return this.queue === undefined ? 0 : this.queue.bytes;
  }

  enqueue(chunk: Buffer): void {
    this.queue ??= new ChunkQueue();
    this.queue.push(chunk);
  }
}
