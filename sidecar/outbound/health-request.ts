// One active check as a request of this workload's own: countersigned, decided and recorded by the callee like any other.
import type { Timed } from "../balance/deadline-wheel.ts";
import { framed, GRPC_HEALTH_CHECK, healthRequest, isServingBody } from "../core/http/grpc-health.ts";
import type { HealthProbe } from "../core/traffic/traffic.ts";
import type { Field } from "../wire/field.ts";
import type { Http2Stream } from "../wire/http2/connection.ts";
import type { Member } from "./member.ts";
import { labelOf } from "./operation-label.ts";
import type { Destination } from "./resolve.ts";
import type { UpstreamConnection, UpstreamExchange } from "./upstream-connection.ts";

const CANCEL = 0x8;
/** An answer of gRPC is 7 bytes. */
const MAX_ANSWER_BYTES = 64;

/** `denied`: policy lets nobody here ask, which says nothing of the endpoint. `none`: it could not be asked. */
export type CheckResult = "good" | "bad" | "denied" | "none";

export interface HealthRequestDeps {
  readonly member: Member;
  readonly destination: Destination;
  readonly probe: Exclude<HealthProbe, { readonly kind: "tcp" }>;
  /** Control plane's time, Unix milliseconds. */
  readonly nowMs: number;
  readonly deadlineMs: number;
  /** Called once. */
  readonly onResult: (request: HealthRequest, result: CheckResult) => void;
}

export class HealthRequest implements UpstreamExchange, Timed {
  slot = -1;
  wheelSlot = -1;
  wheelIndex = -1;
  readonly deadlineMs: number;
  readonly #deps: HealthRequestDeps;
  #connection: UpstreamConnection | undefined;
  #stream: Http2Stream<UpstreamExchange | undefined> | undefined;
  #body: Buffer = Buffer.alloc(0);
  #over = false;

  constructor(deps: HealthRequestDeps) {
    this.#deps = deps;
    this.deadlineMs = deps.deadlineMs;
  }

  start(): void {
    const { member, destination } = this.#deps;
    if (!member.upstream.request(this, destination.group.traffic.bounds)) this.#end("none");
  }

  onUpstreamReady(connection: UpstreamConnection): void {
    const stream = this.#over ? undefined : connection.open(this);
    if (stream === undefined) {
      this.#end("none");
      return;
    }
    this.#connection = connection;
    this.#stream = stream;
    this.#send(connection, stream);
  }

  #send(connection: UpstreamConnection, stream: Http2Stream<UpstreamExchange | undefined>): void {
    const { destination, probe, nowMs } = this.#deps;
    const isGrpc = probe.kind === "grpc";
    const method = isGrpc ? "POST" : "GET";
    const target = isGrpc ? GRPC_HEALTH_CHECK : probe.path;
    const contentType = isGrpc ? "application/grpc" : undefined;
    const classified = destination.classifier.classify({
      method,
      target,
      contentType,
      header: () => undefined,
      corsMethod: undefined,
    });
    if (!classified.ok) {
      connection.h2.resetStream(stream, CANCEL);
      this.#end("none");
      return;
    }
    const { packsDigest, service, portField } = destination;
    const operation = labelOf(classified.value);
    const proof = connection.countersigner.fields(operation, packsDigest, undefined, undefined, nowMs);
    const { h2 } = connection;
    h2.beginHeaders(stream);
    h2.putPair(":method", method);
    h2.putPair(":scheme", "http");
    h2.putField(destination.pathField(target));
    h2.putPair(":authority", service.hosts[0] ?? service.id.replace("/", "."));
    h2.putPair("user-agent", "countersign-health");
    if (contentType !== undefined) {
      h2.putPair("content-type", contentType);
      h2.putPair("te", "trailers");
    }
    h2.putField(proof.wit);
    h2.putField(proof.wpt);
    h2.putField(portField);
    h2.endHeaders(!isGrpc);
    if (isGrpc) h2.sendData(stream, framed(healthRequest(probe.service)), true);
  }

  onUpstreamInformational(): void {}

  onUpstreamHead(fields: readonly Field[], endStream: boolean): void {
    const status = Number(fields[0]?.value);
    const { probe } = this.#deps;
    if (status === 403 || status === 429) this.#end("denied");
    else if (status < 200 || status > 299) this.#end("bad");
    else if (probe.kind === "http") this.#end("good");
    else if (endStream) this.#end(statusOf(fields) === "7" ? "denied" : "bad");
  }

  onUpstreamData(chunk: Buffer, endStream: boolean): void {
    if (this.#over) return;
    if (this.#body.length + chunk.length > MAX_ANSWER_BYTES || endStream) {
      this.#end("bad");
      return;
    }
    this.#body = Buffer.concat([this.#body, chunk]);
    if (this.#stream !== undefined) this.#connection?.h2.consumed(this.#stream, chunk.length);
  }

  onUpstreamTrailers(fields: readonly Field[]): void {
    this.#end(statusOf(fields) === "0" && isServingBody(this.#body) ? "good" : "bad");
  }

  onUpstreamWritable(): void {}

  onUpstreamFailed(): void {
    this.#connection = undefined;
    this.#stream = undefined;
    this.#end("bad");
  }

  timeOut(): void {
    this.#deps.member.upstream.cancel(this);
    this.#end("bad");
  }

  #end(result: CheckResult): void {
    if (this.#over) return;
    this.#over = true;
    const connection = this.#connection;
    const stream = this.#stream;
    this.#connection = undefined;
    this.#stream = undefined;
    if (connection !== undefined && stream !== undefined) {
      connection.h2.resetStream(stream, CANCEL);
      connection.finished(this, stream);
    }
    this.#deps.onResult(this, result);
  }
}

function statusOf(fields: readonly Field[]): string | undefined {
  return fields.find((field) => field.name === "grpc-status")?.value;
}
