// How long a call to a host outside the mesh may take: the whole of it where gRPC says so (`grpc-timeout`), and in silence.
import { parseGrpcTimeout } from "../core/http/grpc.ts";
import { joinedField } from "../core/http/headers.ts";
import type { CallFacts } from "./call-facts.ts";

export class ExternalTime {
  readonly #facts: CallFacts;
  readonly #silenceMs: number;
  #silentUntilMs: number;
  #endMs = Number.POSITIVE_INFINITY;

  /** @param silenceMs how long nothing may move. */
  constructor(facts: CallFacts, silenceMs: number) {
    this.#facts = facts;
    this.#silenceMs = silenceMs;
    this.#silentUntilMs = facts.startedMs + silenceMs;
  }

  /** Monotonic milliseconds: of the first limit. */
  get untilMs(): number {
    return Math.min(this.#silentUntilMs, this.#endMs);
  }

  /** Of the whole call; infinite: it has no end. */
  get endMs(): number {
    return this.#endMs;
  }

  get hasEnd(): boolean {
    return this.#endMs !== Number.POSITIVE_INFINITY;
  }

  /** Takes in what the request says. @returns false: it is malformed. */
  read(): boolean {
    const { isGrpc, head, startedMs } = this.#facts;
    const text = isGrpc ? joinedField(head.fields, "grpc-timeout") : undefined;
    if (text === undefined) return true;
    const timeoutMs = parseGrpcTimeout(text);
    if (timeoutMs !== undefined) this.#endMs = startedMs + timeoutMs;
    return timeoutMs !== undefined;
  }

  /** Something moved. @param isPatient it may be silent as long as it likes, as a gRPC call may until its deadline. */
  touch(nowMs: number, isPatient: boolean): void {
    this.#silentUntilMs =
      isPatient || this.#facts.isGrpc ? Number.POSITIVE_INFINITY : nowMs + this.#silenceMs;
  }
}
