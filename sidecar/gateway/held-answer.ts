// The head of an answer that may become a page: a refusal of a sidecar, which people in front of a browser would get as a
// document for programs. PURE.

import type { AnswerWriter } from "../wire/answers.ts";
import type { Field } from "../wire/field.ts";
import type { EdgeProblem } from "./people.ts";
import { statusTitle } from "./status-titles.ts";

/** What a sidecar says of itself (RFC 9209): reason and decision id, as core/http/problem.ts writes them. */
const REFUSAL = /^countersign-sidecar[^;]*; error=[a-z_]+; details="[A-Z_]{1,64} ([\w-]{8,64})[ "]/;

/** By status, what happened; other refusals are not a person's to read. */
const DETAILS: ReadonlyMap<number, string> = new Map([
  [403, "you are signed in, but the rules of this platform do not let you open it"],
  [404, "the platform knows nothing at this address"],
  [429, "you have asked for more than is allowed at a time"],
  [502, "what you want to open broke off"],
  [503, "what you want to open cannot be reached"],
  [504, "what you want to open takes too long"],
]);

export class HeldAnswer {
  readonly status: number;
  readonly #fields: (Field | readonly [string, string])[] = [];
  #isProblem = false;
  #decisionId: string | undefined;

  constructor(status: number) {
    this.status = status;
  }

  /** Whether an answer of this status can be one. */
  static isWanted(status: number): boolean {
    return status >= 400 && DETAILS.has(status);
  }

  putField(field: Field): void {
    this.#fields.push(field);
    this.#look(field.name, field.value);
  }

  putPair(name: string, value: string): void {
    this.#fields.push([name, value]);
    this.#look(name, value);
  }

  /** Writes what was held, in the order in which it came. */
  release<S>(answers: AnswerWriter<S>, stream: S): void {
    answers.beginHeaders(stream);
    answers.putStatus(this.status);
    for (const field of this.#fields)
      if ("name" in field) answers.putField(field);
      else answers.putPair(field[0], field[1]);
  }

  /** undefined: the answer is an application's, or not for people. */
  problem(): EdgeProblem | undefined {
    const detail = DETAILS.get(this.status);
    const decisionId = this.#decisionId;
    if (!this.#isProblem || decisionId === undefined || detail === undefined) return undefined;
    return { status: this.status, title: statusTitle(this.status), detail, decisionId };
  }

  #look(name: string, value: string): void {
    if (name === "content-type") this.#isProblem = value.startsWith("application/problem+json");
    if (name === "proxy-status") this.#decisionId = REFUSAL.exec(value)?.[1];
  }
}
