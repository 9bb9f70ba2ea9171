// PURE. The handshake of WebSocket (RFC 6455 section 4), the HTTP/1.1 upgrades that are carried, and where frames end.
import { createHash } from "node:crypto";

export const WEBSOCKET = "websocket";
/** Belong to one HTTP/1.1 hop: over HTTP/2 there are none (RFC 8441 section 5). */
export const WEBSOCKET_HOP_FIELDS: ReadonlySet<string> = new Set([
  "sec-websocket-key",
  "sec-websocket-accept",
]);

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/** 16 bytes in base64: the last character before the padding has two bits (RFC 6455 section 4.1). */
const KEY = /^[A-Za-z0-9+/]{21}[AQgw]==$/;
/** A protocol, perhaps with its version (RFC 9110 section 7.8), which `:protocol` can carry. */
const UPGRADE = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}(?:\/[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32})?$/;
/**
 * HTTP itself, in another version or under TLS: what would be said after the switch are requests that nobody decides on. Any
 * server may answer as if nothing had been asked.
 */
const HTTP_AGAIN = new Set(["h2c", "h2", "h3", "http", "https", "tls"]);

export function isWebSocketKey(value: string): boolean {
  return KEY.test(value);
}

/** The `Sec-WebSocket-Accept` of a key. */
export function webSocketAccept(key: string): string {
  return createHash("sha1")
    .update(key + GUID)
    .digest("base64");
}

/**
 * What a request wants its connection to be turned into.
 *
 * @param upgrade value of Upgrade when Connection names it.
 * @returns one protocol, its name in lower case, its version as it came; empty: nothing that needs an answer, such as `h2c`;
 *   undefined: what cannot be carried.
 */
export function upgradeOf(upgrade: string | undefined): string | undefined {
  if (upgrade === undefined) return "";
  if (!UPGRADE.test(upgrade)) return undefined;
  const slash = upgrade.indexOf("/");
  const name = (slash < 0 ? upgrade : upgrade.slice(0, slash)).toLowerCase();
  if (HTTP_AGAIN.has(name)) return "";
  return slash < 0 ? name : name + upgrade.slice(slash);
}

/**
 * What is wrong with a 101 (RFC 6455 section 4.1, RFC 9110 section 15.2.2).
 *
 * @param asked protocol that was asked for; empty: none.
 * @param accept of a WebSocket: what answers our key.
 * @returns in words that follow the name of who answered; undefined: nothing.
 */
export function switchProblem(
  asked: string,
  accept: string,
  answer: { readonly upgrade: string | undefined; readonly accept: string | undefined },
): string | undefined {
  if (asked === "") return "switched protocols without being asked";
  if (upgradeOf(answer.upgrade) !== asked) return "switched to another protocol than asked for";
  return asked === WEBSOCKET && answer.accept !== accept ? "sent a wrong Sec-WebSocket-Accept" : undefined;
}

/** A close frame of a server (section 5.5.1). @param reason at most 123 bytes. */
export function closeFrame(code: number, reason: string): Buffer {
  const text = Buffer.from(reason).subarray(0, 123);
  const head = Buffer.from([0x88, text.length + 2, code >> 8, code & 0xff]);
  return Buffer.concat([head, text]);
}

/** Follows the frames of one direction (section 5.2), so that one of ours can be put between two of them. */
export class FrameBoundary {
  /** Bytes of the head that came, at most 14. */
  readonly #head = Buffer.alloc(14);
  #headBytes = 0;
  /** Of the frame's payload. */
  #left = 0;

  /** Nothing of a frame is under way. */
  get between(): boolean {
    return this.#headBytes === 0 && this.#left === 0;
  }

  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#left > 0) {
        const part = Math.min(this.#left, chunk.length - at);
        this.#left -= part;
        at += part;
        continue;
      }
      this.#head[this.#headBytes++] = chunk[at++] ?? 0;
      this.#readHead();
    }
  }

  #readHead(): void {
    if (this.#headBytes < 2) return;
    const head = this.#head;
    const second = head[1] ?? 0;
    const short = second & 0x7f;
    const lengthBytes = short === 126 ? 2 : short === 127 ? 8 : 0;
    const size = 2 + lengthBytes + ((second & 0x80) === 0 ? 0 : 4);
    if (this.#headBytes < size) return;
    this.#headBytes = 0;
    // Beyond 2^53 it never ends, which is what it then is.
    this.#left =
      lengthBytes === 0 ? short : lengthBytes === 2 ? head.readUInt16BE(2) : Number(head.readBigUInt64BE(2));
  }
}
