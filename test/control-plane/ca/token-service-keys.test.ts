// The keys of the token service: every replica has them, they come and go, and an authority of an earlier build gets them.
import { beforeEach, describe, expect, test } from "@jest/globals";
import { MANIFEST_FILE } from "../../../control-plane/ca/authority-store.ts";
import { trustBundleJson } from "../../../control-plane/ca/jwks.ts";
import { type CertificateAuthority, openCertificateAuthority } from "../../../control-plane/ca/root.ts";
import { parseTrustBundle } from "../../../sidecar/core/identity/trust-bundle.ts";
import { must } from "../../fakes/authority.ts";
import { MemoryStore } from "../../fakes/authority-store.ts";
import { FakeClock } from "../../fakes/clock.ts";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
let store: MemoryStore;
let clock: FakeClock;
beforeEach(() => {
  store = new MemoryStore();
  clock = new FakeClock(Date.parse("2026-11-20T10:00:00Z"));
});
const open = (): Promise<CertificateAuthority> =>
  openCertificateAuthority({ store, clock, trustDomain: "lake.example" });

/** What a build without token service writes: it knows neither the files nor the member of the manifest. */
async function writeAsEarlierBuild(): Promise<void> {
  const { files, version } = await store.load();
  const known = new Map([...files].filter(([name]) => !/^(?:tts|session)-/.test(name)));
  const { tokenService: _, ...manifest } = JSON.parse(files.get(MANIFEST_FILE) ?? "");
  await store.save(known.set(MANIFEST_FILE, JSON.stringify(manifest)), version);
}

const bundled = (ca: CertificateAuthority): readonly string[] =>
  JSON.parse(trustBundleJson(ca))
    .keys.filter(({ use }: { use: string }) => use === "txn-token")
    .map(({ kid }: { kid: string }) => kid);

test("every replica signs with the same key and opens the same handles; the bundle has the public part alone", async () => {
  const [one, other] = await Promise.all([open(), open()]);
  expect(one.txn.kid).toMatch(/^tts-[0-9a-f]{16}$/);
  expect(other.txn.kid).toBe(one.txn.kid);
  expect(other.handleKeys.map(({ kid }) => kid)).toEqual(one.handleKeys.map(({ kid }) => kid));
  expect(other.handleKeys[0]?.key.equals(one.handleKeys[0]!.key)).toBe(true);
  expect(bundled(one)).toEqual([one.txn.kid]);
  expect(trustBundleJson(one)).not.toMatch(/"d":/);
  expect(must(parseTrustBundle(trustBundleJson(one))).witKeys.size).toBe(1);
});

test("the next keys are known a day before they are used, and the last ones as long as anything rests on them", async () => {
  const ca = await open();
  const [first, handles] = [ca.txn.kid, ca.handleKeys[0]?.kid];
  clock.advance(29 * DAY);
  await ca.maintain();
  expect([ca.txn.kid, ca.txnSigners.length]).toEqual([first, 2]);
  expect([ca.handleKeys[0]?.kid, ca.handleKeys.length]).toEqual([handles, 2]);
  clock.advance(DAY);
  await ca.maintain();
  expect(ca.txn.kid).not.toBe(first);
  expect(bundled(ca)).toContain(first);
  expect(ca.handleKeys.map(({ kid }) => kid).indexOf(handles ?? "")).toBe(1);
  clock.advance(13 * HOUR);
  await ca.maintain();
  expect(bundled(ca)).toEqual([ca.txn.kid]);
  expect(ca.handleKeys).toHaveLength(1);
  expect([...store.files.keys()].filter((name) => /^(?:tts|session)-/.test(name))).toHaveLength(2);
});

describe("an authority that an earlier build wrote", () => {
  test("gets the keys from the replica that leads; the others take them up, and only the bundle's sequence grows", async () => {
    const before = await open();
    await writeAsEarlierBuild();
    const [leader, follower] = [await open(), await open()];
    expect(() => leader.txn).toThrow("the token service has no key yet");
    expect(leader.handleKeys).toEqual([]);
    expect(await leader.maintain()).toBe(true);
    expect(await follower.refresh()).toEqual({ bundle: true, issuing: false });
    expect(follower.txn.kid).toBe(leader.txn.kid);
    expect(leader.txn.kid).not.toBe(before.txn.kid);
    expect(leader.sequence).toBe(before.sequence + 1);
    expect(leader.wit.kid).toBe(before.wit.kid);
    expect(await leader.maintain()).toBe(false);
  });

  test("and overwrites while both run, costs no key: they are put back", async () => {
    const ca = await open();
    const { kid } = ca.txn;
    await writeAsEarlierBuild();
    await ca.refresh();
    expect(ca.txn.kid).toBe(kid);
    expect(bundled(ca)).toEqual([kid]);
    expect(await ca.maintain()).toBe(true);
    expect((await open()).txn.kid).toBe(kid);
    expect(await ca.maintain()).toBe(false);
  });

  test("rotating the root leaves them alone", async () => {
    const ca = await open();
    const { kid } = ca.txn;
    await ca.startRotation();
    expect(bundled(ca)).toEqual([kid]);
    expect((await open()).txn.kid).toBe(kid);
  });
});

test.each([
  { name: "no object", tokenService: 3, message: /`tokenService` is not an object/ },
  { name: "no list", tokenService: { signers: {} }, message: /`tokenService.signers` is not a list/ },
  {
    name: "a file of elsewhere",
    tokenService: { signers: [{ file: "../root.pem", signsFromMs: 1 }], handleKeys: [] },
    message: /`tokenService.signers` has an entry that is no key/,
  },
  {
    name: "a key that is too short",
    tokenService: { signers: [], handleKeys: [{ file: "session-0123456789abcdef.key", signsFromMs: 1 }] },
    message: /`session-0123456789abcdef.key` is not a key of 256 bit/,
  },
])("refuses $name", async ({ tokenService, message }) => {
  await open();
  const { files, version } = await store.load();
  const manifest = { ...JSON.parse(files.get(MANIFEST_FILE) ?? ""), tokenService };
  const spoiled = new Map(files).set("session-0123456789abcdef.key", "c2hvcnQ");
  await store.save(spoiled.set(MANIFEST_FILE, JSON.stringify(manifest)), version);
  await expect(open()).rejects.toMatchObject({ code: "bad_config", message: expect.stringMatching(message) });
});
