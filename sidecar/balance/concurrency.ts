// PURE. How many calls run at once under a rule, with a short queue in front. The queue is first come, first served: it
// is bounded and every waiting call has a deadline, so its oldest call can still be answered in time, and nobody starves
// as they would with the newest first. Who could not be served before its deadline is refused at once, not at its end.

/** A call that may have to wait. Called back at most once, never from within `enter`. */
export interface Waiting {
  /** It holds its places now. */
  onEntered(nowMs: number): void;
  /** It waited in vain. */
  onTurnedAway(): void;
}

/** One limit that a call falls under. */
export interface ConcurrencyRule {
  readonly policy: string;
  readonly rule: string;
  /** Calls at once, at least 1. */
  readonly limit: number;
}

/** Calls that wait at most for each that runs; more would wait too long to be of use. */
const QUEUE_PER_PLACE = 1;
const MAX_QUEUE = 1_024;
/** Rules that are remembered; those of old policies go first. */
const MAX_GATES = 1_000;
/** Weight of the newest call in the mean time that calls hold their places. */
const NEWEST = 0.1;

class Gate {
  readonly policy: string;
  readonly rule: string;
  limit = 1;
  running = 0;
  /** In the order they came. */
  readonly queue = new Set<Ticket>();
  /** Calls that run or wait here, or at another gate that they need too. */
  calls = 0;
  /** Milliseconds a call holds its place; 0: none has finished yet. */
  meanHoldMs = 0;

  constructor(policy: string, rule: string) {
    this.policy = policy;
    this.rule = rule;
  }

  get hasRoom(): boolean {
    return this.running < this.limit;
  }

  get mayQueue(): boolean {
    return this.queue.size < Math.min(MAX_QUEUE, this.limit * QUEUE_PER_PLACE);
  }

  /** When a call that queues now is likely to be served, milliseconds from now. */
  get expectedWaitMs(): number {
    return ((this.queue.size + 1) / this.limit) * this.meanHoldMs;
  }
}

/** The places of one call, or its place in the queue for them. */
export class Ticket {
  readonly #owner: ConcurrencyLimiter;
  readonly gates: readonly Gate[];
  readonly waiting: Waiting;
  readonly deadlineMs: number;
  state: "waiting" | "running" | "over" = "waiting";
  sinceMs = 0;
  /** The gate it waits at. */
  at: Gate | undefined;

  /** Made by `ConcurrencyLimiter.enter` only. */
  constructor(owner: ConcurrencyLimiter, gates: readonly Gate[], waiting: Waiting, deadlineMs: number) {
    this.#owner = owner;
    this.gates = gates;
    this.waiting = waiting;
    this.deadlineMs = deadlineMs;
  }

  /** The call is over, or does not want to wait any more; doing it twice changes nothing. */
  leave(nowMs: number): void {
    this.#owner.leave(this, nowMs);
  }
}

/** The rule whose places are all taken. */
export interface NoPlace {
  readonly full: { readonly policy: string; readonly rule: string };
}

/** Running and waiting calls of one rule; for metrics. */
export interface GateCount {
  readonly policy: string;
  readonly rule: string;
  readonly running: number;
  readonly waiting: number;
}

export class ConcurrencyLimiter {
  readonly #gates = new Map<string, Gate>();
  #serving = false;
  readonly #freed = new Set<Gate>();

  /**
   * Takes a place under every rule, all or none.
   *
   * @param rules at least one, all different.
   * @param deadlineMs until when the call may wait, same clock as `nowMs`.
   * @returns a ticket that is `running`, or `waiting` until its callback; or the rule that has no place for it in time.
   */
  enter(
    rules: readonly ConcurrencyRule[],
    waiting: Waiting,
    deadlineMs: number,
    nowMs: number,
  ): Ticket | NoPlace {
    const ticket = new Ticket(
      this,
      rules.map((rule) => this.#gate(rule)),
      waiting,
      deadlineMs,
    );
    const full = ticket.gates.find((gate) => !gate.hasRoom || gate.queue.size > 0);
    if (full === undefined) this.#run(ticket, nowMs);
    else if (!this.#mayWait(ticket, full, nowMs)) return { full };
    else queueAt(ticket, full);
    for (const gate of ticket.gates) gate.calls++;
    return ticket;
  }

  leave(ticket: Ticket, nowMs: number): void {
    const { state } = ticket;
    if (state === "over") return;
    endOf(ticket);
    if (state === "running") {
      for (const gate of ticket.gates) {
        gate.running--;
        const held = nowMs - ticket.sinceMs;
        gate.meanHoldMs = gate.meanHoldMs === 0 ? held : gate.meanHoldMs + (held - gate.meanHoldMs) * NEWEST;
        this.#freed.add(gate);
      }
      this.#serve(nowMs);
    }
  }

  /** Turns away who has waited until its deadline. */
  sweep(nowMs: number): void {
    const late: Ticket[] = [];
    for (const { queue } of this.#gates.values())
      for (const ticket of queue) if (ticket.deadlineMs <= nowMs) late.push(ticket);
    for (const ticket of late) this.#turnAway(ticket);
  }

  *counts(): Iterable<GateCount> {
    for (const { policy, rule, running, queue } of this.#gates.values())
      yield { policy, rule, running, waiting: queue.size };
  }

  #gate({ policy, rule, limit }: ConcurrencyRule): Gate {
    const id = JSON.stringify([policy, rule]);
    let gate = this.#gates.get(id);
    if (gate === undefined) {
      if (this.#gates.size >= MAX_GATES)
        for (const [old, { calls }] of this.#gates) if (calls === 0) this.#gates.delete(old);
      gate = new Gate(policy, rule);
      this.#gates.set(id, gate);
    }
    gate.limit = Math.max(1, limit);
    return gate;
  }

  #mayWait(ticket: Ticket, gate: Gate, nowMs: number): boolean {
    return gate.mayQueue && nowMs + gate.expectedWaitMs < ticket.deadlineMs;
  }

  #run(ticket: Ticket, nowMs: number): void {
    for (const gate of ticket.gates) gate.running++;
    ticket.state = "running";
    ticket.sinceMs = nowMs;
    ticket.at = undefined;
  }

  /** Hands freed places on. What callbacks free meanwhile is served by the same loop, so that a long queue is no deep stack. */
  #serve(nowMs: number): void {
    if (this.#serving) return;
    this.#serving = true;
    try {
      for (const gate of this.#freed) {
        this.#freed.delete(gate);
        this.#serveGate(gate, nowMs);
      }
    } finally {
      this.#serving = false;
    }
  }

  #serveGate(gate: Gate, nowMs: number): void {
    for (const ticket of gate.queue) {
      if (!gate.hasRoom) return;
      if (ticket.state !== "waiting") continue;
      if (ticket.deadlineMs <= nowMs) {
        this.#turnAway(ticket);
        continue;
      }
      gate.queue.delete(ticket);
      const full = ticket.gates.find((other) => !other.hasRoom);
      if (full === undefined) {
        this.#run(ticket, nowMs);
        ticket.waiting.onEntered(nowMs);
      } else if (this.#mayWait(ticket, full, nowMs)) queueAt(ticket, full);
      else this.#turnAway(ticket);
    }
  }

  #turnAway(ticket: Ticket): void {
    if (ticket.state !== "waiting") return;
    endOf(ticket);
    ticket.waiting.onTurnedAway();
  }
}

function endOf(ticket: Ticket): void {
  ticket.state = "over";
  ticket.at?.queue.delete(ticket);
  for (const gate of ticket.gates) gate.calls--;
}

function queueAt(ticket: Ticket, gate: Gate): void {
  ticket.at = gate;
  gate.queue.add(ticket);
}
