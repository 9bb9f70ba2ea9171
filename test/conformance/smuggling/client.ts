// A raw client of the smuggling tests, which reads answers strictly: what it cannot read without a doubt is a finding.
import type { Socket } from "node:net";

export interface ReadAnswer {
  readonly status: number;
  readonly body: string;
}

const STATUS_LINE = /^HTTP\/1\.1 [1-5][0-9]{2} [\t\x20-\x7e\x80-\xff]*$/;
const FIELD_LINE =
  /^[!#$%&'*+\-.^_`|~0-9a-z]+: (?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?$/;

/** Takes the final answers off the front of `text`; what is left of it is not whole. */
export function readAnswers(text: string, closed: boolean): { answers: ReadAnswer[]; rest: string } {
  const answers: ReadAnswer[] = [];
  let rest = text;
  for (;;) {
    const end = rest.indexOf("\r\n\r\n");
    if (end < 0) return { answers, rest };
    const [first = "", ...fields] = rest.slice(0, end).split("\r\n");
    if (!STATUS_LINE.test(first)) throw new Error(`the client got ${JSON.stringify(first)}`);
    for (const line of fields)
      if (!FIELD_LINE.test(line)) throw new Error(`the client got the line ${JSON.stringify(line)}`);
    const status = Number(first.slice(9, 12));
    const value = (name: string): string | undefined =>
      fields.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
    const length = value("content-length");
    const coding = value("transfer-encoding");
    if (length !== undefined && coding !== undefined) throw new Error("the client got two framings");
    const start = end + 4;
    if (status < 200) {
      rest = rest.slice(start);
      continue;
    }
    let size = start;
    let body = "";
    if (status === 204 || status === 304) {
      // No body, whatever the fields say of one.
    } else if (coding !== undefined) {
      const last = rest.indexOf("\r\n0\r\n", end + 2);
      const done = last < 0 ? -1 : rest.indexOf("\r\n\r\n", last + 3);
      if (done < 0) return { answers, rest };
      body = rest.slice(start, last);
      size = done + 4;
    } else if (length !== undefined) {
      if (rest.length < start + Number(length)) return { answers, rest };
      size = start + Number(length);
      body = rest.slice(start, size);
    } else {
      // Until the connection ends.
      if (!closed) return { answers, rest };
      size = rest.length;
      body = rest.slice(start);
    }
    answers.push({ status, body });
    rest = rest.slice(size);
  }
}

/** What came back on one connection. */
export interface Conversation {
  readonly answers: readonly ReadAnswer[];
  readonly closed: boolean;
  /** Bytes behind the last whole answer. */
  readonly rest: string;
}

/**
 * Sends the pieces, one turn of the loop after the other, and reads until `isDone` or the other side ends.
 *
 * @throws Error when neither comes within a few seconds, or what comes cannot be read.
 */
export async function converse(
  socket: Socket,
  pieces: Iterable<Buffer>,
  isDone: (answers: readonly ReadAnswer[]) => boolean,
): Promise<Conversation> {
  let text = "";
  let closed = false;
  let failed: Error | undefined;
  let read: { answers: ReadAnswer[]; rest: string } = { answers: [], rest: "" };
  const update = (): void => {
    try {
      read = readAnswers(text, closed);
    } catch (error) {
      failed = error as Error;
    }
  };
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => {
      failed ??= new Error(`nothing came any more after ${JSON.stringify(text.slice(0, 200))}`);
      resolve();
    }, 5_000);
    const end = (): void => {
      closed = true;
      update();
      clearTimeout(timer);
      resolve();
    };
    socket.on("error", () => {});
    socket.on("end", end);
    socket.on("close", end);
    socket.on("data", (chunk: Buffer) => {
      text += chunk.toString("latin1");
      update();
      if (failed !== undefined || isDone(read.answers)) {
        clearTimeout(timer);
        resolve();
      }
    });
    const queue = pieces[Symbol.iterator]();
    const more = (): void => {
      const { value, done } = queue.next();
      if (done === true || closed || socket.destroyed) return;
      socket.write(value, () => setImmediate(more));
    };
    more();
  });
  socket.destroy();
  if (failed !== undefined) throw failed;
  return { ...read, closed };
}

export function* byteByByte(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at++) yield bytes.subarray(at, at + 1);
}
