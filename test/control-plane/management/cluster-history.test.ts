import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  ClusterHistory,
  PIN_NAME,
  type RevisionStore,
} from "../../../control-plane/management/cluster-history.ts";
import { restoredContent } from "../../../control-plane/management/revision-content.ts";
import type { ClusterState } from "../../../control-plane/sources/store.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { clusterState } from "../../fakes/resources.ts";

const log = createLogger("silent", {});

/** Objects in memory, told to every history as a watch would. */
class Store implements RevisionStore {
  readonly objects = new Map<string, Readonly<Record<string, unknown>>>();
  readonly histories: ClusterHistory[] = [];
  failing = false;

  async create(name: string, spec: Readonly<Record<string, unknown>>): Promise<void> {
    if (this.failing) throw new Error("away");
    this.objects.set(name, spec);
    for (const one of this.histories) one.noticed(name, spec);
  }
  put = this.create;
  async read(name: string): Promise<Readonly<Record<string, unknown>> | undefined> {
    return this.objects.get(name);
  }
  async delete(name: string): Promise<void> {
    this.objects.delete(name);
    for (const one of this.histories) one.noticed(name, undefined);
  }
  open(isLeader: boolean): ClusterHistory {
    const history = new ClusterHistory(this, log);
    for (const [name, spec] of this.objects) history.noticed(name, spec);
    history.lead(isLeader);
    this.histories.push(history);
    return history;
  }
}

/** A state whose only objects are roles: name to a number. */
function stateOf(roles: Readonly<Record<string, number>>): ClusterState {
  return clusterState([], {
    roles: new Map(
      Object.entries(roles).map(([name, value]) => [name, { name: `${name}${value}`, rules: [] }]),
    ),
  });
}

const edit = { reason: "edit", applied: true } as const;
const namesIn = (objects: ReadonlyMap<string, unknown>): unknown =>
  [...restoredContent(objects).roles.values()].map(({ name }) => name).sort();

describe("history in a cluster", () => {
  test("undoes changes to reach an earlier revision, by whichever replica", async () => {
    const store = new Store();
    const [leader, other] = [store.open(true), store.open(false)];
    for (const history of [leader, other]) {
      history.record(stateOf({ a: 1 }), { ...edit, reason: "start", atLeast: 10 }, 0);
      history.record(stateOf({ a: 2, b: 1 }), { ...edit, atLeast: 20 }, 1);
      history.record(stateOf({ b: 1 }), { ...edit, atLeast: 30 }, 2);
    }
    await leader.flush();
    expect([...store.objects.keys()]).toHaveLength(3);
    for (const history of [leader, other]) {
      expect(history.list().map(({ sequence }) => sequence)).toEqual([30, 20, 10]);
      expect(namesIn(await history.objects(10))).toEqual(["a1"]);
      expect(namesIn(await history.objects(20))).toEqual(["a2", "b1"]);
      expect(namesIn(await history.objects(30))).toEqual(["b1"]);
      expect(await history.diff(20, 30)).toMatchObject([{ object: "MeshRole/a", change: "removed" }]);
      await expect(history.objects(25)).rejects.toMatchObject({ code: "not_found" });
    }
  });

  test("takes the same revision for the same content after a restart, and says what it cannot undo", async () => {
    const store = new Store();
    const before = store.open(true);
    before.record(stateOf({ a: 1 }), { ...edit, reason: "start" }, 0);
    before.record(stateOf({ a: 2 }), edit, 1);
    await before.flush();
    const same = store.open(true);
    expect(same.isUnchanged(stateOf({ a: 2 }))).toBe(true);
    expect(same.isUnchanged(stateOf({ a: 1 }))).toBe(false);
    same.record(stateOf({ a: 9 }), { ...edit, reason: "start" }, 2);
    same.record(stateOf({ a: 10 }), edit, 3);
    await same.flush();
    expect(namesIn(await same.objects(3))).toEqual(["a9"]);
    await expect(same.objects(2)).rejects.toThrow("cannot go back beyond it");
  });

  test("a new leader stores what the one before did not", async () => {
    const store = new Store();
    const [leader, next] = [store.open(true), store.open(false)];
    for (const history of [leader, next]) history.record(stateOf({ a: 1 }), { ...edit, reason: "start" }, 0);
    await leader.flush();
    leader.lead(false);
    next.record(stateOf({ a: 2 }), edit, 1);
    expect(store.objects.size).toBe(1);
    next.lead(true);
    await next.flush();
    expect(store.objects.size).toBe(2);
    expect(namesIn(await next.objects(1))).toEqual(["a1"]);
  });

  test("what cannot be stored now is stored with the next revision", async () => {
    const store = new Store();
    const leader = store.open(true);
    store.failing = true;
    leader.record(stateOf({ a: 1 }), { ...edit, reason: "start" }, 0);
    await leader.flush();
    expect(store.objects.size).toBe(0);
    store.failing = false;
    leader.record(stateOf({ a: 2 }), edit, 1);
    await leader.flush();
    expect(store.objects.size).toBe(2);
  });

  test("a replica that remembers too few revisions does not lead back wrongly", async () => {
    const store = new Store();
    const late = store.open(false);
    for (let at = 0; at < 60; at++) late.record(stateOf({ a: at }), edit, at);
    late.lead(true);
    await late.flush();
    expect(namesIn(await late.objects(11))).toEqual(["a10"]);
    await expect(late.objects(10)).rejects.toMatchObject({ code: "not_found" });
  });

  test("says what a rollback and its end change in force, whatever was edited meanwhile and after a restart", async () => {
    const store = new Store();
    const leader = store.open(true);
    leader.record(stateOf({ a: 1 }), { ...edit, reason: "start" }, 0);
    leader.record(stateOf({ a: 2, b: 1 }), edit, 1);
    const pinned = stateOf({ a: 1 });
    const back = leader.record(pinned, { reason: "rollback", rollbackTo: 1, applied: true }, 2);
    expect(back.changes).toEqual([
      { object: "MeshRole/a", change: "changed" },
      { object: "MeshRole/b", change: "removed" },
    ]);
    const live = stateOf({ a: 2, b: 1, c: 1 });
    leader.record(live, { ...edit, applied: false, inForce: pinned }, 3);
    await leader.flush();
    const restarted = store.open(true);
    restarted.adopt(live, pinned);
    const released = restarted.record(live, { reason: "release", applied: true }, 4);
    expect(released.changes).toEqual([
      { object: "MeshRole/a", change: "changed" },
      { object: "MeshRole/b", change: "added" },
      { object: "MeshRole/c", change: "added" },
    ]);
    expect(namesIn(await restarted.objects(2))).toEqual(["a2", "b1"]);
  });

  test("tells others of a pin, and of its end", async () => {
    const store = new Store();
    const [leader, other] = [store.open(true), store.open(false)];
    leader.record(stateOf({ a: 1 }), { ...edit, reason: "start" }, 0);
    await leader.flush();
    await other.pin(1);
    expect([leader.pinned, other.pinned]).toEqual([1, 1]);
    expect(store.objects.get(PIN_NAME)).toEqual({ pinnedTo: 1 });
    await leader.pin(undefined);
    expect([leader.pinned, other.pinned]).toEqual([undefined, undefined]);
  });

  test("keeps the last hundred", async () => {
    const store = new Store();
    const leader = store.open(true);
    for (let at = 0; at < 130; at++) {
      leader.record(stateOf({ a: at }), edit, at);
      if (at % 20 === 0) await leader.flush();
    }
    await leader.flush();
    expect(store.objects.size).toBe(100);
    expect(namesIn(await leader.objects(31))).toEqual(["a30"]);
  });

  test("every kept revision gives back what it was", async () => {
    const states = fc.array(fc.dictionary(fc.constantFrom("a", "b", "c"), fc.nat(2)), {
      minLength: 1,
      maxLength: 12,
    });
    await fc.assert(
      fc.asyncProperty(states, async (sequence) => {
        const store = new Store();
        const leader = store.open(true);
        const expected = sequence.map((roles) => {
          const state = stateOf(roles);
          const { sequence: number } = leader.record(state, edit, 0);
          return [number, [...state.roles.values()].map(({ name }) => name).sort()] as const;
        });
        await leader.flush();
        for (const [number, names] of expected) expect(namesIn(await leader.objects(number))).toEqual(names);
      }),
      { numRuns: 50 },
    );
  });
});
