// One HTTP/2 connection to a host outside the mesh (RFC 9113): streams for requests, and its end. Requests come once the host
// has shown its settings: one that only claimed to speak HTTP/2 has been asked for nothing then.
import type { Socket } from "node:net";
import type { Field } from "../wire/field.ts";
import {
  Http2Connection,
  type Http2Error,
  type Http2Handler,
  type Http2Stream,
} from "../wire/http2/connection.ts";
import { UnfinishedHead } from "../wire/http2/unfinished-head.ts";
import { KeepAlive } from "../wire/keep-alive.ts";
import { SlotList } from "../wire/slot-list.ts";
import { MeshSocket } from "../wire/socket.ts";
import { ExternalHttp2Place } from "./external-http2-place.ts";
import { EXTERNAL_IDLE_MS, type ExternalDeps, type ExternalUser } from "./external-place.ts";

const NO_ERROR = 0x0;
const ENHANCE_YOUR_CALM = 0xb;
/**
 * gRPC servers end connections that are pinged more often than every five minutes ("too_many_pings"); TCP keep-alive, which
 * nobody counts, tells of a host that is gone before.
 */
const PING_AFTER_MS = 330_000;
/** Streams of ours; the host's setting is honoured below it. */
const MAX_STREAMS = 1_000;

type Stream = Http2Stream<ExternalHttp2Place | undefined>;

/** What a connection tells its pool. */
export interface Http2Owner {
  /** Its settings are there. */
  onReady(connection: ExternalHttp2): void;
  /** A stream is free again. */
  onRoom(connection: ExternalHttp2): void;
  onClosed(connection: ExternalHttp2, wasReady: boolean, detail: string): void;
}

export class ExternalHttp2 implements Http2Handler<ExternalHttp2Place | undefined> {
  readonly h2: Http2Connection<ExternalHttp2Place | undefined>;
  readonly #owner: Http2Owner;
  readonly #deps: ExternalDeps;
  readonly #scheme: "http" | "https";
  readonly #socket: MeshSocket;
  readonly #places = new SlotList<ExternalHttp2Place>();
  readonly #keepAlive = new KeepAlive(PING_AFTER_MS);
  readonly #unfinished = new UnfinishedHead();
  #served = 0;
  #ready = false;
  #closed = false;
  #isFull = false;
  #dataPaused = false;
  /** Monotonic milliseconds; of the settings, then of the time without a request. */
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

  /** @param raw stands already. */
  constructor(owner: Http2Owner, raw: Socket, scheme: "http" | "https", deps: ExternalDeps) {
    const { clock, timeouts, cache } = deps;
    this.#owner = owner;
    this.#deps = deps;
    this.#scheme = scheme;
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
        this.#reason ||= "the host closed the connection";
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
    this.#flush();
  }

  /** It takes requests, now or when a stream is free. */
  get isUsable(): boolean {
    return this.#ready && !this.#closed && !this.h2.closed && !this.h2.goingAway;
  }

  get hasRoom(): boolean {
    return this.isUsable && !this.#isFull;
  }

  get load(): number {
    return this.#places.size;
  }

  /** The host has answered on it before: it may be closing it. */
  get isReused(): boolean {
    return this.#served > 0;
  }

  /** Gives a request a stream and has it written; false when there is none. */
  begin(user: ExternalUser): boolean {
    if (!this.hasRoom) return false;
    const stream = this.h2.openStream(undefined);
    if (stream === undefined) {
      this.#isFull = true;
      return false;
    }
    const place = new ExternalHttp2Place(this, stream, user, {
      cache: this.#deps.cache,
      scheme: this.#scheme,
    });
    stream.context = place;
    this.#places.add(place);
    user.onExternalReady(place);
    return true;
  }

  /** The place needs its stream no more. */
  finished(place: ExternalHttp2Place, stream: Stream): void {
    stream.context = undefined;
    if (!this.#places.delete(place)) return;
    this.#served++;
    this.#isFull = false;
    if (this.#places.size === 0) {
      this.#deadlineMs = this.#deps.clock.monotonicMs() + EXTERNAL_IDLE_MS;
      if (this.h2.goingAway) {
        this.#end();
        return;
      }
    }
    this.#owner.onRoom(this);
  }

  sweep(nowMs: number): void {
    if (this.#closed) return;
    if (!this.#ready) {
      if (nowMs >= this.#deadlineMs) this.#destroy("the host did not show its settings in time");
      return;
    }
    this.h2.sweepWaiting();
    if (this.#unfinished.isTooSlow(this.h2.unfinishedHead, nowMs, this.#deps.timeouts.headerMs)) {
      this.#reason ||= "the host did not finish a head in time";
      this.h2.goaway(ENHANCE_YOUR_CALM);
      return;
    }
    if (this.#places.size === 0) {
      this.#keepAlive.heard();
      if (nowMs < this.#deadlineMs) return;
      this.h2.goaway(NO_ERROR);
      this.#end();
      return;
    }
    const state = this.#keepAlive.check(nowMs);
    if (state === "ping") this.h2.ping();
    else if (state === "dead") this.#destroy("the host does not answer any more");
  }

  destroy(): void {
    this.#destroy("the connection to the host was ended");
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
    if (this.#reason !== "" || this.h2.closed)
      stream.context?.onLost(this.#reason || "the host broke a rule of HTTP/2");
    else stream.context?.onReset(code);
  }

  onWritable(stream: Stream): void {
    stream.context?.onWritable();
  }

  onGoaway(): void {
    if (this.#places.size === 0) this.#end();
  }

  onClosed(error: Http2Error | undefined): void {
    this.#reason ||= error?.message ?? "the host closed the connection";
    this.#flush();
    this.#socket.end();
    this.#loseAll();
    // Whoever ends a connection may leave its socket open: nobody waits for that.
    this.#socket.linger(this.#deps.timeouts.connectMs);
  }

  #onData(chunk: Buffer): void {
    this.#keepAlive.heard();
    const isFirst = !this.#ready;
    if (isFirst) this.#reason = "the host does not speak HTTP/2, which it had agreed to";
    this.h2.receive(chunk);
    if (!isFirst || this.#closed || this.h2.closed) return;
    this.#reason = "";
    this.#ready = true;
    this.#deadlineMs = this.#deps.clock.monotonicMs() + EXTERNAL_IDLE_MS;
    this.#owner.onReady(this);
  }

  #onSocketClose(error: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#reason ||= error?.message ?? "the host closed the connection";
    this.h2.eof();
    this.#loseAll();
    this.#owner.onClosed(this, this.#ready, this.#reason);
  }

  #destroy(reason: string): void {
    this.#reason ||= reason;
    this.#socket.destroy();
  }

  #end(): void {
    setImmediate(() => {
      this.#flush();
      this.#socket.end();
      this.#socket.linger(this.#deps.timeouts.connectMs);
    });
  }

  #loseAll(): void {
    for (const place of this.#places.take()) place.onLost(this.#reason);
  }
}
