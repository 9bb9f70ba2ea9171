// PURE. Decimal text of the numbers that every recorded line has. V8 takes 150 to 300 ns to write a number that is no small
// integer (times in milliseconds, fractions), and a line has two or three of them.

/** `.07`, `.5` and the like by hundredths; empty for none. */
const FRACTIONS: readonly string[] = Array.from({ length: 100 }, (_, at) => String(at / 100).slice(1));
const THREE_DIGITS: readonly string[] = Array.from({ length: 1_000 }, (_, at) => String(at).padStart(3, "0"));
/** V8 keeps integers below this without an object of their own. */
const SMALL = 2 ** 30;

/** A duration rounded to two decimals, as JSON writes the number. @param ms milliseconds. */
export function hundredthsText(ms: number): string {
  const hundredths = Math.round(ms * 100);
  if (!(hundredths >= 0 && hundredths < SMALL)) return String(hundredths / 100);
  return `${Math.trunc(hundredths / 100)}${FRACTIONS[hundredths % 100]}`;
}

/** Three digits. @param ms 0 to 999, an integer. */
export function threeDigits(ms: number): string {
  return THREE_DIGITS[ms] ?? "000";
}

/** Points in time as whole Unix milliseconds; those of one second share its text. */
export class UnixMsTexts {
  #second = -1;
  #text = "";

  of(unixMs: number): string {
    const second = Math.floor(unixMs / 1_000);
    if (second !== this.#second) {
      this.#second = second;
      this.#text = String(second);
    }
    return this.#text + threeDigits(Math.floor(unixMs) - second * 1_000);
  }
}
