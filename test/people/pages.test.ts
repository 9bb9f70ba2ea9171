// The gateway's own pages in a real browser: readable in light and dark, on a telephone and by keyboard. Takes their
// pictures, too: into a temporary folder, or where COUNTERSIGN_PICTURES says (`npm run pictures`).
import { mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { type Browser, chromium } from "playwright-core";
import { findChromium, launchArguments } from "./chromium.ts";
import { measure, tabThrough } from "./measure-page.ts";
import { PAGES, type PageServer, servePages } from "./shown-pages.ts";

const program = findChromium("the gateway's pages in a browser");
/** CSS pixels; the narrow one is what WCAG 2.2 asks for (1.4.10). */
const WIDTHS = { wide: 1_000, narrow: 320 } as const;
const HEIGHT = 640;
/** Pictures stand in the repository. */
const MAX_PICTURE_BYTES = 60_000;
/** Those of the README. */
const PICTURED: ReadonlySet<string> = new Set([
  "choice",
  "declined",
  "signed-out",
  "in-circles",
  "program",
  "not-yours",
]);
const LOADS_MS = 100_000;

(program ? describe : describe.skip)("the gateway's pages", () => {
  let browser: Browser;
  let server: PageServer;
  const asked = process.env["COUNTERSIGN_PICTURES"];
  const folder = asked ?? mkdtempSync(join(tmpdir(), "countersign-pictures-"));

  beforeAll(async () => {
    server = await servePages();
    browser = await chromium.launch({
      ...(program === undefined ? {} : { executablePath: program }),
      ...{ args: launchArguments(), timeout: LOADS_MS },
    });
    mkdirSync(folder, { recursive: true });
  });
  afterAll(async () => {
    await browser?.close();
    server?.close();
    if (asked === undefined) rmSync(folder, { recursive: true, force: true });
  });

  test.each(
    (["light", "dark"] as const).flatMap((scheme) =>
      (["wide", "narrow"] as const).map((width) => ({ scheme, width })),
    ),
  )("are readable and go by keyboard: $scheme, $width", async ({ scheme, width }) => {
    const context = await browser.newContext({
      colorScheme: scheme,
      viewport: { width: WIDTHS[width], height: HEIGHT },
    });
    context.setDefaultTimeout(LOADS_MS);
    const page = await context.newPage();
    const complaints: string[] = [];
    page.on("console", (message) => {
      // Statuses of the pages themselves are what they are for.
      if (!message.text().startsWith("Failed to load resource")) complaints.push(message.text());
    });
    for (const name of PAGES.keys()) {
      await page.goto(server.url(name));
      const { focusable, ...faults } = await measure(page);
      expect([name, faults]).toEqual([name, { outside: [], faint: [], small: [] }]);
      if (PICTURED.has(name)) {
        const path = join(folder, `${name}-${scheme}-${width}.png`);
        await page.screenshot({ path });
        expect(statSync(path).size).toBeLessThan(MAX_PICTURE_BYTES);
      }
      expect([name, await tabThrough(page)]).toEqual([
        name,
        focusable.map((each) => ({ name: each, visible: true })),
      ]);
    }
    await context.close();
    expect(complaints).toEqual([]);
  });
});
