// The audit trail of one sidecar: numbers the events, decides which are kept, hands them to the file, and remembers
// the latest denials so that an operator can ask about a decision id.
import type { Call } from "../core/policy/call.ts";
import type { AuditSetting } from "../core/policy/rule.ts";
import { JsonTexts } from "../telemetry/json-texts.ts";
import { threeDigits } from "../telemetry/number-texts.ts";
import type { RandomIds } from "../telemetry/random-ids.ts";
import { type EdgeEvent, type EdgeSource, edgeEvent } from "./edge-event.ts";
import { AuditPayload } from "./payload.ts";
import {
  type AuditCall,
  type AuditDecision,
  type AuditEdge,
  type AuditEdgeInput,
  type AuditStamp,
  auditDecision,
  auditEdge,
  auditEvent,
  intentOf,
} from "./record.ts";
import type { SecretNames } from "./redaction.ts";

/** A denial that can still be explained. */
export interface RecentDenial {
  readonly decisionId: string;
  readonly timeMs: number;
  readonly reason: string;
  readonly policy: string | undefined;
  readonly rule: string | undefined;
  /** undefined when the call was refused before it was understood. */
  readonly call: Call | undefined;
  readonly detail: string | undefined;
}

/** Where lines go; `LineFile` is the real one. */
export interface LineSink {
  append(line: string, keep: boolean): void;
  /** See `LineFile.commit`. */
  commit(line: string, done: (ok: boolean) => void): void;
  readonly hasRoom: boolean;
}

export interface AuditTrailOptions {
  readonly sink: LineSink | undefined;
  readonly ids: RandomIds;
  /** In [0, 1). */
  readonly random: () => number;
  /** Calls that no Audit rule names. */
  readonly recordAllows: boolean;
  /** Whether what callers and applications say to each other may stand in the sink (audit level `Body`). */
  readonly takesBodies: boolean;
  /** Further names whose values must not stand in it. */
  readonly secretNames: SecretNames;
}

/** An event without what the trail itself adds. */
export interface AuditInput extends AuditCall {
  /** Unix milliseconds, control plane's clock. */
  readonly timeMs: number;
}

const KEPT_DENIALS = 1_000;

export class AuditTrail {
  readonly #options: AuditTrailOptions;
  readonly #denials = new Map<string, RecentDenial>();
  readonly #texts = new JsonTexts();
  #sequence = 0;
  #second = -1;
  #secondText = "";
  recorded = 0;

  constructor(options: AuditTrailOptions) {
    this.#options = options;
  }

  /** A new decision id, for example `d-5f0c9a…`. */
  decisionId(): string {
    return `d-${this.#options.ids.hex(8)}`;
  }

  /** The parts of an event that stay the same from call to call, see `auditEdge`. */
  edge(input: AuditEdgeInput): AuditEdge {
    return auditEdge(input);
  }

  /** A decision as an event holds it, see `auditDecision`. */
  decisionText(decision: AuditDecision, revision: number): string {
    return auditDecision(decision, revision);
  }

  /** Whether a call with this outcome is to be recorded; denials always are. */
  wants(allowed: boolean, setting: AuditSetting | undefined): boolean {
    if (this.#options.sink === undefined) return false;
    if (!allowed) return true;
    if (setting === undefined) return this.#options.recordAllows;
    if (setting.mode === "Required") return true;
    return setting.level !== "None" && (setting.sample >= 1 || this.#options.random() < setting.sample);
  }

  /** Gathers what the event of a call needs beside the usual; undefined: nothing. */
  payload(setting: AuditSetting | undefined): AuditPayload | undefined {
    const { takesBodies, secretNames } = this.#options;
    return AuditPayload.of(setting?.level, takesBodies, secretNames);
  }

  /** Writes down what a gateway decided by itself; `repeated` such events are one line. */
  tell(
    event: EdgeEvent,
    { source, repeated, timeMs }: { source: EdgeSource; repeated: number; timeMs: number },
  ): void {
    const { sink } = this.#options;
    if (sink === undefined) return;
    sink.append(edgeEvent(event, { source, repeated, stamp: this.#stamp(timeMs) }), !event.allowed);
  }

  record(input: AuditInput, allowed: boolean): void {
    this.#options.sink?.append(this.#line(input), !allowed);
  }

  /**
   * Writes down that a call is about to be forwarded.
   *
   * @param done called once, later: whether the event is safe. False without a sink, with a full queue, and when the
   *   system did not take it.
   */
  intend(input: AuditInput, done: (ok: boolean) => void): void {
    const { sink } = this.#options;
    if (sink === undefined) setImmediate(done, false);
    else sink.commit(intentOf(this.#line(input)), done);
  }

  #line(input: AuditInput): string {
    return auditEvent(input, this.#stamp(input.timeMs), this.#texts);
  }

  #stamp(timeMs: number): AuditStamp {
    this.#sequence++;
    this.recorded++;
    return { id: this.#options.ids.hex(16), time: this.#time(timeMs), proxySeq: this.#sequence };
  }

  remember(denial: RecentDenial): void {
    this.#denials.set(denial.decisionId, denial);
    if (this.#denials.size > KEPT_DENIALS) {
      for (const oldest of this.#denials.keys()) {
        this.#denials.delete(oldest);
        break;
      }
    }
  }

  denial(decisionId: string): RecentDenial | undefined {
    return this.#denials.get(decisionId);
  }

  /** Latest first. */
  denials(): readonly RecentDenial[] {
    return [...this.#denials.values()].reverse();
  }

  // Requests of one second share its text: toISOString costs 0.4 µs.
  #time(timeMs: number): string {
    const second = Math.floor(timeMs / 1_000);
    if (second !== this.#second) {
      this.#second = second;
      this.#secondText = new Date(second * 1_000).toISOString().slice(0, 20);
    }
    return `${this.#secondText}${threeDigits(Math.floor(timeMs) - second * 1_000)}Z`;
  }
}
