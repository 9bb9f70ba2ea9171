// A host outside the mesh, as an exchange sees it: a pool (external-pool.ts) gives a request a place, over HTTP/1.1
// (external-http1.ts) or HTTP/2 (external-http2-place.ts). Exchanges know neither version.
import type { SecureContext } from "node:tls";
import type { Limits, Timeouts } from "../config.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { Field } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { Http2Shared } from "../wire/http2/shared.ts";
import type { HostRequest } from "./external-request.ts";

/** The head of an answer of the host. */
export interface HostAnswer {
  readonly status: number;
  /** As received; those of framing, of one hop, and pseudo-headers are told by their flags. */
  readonly fields: readonly Field[];
  /** Lower-case names that belong to the host's connection. */
  readonly connectionNames: readonly string[];
}

/** Why a place is lost. */
export interface HostFailure {
  /** `reset`: the host ended this request alone. */
  readonly kind: "connect" | "closed" | "protocol" | "reset";
  readonly detail: string;
  /** The host certainly did not look at the request. */
  readonly untouched: boolean;
  /** Of a reset (RFC 9113 section 7); 0 otherwise. */
  readonly code: number;
}

/** A request on its way. One of `release`, `onExternalEnd`, `onExternalFailed` and a head that is all ends its place. */
export interface ExternalUser {
  readonly method: string;
  /** `Sec-WebSocket-Accept` that agrees to the WebSocket that is asked for; undefined: none is. */
  readonly accept: string | undefined;
  /** HTTP/1.1 cannot carry it (gRPC). */
  readonly needsHttp2: boolean;
  /** There is a place: write the request. */
  onExternalReady(place: ExternalPlace): void;
  onExternalInformational(head: HostAnswer): void;
  /** @param isAll the answer ends with it; false: `onExternalEnd` comes. */
  onExternalHead(head: HostAnswer, isAll: boolean): void;
  /** The host agreed to the WebSocket: from now on bytes both ways, `onExternalEnd` when its own are over. */
  onExternalSwitched(head: HostAnswer): void;
  /** @param chunk never empty. */
  onExternalBody(chunk: Buffer): void;
  /** The host takes bytes again. */
  onExternalDrain(): void;
  onExternalEnd(trailers: readonly Field[]): void;
  onExternalFailed(failure: HostFailure): void;
}

/** The place of one request. After `release` and `onExternalFailed` it is not to be used again. */
export interface ExternalPlace {
  /** The host does not keep up: no more body until `onExternalDrain`. */
  readonly congested: boolean;
  /** The host may turn out not to have looked at the request. */
  readonly mayComeBack: boolean;
  sendHead(request: HostRequest): void;
  sendBody(chunk: Buffer): void;
  /** The request is complete; of a WebSocket: its own bytes are over. */
  sendEnd(trailers: readonly Field[]): void;
  /** The application does not keep up: no more of the answer until `resume`. */
  pause(): void;
  resume(): void;
  /** Nothing more is wanted of it. @param isWhole the whole request was written, and what follows it is not a WebSocket. */
  release(isWhole: boolean): void;
}

export interface ExternalDeps {
  readonly cache: FieldCache;
  readonly http2: Http2Shared;
  readonly clock: Clock;
  readonly timeouts: Timeouts;
  readonly limits: Limits;
  /** Authorities that vouch for hosts; made with the first connection. */
  readonly context: () => SecureContext;
}

/** Balancers of hosts close connections after a minute without a word: ours are closed before, monotonic milliseconds. */
export const EXTERNAL_IDLE_MS = 30_000;
