// Leader election over a Lease: at any time at most one replica works as the leader, and soon again one after it left,
// died or lost the API server. Work is ended before the Lease is let go of, never after.
import { type BackoffLimits, backoffMs } from "../../sidecar/core/runtime/backoff.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { statusOf } from "../kubernetes/client.ts";
import { claim, DEFAULT_TIMING, type LeaseTiming, type Sighting, sight } from "./claim.ts";
import { type LeaseApi, LeaseObject, type SeenLease } from "./lease-object.ts";

/** Who leads. */
export interface LeaseHolder {
  readonly identity: string;
  /** Its port for the reports of other replicas, `host:port`; undefined when it takes none. */
  readonly address: string | undefined;
}

export interface LeaderElectionOptions {
  readonly coordination: LeaseApi;
  readonly namespace: string;
  readonly name: string;
  /**
   * Of this process among the replicas, such as the pod's name. A later process of the same identity takes over at once,
   * so no two may run at a time.
   */
  readonly identity: string;
  /** Told to the others while this one leads: `host:port`. */
  readonly address?: string | undefined;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
  /**
   * The work of the leader. Its signal aborts when leadership ends; it must then end within seconds, for nobody else
   * leads before. When it rejects, or resolves by itself, the Lease is released and asked for again later.
   */
  readonly onLead: (signal: AbortSignal) => Promise<void>;
  /** Another holder than before was seen, or undefined: nobody is known to lead. */
  readonly onHolder?: (holder: LeaseHolder | undefined) => void;
  readonly timing?: Partial<LeaseTiming>;
}

const AFTER_FAILURE: BackoffLimits = { firstMs: 1_000, maxMs: 60_000 };
/** Work that went on for so long had begun well: the next failure counts as the first. */
const WORKED_MS = 60_000;
/** After an abort, until it is said that work does not end. */
const WORK_ENDS_MS = 5_000;

/**
 * Takes part in the election until `signal` aborts, then ends the work, releases the Lease and resolves. Never rejects.
 */
export function runLeaderElection(options: LeaderElectionOptions, signal: AbortSignal): Promise<void> {
  return new Election(options, signal).run();
}

interface Term {
  lease: SeenLease;
  /** Monotonic time before the call that last proved the Lease ours. */
  renewedMs: number;
}

class Election {
  readonly #options: LeaderElectionOptions;
  readonly #signal: AbortSignal;
  readonly #timing: LeaseTiming;
  readonly #lease: LeaseObject;
  #sighting: Sighting | undefined;
  #holder: LeaseHolder | undefined;
  #isUnreachable = false;
  #failures = 0;

  constructor(options: LeaderElectionOptions, signal: AbortSignal) {
    this.#options = options;
    this.#signal = signal;
    this.#timing = { ...DEFAULT_TIMING, ...options.timing };
    const { coordination, namespace, name, identity, address } = options;
    this.#lease = new LeaseObject(
      coordination,
      { namespace, name },
      { identity, address },
      this.#timing.leaseMs,
    );
  }

  async run(): Promise<void> {
    const { clock, random } = this.#options;
    while (!this.#signal.aborted) {
      const term = await this.#campaign();
      if (term === undefined) continue;
      if (this.#signal.aborted) {
        await this.#release(term);
        return;
      }
      const { endedEarly } = await this.#lead(term);
      if (!endedEarly) continue;
      await clock.sleep(backoffMs(this.#failures++, AFTER_FAILURE, random()), this.#signal);
    }
  }

  /** One look at the Lease, and taking it where that is allowed; else a pause. */
  async #campaign(): Promise<Term | undefined> {
    const { clock, identity, random } = this.#options;
    let pauseMs = this.#timing.retryEveryMs * (0.8 + 0.2 * random());
    try {
      const lease = await this.#call(() => this.#lease.read());
      this.#reachable();
      const startedMs = clock.monotonicMs();
      this.#sighting = sight(this.#sighting, lease?.record, startedMs, this.#timing);
      this.#tell(lease);
      const may = claim(this.#sighting, identity, startedMs);
      if (may.kind === "wait") pauseMs = Math.min(pauseMs, may.forMs);
      else if (!this.#signal.aborted) {
        const nowMs = clock.nowMs();
        const taken = await this.#call(() =>
          lease ? this.#lease.take(lease, nowMs) : this.#lease.create(nowMs),
        );
        return { lease: taken, renewedMs: startedMs };
      }
    } catch (error) {
      // 409: somebody else was first, and the next look says who.
      if (statusOf(error) !== 409) this.#unreachable(error);
    }
    await clock.sleep(pauseMs, this.#signal);
    return undefined;
  }

  async #lead(term: Term): Promise<{ readonly endedEarly: boolean }> {
    const { clock, log, identity } = this.#options;
    const ended = new AbortController();
    const startedMs = clock.monotonicMs();
    log.info("leading", { identity, transitions: term.lease.record.transitions });
    this.#tell(term.lease);
    const work = new Work(this.#options.onLead, AbortSignal.any([this.#signal, ended.signal]), log);
    const isHeld = await this.#keep(term, work);
    const endedEarly = work.hasEnded && !this.#signal.aborted;
    ended.abort();
    await this.#awaitEnd(work);
    if (clock.monotonicMs() - startedMs >= WORKED_MS) this.#failures = 0;
    if (isHeld && work.hasEnded) await this.#release(term);
    log.info("no longer leading", { identity, reason: isHeld ? "released" : "lost" });
    return { endedEarly };
  }

  /** Renews until we are asked to end, the work ends, or the Lease is lost. @returns whether it is still ours. */
  async #keep(term: Term, work: Work): Promise<boolean> {
    const { clock } = this.#options;
    const { renewEveryMs, renewDeadlineMs, retryEveryMs } = this.#timing;
    const stop = AbortSignal.any([this.#signal, work.ended]);
    const leftMs = (): number => term.renewedMs + renewDeadlineMs - clock.monotonicMs();
    let pauseMs = renewEveryMs;
    for (;;) {
      await clock.sleep(Math.min(pauseMs, Math.max(0, leftMs())), stop);
      if (leftMs() <= 0) {
        this.#options.log.warn("leadership given up: the Lease could not be renewed in time");
        return false;
      }
      if (stop.aborted) return true;
      const outcome = await this.#renew(term, leftMs);
      if (outcome === "lost") return false;
      pauseMs = outcome === "renewed" ? renewEveryMs : retryEveryMs;
    }
  }

  async #renew(term: Term, leftMs: () => number): Promise<"renewed" | "failed" | "lost"> {
    const { clock, identity, log } = this.#options;
    const startedMs = clock.monotonicMs();
    try {
      term.lease = await this.#call(() => this.#lease.renew(term.lease, clock.nowMs()), leftMs());
      term.renewedMs = startedMs;
      this.#reachable();
      return "renewed";
    } catch (error) {
      const status = statusOf(error);
      if (status !== 409 && status !== 404) {
        this.#unreachable(error);
        return "failed";
      }
    }
    // The object is another than the one we know: a renewal whose answer was lost, an annotation, or another holder.
    try {
      const lease = await this.#call(() => this.#lease.read(), leftMs());
      if (lease === undefined) {
        term.lease = await this.#call(() => this.#lease.create(clock.nowMs()), leftMs());
        term.renewedMs = startedMs;
        log.warn("the Lease was deleted and is made again", { name: this.#options.name });
        return "renewed";
      }
      if (lease.record.holder !== identity) {
        log.warn("leadership lost", { holder: lease.record.holder });
        return "lost";
      }
      term.lease = lease;
    } catch (error) {
      // Deleted, and somebody was faster to make it again.
      if (statusOf(error) === 409) return "lost";
      this.#unreachable(error);
    }
    return "failed";
  }

  /** A leader whose work goes on must not lead again, nor let others: the Lease then runs out by itself. */
  async #awaitEnd(work: Work): Promise<void> {
    const { clock, log } = this.#options;
    await clock.sleep(WORK_ENDS_MS, work.ended);
    if (work.hasEnded) return;
    log.error("the leader's work does not end after its signal; waiting for it");
    if (!this.#signal.aborted) await work.done;
  }

  async #release(term: Term): Promise<void> {
    const { clock, log } = this.#options;
    const { renewDeadlineMs } = this.#timing;
    const leftMs = term.renewedMs + renewDeadlineMs - clock.monotonicMs();
    if (leftMs <= 0) return;
    try {
      const released = await this.#call(() => this.#lease.release(term.lease, clock.nowMs()), leftMs);
      this.#tell(released);
    } catch (error) {
      // It runs out by itself.
      log.warn("the Lease could not be released", { error: messageOf(error) });
    }
  }

  /** The typed API knows no time limit: what takes longer is left to itself, and what it did shows at the next look. */
  async #call<T>(call: () => Promise<T>, atMostMs: number = this.#timing.callMs): Promise<T> {
    const limitMs = Math.min(atMostMs, this.#timing.callMs);
    const answered = new AbortController();
    const answer = call();
    answer.catch(() => {});
    try {
      return await Promise.race([
        answer,
        this.#options.clock.sleep(limitMs, answered.signal).then(() => {
          throw new MeshError("timeout", `the API server did not answer within ${Math.round(limitMs)} ms`);
        }),
      ]);
    } finally {
      answered.abort();
    }
  }

  #tell(lease: SeenLease | undefined): void {
    const holder =
      lease === undefined || lease.record.holder === ""
        ? undefined
        : { identity: lease.record.holder, address: lease.address };
    if (holder?.identity === this.#holder?.identity && holder?.address === this.#holder?.address) return;
    this.#holder = holder;
    this.#options.onHolder?.(holder);
  }

  #reachable(): void {
    if (this.#isUnreachable) this.#options.log.info("the Lease can be reached again");
    this.#isUnreachable = false;
  }

  #unreachable(error: unknown): void {
    const fields = { error: messageOf(error) };
    if (this.#isUnreachable) this.#options.log.debug("the Lease still cannot be reached", fields);
    else this.#options.log.warn("the Lease cannot be reached, trying again", fields);
    this.#isUnreachable = true;
  }
}

/** The leader's work of one term. */
class Work {
  readonly done: Promise<void>;
  readonly #ended = new AbortController();

  constructor(onLead: (signal: AbortSignal) => Promise<void>, signal: AbortSignal, log: Logger) {
    this.done = this.#run(onLead, signal, log);
  }

  get hasEnded(): boolean {
    return this.#ended.signal.aborted;
  }

  /** Aborts when it ended. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  async #run(
    onLead: (signal: AbortSignal) => Promise<void>,
    signal: AbortSignal,
    log: Logger,
  ): Promise<void> {
    try {
      await onLead(signal);
      if (!signal.aborted) log.warn("the leader's work ended by itself; trying again later");
    } catch (error) {
      if (signal.aborted) log.warn("the leader's work failed while ending", { error: messageOf(error) });
      else log.error("the leader's work failed; trying again later", { error: messageOf(error) });
    } finally {
      this.#ended.abort();
    }
  }
}
