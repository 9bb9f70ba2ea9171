// An identity provider that is down, slow, rotating, or answers garbage or a gigabyte: the last good keys hold.
import { mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { mayReach, type Reach, reachOf } from "../../../../sidecar/core/idp/address-reach.ts";
import { fileDocumentStore } from "../../../../sidecar/core/idp/file-document-store.ts";
import { checkedUrl, fetchGuarded, type GuardedRequest } from "../../../../sidecar/core/idp/guarded-fetch.ts";
import { IssuerDocuments } from "../../../../sidecar/core/idp/issuer-documents.ts";
import { silentLogger } from "../../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../../fakes/clock.ts";
import { type FakeIdp, signingKey, startFakeIdp } from "../../../fakes/idp.ts";

const DISCOVERY = "/.well-known/openid-configuration";
const HOUR = 3_600_000;
const [K1, K2] = [signingKey("k1"), signingKey("k2")];
let idp: FakeIdp;
let clock: FakeClock;
let dir: string;
beforeEach(async () => {
  idp = await startFakeIdp();
  idp.keys = [K1];
  clock = new FakeClock(Date.parse("2026-11-21T10:00:00Z"));
  dir = await mkdtemp(join(tmpdir(), "countersign-idp-"));
});
afterEach(async () => {
  await idp.close();
  await rm(dir, { recursive: true, force: true });
});

const fetch = (asked: GuardedRequest) => fetchGuarded({ ...asked, timeoutMs: 500 });
const open = (issuer = idp.issuer): IssuerDocuments =>
  new IssuerDocuments({
    settings: { name: "main", issuer, allowInsecureIssuer: true },
    store: fileDocumentStore(join(dir, "idp"), "main"),
    clock,
    log: silentLogger,
    fetch,
  });
const kids = async (documents: IssuerDocuments, kid: string): Promise<unknown> =>
  (await documents.keys(kid, "ES256"))?.map((key) => key.kid);
const settled = async (until: () => boolean | Promise<boolean>): Promise<void> => {
  while (!(await until())) await new Promise((resolve) => setImmediate(resolve));
};

test("is asked once, and kept readable by its owner alone", async () => {
  const documents = open();
  expect(await Promise.all([kids(documents, "k1"), kids(documents, "k1")])).toEqual([["k1"], ["k1"]]);
  expect(await kids(documents, "k1")).toEqual(["k1"]);
  expect(idp.asked).toEqual([DISCOVERY, "/jwks"]);
  expect(await readdir(join(dir, "idp"))).toEqual(["main.json"]);
  expect((await stat(join(dir, "idp/main.json"))).mode & 0o777).toBe(0o600);
});

test.each<{ name: string; path: string; answer: Parameters<FakeIdp["answers"]["set"]>[1] }>([
  { name: "500", path: DISCOVERY, answer: (response) => response.writeHead(500).end() },
  { name: "garbage", path: DISCOVERY, answer: (response) => response.end("<html>") },
  { name: "a list", path: DISCOVERY, answer: (response) => response.end("[]") },
  {
    name: "another issuer",
    path: DISCOVERY,
    answer: (response) => response.end('{"issuer":"https://evil.example","jwks_uri":"x"}'),
  },
  { name: "no keys", path: "/jwks", answer: (response) => response.end('{"keys":[]}') },
  { name: "garbage for keys", path: "/jwks", answer: (response) => response.end("{{{{") },
  {
    name: "a redirect",
    path: "/jwks",
    answer: (response) => response.writeHead(302, { location: "/jwks2" }).end(),
  },
  {
    name: "a compressed answer",
    path: "/jwks",
    answer: (response) => response.writeHead(200, { "content-encoding": "gzip" }).end("x"),
  },
  {
    name: "a gigabyte, announced",
    path: "/jwks",
    answer: (response) => response.writeHead(200, { "content-length": "1073741824" }).write("{"),
  },
  {
    name: "a gigabyte, bit by bit",
    path: "/jwks",
    answer: (response) => {
      const more = (): void => {
        if (!response.destroyed) response.write(" ".repeat(65_536), () => setImmediate(more));
      };
      more();
    },
  },
  { name: "nothing", path: "/jwks", answer: () => {} },
  {
    name: "half an answer",
    path: "/jwks",
    answer: (response) => response.writeHead(200, { "content-length": "100" }).write('{"keys"'),
  },
])(
  "answers $name: the last good keys hold, also after a restart; without any there is no answer",
  async ({ path, answer }) => {
    const good = open();
    expect(await kids(good, "k1")).toEqual(["k1"]);
    idp.answers.set(path, answer);
    clock.advance(HOUR);
    expect(await kids(good, "k1")).toEqual(["k1"]);
    expect(await kids(good, "k2")).toEqual([]);
    expect(await kids(open(), "k1")).toEqual(["k1"]);
    await rm(join(dir, "idp"), { recursive: true });
    expect(await kids(open(), "k1")).toBeUndefined();
  },
);

test("last good keys count for a day, then nothing is known; it recovers by itself", async () => {
  const documents = open();
  await kids(documents, "k1");
  idp.answers.set(DISCOVERY, (response) => response.writeHead(503).end());
  clock.advance(23 * HOUR);
  expect(await kids(documents, "k1")).toEqual(["k1"]);
  clock.advance(2 * HOUR);
  expect(await kids(documents, "k1")).toBeUndefined();
  idp.answers.clear();
  expect(await kids(documents, "k1")).toBeUndefined();
  clock.advance(10_000);
  expect(await kids(documents, "k1")).toEqual(["k1"]);
});

describe("keys rotate", () => {
  test("a new key is found when a token names it, a withdrawn one leaves within the time that documents are fresh", async () => {
    const documents = open();
    expect(await kids(documents, "k1")).toEqual(["k1"]);
    idp.keys = [K2];
    expect(await kids(documents, "k2")).toEqual(["k2"]);
    expect(await documents.keys("k1", "ES256")).toEqual([]);
    idp.keys = [K1];
    clock.advance(601_000);
    await kids(documents, "k2");
    await settled(async () => (await kids(documents, "k1")) !== undefined && idp.asked.length >= 6);
    expect(await kids(documents, "k1")).toEqual(["k1"]);
  });

  test("tokens with keys that nobody has cause few questions", async () => {
    const documents = open();
    await kids(documents, "k1");
    for (let at = 0; at < 50; at++) expect(await kids(documents, `guess-${at}`)).toEqual([]);
    expect(idp.asked.filter((path) => path === "/jwks")).toHaveLength(4);
    clock.advance(31_000);
    await kids(documents, "guess");
    expect(idp.asked.filter((path) => path === "/jwks")).toHaveLength(5);
  });

  test("a key is for the algorithms of its type", async () => {
    expect(await open().keys("k1", "RS256")).toEqual([]);
  });
});

test("kept documents of another issuer, or damaged ones, are not used", async () => {
  await kids(open(), "k1");
  const other = open("http://127.0.0.1:1");
  expect(await kids(other, "k1")).toBeUndefined();
  idp.answers.set(DISCOVERY, (response) => response.destroy());
  for (const text of [
    "{",
    "7",
    JSON.stringify({ issuer: idp.issuer, fetchedAtMs: 1, jwks: "{", reach: "loopback" }),
  ]) {
    await writeFile(join(dir, "idp/main.json"), text);
    expect(await kids(open(), "k1")).toBeUndefined();
  }
});

describe("where it may send us", () => {
  test.each<[string, Reach]>([
    ["93.184.216.34", "public"],
    ["2606:4700::1", "public"],
    ["10.1.2.3", "private"],
    ["172.31.0.1", "private"],
    ["192.168.1.1", "private"],
    ["100.64.0.1", "private"],
    ["fd00::1", "private"],
    ["::ffff:10.0.0.1", "private"],
    ["127.0.0.1", "loopback"],
    ["::1", "loopback"],
    ["::ffff:127.0.0.1", "loopback"],
    ["169.254.169.254", "never"],
    ["::ffff:169.254.169.254", "never"],
    ["::ffff:a9fe:a9fe", "never"],
    ["fd00:ec2::254", "never"],
    ["fd20:ce::254", "never"],
    ["168.63.129.16", "never"],
    ["100.100.100.200", "never"],
    ["::169.254.169.254", "never"],
    ["::7f00:1", "never"],
    ["64:ff9b:1::a00:1", "never"],
    ["fe80::1", "never"],
    ["0.0.0.0", "never"],
    ["::", "never"],
    ["224.0.0.1", "never"],
    ["64:ff9b::7f00:1", "never"],
    ["not an address", "never"],
  ])("%s is %s", (address, reach) => {
    expect(reachOf(address)).toBe(reach);
  });

  test.each<[Reach, Reach, boolean]>([
    ["public", "public", true],
    ["public", "private", false],
    ["public", "loopback", false],
    ["private", "private", true],
    ["private", "public", true],
    ["private", "loopback", false],
    ["loopback", "loopback", true],
    ["loopback", "never", false],
  ])("from %s to %s: %s", (from, to, expected) => {
    expect(mayReach(from, to)).toBe(expected);
  });

  test.each([
    "http://idp.example/jwks",
    "ftp://idp.example",
    "file:///etc/passwd",
    "https://user:pw@idp.example/",
    "https://idp.example/#x",
    "jwks",
    `https://idp.example/${"a".repeat(3_000)}`,
  ])("never asks %s", (url) => {
    expect(() => checkedUrl(url, true)).toThrow();
  });

  test("a public provider cannot name an address of ours, by number or by name", async () => {
    for (const url of [
      idp.issuer,
      "https://10.0.0.1/jwks",
      "https://localhost:1/",
      "https://[::ffff:127.0.0.1]/",
    ])
      await expect(
        fetchGuarded({ url, namedFrom: "public", allowInsecure: url !== idp.issuer }),
      ).rejects.toThrow(/is not an `https` URL|may not be asked from here|no address that may be asked/);
  });
});

test("userinfo is asked for with the access token", async () => {
  idp.userinfo = { sub: "a" };
  const documents = open();
  expect(await documents.userinfo("at")).toBe('{"sub":"a"}');
  idp.answers.set("/me", (response) => response.writeHead(401).end());
  await expect(documents.userinfo("at")).rejects.toThrow(/answered 401/);
  idp.userinfo = undefined;
  await rm(join(dir, "idp"), { recursive: true });
  expect(await open().userinfo("at")).toBe(undefined);
});
