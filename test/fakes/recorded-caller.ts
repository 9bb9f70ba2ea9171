// The connection of a caller that nobody is at the other end of: what an exchange writes to it is kept, in words.
import { DEFAULT_LIMITS } from "../../sidecar/config.ts";
import { CallFacts } from "../../sidecar/inbound/call-facts.ts";
import type { CallerSide, CallerStream } from "../../sidecar/inbound/caller-side.ts";
import { RequestHead } from "../../sidecar/inbound/request-head.ts";
import { RandomIds } from "../../sidecar/telemetry/random-ids.ts";
import { createField, type Field } from "../../sidecar/wire/field.ts";

const nothing = (): void => {};

export class RecordedCaller {
  /** What was written, in order: `200 name: value`, `data "…"`, `end`, `credit N`, `reset N`, `switched`. */
  readonly said: string[] = [];
  /** Whether it takes more of an answer's body. */
  hasRoom = true;
  readonly stream: CallerStream = { context: undefined };
  readonly side: CallerSide;
  #head: string[] = [];

  constructor({ upgradesByConnect = true } = {}) {
    this.side = {
      ...{ upgradesByConnect, remoteAddress: undefined, name: "plaintext", port: undefined },
      answers: {
        beginHeaders: () => {
          this.#head = [];
        },
        putStatus: (status) => this.#head.push(String(status)),
        putField: ({ name, value }) => this.#head.push(`${name}: ${value}`),
        putPair: (name, value) => this.#head.push(`${name}: ${value}`),
        endHeaders: (end) => this.#say(this.#head.join(" "), end),
        sendData: (_stream, chunk, end) => {
          this.#say(`data "${chunk.toString()}"`, end);
          return this.hasRoom;
        },
        consumed: (_stream, bytes) => this.said.push(`credit ${bytes}`),
        resetStream: (_stream, code) => this.said.push(`reset ${code}`),
      },
      programOf: (enforcement) => enforcement.program,
      identify: () => ({ reason: "AUTHN_PROOF_INVALID", detail: "nobody" }),
      byConnection: () => undefined,
      lookup: () => () => undefined,
      ...{ countBadProof: nothing, finished: nothing },
      switchTo: () => this.said.push("switched"),
    };
  }

  /** What was said since the last time. */
  take(): string[] {
    return this.said.splice(0);
  }

  #say(words: string, end: boolean): void {
    this.said.push(words);
    if (end) this.said.push("end");
  }
}

/** Facts of a request that has come with these fields, besides method `POST` (if it names none), scheme, host and path. */
export function factsOf(fields: Readonly<Record<string, string>>, startedMs = 0): CallFacts {
  const all = { ":method": "POST", ":scheme": "http", ":authority": "app.lab", ":path": "/", ...fields };
  const head = new RequestHead(fieldsOf(all), new RandomIds(), DEFAULT_LIMITS.head);
  return new CallFacts(head, startedMs, startedMs);
}

export function fieldsOf(fields: Readonly<Record<string, string>>): readonly Field[] {
  return Object.entries(fields).map(([name, value]) => createField(name, value));
}
