// The closest of many names, a bounded number of times per object: for messages about names that nobody has. PURE.
import { closestName } from "../sources/closest-name.ts";

/** Looking for a close name is the dear part, and whoever may write a policy could have us do it all day. */
const MAX_LOOKUPS = 8;
const MAX_CANDIDATES = 32;

/**
 * The names with the most letters in common, wherever they stand: comparing these alone finds the closest one, save
 * among anagrams.
 */
function likely(word: string, names: Iterable<string>): string[] {
  const wanted = lettersOf(word);
  const left = new Uint8Array(128);
  const limit = Math.max(1, Math.floor(word.length / 3));
  const ranked: { readonly name: string; readonly apart: number }[] = [];
  for (const name of names) {
    const longer = Math.max(name.length, word.length);
    const isBeginning = name.startsWith(word) || word.startsWith(name);
    if (!isBeginning && longer - Math.min(name.length, word.length) > limit) continue;
    left.set(wanted);
    let common = 0;
    for (let i = 0; i < name.length; i++) {
      const letter = (name.charCodeAt(i) | 32) & 127;
      const count = left[letter] ?? 0;
      if (count === 0) continue;
      left[letter] = count - 1;
      common += 1;
    }
    const apart = longer - common;
    if (isBeginning || apart <= limit) ranked.push({ name, apart });
  }
  ranked.sort((a, b) => a.apart - b.apart);
  return ranked.slice(0, MAX_CANDIDATES).map(({ name }) => name);
}

/** How often each letter is there, whatever its case; names are ASCII, and what is not only ranks worse. */
function lettersOf(word: string): Uint8Array {
  const counts = new Uint8Array(128);
  for (let i = 0; i < word.length; i++) {
    const letter = (word.charCodeAt(i) | 32) & 127;
    counts[letter] = (counts[letter] ?? 0) + 1;
  }
  return counts;
}

/** Finds close names, a bounded number of times. */
export class NameFinder {
  #left = MAX_LOOKUPS;

  /** @returns ``; did you mean `x` `` or an empty text. */
  hint(word: string, names: Iterable<string>): string {
    if (this.#left <= 0) return "";
    this.#left -= 1;
    const close = closestName(word, likely(word, names));
    return close === undefined ? "" : `; did you mean \`${close}\``;
  }
}
