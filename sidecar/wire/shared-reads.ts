// Reads of TCP sockets through one buffer of the process. By itself Node allocates 64 KiB for each read, copies what came
// into memory of its own, frees the rest, passes it through a stream and looks a tick later whether to read more: 2 us of
// the 30 that a request costs.
import { type OnReadOpts, Socket } from "node:net";
import { ownMemory } from "./own-memory.ts";

const READ_BYTES = 65_536;

/** A socket as Node sees it. */
interface Internals {
  [property: symbol]: unknown;
  readonly _handle?: { readonly useUserBuffer?: (buffer: Uint8Array) => void } | null;
}

/** Where Node keeps option `onread` of a socket. */
export interface OnReadPlaces {
  readonly buffer: symbol;
  readonly callback: symbol;
}

/** The buffer. Reading and delivering is one call without a pause, so any number of sockets share it. */
export class SharedReads {
  readonly #buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  readonly #places: OnReadPlaces | undefined;

  /** @param findPlaces in a Node that keeps them elsewhere it finds none, and accepted sockets are read as Node does it. */
  constructor(findPlaces: () => OnReadPlaces | undefined = findOnReadPlaces) {
    this.#places = findPlaces();
  }

  /** Whether accepted sockets can be read through the buffer too. */
  get adopts(): boolean {
    return this.#places !== undefined;
  }

  /**
   * Option `onread` of `net.connect`: the socket then has no `data` events; all else is as ever.
   *
   * @param deliver gets what came, as memory that nobody writes to again.
   */
  into(deliver: (chunk: Buffer) => void): OnReadOpts {
    const buffer = this.#buffer;
    return {
      buffer,
      callback: (bytes) => {
        const chunk = ownMemory(bytes);
        buffer.copy(chunk, 0, 0, bytes);
        deliver(chunk);
        return true;
      },
    };
  }

  /**
   * The same for a socket that was accepted. Servers have no such option, so what it does is done here: two properties of the
   * socket and a call of its handle, none of them documented, the same in Node 22 to 24. With TLS, what of a read is decrypted
   * already still comes after `pause()`: 64 KiB at most.
   *
   * @param socket of which nothing was read yet.
   * @returns false: not done, listen for `data`. So with bytes that wait already, and in any other Node.
   */
  adopt(socket: Socket, deliver: (chunk: Buffer) => void): boolean {
    const places = this.#places;
    // What is described above: a socket is an object with these.
    const own = socket as unknown as Internals;
    const handle = own._handle;
    if (places === undefined || typeof handle?.useUserBuffer !== "function") return false;
    if (socket.readableLength > 0 || socket.readableFlowing === true || own[places.buffer] !== null)
      return false;
    const { buffer, callback } = this.into(deliver);
    own[places.buffer] = buffer;
    own[places.callback] = callback;
    handle.useUserBuffer(this.#buffer);
    return true;
  }
}

/** Found on a socket that is made with the option. */
export function findOnReadPlaces(): OnReadPlaces | undefined {
  const buffer = Buffer.alloc(1);
  const callback = (): boolean => true;
  const probe = new Socket({ onread: { buffer, callback } });
  const own = probe as unknown as Internals;
  const symbols = Object.getOwnPropertySymbols(probe);
  const ofBuffer = symbols.find((symbol) => own[symbol] === buffer);
  const ofCallback = symbols.find((symbol) => own[symbol] === callback);
  probe.destroy();
  return ofBuffer === undefined || ofCallback === undefined
    ? undefined
    : { buffer: ofBuffer, callback: ofCallback };
}
