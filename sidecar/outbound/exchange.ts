// One request of the application to another workload: resolved, classified, countersigned, sent over the mesh, answered.
// One object per request; every way out ends in `#finish`, once.

import { pickLeastRequest } from "../balance/pick.ts";
import { joinedField } from "../core/http/headers.ts";
import { problemJson, proxyStatus } from "../core/http/problem.ts";
import type { Classified } from "../core/policy/classified.ts";
import { REASONS, type Reason } from "../core/policy/reason.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { createTraceparent, isTraceparent, traceIdOf } from "../telemetry/trace.ts";
import { createField, type Field, FieldFlag } from "../wire/field.ts";
import type { RequestHead } from "../wire/http1/parser.ts";
import {
  CHUNK_END,
  CHUNKED_LINE,
  CLOSE_LINE,
  chunkHeader,
  lastChunk,
  statusLine,
} from "../wire/http1/serializer.ts";
import type { Http2Stream } from "../wire/http2/connection.ts";
import { HIGH_WATER_BYTES } from "../wire/socket.ts";
import type { AppSideConnection } from "./app-side-connection.ts";
import { CallFacts } from "./call-facts.ts";
import type { Destination, Directory, FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";
import type { Upstream } from "./upstream.ts";
import type { UpstreamConnection, UpstreamExchange } from "./upstream-connection.ts";

const NO_ERROR = 0x0;
const CANCEL = 0x8;
const STRIPPED = FieldFlag.hopByHop | FieldFlag.framing | FieldFlag.identity | FieldFlag.pseudo;
const MAX_ATTEMPTS = 4;
const EMPTY = Buffer.alloc(0);
const METHOD_FIELDS: ReadonlyMap<string, Field> = new Map(
  ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].map((method) => [
    method,
    createField(":method", method),
  ]),
);
const SCHEME: Field = createField(":scheme", "http");

/** Label of an operation in a proof: both sides put `mcp` on a port with that pack (DOMAIN V6). */
function labelOf(classified: Classified): string {
  if (classified.pending?.kind === "mcp") return "mcp";
  return classified.operation.kind === "known"
    ? classified.operation.name
    : classified.operation.kind === "unknown"
      ? "unknown"
      : "undetermined";
}

export class OutboundExchange implements UpstreamExchange {
  readonly head: RequestHead;
  /** Place in the connection's list. */
  slot = -1;
  readonly #services: OutboundServices;
  readonly #app: AppSideConnection;
  readonly #facts: CallFacts;
  #chain: CallChain | undefined;
  #authorization: string | undefined;
  #authorizations = 0;
  #createdTrace = false;
  #tried: Set<Upstream> | undefined;
  #attempts = 0;
  #connection: UpstreamConnection | undefined;
  #stream: Http2Stream<UpstreamExchange | undefined> | undefined;
  #sentAtMs = -1;
  /** Body bytes handed to the mesh: from the first one on the request cannot be sent again. */
  #bodySent = 0;
  #requestEnded = false;
  #pausedRequest = false;
  #answerHead = false;
  #answerEnded = false;
  #chunked = false;
  #bodyless = false;
  #responseLength = -1;
  #held = 0;
  #over = false;
  /** Monotonic milliseconds after which the answer comes too late. */
  deadlineMs: number;

  constructor(services: OutboundServices, app: AppSideConnection, head: RequestHead) {
    this.#services = services;
    this.#app = app;
    this.head = head;
    this.#facts = new CallFacts(head, services.clock.monotonicMs(), services.meshNowMs());
    this.deadlineMs = this.#facts.startedMs + services.timeouts.responseMs;
  }

  get over(): boolean {
    return this.#over;
  }

  /** @param fixed what a local listener or a captured connection means; undefined on the proxy port. */
  start(fixed: FixedDestination | undefined): void {
    const { directory, identityUntilMs } = this.#services.state;
    const { head } = this;
    this.#facts.fixed = fixed;
    this.#readFields();
    if (head.method === "CONNECT") {
      this.#refuse(
        "UNSUPPORTED",
        "CONNECT is not carried: send http requests in absolute form (http_proxy), the mesh encrypts them",
      );
      return;
    }
    if (head.upgrade !== undefined && head.upgrade.toLowerCase() !== "h2c") {
      this.#refuse("UNSUPPORTED", "protocol upgrades are not carried yet");
      return;
    }
    if (directory === undefined || identityUntilMs === 0) {
      this.#refuse("NOT_READY", "no policy or identity yet");
      return;
    }
    if (this.#facts.nowMs >= identityUntilMs) {
      this.#refuse("IDENTITY_EXPIRED", "the own certificate has expired");
      return;
    }
    if (fixed !== undefined) {
      const destination = directory.ofFixed(fixed);
      if (destination === undefined) {
        this.#resolve(fixed.kind === "service" ? fixed.service : fixed.address, fixed.port, fixed);
        return;
      }
      this.#classify(destination);
      return;
    }
    if (head.authority === "") {
      this.#refuse("UNKNOWN_DESTINATION", "the request names no host");
      return;
    }
    const found = directory.find(head.authority);
    if (found.kind === "destination") this.#classify(found.destination);
    else if (found.kind === "bad") this.#refuse("REQ_MALFORMED", found.detail);
    else this.#resolve(found.host, found.port, undefined);
  }

  #resolve(host: string, port: number, fixed: FixedDestination | undefined): void {
    this.#pauseRequest();
    this.#services.resolve(host, port).then(
      (resolution) => {
        if (this.#over) return;
        if (resolution.kind === "refused") {
          const reason = Object.hasOwn(REASONS, resolution.reason)
            ? (resolution.reason as Reason)
            : "UNKNOWN_DESTINATION"; // a key of REASONS
          // An address that was captured exists all the same; it is not a name that was mistyped.
          const isOutside = reason === "UNKNOWN_DESTINATION" && fixed?.kind === "address";
          this.#refuse(
            isOutside ? "OUTBOUND_DENIED" : reason,
            `\`${host}:${port}\` cannot be called from this workload`,
          );
          return;
        }
        const { directory } = this.#services.state;
        const destination =
          fixed === undefined
            ? (directory?.ofService(resolution.service.id, port) ?? this.#found(directory))
            : directory?.ofFixed(fixed);
        if (destination === undefined) {
          // An address of the mesh that the table does not lead to: nothing serves it for us at the moment.
          if (fixed?.kind === "address") this.#refuse("NO_ENDPOINTS", `nothing serves \`${host}:${port}\``);
          else this.#refuse("UNKNOWN_DESTINATION", `port ${port} is not declared by \`${host}\``);
          return;
        }
        this.#classify(destination);
      },
      () => {
        if (!this.#over) this.#refuse("NOT_READY", "the control plane cannot be asked");
      },
    );
  }

  #found(directory: Directory | undefined): Destination | undefined {
    const found = directory?.find(this.head.authority);
    return found?.kind === "destination" ? found.destination : undefined;
  }

  /** First of all, so that a refusal is recorded under its trace too. */
  #readFields(): void {
    const { fields } = this.head;
    let traces = 0;
    for (let i = 0; i < fields.length; i++) {
      const field = fields[i];
      if (field === undefined || (field.flags & FieldFlag.neverIndex) === 0) continue;
      if (field.name === "authorization") {
        this.#authorizations++;
        this.#authorization = field.value;
      } else if (field.name === "traceparent") {
        traces++;
        this.#facts.traceparent = traces === 1 && isTraceparent(field.value) ? field.value : undefined;
      }
    }
    if (this.#facts.traceparent !== undefined) return;
    // None, a broken one, or two of them: a new trace begins here (W3C Trace Context section 3.2).
    this.#facts.traceparent = createTraceparent(this.#services.ids);
    this.#createdTrace = true;
  }

  #classify(destination: Destination): void {
    this.#facts.destination = destination;
    const { head } = this;
    if (this.#authorizations > 1) {
      this.#refuse("REQ_MALFORMED", "there is more than one Authorization field");
      return;
    }
    if (this.#services.state.carriesTrace && !this.#createdTrace && this.#facts.traceparent !== undefined)
      this.#chain = this.#services.correlation?.find(traceIdOf(this.#facts.traceparent), this.#facts.nowMs);
    if (destination.port.protocol !== "http") {
      this.#refuse("UNSUPPORTED", `protocol \`${destination.port.protocol}\` is not carried yet`);
      return;
    }
    const classified = destination.classifier.classify({
      method: head.method,
      target: head.target,
      contentType: joinedField(head.fields, "content-type"),
      header: this.#app.lookup(head.fields),
      corsMethod:
        head.method === "OPTIONS" && this.#facts.header("origin") !== undefined
          ? joinedField(head.fields, "access-control-request-method")
          : undefined,
    });
    if (!classified.ok) {
      this.#refuse("REQ_MALFORMED", classified.error);
      return;
    }
    this.#facts.classified = classified.value;
    this.#facts.operation = labelOf(classified.value);
    this.#route();
  }

  #route(): void {
    const destination = this.#facts.destination;
    if (destination === undefined) return;
    if (destination.upstreams.length === 0) {
      this.#refuse("NO_ENDPOINTS", "no running workload serves it");
      return;
    }
    if (this.#attempts >= MAX_ATTEMPTS) {
      this.#refuse("UPSTREAM_FAILED", this.#facts.error ?? "no endpoint could be reached");
      return;
    }
    this.#attempts++;
    const upstream =
      pickLeastRequest(destination.upstreams, this.#tried, this.#attempts) ??
      pickLeastRequest(destination.upstreams, undefined, 0);
    if (upstream === undefined) {
      this.#refuse("UPSTREAM_FAILED", this.#facts.error ?? "no endpoint can be reached at the moment");
      return;
    }
    this.#facts.upstream = upstream;
    if (!upstream.request(this)) {
      this.#refuse("OVERLOADED", "too many requests wait for a connection");
      return;
    }
    if (this.#stream === undefined && !this.#over) this.#pauseRequest();
  }

  // --- from the mesh ---------------------------------------------------------------------------------------------

  onUpstreamReady(connection: UpstreamConnection): void {
    const destination = this.#facts.destination;
    if (this.#over || destination === undefined) return;
    const stream = connection.open(this);
    if (stream === undefined) {
      if (this.#facts.upstream?.wait(this) === true) this.#pauseRequest();
      else this.#refuse("OVERLOADED", "too many requests wait for a connection");
      return;
    }
    this.#connection = connection;
    this.#stream = stream;
    this.#sentAtMs = this.#services.clock.monotonicMs();
    this.deadlineMs = this.#sentAtMs + this.#services.timeouts.responseMs;
    this.#sendHead(connection, stream, destination);
    this.#resumeRequest();
  }

  #sendHead(
    connection: UpstreamConnection,
    stream: Http2Stream<UpstreamExchange | undefined>,
    destination: Destination,
  ): void {
    const { h2 } = connection;
    const { head } = this;
    const { cache } = this.#services;
    const { method, target, fields, connectionNames } = head;
    h2.beginHeaders(stream);
    h2.putField(METHOD_FIELDS.get(method) ?? cache.get(":method", method));
    h2.putField(SCHEME);
    // Query strings differ from call to call and may hold secrets: never in a table.
    if (target.includes("?")) h2.putPair(":path", target);
    else h2.putField(destination.pathField(target));
    h2.putField(cache.get(":authority", head.authority === "" ? this.#hostOf(destination) : head.authority));
    for (let i = 0; i < fields.length; i++) {
      const field = fields[i];
      if (field === undefined) continue;
      if ((field.flags & STRIPPED) === 0) {
        // A trace of ours replaces what could not be used, and what belonged to it.
        if (
          this.#createdTrace &&
          (field.flags & FieldFlag.neverIndex) !== 0 &&
          (field.name === "traceparent" || field.name === "tracestate")
        )
          continue;
        if (connectionNames.length === 0 || !connectionNames.includes(field.name)) h2.putField(field);
      } else if (field.name === "content-length") h2.putField(field);
    }
    const proof = connection.countersigner.fields(
      this.#facts.operation,
      destination.packsDigest,
      this.#chain,
      this.#authorization,
      this.#facts.nowMs,
    );
    h2.putField(proof.wit);
    h2.putField(proof.wpt);
    h2.putField(destination.portField);
    if (this.#createdTrace && this.#facts.traceparent !== undefined)
      h2.putPair("traceparent", this.#facts.traceparent);
    h2.endHeaders(this.#hasNoBody);
  }

  /** For a request of HTTP/1.0 without Host. */
  #hostOf({ service }: Destination): string {
    return this.#facts.fixed?.kind === "address" ? this.#facts.target() : service.id.replace("/", ".");
  }

  get #hasNoBody(): boolean {
    return !this.head.chunked && this.head.contentLength <= 0;
  }

  onUpstreamInformational(fields: readonly Field[]): void {
    if (this.#over || this.#answerHead || this.head.minor === 0) return;
    let text = statusLine(Number(fields[0]?.value));
    for (const field of fields) if ((field.flags & STRIPPED) === 0) text += field.line;
    this.#app.socket.write(`${text}\r\n`);
  }

  onUpstreamHead(fields: readonly Field[], endStream: boolean): void {
    if (this.#over) return;
    const { clock, timeouts } = this.#services;
    const nowMs = clock.monotonicMs();
    this.#facts.upstreamMs = nowMs - this.#sentAtMs;
    this.deadlineMs = nowMs + timeouts.responseMs;
    const { head } = this;
    // INVARIANT: the codec refuses a response whose first field is not a :status of three digits.
    const status = Number(fields[0]?.value);
    this.#facts.status = status;
    this.#answerHead = true;
    this.#bodyless = head.method === "HEAD" || status === 204 || status === 304;
    let text = statusLine(status);
    let length = -1;
    for (let i = 1; i < fields.length; i++) {
      const field = fields[i];
      if (field === undefined) continue;
      if ((field.flags & STRIPPED) === 0) text += field.line;
      else if (field.name === "content-length" && length < 0) {
        length = Number(field.value);
        if (status !== 204) text += field.line;
      }
    }
    this.#responseLength = this.#bodyless ? -1 : length;
    if (!this.#bodyless && length < 0) {
      if (endStream) text += "content-length: 0\r\n";
      else if (head.minor === 1) {
        this.#chunked = true;
        text += CHUNKED_LINE;
      } else this.#app.closeAfterAnswer();
    }
    if (this.#app.mustClose) text += CLOSE_LINE;
    else if (head.minor === 0) text += "connection: keep-alive\r\n";
    this.#app.socket.write(`${text}\r\n`);
    if (endStream) this.#endAnswer([]);
  }

  onUpstreamData(chunk: Buffer, endStream: boolean): void {
    if (this.#over) return;
    const { socket } = this.#app;
    this.#facts.responseBytes += chunk.length;
    this.#held += chunk.length;
    if (chunk.length > 0 && !this.#bodyless) {
      // More than announced would be read as the next answer: never written.
      if (this.#responseLength >= 0 && this.#facts.responseBytes > this.#responseLength) {
        this.#breakAnswer("the answer is longer than announced");
        return;
      }
      if (this.#chunked) {
        socket.write(chunkHeader(chunk.length));
        socket.write(chunk);
        socket.write(CHUNK_END);
      } else socket.write(chunk);
    }
    this.deadlineMs = this.#services.clock.monotonicMs() + this.#services.timeouts.responseMs;
    this.#giveCredit();
    if (endStream) this.#endAnswer([]);
  }

  onUpstreamTrailers(fields: readonly Field[]): void {
    if (!this.#over) this.#endAnswer(fields);
  }

  onUpstreamWritable(): void {
    this.#resumeRequest();
  }

  onUpstreamFailed(
    kind: "connect" | "closed" | "reset" | "timeout",
    detail: string,
    untouched: boolean,
    code: number,
  ): void {
    if (this.#over) return;
    this.#connection = undefined;
    this.#stream = undefined;
    this.#facts.error = detail;
    if (this.#answerHead) {
      // RST_STREAM(NO_ERROR) after a whole answer only says that the rest of the request is not wanted.
      if (this.#answerEnded && code === NO_ERROR) return;
      this.#breakAnswer(detail);
      return;
    }
    if (untouched && this.#bodySent === 0) {
      if (this.#facts.upstream !== undefined) {
        this.#tried ??= new Set();
        this.#tried.add(this.#facts.upstream);
      }
      this.#route();
      return;
    }
    this.#refuse(kind === "timeout" ? "UPSTREAM_TIMEOUT" : "UPSTREAM_FAILED", detail);
  }

  // --- from the application --------------------------------------------------------------------------------------

  onRequestBody(chunk: Buffer): void {
    this.#facts.requestBytes += chunk.length;
    const stream = this.#stream;
    const connection = this.#connection;
    if (this.#over || this.#answerEnded || stream === undefined || connection === undefined) return;
    this.#bodySent += chunk.length;
    this.deadlineMs = this.#services.clock.monotonicMs() + this.#services.timeouts.responseMs;
    const last = this.#facts.requestBytes === this.head.contentLength;
    if (last) this.#requestEnded = true;
    if (!connection.h2.sendData(stream, chunk, last) && !last) this.#pauseRequest();
  }

  /** The request is complete. */
  onRequestEnd(trailers: readonly Field[]): void {
    const stream = this.#stream;
    const connection = this.#connection;
    const already = this.#requestEnded || this.#hasNoBody;
    this.#requestEnded = true;
    if (already || this.#over || this.#answerEnded || stream === undefined || connection === undefined)
      return;
    const kept = trailers.filter((field) => (field.flags & STRIPPED) === 0);
    if (kept.length === 0) connection.h2.sendData(stream, EMPTY, true);
    else {
      connection.h2.beginHeaders(stream);
      for (const field of kept) connection.h2.putField(field);
      connection.h2.endHeaders(true);
    }
  }

  /** The application's socket takes bytes again. */
  onAppDrain(): void {
    this.#giveCredit();
  }

  /**
   * The rest of the request cannot be read. The callee's stream is reset.
   *
   * @returns whether the application was told; false: an answer had begun, only the end of the connection says it.
   */
  onRequestMalformed(detail: string): boolean {
    if (this.#over || this.#answerHead) {
      this.onAppGone(detail, "REQ_MALFORMED");
      return false;
    }
    this.#facts.upstream?.cancel(this);
    this.#refuse("REQ_MALFORMED", detail);
    return true;
  }

  /** The application went away, or broke the protocol in the middle of its request. */
  onAppGone(detail: string, reason: Reason = "ALLOWED"): void {
    if (this.#over) return;
    this.#facts.error = detail;
    this.#facts.reason = reason;
    this.#facts.upstream?.cancel(this);
    if (this.#stream !== undefined) this.#connection?.h2.resetStream(this.#stream, CANCEL);
    this.#finish(true);
  }

  timeOut(): void {
    if (this.#over) return;
    this.#facts.upstream?.cancel(this);
    if (this.#stream !== undefined) this.#connection?.h2.resetStream(this.#stream, CANCEL);
    if (this.#answerHead) this.#breakAnswer("the answer stopped");
    else this.#refuse("UPSTREAM_TIMEOUT", "the target did not answer in time");
  }

  // --- shared ----------------------------------------------------------------------------------------------------

  #pauseRequest(): void {
    if (this.#pausedRequest || this.#requestEnded) return;
    this.#pausedRequest = true;
    this.#app.pauseRequest();
  }

  #resumeRequest(): void {
    if (!this.#pausedRequest) return;
    this.#pausedRequest = false;
    this.#app.resumeRequest();
  }

  #giveCredit(): void {
    const stream = this.#stream;
    if (this.#held === 0 || stream === undefined) return;
    if (!this.#over && this.#app.socket.bufferedBytes >= HIGH_WATER_BYTES) return;
    this.#connection?.h2.consumed(stream, this.#held);
    this.#held = 0;
  }

  #endAnswer(trailers: readonly Field[]): void {
    if (this.#responseLength >= 0 && this.#facts.responseBytes !== this.#responseLength) {
      this.#breakAnswer("the answer is shorter than announced");
      return;
    }
    this.#answerEnded = true;
    if (this.#chunked) this.#app.socket.write(lastChunk(trailers));
    this.#finish(false);
  }

  /** The answer cannot be completed: only a broken connection says so in HTTP/1.1. */
  #breakAnswer(detail: string): void {
    this.#facts.error = detail;
    this.#facts.reason = "UPSTREAM_FAILED";
    if (this.#stream !== undefined) this.#connection?.h2.resetStream(this.#stream, CANCEL);
    this.#finish(true);
    this.#app.destroy();
  }

  #refuse(reason: Reason, detail: string): void {
    this.#facts.error = detail;
    this.#facts.reason = reason;
    const { head } = this;
    const { trail } = this.#services;
    const program = this.#services.state.directory?.table.program;
    const caller = program === undefined ? undefined : `${program.kind}/${program.name}`;
    this.#facts.decisionId = trail.decisionId();
    const problem = problemJson({
      reason,
      operation: this.#facts.classified === undefined ? undefined : this.#facts.operation,
      target:
        this.#facts.destination === undefined
          ? this.#facts.target()
          : `${this.#facts.destination.callee.kind}/${this.#facts.destination.callee.name}`,
      caller,
      decisionId: this.#facts.decisionId,
      detail,
    });
    this.#facts.status = problem.status;
    this.#answerHead = true;
    this.#answerEnded = true;
    // A body that nobody will read: the connection cannot be used again without reading it.
    if (!this.#requestEnded && !this.#hasNoBody) this.#app.closeAfterAnswer();
    const close = this.#app.mustClose ? CLOSE_LINE : "";
    const retry = problem.status === 503 ? "retry-after: 1\r\n" : "";
    const body = head.method === "HEAD" ? "" : problem.body;
    this.#facts.responseBytes = body.length;
    this.#app.socket.write(
      `${statusLine(problem.status)}content-type: ${problem.contentType}\r\ncontent-length: ${problem.body.length}\r\n` +
        `proxy-status: ${proxyStatus(reason, this.#facts.decisionId, detail, caller)}\r\n${retry}${close}\r\n${body}`,
    );
    if (this.#stream !== undefined) this.#connection?.h2.resetStream(this.#stream, CANCEL);
    this.#finish(false);
  }

  #finish(broken: boolean): void {
    if (this.#over) return;
    this.#over = true;
    this.#giveCredit();
    const connection = this.#connection;
    const stream = this.#stream;
    this.#connection = undefined;
    this.#stream = undefined;
    if (connection !== undefined && stream !== undefined) {
      // The answer came before the whole request was sent: nothing more of it will follow.
      if (!broken && !this.#requestEnded && !this.#hasNoBody && this.#facts.reason === "ALLOWED") {
        connection.h2.resetStream(stream, NO_ERROR);
        this.#app.closeAfterAnswer();
      }
      connection.finished(this, stream);
    }
    this.#facts.record(this.#services);
    this.#pausedRequest = false;
    this.#app.exchangeOver(this, this.#requestEnded || this.#hasNoBody);
  }
}
