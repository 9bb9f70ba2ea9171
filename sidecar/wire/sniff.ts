// Tells from the first bytes of a captured connection whether HTTP/1.1 is spoken on it, so that a refusal can be answered
// in words. Decides nothing else: what is forwarded is parsed strictly.
import type { Socket } from "node:net";

export type Sniffed = "http" | "other" | "undecided";

/** Longest method that is looked for (RFC 9110 and WebDAV have none longer), with the space after it. */
const MAX_METHOD_CHARS = 17;
const UPPER_A = 0x41;
const UPPER_Z = 0x5a;
const SPACE = 0x20;

/** Whether the bytes begin a request line: a method in capitals, a space, then a visible character. PRI is HTTP/2. */
export function sniffHttp1(bytes: Buffer): Sniffed {
  let at = 0;
  while (at < bytes.length && at < MAX_METHOD_CHARS) {
    const byte = bytes[at] ?? 0;
    if (byte === SPACE) break;
    if (byte !== 0x2d && (byte < UPPER_A || byte > UPPER_Z)) return "other";
    at++;
  }
  if (at === MAX_METHOD_CHARS) return "other";
  if (at === bytes.length) return "undecided";
  if (at < 3 || bytes.toString("latin1", 0, at) === "PRI") return "other";
  if (at + 1 === bytes.length) return "undecided";
  const next = bytes[at + 1] ?? 0;
  return next > SPACE && next < 0x7f ? "http" : "other";
}

/**
 * Reads until the first bytes tell, at most `withinMs`; then puts them back, with the socket paused.
 *
 * @param socket paused, without a `data` listener.
 */
export function sniffSocket(socket: Socket, withinMs: number): Promise<"http" | "other"> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const settle = (result: "http" | "other"): void => {
      clearTimeout(timer);
      socket.off("data", onData);
      socket.off("end", onEnd);
      socket.off("close", onEnd);
      socket.pause();
      if (chunks.length > 0 && !socket.readableEnded && !socket.destroyed)
        socket.unshift(Buffer.concat(chunks));
      resolve(result);
    };
    const onData = (chunk: Buffer): void => {
      chunks.push(chunk);
      const result = sniffHttp1(chunks.length === 1 ? chunk : Buffer.concat(chunks));
      if (result !== "undecided") settle(result);
    };
    const onEnd = (): void => settle("other");
    const timer = setTimeout(() => settle("other"), withinMs);
    socket.on("data", onData);
    socket.on("end", onEnd);
    socket.on("close", onEnd);
    socket.resume();
  });
}
