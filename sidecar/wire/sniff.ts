// Tells from the first bytes of a connection what is spoken on it. Decides nothing else: what is forwarded as HTTP is
// parsed strictly.
import type { Socket } from "node:net";
import { MAX_HELLO_BYTES, readClientHello } from "./client-hello.ts";
import { PatientTimer } from "./patient-timer.ts";

/** `tcp` is everything that is none of the others, silence included. */
export type SpokenProtocol = "http" | "h2c" | "tls" | "tcp";

export interface Spoken {
  readonly protocol: SpokenProtocol;
  /** Of a ClientHello that has one. */
  readonly serverName: string | undefined;
  /** The name may stand for another one, which is encrypted. */
  readonly hidesName?: true;
  /** Set when the client had nothing more to say: all that it said, which could not be put back. */
  readonly all?: Buffer | undefined;
}

/** Longest method that is looked for (RFC 9110 and WebDAV have none longer), with the space after it. */
const MAX_METHOD_CHARS = 17;
const UPPER_A = 0x41;
const UPPER_Z = 0x5a;
const SPACE = 0x20;
const HANDSHAKE_RECORD = 22;
/** First bytes of HTTP/2 (RFC 9113 section 3.4); no HTTP/1.x request begins so. */
const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");
const PREFACE_TOLD = 14;
/** `PRI` and its space: no method of HTTP/1.x. */
const PREFACE_METHOD = 4;

/** Whether the bytes begin a request line: a method in capitals, a space, then a visible character. PRI is HTTP/2. */
function sniffHttp1(bytes: Buffer): "http" | "other" | "undecided" {
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
 * Whether the bytes begin HTTP/2 rather than any request of HTTP/1.x.
 *
 * @returns undefined: more are needed.
 */
export function beginsHttp2(bytes: Buffer): boolean | undefined {
  const count = Math.min(bytes.length, PREFACE_METHOD);
  if (bytes.compare(PREFACE, 0, count, 0, count) !== 0) return false;
  return count === PREFACE_METHOD ? true : undefined;
}

/** What the bytes begin; undefined: more are needed. A TLS record counts as `tls` once its ClientHello is whole. */
export function sniffBytes(bytes: Buffer): Spoken | undefined {
  const http1 = sniffHttp1(bytes);
  if (http1 === "http") return told("http");
  const count = Math.min(bytes.length, PREFACE_TOLD);
  if (PREFACE.compare(bytes, 0, count, 0, count) === 0)
    return count === PREFACE_TOLD ? told("h2c") : undefined;
  if (http1 === "undecided") return undefined;
  if (bytes[0] !== HANDSHAKE_RECORD) return told("tcp");
  const hello = readClientHello(bytes);
  if (hello.kind === "partial" && bytes.length <= MAX_HELLO_BYTES) return undefined;
  if (hello.kind !== "hello") return told("tcp");
  const spoken = told("tls", hello.serverName);
  return hello.hidesName ? { ...spoken, hidesName: true } : spoken;
}

const told = (protocol: SpokenProtocol, serverName?: string): Spoken => ({ protocol, serverName });

/**
 * Reads until the first bytes tell, at most `withinMs` (not counting a standstill of ours), then puts them back, with the
 * socket paused.
 *
 * @param socket paused, without a `data` listener.
 * @param helloWithinMs for the rest of what has begun as TLS: a ClientHello may come in several segments.
 */
export function sniffSocket(
  socket: Socket,
  withinMs: number,
  helloWithinMs: number = withinMs,
): Promise<Spoken> {
  return new Promise((resolve) => {
    let bytes: Buffer | undefined;
    let isTls = false;
    const settle = (result: Spoken): void => {
      timer.cancel();
      socket.off("data", onData);
      socket.off("end", onEnd);
      socket.off("close", onEnd);
      socket.pause();
      if (bytes !== undefined && result.all === undefined && !socket.destroyed) socket.unshift(bytes);
      resolve(result);
    };
    const onData = (chunk: Buffer): void => {
      bytes = bytes === undefined ? chunk : Buffer.concat([bytes, chunk]);
      const result = sniffBytes(bytes);
      if (result !== undefined) settle(result);
      else if (!isTls && bytes[0] === HANDSHAKE_RECORD) {
        isTls = true;
        timer.cancel();
        timer = new PatientTimer(helloWithinMs, isSilent);
      }
    };
    const onEnd = (): void => settle({ ...told("tcp"), all: bytes ?? Buffer.alloc(0) });
    const isSilent = (): void => settle(told("tcp"));
    let timer = new PatientTimer(withinMs, isSilent);
    socket.on("data", onData);
    socket.on("end", onEnd);
    socket.on("close", onEnd);
    socket.resume();
  });
}
