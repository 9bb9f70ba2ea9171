// Latin-1 text in buffers by Node's own fast paths, which its types leave out: `toString` and `write` with an encoding
// cost about 15 ns more a call, and a header block makes many.

interface Latin1Buffer {
  latin1Slice(start: number, end: number): string;
  latin1Write(text: string, at: number, length: number): number;
}

/** The characters of buffer[start, end). */
export function latin1Slice(buffer: Buffer, start: number, end: number): string {
  // Every Buffer has these two methods; the cast adds what @types/node lacks.
  return (buffer as Buffer & Latin1Buffer).latin1Slice(start, end);
}

/** Writes text of Latin-1 characters at `at`; the caller made room. */
export function latin1Write(buffer: Buffer, text: string, at: number): void {
  (buffer as Buffer & Latin1Buffer).latin1Write(text, at, text.length);
}
