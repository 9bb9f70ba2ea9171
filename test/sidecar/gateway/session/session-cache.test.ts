import { expect, test } from "@jest/globals";
import { digestOf } from "../../../../sidecar/gateway/session/session.ts";
import { SessionCache } from "../../../../sidecar/gateway/session/session-cache.ts";
import { sessionOf } from "./sessions.ts";

const [A, B] = [digestOf("a"), digestOf("b")];

/** One that has been read before. */
function keep(cache: SessionCache, digest: string, session = sessionOf("s1"), nowMs = 0): void {
  for (let times = 0; times < 2; times++) cache.set(digest, session, nowMs, cache.version);
}

test("keeps nothing while ends are not heard of", () => {
  const cache = new SessionCache();
  keep(cache, A);
  expect(cache.get(A, 0)).toBeUndefined();
  cache.trust();
  keep(cache, A);
  expect(cache.get(A, 1)?.session.sid).toBe("s1");
  cache.distrust();
  expect(cache.get(A, 1)).toBeUndefined();
});

test("keeps what was read twice, however many were read once meanwhile in other slots", () => {
  const cache = new SessionCache();
  cache.trust();
  cache.set(A, sessionOf("s1"), 0, cache.version);
  expect(cache.get(A, 0)).toBeUndefined();
  cache.set(B, sessionOf("s2"), 0, cache.version);
  expect(cache.get(B, 0)).toBeUndefined();
  cache.set(A, sessionOf("s1"), 0, cache.version);
  expect(cache.get(A, 0)?.session.sid).toBe("s1");
});

test("a session that ended while it was read is not kept", () => {
  const cache = new SessionCache();
  cache.trust();
  cache.set(A, sessionOf("s1"), 0, cache.version);
  const { version } = cache;
  cache.delete(A);
  cache.set(A, sessionOf("s1"), 0, version);
  expect(cache.get(A, 0)).toBeUndefined();
});

test("is bounded in time and number", () => {
  const cache = new SessionCache();
  cache.trust();
  keep(cache, A);
  expect(cache.get(A, 29_999)).toBeDefined();
  expect(cache.get(A, 30_000)).toBeUndefined();
  const digests = Array.from({ length: 5_001 }, (_, i) => digestOf(`k${i}`));
  for (const digest of digests) keep(cache, digest);
  expect(cache.get(digests[0] ?? "", 0)).toBeUndefined();
  expect(cache.get(digests[1] ?? "", 0)).toBeDefined();
  expect(cache.get(digests[5_000] ?? "", 0)).toBeDefined();
});

test("is bounded in characters, by what it holds now", () => {
  const cache = new SessionCache();
  cache.trust();
  const large = sessionOf("s", { handle: "h".repeat(1_000_000), idToken: "i".repeat(900_000) });
  const digests = Array.from({ length: 9 }, (_, i) => digestOf(`k${i}`));
  const held = () => digests.map((digest, i) => (cache.get(digest, 0) === undefined ? "" : i)).join("");
  for (const digest of digests.slice(0, 4)) keep(cache, digest, large);
  for (let i = 0; i < 50; i++) keep(cache, digests[3] ?? "", large);
  expect(held()).toBe("0123");
  keep(cache, digests[4] ?? "", large);
  expect(held()).toBe("1234");
  cache.delete(digests[2] ?? "");
  keep(cache, digests[5] ?? "", large);
  expect(held()).toBe("1345");
  cache.trust();
  for (const digest of digests.slice(5)) keep(cache, digest, large);
  expect(held()).toBe("5678");
});
