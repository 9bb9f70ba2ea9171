// Who is at the other end of a connection of callers, whatever version of HTTP it speaks: a peer of the mesh, known by its
// certificate (mesh-peer.ts), or anybody, where plaintext is let in (plaintext-peer.ts).
import type { HeadLimits } from "../config.ts";
import type { CompiledProgram } from "../core/policy/decide.ts";
import type { Refusal } from "./admission.ts";
import type { Enforcement } from "./authorize.ts";
import type { IdentifiedCaller, IdentityRefusal, ShownTokens } from "./verify.ts";

/** Who sends the requests of a connection, and under which rules. */
export interface ConnectionPeer {
  /** Label of `countersign_protocol_errors_total`. */
  readonly side: "plaintext" | "mesh";
  /** SPIFFE ID, or `plaintext`; for logs. */
  readonly name: string;
  /** The application's port that the connection was made to; undefined: each request names one. */
  readonly port: number | undefined;
  /** Authority of a request without Host, which only HTTP/1.0 may leave out; empty: there is none. */
  readonly authority: string;
  /** Whether identity fields are looked at; else nobody set them who could, and they end here. */
  readonly shows: boolean;
  readonly limits: HeadLimits;
  /** Whether its callers may go on after the answer that is being written. */
  readonly isWelcome: boolean;
  /** What is held against a request beside others on its connection. */
  barred(): Refusal | undefined;
  programOf(enforcement: Enforcement): CompiledProgram | undefined;
  identify(shown: ShownTokens, bundleEpoch: string, nowMs: number): IdentifiedCaller | IdentityRefusal;
  byConnection(nowMs: number): IdentifiedCaller | undefined;
  /** @returns true: it was one too many, the connection ends. */
  countBadProof(): boolean;
}

/** An accepted connection, whatever version of HTTP it speaks. */
export interface CallerConnection {
  /** Requests that are under way. */
  readonly openExchanges: number;
  /** Bytes of finished answers that the caller does not read. */
  readonly unreadBytes: number;
  /** Gives those answers up. */
  dropUnread(): void;
  /** Ends what took too long; called twice a second. @param nowMs monotonic. */
  sweep(nowMs: number): void;
  /** Takes no new requests, finishes those that are open, closes. */
  drain(): void;
  /** Ends an idle connection. */
  endIdle(): void;
  destroy(): void;
}

/** Answers that nobody reads are given up, most of them first, until half of what they may take is free. @returns the bytes. */
export function relieve(connections: Iterable<CallerConnection>, limitBytes: number): number {
  let unread = 0;
  for (const { unreadBytes } of connections) unread += unreadBytes;
  if (unread <= limitBytes) return 0;
  let left = unread;
  for (const connection of [...connections].sort((a, b) => b.unreadBytes - a.unreadBytes)) {
    if (left <= limitBytes / 2) break;
    left -= connection.unreadBytes;
    connection.dropUnread();
  }
  return unread - left;
}
