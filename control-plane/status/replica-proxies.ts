// The sidecars of all replicas as the leader sees them: its own and what the others report, each held against the table
// that the leader itself expects. Another replica's opinion of who is up to date does not count, for it may be behind.
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import type { ProxyStatus } from "../discovery/server.ts";
import { proxyId, type ReportedProxy, type ReportLine } from "./replica-report.ts";

export interface ReplicaProxiesOptions {
  /** Digest of the present table of a workload; undefined: there is no such workload. */
  readonly expectedDigest: (workload: string) => string | undefined;
  readonly revision: () => number;
  readonly softwareVersion: string;
  readonly clock: Clock;
  /** What a report said is another than before. */
  readonly onChanged: () => void;
  /** Ends what waits. */
  readonly signal: AbortSignal;
}

/** One replica's report while its connection is open, and a moment after. */
export interface ReplicaReport {
  /** Takes a line that is not the first. @returns false when it is too much. */
  take(line: ReportLine): boolean;
  end(): void;
}

interface Known {
  proxy: ReportedProxy;
  /** The newest revision of ours whose table it was seen with. */
  syncedRevision: number;
}

interface Replica {
  readonly name: string;
  readonly software: string;
  readonly known: Map<string, Known>;
  /** Monotonic; set when the connection has ended: its sidecars are on their way to another replica. */
  endedMs: number | undefined;
}

const MAX_PROXIES = 20_000;
/** After its connection ended a replica's sidecars count for so long as they stood. */
const KEEP_MS = 5_000;

export class ReplicaProxies {
  readonly #options: ReplicaProxiesOptions;
  readonly #replicas = new Map<string, Replica>();

  constructor(options: ReplicaProxiesOptions) {
    this.#options = options;
  }

  /** A report begins; one of the same replica before it is over. */
  begin(name: string, software: string): ReplicaReport {
    const before = this.#replicas.get(name);
    const replica: Replica = { name, software, known: new Map(), endedMs: undefined };
    // Until it has told everything, what it said last.
    for (const [id, known] of before?.known ?? []) replica.known.set(id, known);
    const fresh = new Set<string>();
    this.#replicas.set(name, replica);
    return {
      take: ({ set = [], gone = [], complete }) => {
        for (const proxy of set) {
          const id = proxyId(proxy);
          fresh.add(id);
          const known = replica.known.get(id);
          if (known) known.proxy = proxy;
          else replica.known.set(id, { proxy, syncedRevision: 0 });
        }
        for (const id of gone) replica.known.delete(id);
        if (complete) for (const id of replica.known.keys()) if (!fresh.has(id)) replica.known.delete(id);
        if (complete) fresh.clear();
        if (set.length + gone.length > 0 || complete) this.#options.onChanged();
        return replica.known.size <= MAX_PROXIES;
      },
      end: () => void this.#end(replica),
    };
  }

  /** @param own the sidecars connected to this replica. */
  merge(own: readonly ProxyStatus[]): readonly ProxyStatus[] {
    if (this.#replicas.size === 0) return own;
    const merged = new Map<string, ProxyStatus>();
    const connected = new Set<string>();
    for (const proxy of this.#all(own)) {
      const id = proxyId(proxy);
      const other = merged.get(id);
      if (!other || isBetter(proxy, other)) merged.set(id, proxy);
      if (proxy.state !== "disconnected") connected.add(proxy.workload);
    }
    // As discovery does it: who left is remembered until somebody of the workload is there.
    return [...merged.values()].filter(
      ({ state, workload }) => state !== "disconnected" || !connected.has(workload),
    );
  }

  /** Replicas that report now. */
  get replicas(): readonly string[] {
    return [...this.#replicas.values()]
      .filter(({ endedMs }) => endedMs === undefined)
      .map(({ name }) => name);
  }

  *#all(own: readonly ProxyStatus[]): Generator<ProxyStatus> {
    yield* own;
    const nowMs = this.#options.clock.monotonicMs();
    for (const replica of this.#replicas.values()) {
      if (replica.endedMs !== undefined && nowMs - replica.endedMs >= KEEP_MS) continue;
      for (const known of replica.known.values()) yield this.#judge(replica, known);
    }
  }

  #judge(replica: Replica, known: Known): ProxyStatus {
    const { proxy } = known;
    const { expectedDigest, revision, softwareVersion } = this.#options;
    const expected = expectedDigest(proxy.workload) ?? "";
    // Another build may encode the same table in other bytes: then its own word has to do.
    if (replica.software !== softwareVersion) return { ...proxy, expectedDigest: expected };
    const isSame = proxy.digest === expected;
    if (isSame) known.syncedRevision = revision();
    return {
      ...proxy,
      expectedDigest: expected,
      state: proxy.state === "disconnected" ? "disconnected" : isSame ? "synced" : "stale",
      syncedRevision: known.syncedRevision,
    };
  }

  async #end(replica: Replica): Promise<void> {
    const { clock, onChanged, signal } = this.#options;
    replica.endedMs = clock.monotonicMs();
    await clock.sleep(KEEP_MS, signal);
    if (this.#replicas.get(replica.name) !== replica) return;
    this.#replicas.delete(replica.name);
    onChanged();
  }
}

/** Of one sidecar known to two replicas: where it is connected, and there the later connection. */
function isBetter(one: ProxyStatus, other: ProxyStatus): boolean {
  const [a, b] = [one.state !== "disconnected", other.state !== "disconnected"];
  return a === b ? one.sinceMs > other.sinceMs : a;
}
