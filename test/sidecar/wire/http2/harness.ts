// Two ends for tests of the codec: an owner that records what happens, in memory or on a loopback socket.
import type net from "node:net";
import type { Field } from "../../../../sidecar/wire/field.ts";
import { FieldCache } from "../../../../sidecar/wire/field-cache.ts";
import {
  Http2Connection,
  type Http2Error,
  type Http2Handler,
  type Http2Options,
  type Http2Stream,
} from "../../../../sidecar/wire/http2/connection.ts";
import { readUint32 } from "../../../../sidecar/wire/http2/frames.ts";

/** What an exchange has received so far. */
export interface Exchange {
  fields: [string, string][];
  trailers: [string, string][] | undefined;
  body: Buffer[];
  ended: boolean;
  reset: number | undefined;
}

export type TestStream = Http2Stream<Exchange | undefined>;

/** A recording owner; `overrides` see the event after it was recorded. */
export class End {
  readonly connection: Http2Connection<Exchange | undefined>;
  readonly events: string[] = [];
  readonly written: Buffer[] = [];
  readonly exchanges: Exchange[] = [];
  closed: Http2Error | undefined | "open" = "open";
  nowMs = 0;
  flushRequests = 0;

  constructor(
    role: "client" | "server",
    overrides: Partial<Http2Handler<Exchange | undefined>> = {},
    options: Partial<Http2Options<Exchange | undefined>> = {},
  ) {
    const log = (text: string): void => void this.events.push(text);
    this.connection = new Http2Connection<Exchange | undefined>({
      role,
      cache: new FieldCache(),
      nowMs: () => this.nowMs,
      write: (bytes) => void this.written.push(bytes),
      requestFlush: () => {
        this.flushRequests++;
      },
      ...options,
      handler: {
        onHeaders: (stream, fields, endStream) => {
          stream.context ??= this.newExchange();
          stream.context.fields = pairs(fields);
          stream.context.ended = endStream;
          log(`headers ${stream.id} ${pairs(fields).map((f) => f.join("="))} ${endStream}`);
          overrides.onHeaders?.(stream, fields, endStream);
        },
        onInformational: (stream, fields) => {
          log(`informational ${stream.id} ${pairs(fields).map((f) => f.join("="))}`);
          overrides.onInformational?.(stream, fields);
        },
        onData: (stream, chunk, endStream) => {
          stream.context?.body.push(Buffer.from(chunk));
          if (stream.context !== undefined && endStream) stream.context.ended = true;
          log(`data ${stream.id} ${chunk.toString("latin1")} ${endStream}`);
          if (overrides.onData !== undefined) overrides.onData(stream, chunk, endStream);
          else this.connection.consumed(stream, chunk.length);
        },
        onTrailers: (stream, fields) => {
          if (stream.context !== undefined) {
            stream.context.trailers = pairs(fields);
            stream.context.ended = true;
          }
          log(`trailers ${stream.id} ${pairs(fields).map((f) => f.join("="))}`);
          overrides.onTrailers?.(stream, fields);
        },
        onReset: (stream, code) => {
          if (stream.context !== undefined) stream.context.reset = code;
          log(`reset ${stream.id} ${code}`);
          overrides.onReset?.(stream, code);
        },
        onWritable: (stream) => {
          log(`writable ${stream.id}`);
          overrides.onWritable?.(stream);
        },
        onGoaway: (last, code) => {
          log(`goaway ${last} ${code}`);
          overrides.onGoaway?.(last, code);
        },
        onClosed: (error) => {
          this.closed = error;
          log(`closed ${error?.code}`);
          overrides.onClosed?.(error);
        },
        onPong: () => log("pong"),
        ...(overrides.onConnect === undefined ? {} : { onConnect: overrides.onConnect }),
        ...(overrides.onUnacceptable === undefined ? {} : { onUnacceptable: overrides.onUnacceptable }),
      },
    });
  }

  newExchange(): Exchange {
    const exchange: Exchange = { fields: [], trailers: undefined, body: [], ended: false, reset: undefined };
    this.exchanges.push(exchange);
    return exchange;
  }

  /** Everything written since the last call, after a flush. */
  take(): Buffer {
    this.connection.flush();
    const bytes = Buffer.concat(this.written);
    this.written.length = 0;
    return bytes;
  }

  request(fields: readonly (readonly [string, string])[], endStream = true): TestStream {
    const stream = this.connection.openStream(this.newExchange());
    if (stream === undefined) throw new Error("no stream");
    this.headers(stream, fields, endStream);
    return stream;
  }

  headers(stream: TestStream, fields: readonly (readonly [string, string])[], endStream = true): void {
    this.connection.beginHeaders(stream);
    for (const [name, value] of fields) this.connection.putPair(name, value);
    this.connection.endHeaders(endStream);
  }
}

/** Lets two ends talk until both are silent; `rounds` bounds it. */
export function settle(a: End, b: End, rounds = 1000): void {
  for (let round = 0; round < rounds; round++) {
    const fromA = a.take();
    const fromB = b.take();
    if (fromA.length === 0 && fromB.length === 0) return;
    if (fromA.length > 0) b.connection.receive(fromA);
    if (fromB.length > 0) a.connection.receive(fromB);
  }
  throw new Error("the two ends never fall silent");
}

/** Joins an end to a socket. */
export function join(
  socket: net.Socket,
  make: (options: Partial<Http2Options<Exchange | undefined>>) => End,
): End {
  const end: End = make({
    nowMs: () => performance.now(),
    write: (bytes) => void (socket.writable && socket.write(bytes)),
    requestFlush: () => void setImmediate(() => end.connection.flush()),
  });
  socket.setNoDelay(true);
  socket.on("data", (chunk) => end.connection.receive(chunk));
  socket.on("end", () => end.connection.eof());
  socket.on("error", () => end.connection.eof());
  return end;
}

/** One frame as bytes. */
export function frame(type: number, flags: number, id: number, payload: Uint8Array | string = ""): Buffer {
  const body = typeof payload === "string" ? Buffer.from(payload, "hex") : Buffer.from(payload);
  const head = Buffer.alloc(9);
  head.writeUIntBE(body.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(id, 5);
  return Buffer.concat([head, body]);
}

export interface SeenFrame {
  readonly type: number;
  readonly flags: number;
  readonly id: number;
  readonly payload: Buffer;
}

/** Cuts bytes into frames; without a preface. */
export function framesOf(bytes: Buffer): SeenFrame[] {
  const frames: SeenFrame[] = [];
  for (let at = 0; at + 9 <= bytes.length; ) {
    const length = bytes.readUIntBE(at, 3);
    const payload = bytes.subarray(at + 9, at + 9 + length);
    frames.push({ type: bytes[at + 3]!, flags: bytes[at + 4]!, id: readUint32(bytes, at + 5), payload });
    at += 9 + length;
  }
  return frames;
}

/** Literals without indexing, names and values as given. */
export function block(fields: readonly (readonly [string, string])[]): Buffer {
  const parts: Buffer[] = [];
  for (const pair of fields) {
    parts.push(Buffer.from([0]));
    for (const text of pair) {
      if (text.length > 126) throw new Error("too long for this test");
      parts.push(Buffer.from([text.length]), Buffer.from(text, "latin1"));
    }
  }
  return Buffer.concat(parts);
}

export const GET: readonly (readonly [string, string])[] = [
  [":method", "GET"],
  [":scheme", "http"],
  [":authority", "serving.example"],
  [":path", "/v1/models"],
];

function pairs(fields: readonly Field[]): [string, string][] {
  return fields.map((field) => [field.name, field.value]);
}
