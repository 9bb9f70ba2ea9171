// What the demo prints: tables for people, or JSON lines; and whether everything was as it should be.
import { printTable, terminal } from "../../control-plane/cli/print.ts";
import type { Row } from "./perform.ts";

export class Report {
  readonly #json: boolean;
  readonly #wrong: string[] = [];
  #calls = 0;

  constructor(json: boolean) {
    this.#json = json;
  }

  /** A line for people. */
  say(text: string): void {
    if (!this.#json) process.stdout.write(`${text}\n`);
  }

  /** Notes what is not a row. */
  check(holds: boolean, otherwise: string): void {
    if (!holds) this.#wrong.push(otherwise);
  }

  rows(rows: readonly Row[]): void {
    this.#take(rows);
    this.#print(
      rows.map(({ person, path, to, operation, request, status, reason, rule, vector, note }) => ({
        person: person.slice(person.indexOf("|") + 1),
        "called by": path,
        target: to,
        operation: operation || request,
        answer: String(status),
        reason,
        "decided by": rule,
        row: vector,
        note,
      })),
    );
  }

  /** One transaction, a line per call. */
  chain(rows: readonly Row[]): void {
    this.#take(rows);
    this.#print(
      rows.map(({ time, path, to, operation, status, reason, rule }) => ({
        time: time.slice(11, 23),
        "called by": path,
        target: to,
        operation,
        answer: String(status),
        reason,
        "decided by": rule,
      })),
    );
    const [first] = rows;
    this.say(`Each line is an audit event of its callee: user ${first?.person}, txn ${first?.txn}.`);
  }

  /** Says how it went. */
  end(): void {
    for (const text of this.#wrong) process.stderr.write(`unexpected: ${text}\n`);
    this.say(
      `${this.#calls} calls, ${this.isGood ? "each answered as its policy says" : `${this.#wrong.length} NOT answered as their policy says`}.`,
    );
  }

  get isGood(): boolean {
    return this.#wrong.length === 0;
  }

  #take(rows: readonly Row[]): void {
    this.#calls += rows.length;
    for (const row of rows) {
      if (!row.expected)
        this.#wrong.push(
          `${row.path} ${row.request || row.operation} was answered ${row.status} ${row.reason} ${row.rule} for ${row.person || "nobody"}`,
        );
      if (this.#json) process.stdout.write(`${JSON.stringify(row)}\n`);
    }
  }

  #print(rows: readonly Readonly<Record<string, string>>[]): void {
    if (!this.#json) printTable(terminal, rows);
  }
}
