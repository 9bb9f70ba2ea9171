import { expect, test } from "@jest/globals";
import { KeepAlive } from "../../../sidecar/wire/keep-alive.ts";

test("asks after ten seconds of silence and gives up ten seconds later", () => {
  const alive = new KeepAlive();
  const states = Array.from({ length: 44 }, (_, i) => alive.check(i * 500));
  expect(states.indexOf("ping")).toBe(20);
  expect(states.indexOf("dead")).toBe(40);
  expect(states.filter((state) => state === "ping")).toHaveLength(1);
});

test("any byte starts it again", () => {
  const alive = new KeepAlive();
  for (let i = 0; i <= 39; i++) alive.check(i * 500);
  alive.heard();
  expect(alive.check(20_000)).toBe("fine");
  expect(alive.check(29_500)).toBe("fine");
  expect(alive.check(30_000)).toBe("ping");
});
