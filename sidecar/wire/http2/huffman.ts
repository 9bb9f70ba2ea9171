// Huffman decoding of HPACK strings (RFC 7541 section 5.2 and Appendix B), four bits at a time through a state table.
// We never Huffman-encode: on one machine or rack the CPU costs more than the bytes.

/** Code lengths of symbols 0 to 255 and EOS; the code is canonical, so the lengths define it. */
const CODE_LENGTHS = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28,
  28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7,
  8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19,
  13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13,
  28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21,
  22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23,
  22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
  19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25,
  25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const EOS = 256;
const FAIL = -1;
const EMITS = 0x200;

// Built with the first string that needs it (9 ms of a start otherwise): our own sidecars never send one.
let table: Table | undefined;

interface Table {
  /** [state * 16 + nibble] is the next state, with `EMITS` and a symbol from bit 10 on where one ends; FAIL after EOS. */
  readonly transitions: Int32Array;
  /** 1 where input may end: at most 7 bits, all ones, since the last symbol. */
  readonly accepts: Uint8Array;
}

/** Children of inner node n are at tree[2n] and tree[2n+1]: an inner node, or -1 - symbol for a leaf. */
function buildTree(): Int32Array {
  const tree = new Int32Array(512);
  const symbols = CODE_LENGTHS.map((length, symbol) => ({ length, symbol }));
  symbols.sort((a, b) => a.length - b.length || a.symbol - b.symbol);
  let nodes = 1;
  let code = 0;
  let previous = 0;
  for (const { length, symbol } of symbols) {
    code *= 2 ** (length - previous);
    previous = length;
    let node = 0;
    for (let bit = length - 1; bit > 0; bit--) {
      const slot = node * 2 + (Math.floor(code / 2 ** bit) % 2);
      if (tree[slot] === 0) tree[slot] = nodes++;
      node = tree[slot] ?? 0;
    }
    tree[node * 2 + (code % 2)] = -1 - symbol;
    code++;
  }
  return tree;
}

function buildTable(): Table {
  const tree = buildTree();
  const transitions = new Int32Array(256 * 16);
  for (let state = 0; state < 256; state++) {
    for (let nibble = 0; nibble < 16; nibble++) transitions[state * 16 + nibble] = walk(tree, state, nibble);
  }
  const accepts = new Uint8Array(256);
  let node = 0;
  for (let depth = 0; depth < 8; depth++) {
    accepts[node] = 1;
    node = tree[node * 2 + 1] ?? 0;
  }
  return { transitions, accepts };
}

/** The shortest code has 5 bits, so four bits end at most one symbol. */
function walk(tree: Int32Array, state: number, nibble: number): number {
  let node = state;
  let emitted = 0;
  for (let bit = 3; bit >= 0; bit--) {
    const next = tree[node * 2 + ((nibble >> bit) & 1)] ?? 0;
    if (next >= 0) node = next;
    else if (next === -1 - EOS) return FAIL;
    else {
      emitted = EMITS | ((-1 - next) << 10);
      node = 0;
    }
  }
  return emitted | node;
}

/** The most bytes that `length` encoded bytes decode to: the shortest code has 5 bits. */
export function huffmanBound(length: number): number {
  return Math.floor((length * 8) / 5) + 1;
}

/**
 * Decodes input[start, end) into `output`, which holds `huffmanBound(end - start)` bytes.
 *
 * @returns bytes written, or -1: EOS in the data, or padding that is longer than 7 bits or not all ones.
 */
export function huffmanDecode(input: Uint8Array, start: number, end: number, output: Uint8Array): number {
  table ??= buildTable();
  const { transitions, accepts } = table;
  let state = 0;
  let length = 0;
  for (let at = start; at < end; at++) {
    const byte = input[at] ?? 0;
    let step = transitions[(state << 4) | (byte >> 4)] ?? FAIL;
    if (step < 0) return -1;
    if ((step & EMITS) !== 0) output[length++] = step >> 10;
    state = step & 0xff;
    step = transitions[(state << 4) | (byte & 15)] ?? FAIL;
    if (step < 0) return -1;
    if ((step & EMITS) !== 0) output[length++] = step >> 10;
    state = step & 0xff;
  }
  return accepts[state] === 1 ? length : -1;
}
