// An HTTP/2 connection (RFC 9113) as a pure state machine over buffers, for both roles: bytes in, callbacks out, one
// write per turn of the event loop. Stub with the final signatures; the implementation follows.
import { MeshError } from "../../core/runtime/errors.ts";
import type { Field } from "../field.ts";
import type { FieldCache } from "../field-cache.ts";

export interface Http2Settings {
  readonly headerTableSize: number;
  readonly maxConcurrentStreams: number;
  readonly initialWindowSize: number;
  readonly maxStreamWindow: number;
  readonly connectionWindow: number;
  readonly maxHeaderListSize: number;
  readonly maxFields: number;
  readonly streamQueueBytes: number;
}

export interface Http2Error {
  readonly code: number;
  readonly message: string;
  readonly remote: boolean;
}

export interface Http2Stream<T> {
  readonly id: number;
  context: T;
  readonly localClosed: boolean;
  readonly remoteClosed: boolean;
  readonly queuedBytes: number;
}

export interface Http2Handler<T> {
  onHeaders(stream: Http2Stream<T>, fields: readonly Field[], endStream: boolean): void;
  onInformational(stream: Http2Stream<T>, fields: readonly Field[]): void;
  onData(stream: Http2Stream<T>, chunk: Buffer, endStream: boolean): void;
  onTrailers(stream: Http2Stream<T>, fields: readonly Field[]): void;
  onReset(stream: Http2Stream<T>, code: number): void;
  onWritable(stream: Http2Stream<T>): void;
  onGoaway(lastStreamId: number, code: number): void;
  onClosed(error: Http2Error | undefined): void;
  /** Server: a request we will not take (431 too large, 501 CONNECT); default: a bare answer is sent. */
  onUnacceptable?(stream: Http2Stream<T>, status: 431 | 501, fields: readonly Field[], endStream: boolean): void;
  onPong?(): void;
}

export interface Http2Options<T> {
  readonly role: "client" | "server";
  readonly handler: Http2Handler<T>;
  readonly cache: FieldCache;
  readonly write: (bytes: Buffer) => void;
  readonly requestFlush: () => void;
  readonly nowMs: () => number;
  readonly settings?: Partial<Http2Settings>;
}

const later = (): never => {
  throw new MeshError("unsupported", "http/2 codec is not written yet");
};

export class Http2Connection<T> {
  readonly openStreams: number = 0;
  readonly closed: boolean = false;
  readonly goingAway: boolean = false;
  constructor(_options: Http2Options<T>) {}
  receive(_chunk: Buffer): void { later(); }
  eof(): void { later(); }
  openStream(_context: T): Http2Stream<T> | undefined { return later(); }
  beginHeaders(_stream: Http2Stream<T>): void { later(); }
  putField(_field: Field): void { later(); }
  putPair(_name: string, _value: string): void { later(); }
  putStatus(_status: number): void { later(); }
  endHeaders(_endStream: boolean): void { later(); }
  sendData(_stream: Http2Stream<T>, _chunk: Buffer, _endStream: boolean): boolean { return later(); }
  consumed(_stream: Http2Stream<T>, _bytes: number): void { later(); }
  resetStream(_stream: Http2Stream<T>, _code: number): void { later(); }
  goaway(_code: number): void { later(); }
  ping(): void { later(); }
  flush(): void { later(); }
  /** The socket's own queue is full: DATA waits in the streams' queues; control frames still go out. */
  pauseData(): void { later(); }
  resumeData(): void { later(); }
}
