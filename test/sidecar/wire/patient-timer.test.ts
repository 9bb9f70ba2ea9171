import { describe, expect, jest, test } from "@jest/globals";
import { PatientTimer } from "../../../sidecar/wire/patient-timer.ts";

/** Turns of the event loop until the function is called that `begin` is given. */
function turnsUntil(begin: (run: () => void) => void): Promise<number> {
  return new Promise((resolve) => {
    let turns = 0;
    let isOver = false;
    const count = (): void => {
      if (isOver) return;
      turns++;
      setImmediate(count);
    };
    begin(() => {
      isOver = true;
      resolve(turns);
    });
    setImmediate(count);
  });
}

/** Nothing else runs in this thread meanwhile. */
const standStill = (ms: number): void => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
};

describe("PatientTimer", () => {
  test("lets the loop turn after a standstill longer than its time", async () => {
    const turns = await turnsUntil((run) => {
      new PatientTimer(40, run);
      standStill(200);
    });
    expect(turns).toBeGreaterThanOrEqual(3);
  });

  test("runs out no earlier than it says", async () => {
    const startedMs = performance.now();
    await turnsUntil((run) => new PatientTimer(40, run));
    // Node's timers may fire up to a millisecond early.
    expect(performance.now() - startedMs).toBeGreaterThanOrEqual(36);
  });

  test.each([0, 1, 3])("never runs once it is cancelled after %i slices", (slices) => {
    jest.useFakeTimers();
    try {
      let ran = 0;
      const timer = new PatientTimer(40, () => ran++);
      jest.advanceTimersByTime(slices * 10);
      timer.cancel();
      jest.advanceTimersByTime(1_000);
      expect(ran).toBe(0);
    } finally {
      jest.useRealTimers();
    }
  });
});
