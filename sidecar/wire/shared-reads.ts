// Reads of TCP sockets that we open, through one buffer of the process. By itself Node allocates 64 KiB for each read, copies
// what came into memory of its own, frees the rest, and passes it through a stream: 2 us more for an answer of 1 KB.
import type { OnReadOpts } from "node:net";
import { ownMemory } from "./own-memory.ts";

const READ_BYTES = 65_536;

/** The buffer. Reading and delivering is one call without a pause, so any number of sockets share it. */
export class SharedReads {
  readonly #buffer = Buffer.allocUnsafeSlow(READ_BYTES);

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
}
