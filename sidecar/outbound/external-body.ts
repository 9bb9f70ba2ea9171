// PURE. The body of a request to a host outside the mesh as far as it is kept: all of it until there is a place to write it to,
// and a small one until the answer begins, should the host turn out not to have looked at it.
import { MAX_RESOURCE_BODY_BYTES } from "../core/policy/operations.ts";
import type { Field } from "../wire/field.ts";

const NO_TRAILERS: readonly Field[] = [];

export class ExternalBody {
  trailers: readonly Field[] = NO_TRAILERS;
  /** All of it has come. */
  isEnded = false;
  #chunks: Buffer[] = [];
  #bytes = 0;

  /** More than what is read for a decision, or sent again. */
  get isLarge(): boolean {
    return this.#bytes > MAX_RESOURCE_BODY_BYTES;
  }

  get chunks(): readonly Buffer[] {
    return this.#chunks;
  }

  /** @param chunk is copied: a view would keep the whole received buffer alive. */
  keep(chunk: Buffer): void {
    this.#bytes += chunk.length;
    this.#chunks.push(Buffer.from(chunk));
  }

  /** What was written, too: dropped with all before it when it becomes much, and then not sent again. */
  keepWritten(chunk: Buffer): void {
    if (this.isLarge) return;
    this.keep(chunk);
    if (this.isLarge) this.#chunks = [];
  }

  whole(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  /** What is kept, to be taken in again. */
  take(): readonly Buffer[] {
    const chunks = this.#chunks;
    this.drop();
    this.#bytes = 0;
    return chunks;
  }

  drop(): void {
    this.#chunks = [];
  }
}
