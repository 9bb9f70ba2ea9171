// The stream of the mesh that carries one request, of one attempt.
import type { Field } from "../wire/field.ts";
import type { Http2Stream } from "../wire/http2/connection.ts";
import { writeTrailers } from "./forwarded-answers.ts";
import type { UpstreamConnection, UpstreamExchange } from "./upstream-connection.ts";

const CANCEL = 0x8;

type Stream = Http2Stream<UpstreamExchange | undefined>;

export class MeshStream {
  readonly connection: UpstreamConnection;
  readonly stream: Stream;
  readonly #exchange: UpstreamExchange;
  /** Bytes of the answer that the mesh has no credit for yet. */
  #owed = 0;

  private constructor(connection: UpstreamConnection, stream: Stream, exchange: UpstreamExchange) {
    this.connection = connection;
    this.stream = stream;
    this.#exchange = exchange;
  }

  /** @returns undefined: the connection has none left. */
  static open(connection: UpstreamConnection, exchange: UpstreamExchange): MeshStream | undefined {
    const stream = connection.open(exchange);
    return stream && new MeshStream(connection, stream, exchange);
  }

  /** @returns false: no more until `onUpstreamWritable`. */
  sendData(chunk: Buffer, endStream: boolean): boolean {
    return this.connection.h2.sendData(this.stream, chunk, endStream);
  }

  /** The request is complete. */
  sendTrailers(trailers: readonly Field[]): void {
    writeTrailers(this.connection.h2, this.stream, trailers);
  }

  /** Bytes of the answer came; credit is given when they are passed on. */
  received(bytes: number): void {
    this.#owed += bytes;
  }

  /** Lets the mesh send more of the answer. */
  giveCredit(): void {
    if (this.#owed === 0) return;
    this.connection.h2.consumed(this.stream, this.#owed);
    this.#owed = 0;
  }

  /** Bytes of the answer came and were passed on at once. */
  passedOn(bytes: number): void {
    this.connection.h2.consumed(this.stream, bytes);
  }

  /** @param code of RFC 9113 section 7. */
  reset(code: number = CANCEL): void {
    this.connection.h2.resetStream(this.stream, code);
  }

  /** It is needed no more, and not to be used again. */
  release(): void {
    this.connection.finished(this.#exchange, this.stream);
  }
}
