// The head of one request on the mesh port, taken apart in one pass: what identifies, what frames, and what goes on to
// the application. Checks syntax only; who asks and for what is decided behind it.

import type { HeadLimits } from "../config.ts";
import { isGrpc, parseGrpcTimeout } from "../core/http/grpc.ts";
import { joinedField } from "../core/http/headers.ts";
import { upgradeOf, WEBSOCKET, WEBSOCKET_HOP_FIELDS } from "../core/http/websocket.ts";
import {
  COUNTERSIGN_MIRROR,
  COUNTERSIGN_PORT,
  COUNTERSIGN_PROTOCOL,
  COUNTERSIGN_SNI,
  TXN_TOKEN,
  WORKLOAD_IDENTITY_TOKEN,
  WORKLOAD_PROOF_TOKEN,
} from "../core/identity/claims.ts";
import type { RandomIds } from "../telemetry/random-ids.ts";
import { createTraceparent, isTraceparent } from "../telemetry/trace.ts";
import { isServerName } from "../wire/client-hello.ts";
import { type Field, FieldFlag } from "../wire/field.ts";
import { isToken } from "../wire/field-syntax.ts";
import { authorityProblem, isTarget, sameAuthority } from "../wire/http1/target.ts";
import type { ShownTokens } from "./verify.ts";

/** Fields that never go on as they came, in either direction. */
export const STRIPPED =
  FieldFlag.hopByHop | FieldFlag.framing | FieldFlag.identity | FieldFlag.methodOverride | FieldFlag.pseudo;

export class RequestHead implements ShownTokens {
  readonly fields: readonly Field[];
  method = "";
  target = "";
  authority = "";
  /** -1: not announced. */
  contentLength = -1;
  /** Of the request, or a new one when that cannot be read. */
  traceparent = "";
  /** `traceparent` is ours: the request's could not be read. */
  readonly ownTrace: boolean;
  /** The caller takes trailers (`TE: trailers`). */
  takesTrailers = false;
  /** Deadline of a gRPC call, milliseconds from its head on; -1: none. */
  readonly grpcTimeoutMs: number;
  /** Value of `countersign-port`. */
  portText: string | undefined;
  /** `:protocol` of an extended CONNECT (RFC 8441); empty: none. */
  upgrade = "";
  /** A CONNECT without a protocol: bytes that are passed on unseen (RFC 9113 section 8.5). */
  readonly isOpaque: boolean;
  /** Value of `countersign-protocol`: what the caller's application speaks, as its sidecar says. */
  appProtocol: string | undefined;
  /** Value of `countersign-sni`, lower case. */
  serverName: string | undefined;
  /** The caller's sidecar says that it is a copy (`countersign-mirror`). */
  mirrored = false;
  wit: Field | undefined;
  wpt: Field | undefined;
  authorization: string | undefined;
  txnToken: string | undefined;
  /** Name of a token field that came more than once; empty: none. */
  twice = "";
  /** What is wrong with the head, in words; empty: nothing. */
  readonly malformed: string;
  #scheme = "";
  #lines = "";
  #isChanged = false;
  #isGrpc: boolean | undefined;

  /** @param ids for a request without a readable trace. */
  constructor(fields: readonly Field[], ids: RandomIds, limits: HeadLimits) {
    this.fields = fields;
    let host: string | undefined;
    let cookies = "";
    let traceLine = "";
    let traceState = "";
    let lines = "";
    let malformed = "";
    let timeout: string | undefined;
    for (let i = 0; i < fields.length; i++) {
      const field = fields[i];
      if (field === undefined) continue;
      const { flags, name, value } = field;
      if (flags === 0) {
        if (this.upgrade !== WEBSOCKET || !WEBSOCKET_HOP_FIELDS.has(name)) lines += field.line;
      } else if ((flags & FieldFlag.pseudo) !== 0) {
        if (name === ":method") this.method = value;
        else if (name === ":path") this.target = value;
        else if (name === ":authority") this.authority = value;
        else if (name === ":scheme") this.#scheme = value;
        else if (name === ":protocol") {
          this.upgrade = upgradeOf(value) ?? "";
          if (this.upgrade === "") malformed = "the :protocol is none that can be switched to";
        }
      } else if ((flags & FieldFlag.identity) !== 0) {
        if (name === WORKLOAD_PROOF_TOKEN) {
          if (this.wpt !== undefined) this.twice = name;
          this.wpt = field;
        } else if (name === WORKLOAD_IDENTITY_TOKEN) {
          if (this.wit !== undefined) this.twice = name;
          this.wit = field;
        } else if (name === TXN_TOKEN) {
          if (this.txnToken !== undefined) this.twice = name;
          this.txnToken = value;
        } else if (name === COUNTERSIGN_PORT) {
          if (this.portText !== undefined) malformed = "`countersign-port` came twice";
          this.portText = value;
        } else if (name === COUNTERSIGN_PROTOCOL) {
          if (this.appProtocol !== undefined) malformed = "`countersign-protocol` came twice";
          this.appProtocol = value;
        } else if (name === COUNTERSIGN_SNI) {
          if (this.serverName !== undefined || !isServerName(value))
            malformed = "`countersign-sni` is malformed or came twice";
          this.serverName = value;
        } else if (name === COUNTERSIGN_MIRROR) this.mirrored = true;
      } else if ((flags & FieldFlag.framing) !== 0) {
        if (name === "host") {
          if (host !== undefined) malformed = "there is more than one Host field";
          host = value;
        } else if (name === "content-length") {
          if (this.contentLength >= 0 || !/^(?:0|[1-9][0-9]{0,15})$/.test(value))
            malformed = "the Content-Length is malformed";
          else this.contentLength = Number(value);
        }
      } else if ((flags & STRIPPED) !== 0) {
        // Hop by hop, or an attempt to override the method: ends here.
        if (name === "te" && value === "trailers") this.takesTrailers = true;
      } else if (name === "authorization") {
        if (this.authorization !== undefined) malformed = "there is more than one Authorization field";
        this.authorization = value;
        lines += field.line;
      } else if (name === "cookie") cookies += cookies === "" ? value : `; ${value}`;
      else if (name === "traceparent") {
        // Two of them, or a broken one: none (W3C Trace Context section 3.2).
        this.traceparent = traceLine === "" && isTraceparent(value) ? value : "";
        traceLine = field.line;
      } else if (name === "tracestate") traceState += field.line;
      else {
        lines += field.line;
        if (name === "grpc-timeout") timeout = timeout === undefined ? value : "";
      }
    }
    // The tokens ended here; what is left must be no more than another sidecar takes from an application.
    if (lines.length + cookies.length > limits.headBytes) malformed = "the head is too large";
    if (cookies !== "") lines += `cookie: ${cookies}\r\n`;
    this.ownTrace = this.traceparent === "";
    if (this.ownTrace) {
      // The state belongs to the trace that could not be read: it ends with it.
      this.traceparent = createTraceparent(ids);
      lines += `traceparent: ${this.traceparent}\r\n`;
    } else lines += traceLine + traceState;
    this.#lines = lines;
    this.grpcTimeoutMs = timeout === undefined || !this.isGrpc ? -1 : (parseGrpcTimeout(timeout) ?? -2);
    if (this.grpcTimeoutMs === -2) malformed = "the grpc-timeout is malformed";
    if (host !== undefined) {
      if (this.authority === "") this.authority = host;
      else if (!sameAuthority(host, this.authority)) malformed = "the Host field differs from :authority";
    }
    this.isOpaque = this.method === "CONNECT" && this.upgrade === "";
    // As it goes to the application (RFC 8441 section 5): what is decided on, classified as `WS`, and written down.
    if (this.method === "CONNECT" && this.upgrade !== "") this.method = "GET";
    this.malformed = malformed === "" ? this.#problem(limits.targetBytes) : malformed;
  }

  /** Fields that go on to the application, as HTTP/1.1 lines. */
  get lines(): string {
    return this.#lines;
  }

  /** What policies made of them. */
  set lines(lines: string) {
    if (lines === this.#lines) return;
    this.#lines = lines;
    this.#isChanged = true;
  }

  /** Whether `lines` says something else than the fields. */
  get isChanged(): boolean {
    return this.#isChanged;
  }

  /** Whether it is a gRPC call, which gets its answers in gRPC's form. */
  get isGrpc(): boolean {
    this.#isGrpc ??= this.method === "POST" && isGrpc(joinedField(this.fields, "content-type"));
    return this.#isGrpc;
  }

  #problem(targetBytes: number): string {
    if (this.isOpaque)
      return this.authority === "" || authorityProblem(this.authority) !== undefined
        ? "the authority is missing or malformed"
        : "";
    if (this.#scheme !== "http" && this.#scheme !== "https") return "the scheme is neither http nor https";
    if (!isToken(this.method) || this.method.length > 32) return "the method is malformed";
    if (
      !isTarget(this.target) ||
      !(this.target.startsWith("/") || (this.target === "*" && this.method === "OPTIONS"))
    ) {
      return "the request target is malformed";
    }
    if (this.target.length > targetBytes) return "the request target is too long";
    if (this.authority === "" || authorityProblem(this.authority) !== undefined)
      return "the authority is missing or malformed";
    return "";
  }

  /** Value of a request field. */
  header(name: string): string | undefined {
    const fields = this.fields;
    for (let i = 0; i < fields.length; i++) {
      const field = fields[i];
      if (field !== undefined && field.name === name) return field.value;
    }
    return undefined;
  }

  /** Without query: its values are never recorded. */
  path(): string {
    const query = this.target.indexOf("?");
    return query < 0 ? this.target : this.target.slice(0, query);
  }
}
