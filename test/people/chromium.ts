// A real browser without a window: Chromium by Playwright. It finds the gateway's hosts on loopback, at the port that people
// type nowhere, and trusts the one certificate that the test made.

import { spawnSync } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { type Browser, chromium } from "playwright-core";
import { canTest } from "../left-out.ts";

const PROGRAMS = ["chromium", "chromium-browser", "google-chrome"];

/** Path of a Chromium; undefined: `what` is left out, which is said at the end. */
export function findChromium(what: string): string | undefined {
  for (const name of PROGRAMS) {
    const { status, stdout } = spawnSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" });
    if (status === 0) return stdout.trim();
  }
  canTest(what, { chromium: "Debian's chromium" });
  return undefined;
}

export function launchArguments(): string[] {
  return [
    // Nothing but what a test asks for goes out.
    ...["--disable-background-networking", "--disable-component-update", "--no-first-run"],
    // Root may not use its sandbox, and the pages are ours.
    ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
  ];
}

export interface BrowserInput {
  readonly program: string;
  /** Pattern of hosts that are at `port` of loopback, for 443. */
  readonly hosts: string;
  readonly port: number;
  /** PEM of the certificate that it trusts. */
  readonly certificate: string;
}

export async function launchChromium({ program, hosts, port, certificate }: BrowserInput): Promise<Browser> {
  const key = new X509Certificate(certificate).publicKey.export({ type: "spki", format: "der" });
  const pin = createHash("sha256").update(key).digest("base64");
  return await chromium.launch({
    executablePath: program,
    timeout: 120_000,
    args: [
      `--host-resolver-rules=MAP ${hosts}:443 127.0.0.1:${port}`,
      `--ignore-certificate-errors-spki-list=${pin}`,
      ...launchArguments(),
    ],
  });
}
