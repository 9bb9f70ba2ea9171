import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { trustBundleJson } from "../../../control-plane/ca/jwks.ts";
import { runAuthorityMaintenance } from "../../../control-plane/ca/maintenance.ts";
import { type CertificateAuthority, openCertificateAuthority } from "../../../control-plane/ca/root.ts";
import { parseTrustBundle } from "../../../sidecar/core/identity/trust-bundle.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { issueTestIdentity, must, testId } from "../../fakes/authority.ts";
import { FakeClock } from "../../fakes/clock.ts";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
let stateDir: string;
let clock: FakeClock;
let ca: CertificateAuthority;
beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "countersign-ca-"));
  clock = new FakeClock(Date.parse("2026-11-20T10:00:00Z"));
  ca = await openCertificateAuthority({ stateDir, trustDomain: "lake.example", clock });
});
afterEach(() => rm(stateDir, { recursive: true, force: true }));
const bundle = () => must(parseTrustBundle(trustBundleJson(ca)));
const kidOf = (wit: string): string =>
  JSON.parse(Buffer.from(wit.split(".")[0] ?? "", "base64url").toString()).kid;

/** Lets time pass hour by hour; what is issued in any of them is checked against every bundle until it expires. */
test("a year of maintenance: every token verifies under every bundle of its life, and keys come and go", async () => {
  const stop = new AbortController();
  let bundles = 0;
  const running = runAuthorityMaintenance(
    { ca, clock, log: silentLogger, onBundle: () => (bundles += 1) },
    stop.signal,
  );
  const live: { kid: string; expiresMs: number }[] = [];
  const used = new Set<string>();
  const published = new Map<string, number>();
  let { sequence } = ca;
  let failures = 0;
  for (let hour = 0; hour < 365 * 24; hour++) {
    // Maintenance is asleep again: its renewals write files and need turns of the loop.
    while (clock.sleeping === 0) await setImmediate();
    const nowMs = clock.nowMs();
    const keys = ca.witSigners.map(({ kid }) => kid);
    for (const kid of keys) if (!published.has(kid)) published.set(kid, nowMs);
    const { kid } = ca.wit;
    // Published at least three refresh hints of 300 s before its first use.
    if (!used.has(kid) && used.size > 0 && nowMs - (published.get(kid) ?? nowMs) < 900_000) failures += 1;
    used.add(kid);
    live.push({ kid, expiresMs: nowMs + 7 * DAY });
    while (live[0] !== undefined && live[0].expiresMs < nowMs) live.shift();
    for (const token of new Set(live.map((one) => one.kid))) if (!keys.includes(token)) failures += 1;
    if (ca.sequence < sequence || ca.issuing.notAfterMs - nowMs < 29 * DAY || keys.length > 3) failures += 1;
    sequence = ca.sequence;
    clock.advance(HOUR);
  }
  stop.abort();
  await running;
  expect(failures).toBe(0);
  expect(used.size).toBe(13);
  expect(bundles).toBe(ca.sequence - 1);
  // Twelve keys published and eleven dropped; those of the token service come with them, and twelve leave.
  expect(bundles).toBe(23 + 12);
});

test("survives a restart in every stage, with the old and the next key", async () => {
  const first = issueTestIdentity({ ca, bundle: bundle() }, testId("a"), clock.nowMs());
  clock.advance(29 * DAY);
  expect(await ca.maintain()).toBe(true);
  expect(ca.sequence).toBe(2);
  expect(bundle().witKeys.size).toBe(2);
  // The next key is known a day before it signs.
  expect(kidOf(issueTestIdentity({ ca, bundle: bundle() }, testId("a"), clock.nowMs()).wit)).toBe(
    kidOf(first.wit),
  );
  clock.advance(DAY);
  const second = issueTestIdentity({ ca, bundle: bundle() }, testId("a"), clock.nowMs());
  expect(kidOf(second.wit)).not.toBe(kidOf(first.wit));
  const before = trustBundleJson(ca);
  ca = await openCertificateAuthority({ stateDir, trustDomain: "lake.example", clock });
  expect(trustBundleJson(ca)).toBe(before);
  clock.advance(7 * DAY + HOUR);
  await ca.maintain();
  expect([...bundle().witKeys.keys()]).toEqual([kidOf(second.wit)]);
  expect(bundle().sequence).toBe(3);
  const files = (await readdir(join(stateDir, "ca"))).filter((name) => !/^(tts|session)-/.test(name));
  expect(files.sort()).toEqual(["authority.json", "issuing.pem", "root.pem", `${kidOf(second.wit)}.pem`]);
});
