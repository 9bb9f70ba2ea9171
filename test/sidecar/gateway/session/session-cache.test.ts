import { expect, test } from "@jest/globals";
import { SessionCache } from "../../../../sidecar/gateway/session/session-cache.ts";
import { sessionOf } from "./sessions.ts";

test("keeps nothing while ends are not heard of", () => {
  const cache = new SessionCache();
  cache.set("a", sessionOf("s1"), 0);
  expect(cache.get("a", 0)).toBeUndefined();
  cache.trust();
  cache.set("a", sessionOf("s1"), 0);
  expect(cache.get("a", 1)?.session.sid).toBe("s1");
  cache.distrust();
  expect(cache.get("a", 1)).toBeUndefined();
});

test("a session that ended while it was read is not kept", () => {
  const cache = new SessionCache();
  cache.trust();
  const { version } = cache;
  cache.delete("a");
  cache.set("a", sessionOf("s1"), 0, version);
  expect(cache.get("a", 0)).toBeUndefined();
});

test("is bounded in time and number", () => {
  const cache = new SessionCache();
  cache.trust();
  cache.set("a", sessionOf("s1"), 0);
  expect(cache.get("a", 29_999)).toBeDefined();
  expect(cache.get("a", 30_000)).toBeUndefined();
  for (let i = 0; i < 5_001; i++) cache.set(`k${i}`, sessionOf("s"), 0);
  expect(cache.get("k0", 0)).toBeUndefined();
  expect(cache.get("k1", 0)).toBeDefined();
  expect(cache.get("k5000", 0)).toBeDefined();
});
