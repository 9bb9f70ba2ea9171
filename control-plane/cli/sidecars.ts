// The status of the mesh as all replicas together know it: each knows only the sidecars that are connected to it.
import { type Fields, fieldsOf, listOf, numberOf, textOf } from "./answers.ts";
import type { Mesh } from "./mesh.ts";

/** `/v1/status` of the first replica, with the sidecars of all of them, by workload and node, and their counts. */
export async function readStatus(mesh: Mesh): Promise<Fields> {
  const answers = (await mesh.manageEach("/v1/status")).map(({ answer }) => fieldsOf(answer));
  const [first = {}] = answers;
  if (answers.length === 1) return { ...first, sidecars: listOf(first["sidecars"]).toSorted(byWorkload) };
  const sidecars = mergeSidecars(answers.map((answer) => listOf(answer["sidecars"])));
  const count = (state: string) => sidecars.filter((one) => one["state"] === state).length;
  return {
    ...first,
    proxies: {
      ...{ total: sidecars.length, synced: count("synced"), stale: count("stale") },
      disconnected: count("disconnected"),
      nacked: sidecars.filter((one) => textOf(one["nack"]) !== "").length,
    },
    sidecars,
  };
}

/** Each sidecar once: as the replica that it is connected to knows it, else as the one that saw it last. PURE. */
export function mergeSidecars(lists: readonly (readonly Fields[])[]): readonly Fields[] {
  const known = new Map<string, Fields>();
  for (const sidecar of lists.flat()) {
    const key = JSON.stringify([textOf(sidecar["workload"]), textOf(sidecar["instance"])]);
    const before = known.get(key);
    if (before === undefined || isNewer(sidecar, before)) known.set(key, sidecar);
  }
  return [...known.values()].sort(byWorkload);
}

function byWorkload(a: Fields, b: Fields): number {
  const [one, other] = [a, b].map(({ workload, node }) => `${textOf(workload)} ${textOf(node)}`);
  return one === other ? 0 : (one ?? "") < (other ?? "") ? -1 : 1;
}

function isNewer(now: Fields, before: Fields): boolean {
  const connected = (one: Fields) => one["state"] !== "disconnected";
  if (connected(now) !== connected(before)) return connected(now);
  return (numberOf(now["sinceMs"]) ?? 0) > (numberOf(before["sinceMs"]) ?? 0);
}
