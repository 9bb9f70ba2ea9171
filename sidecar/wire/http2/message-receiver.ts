// Messages as they arrive: HEADERS and CONTINUATION to field lists, DATA to body bytes, with the rules of RFC 9113
// sections 5.1 (states), 6.1, 6.2, 6.10 and 8.1 (one request or response, its content-length, its trailers).
import type { Core } from "./core.ts";
import { ErrorCode, FrameFlag, FrameType, readUint32 } from "./frames.ts";
import { HeaderRules } from "./header-rules.ts";
import type { StreamState } from "./stream.ts";

/** CONTINUATION frames of one block: more than any limit on the list needs at 16 KiB a frame (CVE-2024-27316). */
const MAX_CONTINUATIONS = 32;

export class MessageReceiver<T> {
  readonly #core: Core<T>;
  readonly #rules = new HeaderRules();
  /** Stream of the unfinished header block; 0: none. */
  #blockStream = 0;
  #blockEndStream = false;
  #blockDependsOnItself = false;
  #blockParts: Buffer[] = [];
  #blockBytes = 0;
  /** Header blocks that have come to their end. */
  wholeBlocks = 0;

  constructor(core: Core<T>) {
    this.#core = core;
  }

  /** Whether a frame may come now: within a header block only its CONTINUATION may (section 6.10). */
  expects(type: number, streamId: number): boolean {
    if (this.#blockStream === 0) return type !== FrameType.continuation;
    return type === FrameType.continuation && streamId === this.#blockStream;
  }

  /** Whether a header block has begun whose CONTINUATION is still to come. */
  get inBlock(): boolean {
    return this.#blockStream !== 0;
  }

  /** Whether nobody has used the stream yet; 0 and the identifiers of the other side count as such. */
  isIdle(id: number): boolean {
    return (id & 1) === 0 || id > this.#core.lastStreamId;
  }

  headers(flags: number, id: number, buffer: Buffer, start: number, end: number): void {
    const core = this.#core;
    if ((id & 1) === 0 || (core.role === "client" && id > core.lastStreamId)) {
      core.fail(ErrorCode.protocolError, "HEADERS on a stream that the peer cannot open");
      return;
    }
    let from = start;
    let to = end;
    if ((flags & FrameFlag.padded) !== 0) {
      to -= from < to ? (buffer[from] ?? 0) : 0;
      from++;
    }
    this.#blockDependsOnItself = false;
    if ((flags & FrameFlag.priority) !== 0) {
      this.#blockDependsOnItself = (readUint32(buffer, from) & 0x7fff_ffff) === id;
      from += 5;
    }
    if (from > to) {
      core.fail(ErrorCode.protocolError, "HEADERS with more padding than payload");
      return;
    }
    this.#blockEndStream = (flags & FrameFlag.endStream) !== 0;
    if ((flags & FrameFlag.endHeaders) !== 0) this.#block(id, buffer, from, to);
    else if (this.#collect(buffer, from, to)) this.#blockStream = id;
  }

  continuation(flags: number, id: number, buffer: Buffer, start: number, end: number): void {
    if (!this.#collect(buffer, start, end) || (flags & FrameFlag.endHeaders) === 0) return;
    const block = Buffer.concat(this.#blockParts, this.#blockBytes);
    this.#blockParts = [];
    this.#blockBytes = 0;
    this.#blockStream = 0;
    this.#block(id, block, 0, block.length);
  }

  data(flags: number, id: number, buffer: Buffer, start: number, end: number): void {
    const core = this.#core;
    const bytes = end - start; // padding counts against the windows (section 6.1)
    if (this.isIdle(id)) {
      core.fail(ErrorCode.protocolError, "DATA on an idle stream");
      return;
    }
    if (!core.receiveBytes(bytes)) {
      core.fail(ErrorCode.flowControlError, "more DATA than the window allows");
      return;
    }
    let from = start;
    let to = end;
    if ((flags & FrameFlag.padded) !== 0) {
      to -= buffer[from] ?? 0;
      if (++from > to) {
        core.fail(ErrorCode.protocolError, "DATA with more padding than payload");
        return;
      }
    }
    const endStream = (flags & FrameFlag.endStream) !== 0;
    if (from === to && !endStream && !core.budget.spend("empty")) {
      core.fail(ErrorCode.enhanceYourCalm, "too many empty DATA frames");
      return;
    }
    const stream = core.streams.get(id);
    if (stream === undefined) this.#strayData(id, bytes);
    else this.#body(stream, buffer, from, to, bytes, endStream);
  }

  /** DATA on a stream that is over: in flight when we reset it, or an error (section 5.1, closed). */
  #strayData(id: number, bytes: number): void {
    const core = this.#core;
    core.release(bytes);
    if (!core.wasReset(id)) this.#refuse(id, ErrorCode.streamClosed);
  }

  #body(
    stream: StreamState<T>,
    buffer: Buffer,
    from: number,
    to: number,
    bytes: number,
    endStream: boolean,
  ): void {
    const core = this.#core;
    const code = this.#bodyProblem(stream, bytes, to - from, endStream);
    if (code !== ErrorCode.noError) {
      core.release(bytes);
      core.streamError(stream, code);
      return;
    }
    const padding = bytes - (to - from);
    stream.unconsumed += to - from;
    if (core.releasesAtOnce) core.release(to - from);
    if (padding > 0) {
      core.release(padding);
      core.releaseStream(stream, padding);
    }
    if (endStream) stream.remoteClosed = true;
    if (from < to || endStream) core.handler.onData(stream, buffer.subarray(from, to), endStream);
    if (endStream && stream.localClosed) core.retire(stream);
  }

  #bodyProblem(stream: StreamState<T>, frameBytes: number, bodyBytes: number, endStream: boolean): number {
    if (stream.remoteClosed) return ErrorCode.streamClosed;
    if (!stream.headersReceived) return ErrorCode.protocolError;
    if (!this.#core.receiveStreamBytes(stream, frameBytes)) return ErrorCode.flowControlError;
    if (stream.expectedBytes >= 0) {
      stream.expectedBytes -= bodyBytes;
      if (stream.expectedBytes < 0 || (endStream && stream.expectedBytes > 0)) return ErrorCode.protocolError;
    }
    return ErrorCode.noError;
  }

  /** Adds a part of a header block; false: the connection has ended. */
  #collect(buffer: Buffer, start: number, end: number): boolean {
    const core = this.#core;
    if (start === end && !core.budget.spend("empty")) {
      core.fail(ErrorCode.enhanceYourCalm, "too many empty header frames");
      return false;
    }
    this.#blockParts.push(Buffer.from(buffer.subarray(start, end)));
    this.#blockBytes += end - start;
    // Encoded, a list is hardly larger than decoded; what is over that cannot be a list that we would take.
    const most = core.settings.maxHeaderListSize * 2 + 16_384;
    if (this.#blockParts.length <= MAX_CONTINUATIONS && this.#blockBytes <= most) return true;
    core.fail(ErrorCode.enhanceYourCalm, "a header block is too long");
    return false;
  }

  /** A whole header block; it is decoded whatever becomes of it, so that the HPACK table stays right (section 4.3). */
  #block(id: number, buffer: Buffer, start: number, end: number): void {
    const core = this.#core;
    const { decoder } = core;
    this.wholeBlocks++;
    if (!decoder.decode(buffer, start, end)) {
      core.fail(ErrorCode.compressionError, "a header block cannot be decoded");
      return;
    }
    const stream = core.streams.get(id);
    if (stream !== undefined) this.#laterBlock(stream);
    else if (id > core.lastStreamId) this.#request(id);
    else if (!core.wasReset(id)) {
      // Of streams long closed and streams skipped we keep nothing: the last one decides which error it is.
      const code = id === core.lastStreamId ? ErrorCode.streamClosed : ErrorCode.protocolError;
      core.fail(code, "HEADERS on a closed stream");
    }
  }

  #request(id: number): void {
    const core = this.#core;
    const { decoder } = core;
    const { fields } = decoder;
    const endStream = this.#blockEndStream;
    core.lastStreamId = id;
    if (id > core.acceptUpTo) {
      this.#refuse(id, ErrorCode.refusedStream);
      return;
    }
    const verdict = decoder.malformed
      ? "malformed"
      : decoder.oversized
        ? "oversized"
        : this.#rules.request(fields);
    const length = verdict === "ok" ? this.#rules.contentLength : -1;
    if (verdict === "malformed" || this.#blockDependsOnItself || (endStream && length > 0)) {
      this.#refuse(id, ErrorCode.protocolError);
      return;
    }
    if (core.open >= core.settings.maxConcurrentStreams) {
      this.#refuse(id, ErrorCode.refusedStream);
      return;
    }
    // A server's owner sets the context in onHeaders; its T includes undefined.
    const stream = core.addStream(id, undefined as T);
    stream.headersReceived = true;
    stream.expectedBytes = length;
    stream.remoteClosed = endStream;
    if (verdict === "ok") core.handler.onHeaders(stream, fields, endStream);
    else if (verdict === "connect" && core.handler.onConnect !== undefined) {
      stream.connect = true;
      core.handler.onConnect(stream, fields, endStream);
    } else this.#unacceptable(stream, verdict === "connect" ? 501 : 431);
    if (endStream && stream.localClosed) core.retire(stream);
  }

  /** Resets a stream that the owner never saw. */
  #refuse(id: number, code: number): void {
    if (this.#core.spendReset()) this.#core.sendReset(id, code);
  }

  #unacceptable(stream: StreamState<T>, status: 431 | 501): void {
    const core = this.#core;
    if (core.handler.onUnacceptable !== undefined) {
      core.handler.onUnacceptable(stream, status, core.decoder.fields, this.#blockEndStream);
      return;
    }
    const { output, encoder } = core;
    output.beginBlock();
    output.length = encoder.begin(output.buffer, output.length);
    output.reserve(64);
    output.length = encoder.putPair(output.buffer, output.length, ":status", String(status), false);
    output.endBlock(stream.id, true, core.peer.maxFrameSize);
    if (stream.remoteClosed) core.localEnd(stream);
    else core.reset(stream, ErrorCode.noError);
  }

  /** A block on a stream that exists: a response (client) or trailers. */
  #laterBlock(stream: StreamState<T>): void {
    const core = this.#core;
    const { decoder } = core;
    if (stream.remoteClosed) {
      core.streamError(stream, ErrorCode.streamClosed);
      return;
    }
    if (this.#blockDependsOnItself || decoder.malformed) {
      core.streamError(stream, ErrorCode.protocolError);
      return;
    }
    if (decoder.oversized) {
      core.streamError(stream, ErrorCode.enhanceYourCalm);
      return;
    }
    if (!stream.headersReceived) {
      this.#response(stream);
      return;
    }
    // On a tunnel only DATA may come (section 8.5).
    const valid =
      !stream.connect &&
      this.#blockEndStream &&
      stream.expectedBytes <= 0 &&
      this.#rules.trailers(decoder.fields);
    if (!valid) {
      core.streamError(stream, ErrorCode.protocolError);
      return;
    }
    stream.remoteClosed = true;
    core.handler.onTrailers(stream, decoder.fields);
    if (stream.localClosed) core.retire(stream);
  }

  #response(stream: StreamState<T>): void {
    const core = this.#core;
    const { fields } = core.decoder;
    const endStream = this.#blockEndStream;
    if (!this.#rules.response(fields)) {
      core.streamError(stream, ErrorCode.protocolError);
      return;
    }
    const { status, contentLength } = this.#rules;
    if (status < 200) {
      if (endStream) core.streamError(stream, ErrorCode.protocolError);
      else if (!core.budget.spend("ignored"))
        core.fail(ErrorCode.enhanceYourCalm, "too many informational responses");
      else core.handler.onInformational(stream, fields);
      return;
    }
    // A refused CONNECT is answered like any request; with 2xx a content-length means nothing (RFC 9110 section 9.3.6).
    if (stream.connect && status >= 300) stream.connect = false;
    const bodyless = stream.headRequest || status === 204 || status === 304;
    // A response that cannot have a body may still tell the length of one (RFC 9110 section 8.6).
    stream.expectedBytes = bodyless ? 0 : stream.connect ? -1 : contentLength;
    if (!stream.connect && endStream && !bodyless && contentLength > 0) {
      core.streamError(stream, ErrorCode.protocolError);
      return;
    }
    stream.headersReceived = true;
    stream.remoteClosed = endStream;
    core.handler.onHeaders(stream, fields, endStream);
    if (endStream && stream.localClosed) core.retire(stream);
  }
}
