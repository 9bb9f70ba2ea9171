import { expect, test } from "@jest/globals";
import { ApiReviews, REVIEW_WITHIN_MS } from "../../../control-plane/management/api-reviews.ts";
import { createLogger, silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";

test("asks 32 things at once, and no more until one is answered", async () => {
  const reviews = new ApiReviews(new FakeClock(0), silentLogger);
  const answers = Array.from({ length: 32 }, () => Promise.withResolvers<number>());
  let asked = 0;
  const running = answers.map(({ promise }) =>
    reviews.ask("TokenReview", () => {
      asked++;
      return promise;
    }),
  );
  const refused = await reviews.ask("TokenReview", async () => asked++);
  expect(refused).toMatchObject({ kind: "unavailable", detail: expect.stringContaining("too many") });
  expect(asked).toBe(32);
  answers[0]?.resolve(7);
  expect(await running[0]).toEqual({ kind: "answered", value: 7 });
  expect(await reviews.ask("TokenReview", async () => "next")).toEqual({ kind: "answered", value: "next" });
  for (const { resolve } of answers) resolve(0);
  await Promise.all(running);
});

test("gives up after five seconds, and an answer after that changes nothing", async () => {
  const clock = new FakeClock(0);
  const reviews = new ApiReviews(clock, silentLogger);
  const late = Promise.withResolvers<number>();
  const asked = reviews.ask("TokenReview", () => late.promise);
  clock.advance(REVIEW_WITHIN_MS);
  expect((await asked).kind).toBe("unavailable");
  late.reject(new Error("too late"));
  await expect(late.promise).rejects.toThrow("too late");
});

test("logs why, without the headers of the request that failed", async () => {
  const lines: string[] = [];
  const log = createLogger("debug", {}, (line) => lines.push(line));
  const reviews = new ApiReviews(new FakeClock(0), log);
  await reviews.ask("TokenReview", () =>
    Promise.reject(new Error('HTTP-Code: 500\nMessage: no\nBody: {}\nHeaders: {"authorization":"Bearer x"}')),
  );
  expect(lines.join("")).toContain("HTTP-Code: 500 Message: no");
  expect(lines.join("")).not.toContain("Bearer x");
});
