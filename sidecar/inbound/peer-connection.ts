// One HTTP/2 connection to our workload, from another sidecar (or any client with an SVID) over mutual TLS, or from a
// plaintext caller where the namespace lets them in: an exchange per stream. Who calls is told by a `ConnectionPeer`.
import { lookupField } from "../core/http/headers.ts";
import type { CompiledProgram } from "../core/policy/decide.ts";
import type { HeaderLookup } from "../core/policy/mcp.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { AnswerWriter } from "../wire/answers.ts";
import { type Field, FieldFlag } from "../wire/field.ts";
import { writeConnectAgreed } from "../wire/http2/connect-agreed.ts";
import {
  Http2Connection,
  type Http2Error,
  type Http2Handler,
  type Http2Stream,
} from "../wire/http2/connection.ts";
import { UnfinishedHead } from "../wire/http2/unfinished-head.ts";
import { UnreadAnswers } from "../wire/http2/unread-answers.ts";
import { KeepAlive } from "../wire/keep-alive.ts";
import { SlotList } from "../wire/slot-list.ts";
import type { MeshSocket } from "../wire/socket.ts";
import type { Enforcement } from "./authorize.ts";
import type { CallerSide, CallerStream, InboundStream } from "./caller-side.ts";
import type { ConnectionPeer } from "./connection-peer.ts";
import { InboundExchange } from "./exchange.ts";
import type { InboundServices } from "./services.ts";
import { InboundTunnel } from "./tunnel.ts";
import type { IdentifiedCaller, IdentityRefusal, ShownTokens } from "./verify.ts";

const NO_ERROR = 0x0;
const ENHANCE_YOUR_CALM = 0xb;
/** How long a peer may take to close a connection that has ended, milliseconds. */
const CLOSE_WITHIN_MS = 10_000;
/** A caller's sidecar takes heads of at most 32 KiB, and adds tokens of up to 8 KiB; each field counts 32 more. */
const MAX_LIST_BYTES = 65_536;

export interface PeerConnectionDeps {
  readonly services: InboundServices;
  readonly peer: ConnectionPeer;
  readonly log: Logger;
  readonly onClosed: (connection: PeerConnection) => void;
}

export class PeerConnection implements CallerSide, Http2Handler<InboundStream | undefined> {
  readonly h2: Http2Connection<InboundStream | undefined>;
  /** The same object; an exchange gives back the streams it got, which are its own. */
  readonly answers: AnswerWriter<CallerStream>;
  readonly port: number | undefined;
  readonly upgradesByConnect = true;
  readonly #peer: ConnectionPeer;
  readonly remoteAddress: string | undefined;
  readonly #socket: MeshSocket;
  readonly #deps: PeerConnectionDeps;
  readonly #exchanges = new SlotList<InboundStream>();
  readonly #flush = (): void => {
    this.h2.flush();
    this.#socket.flush();
    this.#unread.written();
  };
  #fields: readonly Field[] = [];
  readonly #lookup: HeaderLookup = (name) => lookupField(this.#fields, name);
  readonly #keepAlive = new KeepAlive();
  readonly #unread: UnreadAnswers;
  readonly #unfinished = new UnfinishedHead();
  #ending = false;
  /** Monotonic milliseconds; -1: the connection is in use. */
  #endedAtMs = -1;
  #expelAtMs = Number.POSITIVE_INFINITY;
  /** Monotonic milliseconds of the last request or answer. */
  activeAtMs: number;
  /** Of finished answers, at the last sweep. */
  unreadBytes = 0;

  constructor(socket: MeshSocket, deps: PeerConnectionDeps) {
    this.#socket = socket;
    this.#peer = deps.peer;
    this.#deps = deps;
    this.port = deps.peer.port;
    this.remoteAddress = socket.remoteAddress?.replace(/^::ffff:/, "");
    this.activeAtMs = deps.services.clock.monotonicMs();
    this.h2 = new Http2Connection({
      role: "server",
      settings: {
        maxHeaderListSize: MAX_LIST_BYTES,
        maxFields: deps.peer.limits.fields,
      },
      handler: this,
      cache: deps.services.cache,
      write: (bytes) => this.#socket.write(bytes),
      writeNow: (bytes) => this.#socket.writeNow(bytes),
      shared: deps.services.http2,
      requestFlush: () => deps.services.http2.turns.add(this.#flush),
      nowMs: () => deps.services.clock.monotonicMs(),
    });
    this.answers = this.h2;
    this.#unread = new UnreadAnswers(this.h2, socket, this.#keepAlive);
    socket.attach({
      onData: (chunk) => this.onBytes(chunk),
      onEnd: () => this.#onSocketEnd(),
      onDrain: () => this.#unread.drained(),
      onClose: () => this.#onSocketClose(),
    });
  }

  /** From the socket, or what was read of it before. */
  onBytes(chunk: Buffer): void {
    this.#keepAlive.heard();
    this.h2.receive(chunk);
  }

  /** Looks fields up by name until it is called again: one function per connection instead of one per request. */
  lookup(fields: readonly Field[]): HeaderLookup {
    this.#fields = fields;
    return this.#lookup;
  }

  get name(): string {
    return this.#peer.name;
  }

  programOf(enforcement: Enforcement): CompiledProgram | undefined {
    return this.#peer.programOf(enforcement);
  }

  identify(shown: ShownTokens, bundleEpoch: string, nowMs: number): IdentifiedCaller | IdentityRefusal {
    return this.#peer.identify(shown, bundleEpoch, nowMs);
  }

  byConnection(nowMs: number): IdentifiedCaller | undefined {
    return this.#peer.byConnection(nowMs);
  }

  switchTo(stream: CallerStream, _upgrade: string, fields: readonly Field[]): void {
    writeConnectAgreed(this.answers, stream, fields);
  }

  get openExchanges(): number {
    return this.#exchanges.size;
  }

  onHeaders(
    stream: Http2Stream<InboundStream | undefined>,
    fields: readonly Field[],
    endStream: boolean,
  ): void {
    const exchange = new InboundExchange(this.#deps.services, this, stream, this.#shown(fields));
    const barred = this.#exchanges.size === 0 ? undefined : this.#peer.barred();
    stream.context = exchange;
    this.#exchanges.add(exchange);
    exchange.start(endStream, barred);
  }

  /** Without what nobody can have set who may. */
  #shown(fields: readonly Field[]): readonly Field[] {
    return this.#peer.shows ? fields : fields.filter(({ flags }) => (flags & FieldFlag.identity) === 0);
  }

  collect(into: InboundStream[]): void {
    for (const exchange of this.#exchanges.all()) into.push(exchange);
  }

  onConnect(
    stream: Http2Stream<InboundStream | undefined>,
    fields: readonly Field[],
    endStream: boolean,
  ): void {
    if (fields.some(({ name }) => name === ":protocol")) {
      // An upgrade (RFC 8441): a request, until it is agreed to.
      this.onHeaders(stream, fields, endStream);
      return;
    }
    const tunnel = new InboundTunnel(this.#deps.services, this, stream, this.#shown(fields));
    stream.context = tunnel;
    this.#exchanges.add(tunnel);
    tunnel.start(endStream);
  }

  onInformational(stream: Http2Stream<InboundStream | undefined>): void {
    this.h2.resetStream(stream, 0x1);
  }

  onData(stream: Http2Stream<InboundStream | undefined>, chunk: Buffer, endStream: boolean): void {
    if (stream.context === undefined) this.h2.consumed(stream, chunk.length);
    else stream.context.onRequestBody(chunk, endStream);
  }

  onTrailers(stream: Http2Stream<InboundStream | undefined>, fields: readonly Field[]): void {
    stream.context?.onRequestTrailers(fields);
  }

  onReset(stream: Http2Stream<InboundStream | undefined>): void {
    stream.context?.onPeerGone();
  }

  onWritable(stream: Http2Stream<InboundStream | undefined>): void {
    stream.context?.onPeerWritable();
  }

  onGoaway(): void {
    // The client opens no more streams; it closes when it has its answers.
  }

  onClosed(error: Http2Error | undefined): void {
    if (error !== undefined) {
      const { metrics } = this.#deps.services;
      metrics.problems.add(metrics.problems.series(this.#peer.side, "http2"));
      this.#deps.log.debug("connection of a caller broke the protocol", {
        peer: this.name,
        code: error.code,
        detail: error.message,
      });
    }
    this.h2.flush();
    this.#socket.end();
    this.#failAll();
  }

  /** Called by an exchange that is over. */
  finished(exchange: InboundStream, nowMs: number): void {
    this.#exchanges.delete(exchange);
    this.activeAtMs = nowMs;
  }

  /** A request's identity did not verify; ten of them end the connection. */
  countBadProof(): void {
    if (this.#peer.countBadProof()) this.#goaway(ENHANCE_YOUR_CALM);
  }

  /**
   * Ends a connection that has been quiet for too long; notices that a caller with open requests is gone, or stays without
   * reading or closing.
   */
  sweep(nowMs: number): void {
    if (nowMs >= this.#expelAtMs) this.#socket.destroy();
    for (const exchange of this.#exchanges.all()) exchange.sweep(nowMs);
    const { idleMs, headerMs } = this.#deps.services.timeouts;
    if (this.#unfinished.isTooSlow(this.h2.unfinishedHead, nowMs, headerMs))
      this.h2.goaway(ENHANCE_YOUR_CALM);
    if ((this.#exchanges.size === 0 && nowMs - this.activeAtMs >= idleMs) || !this.#peer.isWelcome)
      this.drain();
    this.h2.sweepWaiting();
    this.unreadBytes = this.h2.openStreams === 0 ? 0 : this.h2.sweepUnread(nowMs, idleMs);
    if (this.#exchanges.size === 0 && (this.#ending || this.h2.closed)) {
      if (this.#endedAtMs < 0) this.#endedAtMs = nowMs;
      else if (nowMs - this.#endedAtMs >= CLOSE_WITHIN_MS) this.#socket.destroy();
    }
    if (!this.#unread.sweep() && this.#exchanges.size === 0) {
      this.#keepAlive.heard();
      return;
    }
    const state = this.#keepAlive.check(nowMs);
    if (state === "ping") this.h2.ping();
    else if (state === "dead") this.#socket.destroy();
  }

  /** Gives up the answers that are finished but for their caller, who does not read them. */
  dropUnread(): void {
    this.unreadBytes = 0;
    this.h2.sweepUnread(0, Number.NEGATIVE_INFINITY);
  }

  /** Takes no new streams, finishes those that are open, closes. */
  drain(): void {
    this.#goaway(NO_ERROR);
  }

  /** Ends when nothing is open; no new requests in any case. */
  endIdle(): void {
    this.drain();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** Like `drain`, and ends what is still open at `untilMs` (monotonic). */
  expel(untilMs: number): void {
    this.drain();
    this.#expelAtMs = untilMs;
  }

  #onSocketEnd(): void {
    this.h2.eof();
    this.#socket.end();
  }

  #onSocketClose(): void {
    this.#failAll();
    this.h2.forget();
    this.#deps.onClosed(this);
  }

  #goaway(code: number): void {
    if (this.#ending) return;
    this.#ending = true;
    this.h2.goaway(code);
    setImmediate(this.#flush);
  }

  #failAll(): void {
    for (const exchange of this.#exchanges.take()) exchange.onPeerGone();
  }
}
