import { expect, test } from "@jest/globals";
import { TurnQueue } from "../../../sidecar/wire/turn-queue.ts";

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("runs what a turn has brought at its end, in order", async () => {
  const queue = new TurnQueue();
  const ran: string[] = [];
  queue.add(() => ran.push("a"));
  queue.add(() => ran.push("b"));
  expect(ran).toEqual([]);
  await turn();
  expect(ran).toEqual(["a", "b"]);
});

test("what is added by a run comes in the next turn", async () => {
  const queue = new TurnQueue();
  const ran: number[] = [];
  const again = (): void => {
    ran.push(ran.length);
    if (ran.length < 5) queue.add(again);
  };
  queue.add(again);
  queue.add(() => expect(ran).toEqual([0]));
  for (let i = 1; i <= 5; i++) {
    await turn();
    expect(ran).toHaveLength(i);
  }
});

test("one that throws keeps no other from its turn", () => {
  const scheduled: (() => void)[] = [];
  const queue = new TurnQueue((run) => scheduled.push(run));
  const ran: string[] = [];
  queue.add(() => ran.push("a"));
  queue.add(() => {
    throw new Error("broken");
  });
  queue.add(() => ran.push("b"));
  expect(scheduled).toHaveLength(1);
  expect(scheduled[0]).toThrow("broken");
  expect(ran).toEqual(["a"]);
  expect(scheduled).toHaveLength(2);
  queue.add(() => ran.push("c"));
  scheduled[1]?.();
  expect(ran).toEqual(["a", "b", "c"]);
  expect(scheduled).toHaveLength(2);
});
