// How often a browser was sent to sign in lately: more than a few times means that it goes round in circles, and a page
// that says so helps more than the next round. Counted in a cookie of a minute; nobody is kept out by it. PURE.

export const TRIES_COOKIE = "tries";
export const TRIES_SECONDS = 60;
const MOST = 5;

export function triesOf(value: string | undefined): number {
  return value !== undefined && /^\d$/.test(value) ? Number(value) : 0;
}

export function goesInCircles(tries: number): boolean {
  return tries >= MOST;
}
