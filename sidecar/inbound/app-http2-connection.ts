// One HTTP/2 connection to the application (RFC 9113 section 3.3, prior knowledge): streams for requests, and its end.
import type { Socket } from "node:net";
import type { Field } from "../wire/field.ts";
import {
  Http2Connection,
  type Http2Error,
  type Http2Handler,
  type Http2Stream,
} from "../wire/http2/connection.ts";
import { KeepAlive } from "../wire/keep-alive.ts";
import { SlotList } from "../wire/slot-list.ts";
import { MeshSocket } from "../wire/socket.ts";
import type { Http2AppDeps, Http2AppSide } from "./app-http2.ts";
import type { Http2Place } from "./app-http2-place.ts";

const NO_ERROR = 0x0;
const REFUSED_STREAM = 0x7;
/**
 * gRPC servers end connections that are pinged more often than every five minutes ("too_many_pings"), and an application
 * beside us cannot vanish without the kernel telling: this is for those that are elsewhere.
 */
const PING_AFTER_MS = 330_000;
/** Streams of ours; the application's setting is honoured below it. */
const MAX_STREAMS = 1_000;

type Stream = Http2Stream<Http2Place | undefined>;

export class Http2AppConnection implements Http2Handler<Http2Place | undefined> {
  readonly h2: Http2Connection<Http2Place | undefined>;
  readonly #side: Http2AppSide;
  readonly #deps: Http2AppDeps;
  readonly #raw: Socket;
  readonly #socket: MeshSocket;
  readonly #places = new SlotList<Http2Place>();
  readonly #keepAlive = new KeepAlive(PING_AFTER_MS);
  #ready = false;
  #closed = false;
  #isFull = false;
  #dataPaused = false;
  /** Monotonic milliseconds; of connecting, then of the time without a request. */
  #deadlineMs: number;
  #reason = "";
  readonly #flush = (): void => {
    this.h2.flush();
    this.#socket.flush();
    if (!this.#dataPaused && this.#socket.congested) {
      this.#dataPaused = true;
      this.h2.pauseData();
    }
  };

  constructor(side: Http2AppSide, raw: Socket, deps: Http2AppDeps) {
    const { clock, timeouts, cache } = deps;
    this.#side = side;
    this.#deps = deps;
    this.#raw = raw;
    this.#deadlineMs = clock.monotonicMs() + timeouts.connectMs;
    this.#socket = new MeshSocket(raw);
    this.h2 = new Http2Connection({
      role: "client",
      shared: deps.http2,
      settings: { maxConcurrentStreams: MAX_STREAMS },
      handler: this,
      cache,
      nowMs: () => clock.monotonicMs(),
      write: (bytes) => this.#socket.write(bytes),
      requestFlush: () => setImmediate(this.#flush),
    });
    this.#socket.attach({
      onData: (chunk) => this.#onData(chunk),
      onEnd: () => {
        this.#reason ||= "the application closed the connection";
        this.h2.eof();
        this.#socket.end();
      },
      onDrain: () => {
        if (!this.#dataPaused) return;
        this.#dataPaused = false;
        this.h2.resumeData();
      },
      onClose: (error) => this.#onSocketClose(error),
    });
    raw.once("connect", this.#flush);
  }

  get hasRoom(): boolean {
    return this.#ready && !this.#closed && !this.#isFull && !this.h2.goingAway;
  }

  get load(): number {
    return this.#places.size;
  }

  /** A stream for a request; undefined when there is none. */
  open(place: Http2Place): Stream | undefined {
    if (!this.hasRoom) return undefined;
    const stream = this.h2.openStream(place);
    if (stream === undefined) this.#isFull = true;
    else this.#places.add(place);
    return stream;
  }

  /** The place needs its stream no more. */
  finished(place: Http2Place, stream: Stream): void {
    stream.context = undefined;
    if (!this.#places.delete(place)) return;
    this.#isFull = false;
    if (this.#places.size > 0) {
      this.#side.serve(this);
      return;
    }
    const { clock, timeouts } = this.#deps;
    this.#deadlineMs = clock.monotonicMs() + timeouts.idleMs;
    if (this.h2.goingAway) this.#end();
    else this.#side.serve(this);
  }

  sweep(nowMs: number): void {
    if (this.#closed) return;
    if (!this.#ready) {
      if (nowMs >= this.#deadlineMs) this.#destroy("the application could not be reached in time");
      return;
    }
    this.h2.sweepWaiting();
    for (const place of this.#places.all())
      if (nowMs >= place.deadlineMs)
        place.fail("timeout", "the application did not answer in time", "nothing", 0);
    if (this.#places.size === 0) {
      if (nowMs >= this.#deadlineMs) {
        this.h2.goaway(NO_ERROR);
        this.#end();
      }
      this.#keepAlive.heard();
      return;
    }
    const state = this.#keepAlive.check(nowMs);
    if (state === "ping") this.h2.ping();
    else if (state === "dead") this.#destroy("the application does not answer any more");
  }

  destroy(): void {
    this.#destroy("the connection to the application was ended");
  }

  // --- from the codec --------------------------------------------------------------------------------------------

  onHeaders(stream: Stream, fields: readonly Field[], endStream: boolean): void {
    stream.context?.onHead(fields, endStream);
  }

  onInformational(stream: Stream, fields: readonly Field[]): void {
    stream.context?.onInformational(fields);
  }

  onData(stream: Stream, chunk: Buffer, endStream: boolean): void {
    if (stream.context === undefined) this.h2.consumed(stream, chunk.length);
    else stream.context.onData(chunk, endStream);
  }

  onTrailers(stream: Stream, fields: readonly Field[]): void {
    stream.context?.onTrailers(fields);
  }

  onReset(stream: Stream, code: number): void {
    if (this.#reason !== "") stream.context?.onLost(this.#reason);
    else stream.context?.onReset(code, code === REFUSED_STREAM);
  }

  onWritable(stream: Stream): void {
    stream.context?.onWritable();
  }

  onGoaway(): void {
    if (this.#places.size === 0) this.#end();
  }

  onClosed(error: Http2Error | undefined): void {
    this.#reason ||= error?.message ?? "the application closed the connection";
    this.#flush();
    this.#socket.end();
    this.#failAll();
  }

  #onData(chunk: Buffer): void {
    this.#keepAlive.heard();
    // Until its settings have come an application that does not speak HTTP/2 has been asked for nothing.
    const isFirst = !this.#ready;
    if (isFirst) this.#reason = "the application does not speak HTTP/2";
    this.h2.receive(chunk);
    if (!isFirst || this.#closed || this.h2.closed) return;
    this.#reason = "";
    this.#ready = true;
    this.#deadlineMs = this.#deps.clock.monotonicMs() + this.#deps.timeouts.idleMs;
    this.#side.onReady(this);
  }

  #onSocketClose(error: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#reason ||= error?.message ?? "the application closed the connection";
    this.h2.eof();
    this.#failAll();
    this.#side.onClosed(this, this.#ready, this.#reason);
  }

  #destroy(reason: string): void {
    this.#reason ||= reason;
    this.#raw.destroy();
  }

  #end(): void {
    setImmediate(() => {
      this.#flush();
      this.#socket.end();
    });
  }

  #failAll(): void {
    for (const place of this.#places.take()) place.onLost(this.#reason);
  }
}
