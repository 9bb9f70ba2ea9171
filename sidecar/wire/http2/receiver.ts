// Frames as they arrive: the rules of each type (RFC 9113 section 6) and of their order. Messages go on to
// `message-receiver.ts`; everything that steers the connection is handled here.
import { type Core, DRAIN_PING } from "./core.ts";
import type { FloodKind } from "./flood-budget.ts";
import type { FrameSink } from "./frame-reader.ts";
import { ErrorCode, FrameFlag, FrameType, readUint32 } from "./frames.ts";
import { MessageReceiver } from "./message-receiver.ts";
import { applySettings } from "./settings.ts";

export class Receiver<T> implements FrameSink {
  readonly #core: Core<T>;
  readonly #messages: MessageReceiver<T>;
  #settingsSeen = false;

  constructor(core: Core<T>) {
    this.#core = core;
    this.#messages = new MessageReceiver(core);
  }

  get closed(): boolean {
    return this.#core.closed;
  }

  /** @param partialType of the frame that has come in part; -1: none. @returns as `Http2Connection.unfinishedHead`. */
  unfinishedHead(partialType: number): number {
    const isHead = partialType === FrameType.headers || partialType === FrameType.continuation;
    return isHead || this.#messages.inBlock ? this.#messages.wholeBlocks : -1;
  }

  badPreface(): void {
    this.#core.fail(ErrorCode.protocolError, "the client did not send the http/2 preface");
  }

  frameTooLarge(_streamId: number, length: number): void {
    // A stream error would be allowed for some frames; nobody sends one by accident.
    this.#core.fail(ErrorCode.frameSizeError, `a frame of ${length} bytes is larger than the 16384 we allow`);
  }

  frame(type: number, flags: number, streamId: number, buffer: Buffer, start: number, end: number): void {
    if (!this.#settingsSeen && (type !== FrameType.settings || (flags & FrameFlag.ack) !== 0)) {
      this.#core.fail(ErrorCode.protocolError, "the first frame is not SETTINGS");
    } else if (this.#messages.expects(type, streamId)) {
      this.#dispatch(type, flags, streamId, buffer, start, end);
    } else this.#core.fail(ErrorCode.protocolError, "a header block was interrupted by another frame");
  }

  #dispatch(type: number, flags: number, id: number, buffer: Buffer, start: number, end: number): void {
    switch (type) {
      case FrameType.data:
        this.#messages.data(flags, id, buffer, start, end);
        return;
      case FrameType.headers:
        this.#messages.headers(flags, id, buffer, start, end);
        return;
      case FrameType.continuation:
        this.#messages.continuation(flags, id, buffer, start, end);
        return;
      case FrameType.priority:
        this.#priority(id, buffer, start, end);
        return;
      case FrameType.rstStream:
        this.#rstStream(id, buffer, start, end);
        return;
      case FrameType.settings:
        this.#settings(flags, id, buffer, start, end);
        return;
      case FrameType.pushPromise:
        this.#core.fail(ErrorCode.protocolError, "PUSH_PROMISE, which we do not allow");
        return;
      case FrameType.ping:
        this.#ping(flags, id, buffer, start, end);
        return;
      case FrameType.goaway:
        this.#goaway(id, buffer, start, end);
        return;
      case FrameType.windowUpdate:
        this.#windowUpdate(id, buffer, start, end);
        return;
      default:
        this.#spend("ignored"); // section 4.1: unknown types are ignored
    }
  }

  /** Ends the connection when the budget is spent. */
  #spend(kind: FloodKind): boolean {
    if (this.#core.budget.spend(kind)) return true;
    this.#core.fail(ErrorCode.enhanceYourCalm, `too many frames of the kind ${kind}`);
    return false;
  }

  /** Priorities (RFC 7540 section 5.3) are deprecated and ignored; only their form is checked. */
  #priority(id: number, buffer: Buffer, start: number, end: number): void {
    const core = this.#core;
    if (id === 0) {
      core.fail(ErrorCode.protocolError, "PRIORITY on stream 0");
      return;
    }
    if (!this.#spend("ignored")) return;
    const sized = end - start === 5;
    if (sized && (readUint32(buffer, start) & 0x7fff_ffff) !== id) return;
    const code = sized ? ErrorCode.protocolError : ErrorCode.frameSizeError;
    const stream = core.streams.get(id);
    if (stream !== undefined) core.streamError(stream, code);
    else core.fail(code, "PRIORITY of a wrong length or on itself");
  }

  #rstStream(id: number, buffer: Buffer, start: number, end: number): void {
    const core = this.#core;
    if (end - start !== 4) {
      core.fail(ErrorCode.frameSizeError, "RST_STREAM is not 4 bytes long");
      return;
    }
    if (this.#messages.isIdle(id)) {
      core.fail(ErrorCode.protocolError, "RST_STREAM on an idle stream");
      return;
    }
    const stream = core.streams.get(id);
    if (!core.mayReset(stream) || stream === undefined) return;
    core.abandon(stream);
    core.handler.onReset(stream, readUint32(buffer, start));
  }

  #settings(flags: number, id: number, buffer: Buffer, start: number, end: number): void {
    const core = this.#core;
    if (id !== 0) {
      core.fail(ErrorCode.protocolError, "SETTINGS on a stream");
      return;
    }
    const isAck = (flags & FrameFlag.ack) !== 0;
    if (isAck ? end !== start : (end - start) % 6 !== 0) {
      core.fail(ErrorCode.frameSizeError, "SETTINGS of a wrong length");
      return;
    }
    if (!this.#spend("settings")) return;
    if (isAck) {
      core.decoder.settingsAcknowledged();
      return;
    }
    this.#settingsSeen = true;
    const { peer } = core;
    const windowBefore = peer.initialWindowSize;
    peer.leastHeaderTableSize = peer.headerTableSize;
    const code = applySettings(core.role, peer, buffer, start, end);
    if (code !== ErrorCode.noError) {
      core.fail(code, "a setting has a forbidden value");
      return;
    }
    core.encoder.setPeerLimit(peer.leastHeaderTableSize);
    core.encoder.setPeerLimit(peer.headerTableSize);
    const growth = peer.initialWindowSize - windowBefore;
    if (growth !== 0) {
      for (const stream of core.streams.values()) {
        if (core.sender.growStream(stream, growth)) continue;
        core.fail(ErrorCode.flowControlError, "a new initial window overflows a stream's");
        return;
      }
    }
    core.output.frame(FrameType.settings, FrameFlag.ack, 0, 0);
  }

  #ping(flags: number, id: number, buffer: Buffer, start: number, end: number): void {
    const core = this.#core;
    if (id !== 0) {
      core.fail(ErrorCode.protocolError, "PING on a stream");
      return;
    }
    if (end - start !== 8) {
      core.fail(ErrorCode.frameSizeError, "PING is not 8 bytes long");
      return;
    }
    if (!this.#spend("ping")) return;
    if ((flags & FrameFlag.ack) === 0) {
      core.output.bytesFrame(FrameType.ping, FrameFlag.ack, buffer.subarray(start, end));
    } else if (DRAIN_PING.compare(buffer, start, end) === 0) {
      if (core.goingAway && core.role === "server") core.drain();
    } else core.handler.onPong?.();
  }

  #goaway(id: number, buffer: Buffer, start: number, end: number): void {
    const core = this.#core;
    if (id !== 0) {
      core.fail(ErrorCode.protocolError, "GOAWAY on a stream");
      return;
    }
    if (end - start < 8) {
      core.fail(ErrorCode.frameSizeError, "GOAWAY is shorter than 8 bytes");
      return;
    }
    if (!this.#spend("settings")) return;
    const last = readUint32(buffer, start) & 0x7fff_ffff;
    const code = readUint32(buffer, start + 4);
    core.peerLeaves();
    core.handler.onGoaway(last, code);
    if (core.role === "server") return;
    for (const stream of [...core.streams.values()]) {
      if (stream.id <= last || !stream.alive) continue;
      core.abandon(stream);
      core.handler.onReset(stream, ErrorCode.refusedStream);
    }
  }

  #windowUpdate(id: number, buffer: Buffer, start: number, end: number): void {
    const core = this.#core;
    if (end - start !== 4) {
      core.fail(ErrorCode.frameSizeError, "WINDOW_UPDATE is not 4 bytes long");
      return;
    }
    if (!this.#spend("windowUpdate")) return;
    const increment = readUint32(buffer, start) & 0x7fff_ffff;
    if (id === 0) {
      if (increment === 0) core.fail(ErrorCode.protocolError, "WINDOW_UPDATE by 0");
      else if (!core.sender.grow(increment)) core.fail(ErrorCode.flowControlError, "the window overflows");
      return;
    }
    if (this.#messages.isIdle(id)) {
      core.fail(ErrorCode.protocolError, "WINDOW_UPDATE on an idle stream");
      return;
    }
    const stream = core.streams.get(id);
    if (stream === undefined) return;
    if (increment === 0) core.streamError(stream, ErrorCode.protocolError);
    else if (!core.sender.growStream(stream, increment)) core.streamError(stream, ErrorCode.flowControlError);
  }
}
