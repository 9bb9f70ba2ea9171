// A hostile peer: speaks HTTP/2 with a valid certificate through our own codec, which sends whatever it is told to.
import { once } from "node:events";
import { connect, type TLSSocket } from "node:tls";
import { clientTlsOptions } from "../../../sidecar/certs/tls-contexts.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import type { Field } from "../../../sidecar/wire/field.ts";
import { FieldCache } from "../../../sidecar/wire/field-cache.ts";
import { Http2Connection, type Http2Stream } from "../../../sidecar/wire/http2/connection.ts";
import { idOf } from "../sidecar/world.ts";

/** What became of one stream. */
export interface Answer {
  status: number;
  fields: readonly Field[];
  body: string;
  /** Error code of a reset; undefined: none. */
  reset: number | undefined;
}

type Pairs = readonly (readonly [string, string])[];

class Exchange {
  readonly answer: Answer = { status: 0, fields: [], body: "", reset: undefined };
  readonly done: Promise<Answer>;
  stream: Http2Stream<Exchange | undefined> | undefined;
  readonly #resolve: (answer: Answer) => void;

  constructor() {
    let resolve: (answer: Answer) => void = () => {};
    this.done = new Promise((each) => {
      resolve = each;
    });
    this.#resolve = resolve;
  }

  end(): void {
    this.#resolve(this.answer);
  }
}

/** One connection of the attacker. */
export class HostilePeer {
  readonly h2: Http2Connection<Exchange | undefined>;
  readonly socket: TLSSocket;
  readonly #open = new Set<Exchange>();
  /** Gives no stream's window back. */
  stopsReading = false;
  code: number | undefined;
  goawayCode: number | undefined;

  private constructor(socket: TLSSocket, windowBytes: number) {
    this.socket = socket;
    this.h2 = new Http2Connection<Exchange | undefined>({
      role: "client",
      cache: new FieldCache(),
      nowMs: () => performance.now(),
      write: (bytes) => void (socket.writable && socket.write(bytes)),
      requestFlush: () => setImmediate(() => this.h2.flush()),
      settings: { maxHeaderListSize: 1_000_000, initialWindowSize: windowBytes },
      handler: {
        onHeaders: (stream, fields, end) => {
          const exchange = stream.context;
          if (exchange === undefined) return;
          exchange.answer.status = Number(fields[0]?.value);
          exchange.answer.fields = fields;
          if (end) this.#end(exchange);
        },
        onInformational: () => {},
        onData: (stream, chunk, end) => {
          if (!this.stopsReading) this.h2.consumed(stream, chunk.length);
          const exchange = stream.context;
          if (exchange === undefined) return;
          exchange.answer.body += chunk.toString("latin1");
          if (end) this.#end(exchange);
        },
        onTrailers: (stream) => stream.context && this.#end(stream.context),
        onReset: (stream, code) => {
          if (stream.context === undefined) return;
          stream.context.answer.reset = code;
          this.#end(stream.context);
        },
        onWritable: () => {},
        onGoaway: (_last, code) => {
          this.goawayCode = code;
        },
        onClosed: (error) => {
          this.code = error?.code;
          socket.end();
        },
      },
    });
    socket.on("data", (chunk: Buffer) => this.h2.receive(chunk));
    socket.on("end", () => this.h2.eof());
    socket.on("close", () => {
      for (const exchange of this.#open) this.#end(exchange);
    });
    socket.on("error", () => {});
  }

  static async connect(
    port: number,
    identity: WorkloadIdentity,
    callee = idOf("ml", "serving", "things"),
    windowBytes = 65_536,
  ): Promise<HostilePeer> {
    const socket = connect({
      ...clientTlsOptions(identity, callee, () => Date.now(), ["h2"]),
      host: "127.0.0.1",
      port,
    });
    await once(socket, "secureConnect");
    return new HostilePeer(socket, windowBytes);
  }

  /** Opens a stream with exactly these fields, pseudo-headers included. */
  open(fields: Pairs, end: boolean): Exchange {
    const exchange = new Exchange();
    const stream = this.h2.openStream(exchange);
    if (stream === undefined) {
      exchange.end();
      return exchange;
    }
    exchange.stream = stream;
    this.#open.add(exchange);
    this.h2.beginHeaders(stream);
    for (const [name, value] of fields) this.h2.putPair(name, value);
    this.h2.endHeaders(end);
    return exchange;
  }

  data(exchange: Exchange, bytes: string | Buffer, end: boolean): void {
    if (exchange.stream !== undefined)
      this.h2.sendData(exchange.stream, Buffer.from(bytes as string, "latin1"), end);
  }

  trailers(exchange: Exchange, fields: Pairs): void {
    if (exchange.stream === undefined) return;
    this.h2.beginHeaders(exchange.stream);
    for (const [name, value] of fields) this.h2.putPair(name, value);
    this.h2.endHeaders(true);
  }

  /** One whole request. */
  ask(fields: Pairs, body?: string | Buffer, trailers?: Pairs): Promise<Answer> {
    const exchange = this.open(fields, body === undefined && trailers === undefined);
    if (body !== undefined) this.data(exchange, body, trailers === undefined);
    if (trailers !== undefined) this.trailers(exchange, trailers);
    return exchange.done;
  }

  close(): void {
    this.socket.destroy();
  }

  #end(exchange: Exchange): void {
    this.#open.delete(exchange);
    exchange.end();
  }
}

export const request = (method: string, path: string, ...more: [string, string][]): [string, string][] => [
  [":method", method],
  [":scheme", "http"],
  [":path", path],
  [":authority", "things.ml:8080"],
  ...more,
];
