// A CONNECT of the application on the proxy port (RFC 9110 section 9.3.6): joined to the service it names as a captured
// connection would be, by what its port speaks, and answered in words as long as it has not been agreed to.
import { createTraceparent, isTraceparent } from "../telemetry/trace.ts";
import type { Field } from "../wire/field.ts";
import { Http1Answers, type Http1Owner } from "../wire/http1-answers.ts";
import { PatientTimer } from "../wire/patient-timer.ts";
import { type Spoken, sniffBytes } from "../wire/sniff.ts";
import type { MeshSocket, SocketHandler } from "../wire/socket.ts";
import { AppConnection, type ConnectRequest } from "./app-connection.ts";
import type { AppStream } from "./app-side.ts";
import { type AppConversation, HELLO_MS, SNIFF_MS } from "./app-socket.ts";
import { CallFacts } from "./call-facts.ts";
import type { ExternalDestination } from "./external.ts";
import { ExternalTunnel } from "./external-tunnel.ts";
import { askFor, isDestination, locate, type OutboundRefusal } from "./locate.ts";
import { writeProblem } from "./problem-answer.ts";
import type { Destination, FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";
import { OutboundTunnel, type TunnelAsker } from "./tunnel.ts";

const AGREED = "HTTP/1.1 200 Connection established\r\n\r\n";
/** How long the application may take to read the answer to what is refused. */
const LINGER_MS = 1_000;
/** What a callee's sidecar says of a denial that its application may see. */
const TOLD = new Set(["content-type", "proxy-status", "retry-after"]);

/** Answers a CONNECT that is not agreed to; its connection ends with that. */
class Asker implements TunnelAsker, Http1Owner {
  readonly socket: MeshSocket;
  readonly mustClose = true;
  readonly answers: Http1Answers;
  readonly #services: OutboundServices;
  readonly #stream: AppStream = { context: undefined };

  constructor(socket: MeshSocket, services: OutboundServices) {
    this.socket = socket;
    this.#services = services;
    this.answers = new Http1Answers(this);
    this.answers.expect("CONNECT", 1);
  }

  agreed(): void {
    this.socket.write(AGREED);
  }

  refused(facts: CallFacts): void {
    writeProblem(this, this.#stream, facts, this.#services);
    this.#end();
  }

  denied(status: number, fields: readonly Field[], body: Buffer): void {
    const { answers } = this;
    answers.beginHeaders(this.#stream);
    answers.putStatus(status);
    for (const field of fields) if (TOLD.has(field.name)) answers.putField(field);
    answers.putPair("content-length", String(body.length));
    answers.endHeaders(false);
    answers.sendData(this.#stream, body, true);
    this.#end();
  }

  #end(): void {
    this.socket.end();
    // What it still sends is read and dropped, or its answer would be lost to a reset.
    this.socket.resume();
    this.socket.linger(LINGER_MS);
  }

  closeAfterAnswer(): void {}

  breakOff(): void {
    this.socket.destroy();
  }

  consumed(): void {}
}

/** From the request to what carries the connection. */
export class ProxyConnect implements AppConversation, SocketHandler {
  readonly #request: ConnectRequest;
  readonly #socket: MeshSocket;
  readonly #facts: CallFacts;
  readonly #asker: Asker;
  /** What carries the connection, once that is known. */
  #inner: AppConversation | undefined;
  /** Bytes of the application that are still to be passed on. */
  #early: Buffer;
  #destination: Destination | undefined;
  #sniffs = false;
  /** A ClientHello has begun. */
  #isHello = false;
  #timer: PatientTimer | undefined;
  #over = false;
  /** The application has said all. */
  #isEnded: boolean;

  /** @param request whose socket is paused. */
  constructor(request: ConnectRequest) {
    const { socket, services, early, isEnded } = request;
    const { authority, fields } = request.head;
    this.#request = request;
    this.#socket = socket;
    this.#early = early;
    this.#isEnded = isEnded;
    this.#asker = new Asker(socket, services);
    const head = {
      // In the words of audit and log, as connections that are captured.
      method: "TCP",
      target: authority.slice(authority.lastIndexOf(":")),
      authority,
      fields,
      upgrade: undefined,
      connectionNames: [],
    };
    this.#facts = new CallFacts(head, services.clock.monotonicMs(), services.meshNowMs());
    const traces = fields.filter(({ name }) => name === "traceparent");
    const trace = traces.length === 1 ? (traces[0]?.value ?? "") : "";
    // None, a broken one, or two of them: a new trace begins here (W3C Trace Context section 3.2).
    this.#facts.ownTrace = !isTraceparent(trace);
    this.#facts.traceparent = this.#facts.ownTrace ? createTraceparent(services.ids) : trace;
    socket.attach(this);
    const external = services.state.externals?.find(authority);
    if (external !== undefined) {
      this.#leave(external);
      return;
    }
    const located = locate(this.#facts, services);
    if (isDestination(located)) this.#join(located);
    else if (located.kind === "refused") this.#refuse(located);
    else {
      void askFor(located, this.#facts, services).then((found) => {
        if (this.#over) return;
        if (isDestination(found)) this.#join(found);
        else this.#refuse(found);
      });
    }
  }

  get busy(): boolean {
    return this.#inner === undefined ? !this.#over : this.#inner.busy;
  }

  /** It never came to a callee: recorded here. */
  #refuse({ reason, detail }: OutboundRefusal): void {
    this.#over = true;
    const { services } = this.#request;
    this.#facts.reason = reason;
    this.#facts.error = detail;
    this.#asker.refused(this.#facts);
    this.#facts.record(services);
  }

  /** To a host outside the mesh, as which only TLS that names it is taken. */
  #leave(external: ExternalDestination): void {
    const { services, onClosed } = this.#request;
    const host = external.hostOf(this.#facts.head.authority);
    const asked = { asker: this.#asker, early: this.#early, isEnded: this.#isEnded };
    const tunnel = new ExternalTunnel(this.#socket, this.#facts, {
      services,
      external,
      host,
      asked,
      onClosed,
    });
    this.#inner = tunnel;
    tunnel.start();
  }

  #join(destination: Destination): void {
    this.#destination = destination;
    const { protocol } = destination.port;
    if (protocol === "tcp") {
      this.#carry(TCP, this.#asker);
      return;
    }
    // What is spoken tells what is asked for, and nothing is said before this answer.
    this.#asker.agreed();
    if (protocol === "tls" || protocol === "auto") this.#sniff(protocol === "tls" ? HELLO_MS : SNIFF_MS);
    else this.#carry({ protocol: protocol === "http" ? "http" : "h2c", serverName: undefined }, undefined);
  }

  #sniff(withinMs: number): void {
    this.#sniffs = true;
    this.#timer = new PatientTimer(withinMs, () => this.#told(TCP));
    this.#look();
    if (!this.#sniffs) return;
    if (this.#isEnded) this.#told(TCP);
    else this.#socket.resume();
  }

  #look(): void {
    if (this.#early.length === 0) return;
    const spoken = sniffBytes(this.#early);
    if (spoken !== undefined) this.#told(spoken);
    else if (this.#early[0] === HANDSHAKE_RECORD && !this.#isHello) {
      this.#isHello = true;
      this.#timer?.cancel();
      this.#timer = new PatientTimer(HELLO_MS, () => this.#told(TCP));
    }
  }

  #told(spoken: Spoken): void {
    this.#sniffs = false;
    this.#timer?.cancel();
    const { metrics } = this.#request.services;
    if (this.#destination?.port.protocol === "auto")
      metrics.detected.add(metrics.detected.series(spoken.protocol));
    else if (spoken.protocol !== "tls") {
      // Not what the port is declared to speak.
      this.#over = true;
      this.#socket.reset();
      return;
    }
    this.#carry(spoken, undefined);
  }

  /** @param asker who is to be told; undefined: it has been agreed to. */
  #carry(spoken: Spoken, asker: TunnelAsker | undefined): void {
    const destination = this.#destination;
    if (destination === undefined) return;
    const { services, isDraining, onClosed } = this.#request;
    const { service, port } = destination;
    const fixed: FixedDestination = { kind: "service", service: service.id, port: port.port };
    const early = this.#early;
    this.#early = EMPTY;
    if (spoken.protocol === "http" || spoken.protocol === "h2c") {
      const isHttp2 = spoken.protocol === "h2c";
      const connection = new AppConnection(this.#socket, { services, fixed, isHttp2, isDraining, onClosed });
      this.#inner = connection;
      this.#socket.resume();
      if (early.length > 0) connection.onData(early);
      if (this.#isEnded) connection.onEnd();
      return;
    }
    this.#socket.pause();
    const said = this.#isEnded ? { spoken: { ...spoken, all: early } } : { spoken, early };
    const tunnel = new OutboundTunnel(this.#socket, { services, fixed, ...said, asker, onClosed });
    this.#inner = tunnel;
    tunnel.start(destination);
  }

  // --- from the socket, until something carries it -----------------------------------------------------------------

  onData(chunk: Buffer): void {
    if (this.#over || !this.#sniffs) return;
    this.#early = this.#early.length === 0 ? chunk : Buffer.concat([this.#early, chunk]);
    this.#look();
  }

  onEnd(): void {
    this.#isEnded = true;
    if (!this.#over && this.#sniffs) this.#told(TCP);
  }

  onDrain(): void {}

  onClose(): void {
    this.#over = true;
    this.#timer?.cancel();
    this.#request.onClosed();
  }

  // --- for the listener --------------------------------------------------------------------------------------------

  sweep(nowMs: number): void {
    this.#inner?.sweep(nowMs);
  }

  drain(): void {
    this.#inner?.drain();
  }

  destroy(): void {
    if (this.#inner === undefined) this.#socket.destroy();
    else this.#inner.destroy();
  }
}

const EMPTY = Buffer.alloc(0);
const TCP: Spoken = { protocol: "tcp", serverName: undefined };
/** First byte of a TLS record with a handshake message: a ClientHello may come in several segments. */
const HANDSHAKE_RECORD = 22;
