import { execFileSync } from "node:child_process";
import { expect, test } from "@jest/globals";
import { createLogger } from "../../../../sidecar/core/runtime/log.ts";

function collect(level: "debug" | "warn" | "silent") {
  const lines: string[] = [];
  const log = createLogger(level, { process: "p" }, (line) => lines.push(line));
  return { log, parsed: () => lines.map((line) => JSON.parse(line) as Record<string, unknown>), lines };
}

test("a line is one JSON object with level, time, base, fields and message", () => {
  const { log, parsed, lines } = collect("debug");
  log.child({ workload: "ns/a" }).info("joined", { port: 1, detail: "two\nlines" });
  expect(lines[0]?.indexOf("\n")).toBe((lines[0]?.length ?? 0) - 1);
  const [{ time, ...rest } = {}] = parsed();
  expect(rest).toEqual({
    level: "info",
    process: "p",
    workload: "ns/a",
    port: 1,
    detail: "two\nlines",
    msg: "joined",
  });
  expect(time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
});

test("lines below the level are left out", () => {
  const { log, parsed } = collect("warn");
  log.debug("a");
  log.info("b");
  log.warn("c");
  log.error("d");
  expect(parsed().map(({ msg }) => msg)).toEqual(["c", "d"]);
  const silent = collect("silent");
  silent.log.error("e");
  expect(silent.lines).toEqual([]);
});

test("secrets are replaced, errors become their message, what is no JSON is left out", () => {
  const { log, parsed } = collect("debug");
  const cycle: Record<string, unknown> = {};
  cycle["self"] = cycle;
  log.info("a", { joinToken: "cs1.x", error: new Error("broken") });
  log.info("b", { cycle });
  expect(parsed()).toMatchObject([
    { joinToken: "[redacted]", error: "broken", msg: "a" },
    { level: "info", msg: "b" },
  ]);
});

test("everything reaches standard error before the process ends", () => {
  const module = new URL("../../../../sidecar/core/runtime/log.ts", import.meta.url).href;
  const program = `
    import { createLogger } from ${JSON.stringify(module)};
    const log = createLogger("info");
    for (let i = 0; i < 2000; i++) log.info("line", { i });`;
  const args = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", program];
  const text = execFileSync(
    "/bin/sh",
    ["-c", 'exec "$0" "$@" 2>&1 >/dev/null | cat', process.execPath, ...args],
    {
      encoding: "utf8",
    },
  );
  const numbers = text
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { i: number }).i);
  expect(numbers).toEqual(Array.from({ length: 2000 }, (_, i) => i));
});
