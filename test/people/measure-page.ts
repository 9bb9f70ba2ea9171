// What a page is like to somebody who cannot point, see weak colours, or has a narrow screen: measured in the browser.
import type { Page } from "playwright-core";

export interface Measured {
  /** Elements that reach beyond the window or beyond the card. */
  readonly outside: readonly string[];
  /** Texts with less contrast than WCAG 2.2 asks for (1.4.3: 4.5 to 1). */
  readonly faint: readonly string[];
  /** Links and buttons that are lower than a finger needs, 44 CSS pixels. */
  readonly small: readonly string[];
  /** What can be focused, in the order of the document. */
  readonly focusable: readonly string[];
}

/** Runs in the page; the last background that covers a text is the one that counts. */
const MEASURE = `(() => {
  const name = (element) => element.tagName.toLowerCase() + " " + (element.textContent ?? "").trim().slice(0, 40);
  const card = document.querySelector("main").getBoundingClientRect();
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (let at = element; at !== null; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if ((colour[3] ?? 1) === 1) return colour;
    }
    return [255, 255, 255];
  };
  const contrast = (element) => {
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const all = Array.from(document.querySelectorAll("main, main *"));
  const outside = all.filter((element) => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && (box.left < card.left - 0.5 || box.right > card.right + 0.5);
  });
  if (document.documentElement.scrollWidth > innerWidth) outside.push(document.documentElement);
  const isText = (element) => Array.from(element.childNodes).some((node) => node.nodeType === 3 && node.data.trim() !== "");
  const focusable = Array.from(document.querySelectorAll("a[href], button, input:not([type=hidden])"));
  return {
    outside: outside.map(name),
    faint: all.filter((element) => isText(element) && contrast(element) < 4.5).map(name),
    small: focusable.filter((element) => element.getBoundingClientRect().height < 44).map(name),
    focusable: focusable.map(name),
  };
})()`;

const FOCUSED = `(() => {
  const at = document.activeElement;
  if (at === null || at === document.body) return undefined;
  const { outlineStyle, outlineWidth } = getComputedStyle(at);
  const visible = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  const index = Array.from(document.querySelectorAll("a[href], button, input:not([type=hidden])")).indexOf(at);
  return { index, name: at.tagName.toLowerCase() + " " + (at.textContent ?? "").trim().slice(0, 40), visible };
})()`;

interface Focused {
  readonly index: number;
  readonly name: string;
  readonly visible: boolean;
}

export async function measure(page: Page): Promise<Measured> {
  return (await page.evaluate(MEASURE)) as Measured;
}

/** Goes through the page by Tab: what is focused one after another, and whether one sees it. */
export async function tabThrough(
  page: Page,
): Promise<readonly { readonly name: string; readonly visible: boolean }[]> {
  const seen: { name: string; visible: boolean }[] = [];
  let first: number | undefined;
  for (let presses = 0; presses < 20; presses++) {
    await page.keyboard.press("Tab");
    const at = (await page.evaluate(FOCUSED)) as Focused | undefined;
    // At the end of the page the browser begins again at its first.
    if (at === undefined || at.index === first) break;
    first ??= at.index;
    seen.push({ name: at.name, visible: at.visible });
  }
  return seen;
}
