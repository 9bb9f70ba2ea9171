// Runs bytes through a parser and writes down what it reports, with the body joined, so that two runs can be compared.
import { FieldCache } from "../../../../sidecar/wire/field-cache.ts";
import {
  type Http1Handler,
  type Http1Limits,
  type RequestHead,
  RequestParser,
  type ResponseHead,
  ResponseParser,
} from "../../../../sidecar/wire/http1/parser.ts";

export type Recorded =
  | { kind: "head" | "informational"; head: Record<string, unknown> }
  | { kind: "body"; text: string }
  | { kind: "end"; trailers: string[] }
  | { kind: "problem"; code: string; status: number };

function plain(head: RequestHead | ResponseHead): Record<string, unknown> {
  return { ...head, fields: head.fields.map((field) => `${field.name}: ${field.value}`) };
}

/** A handler that records; `onEnd` is told so that the owner can go on. */
export function recorder(onEnd: () => void): {
  events: Recorded[];
  handler: Http1Handler<RequestHead | ResponseHead>;
} {
  const events: Recorded[] = [];
  const handler: Http1Handler<RequestHead | ResponseHead> = {
    onHead: (head) => events.push({ kind: "head", head: plain(head) }),
    onInformational: (head) => events.push({ kind: "informational", head: plain(head) }),
    onBody: (chunk) => {
      const last = events.at(-1);
      if (last?.kind === "body") last.text += chunk.toString("latin1");
      else events.push({ kind: "body", text: chunk.toString("latin1") });
    },
    onEnd: (trailers) => {
      events.push({ kind: "end", trailers: trailers.map((field) => `${field.name}: ${field.value}`) });
      onEnd();
    },
    onProblem: ({ code, status }) => events.push({ kind: "problem", code, status }),
  };
  return { events, handler };
}

export interface RunOptions {
  readonly limits?: Partial<Http1Limits>;
  readonly cache?: FieldCache;
  readonly eof?: boolean;
}

export function runRequests(pieces: readonly Buffer[], options: RunOptions = {}): Recorded[] {
  const { events, handler } = recorder(() => parser.resume());
  const parser = new RequestParser(handler, options.cache ?? new FieldCache(), options.limits);
  for (const piece of pieces) parser.push(piece);
  if (options.eof) parser.eof();
  return events;
}

/** @param methods of the requests that are answered, one after the other. */
export function runResponses(
  methods: readonly string[],
  pieces: readonly Buffer[],
  options: RunOptions = {},
): Recorded[] {
  const { events, handler } = recorder(() => {});
  const parser = new ResponseParser(handler, options.cache ?? new FieldCache(), options.limits);
  const queue = [...methods];
  const first = queue.shift();
  if (first !== undefined) parser.expect(first);
  for (const piece of pieces) parser.push(piece);
  if (options.eof) parser.eof();
  return events;
}

/** Cuts bytes at the given places (any numbers). */
export function split(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
  const pieces: Buffer[] = [];
  let from = 0;
  for (const place of [...places, bytes.length]) {
    pieces.push(bytes.subarray(from, place));
    from = place;
  }
  return pieces;
}

export function byteByByte(bytes: Buffer): Buffer[] {
  return Array.from(bytes, (_, i) => bytes.subarray(i, i + 1));
}
