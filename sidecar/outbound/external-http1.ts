// A connection over HTTP/1.1 to a host outside the mesh: one request at a time, kept for the next, or turned into a WebSocket
// and closed with it. Knows nothing of policy.
import type { Socket } from "node:net";
import { joinedField } from "../core/http/headers.ts";
import { switchProblem, WEBSOCKET } from "../core/http/websocket.ts";
import type { Field } from "../wire/field.ts";
import { type Http1Problem, type ResponseHead, ResponseParser } from "../wire/http1/parser.ts";
import { CHUNK_END, chunkHeader, lastChunk } from "../wire/http1/serializer.ts";
import { CREDIT_HIGH_WATER_BYTES, MeshSocket, type SocketHandler } from "../wire/socket.ts";
import type { ExternalDeps, ExternalPlace, ExternalUser } from "./external-place.ts";
import { type HostRequest, http1Request } from "./external-request.ts";

/** What a connection tells its pool. */
export interface Http1Owner {
  /** The connection can be used again. */
  keep(connection: ExternalHttp1): void;
  forget(connection: ExternalHttp1): void;
}

export class ExternalHttp1 implements ExternalPlace, SocketHandler {
  readonly #socket: MeshSocket;
  readonly #owner: Http1Owner;
  readonly #parser: ResponseParser;
  #user: ExternalUser | undefined;
  #served = 0;
  #silent = true;
  #keepAlive = false;
  #paused = false;
  #ended = false;
  #isChunked = false;
  #isSwitched = false;
  /** Of being unused; monotonic milliseconds. While it is used its exchange keeps time. */
  deadlineMs = Number.POSITIVE_INFINITY;

  /** @param raw stands already. */
  constructor(owner: Http1Owner, raw: Socket, deps: ExternalDeps) {
    this.#owner = owner;
    this.#parser = new ResponseParser(
      {
        onHead: (head) => this.#onHead(head),
        onInformational: (head) => {
          this.#silent = false;
          this.#user?.onExternalInformational(head);
        },
        onBody: (chunk) => this.#user?.onExternalBody(chunk),
        onEnd: (trailers) => {
          this.#ended = true;
          this.#user?.onExternalEnd(trailers);
        },
        onProblem: (problem) => this.#onProblem(problem),
      },
      deps.cache,
    );
    this.#socket = new MeshSocket(raw, CREDIT_HIGH_WATER_BYTES);
    this.#socket.attach(this);
  }

  get closed(): boolean {
    return this.#socket.closed;
  }

  get congested(): boolean {
    return this.#socket.congested;
  }

  /** The host has answered before: it may have closed the connection meanwhile. */
  get mayComeBack(): boolean {
    return this.#served > 0;
  }

  begin(user: ExternalUser): void {
    this.#user = user;
    this.deadlineMs = Number.POSITIVE_INFINITY;
    this.#silent = true;
    this.#keepAlive = false;
    this.#ended = false;
    this.#parser.expect(user.method);
    user.onExternalReady(this);
  }

  // --- from the exchange -----------------------------------------------------------------------------------------

  sendHead(request: HostRequest): void {
    const { text, isChunked } = http1Request(request);
    this.#isChunked = isChunked;
    this.#socket.write(text);
  }

  sendBody(chunk: Buffer): void {
    if (chunk.length === 0) return;
    if (this.#isChunked) this.#socket.write(chunkHeader(chunk.length));
    this.#socket.write(Buffer.from(chunk));
    if (this.#isChunked) this.#socket.write(CHUNK_END);
  }

  sendEnd(trailers: readonly Field[]): void {
    if (this.#isSwitched) this.#socket.end();
    else if (this.#isChunked) this.#socket.write(lastChunk(trailers));
  }

  pause(): void {
    if (this.#paused || this.#ended) return;
    this.#paused = true;
    this.#parser.pause();
    this.#socket.pause();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#socket.resume();
    this.#parser.resume();
  }

  release(isWhole: boolean): void {
    this.#user = undefined;
    this.#served++;
    if (isWhole && this.#keepAlive && this.#ended && this.#parser.idle && !this.#socket.closed)
      this.#owner.keep(this);
    else this.abandon();
  }

  // --- for the pool ----------------------------------------------------------------------------------------------

  abandon(): void {
    this.#user = undefined;
    this.#parser.close();
    this.#socket.destroy();
  }

  // --- from the socket -------------------------------------------------------------------------------------------

  onData(chunk: Buffer): void {
    // Bytes that answer no request: whatever they are, the connection cannot be trusted any more.
    if (this.#user === undefined) this.abandon();
    else this.#parser.push(chunk);
  }

  onEnd(): void {
    this.#keepAlive = false;
    if (this.#user === undefined) this.abandon();
    else this.#parser.eof();
  }

  onDrain(): void {
    this.#user?.onExternalDrain();
  }

  onClose(error: Error | undefined): void {
    this.#owner.forget(this);
    const user = this.#user;
    this.#user = undefined;
    // Closed just as it was used again: the host has not looked at this request (RFC 9110 section 9.2.2).
    const untouched = this.#silent && this.#served > 0;
    const detail = error?.message ?? "the host closed the connection";
    user?.onExternalFailed({ kind: "closed", detail, untouched, code: 0 });
  }

  #onHead(head: ResponseHead): void {
    this.#silent = false;
    if (head.status === 101) {
      const accept = this.#user?.accept;
      const problem = switchProblem(accept === undefined ? "" : WEBSOCKET, accept ?? "", {
        upgrade: head.upgrade,
        accept: joinedField(head.fields, "sec-websocket-accept"),
      });
      if (problem === undefined) {
        this.#isSwitched = true;
        this.#user?.onExternalSwitched(head);
      } else this.#fail(`the host ${problem}`);
      return;
    }
    this.#keepAlive = head.keepAlive && !head.untilClose;
    this.#user?.onExternalHead(head, false);
  }

  #onProblem(problem: Http1Problem): void {
    if (problem.code === "closed_before_response" || problem.code === "truncated") this.#socket.destroy();
    else this.#fail(problem.message);
  }

  #fail(detail: string): void {
    const user = this.#user;
    this.#user = undefined;
    this.abandon();
    user?.onExternalFailed({ kind: "protocol", detail, untouched: false, code: 0 });
  }
}
