// Budgets for frames that cost us work and a peer nothing: rapid resets (CVE-2023-44487, and CVE-2025-8671 where we
// are made to reset), floods of PING, SETTINGS, empty frames, PRIORITY and WINDOW_UPDATE (CVE-2019-9511 to 9518).

/** What is counted, each with its own token bucket: [burst, refill per second]. */
const FloodBudgets = {
  /** Streams the peer resets, or makes us reset by breaking a rule. A client may drop all 256 of its streams at once. */
  reset: [512, 200],
  /** gRPC estimates bandwidth with a ping a round trip. */
  ping: [1000, 500],
  settings: [50, 5],
  /** DATA, HEADERS or CONTINUATION that carry nothing and end nothing. */
  empty: [100, 20],
  /** PRIORITY and frames of unknown type, which we ignore. */
  ignored: [1000, 200],
  /** WINDOW_UPDATE; each DATA frame we send earns more (`credit`). */
  windowUpdate: [2000, 2000],
} as const;

export type FloodKind = keyof typeof FloodBudgets;

/** The buckets of one connection. The clock is read only when a bucket is empty, so ordinary traffic pays a decrement. */
export class FloodBudget {
  readonly #nowMs: () => number;
  #refilledMs: number;
  #reset: number = FloodBudgets.reset[0];
  #ping: number = FloodBudgets.ping[0];
  #settings: number = FloodBudgets.settings[0];
  #empty: number = FloodBudgets.empty[0];
  #ignored: number = FloodBudgets.ignored[0];
  #windowUpdate: number = FloodBudgets.windowUpdate[0];

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
    this.#refilledMs = nowMs();
  }

  /** Takes one; false means that the peer floods and the connection must end with ENHANCE_YOUR_CALM. */
  spend(kind: FloodKind): boolean {
    if (this.#take(kind)) return true;
    this.#refill();
    return this.#take(kind);
  }

  /** Earns WINDOW_UPDATE frames by sending DATA: some peers answer each frame with two updates. */
  creditWindowUpdates(): void {
    this.#windowUpdate += 4;
    if (this.#windowUpdate > 100_000) this.#windowUpdate = 100_000;
  }

  #take(kind: FloodKind): boolean {
    switch (kind) {
      case "reset":
        return this.#reset >= 1 && this.#reset-- >= 1;
      case "ping":
        return this.#ping >= 1 && this.#ping-- >= 1;
      case "settings":
        return this.#settings >= 1 && this.#settings-- >= 1;
      case "empty":
        return this.#empty >= 1 && this.#empty-- >= 1;
      case "ignored":
        return this.#ignored >= 1 && this.#ignored-- >= 1;
      case "windowUpdate":
        return this.#windowUpdate >= 1 && this.#windowUpdate-- >= 1;
    }
  }

  #refill(): void {
    const nowMs = this.#nowMs();
    const seconds = Math.max(0, nowMs - this.#refilledMs) / 1000;
    this.#refilledMs = nowMs;
    this.#reset = refilled(this.#reset, "reset", seconds);
    this.#ping = refilled(this.#ping, "ping", seconds);
    this.#settings = refilled(this.#settings, "settings", seconds);
    this.#empty = refilled(this.#empty, "empty", seconds);
    this.#ignored = refilled(this.#ignored, "ignored", seconds);
    const updates = refilled(
      Math.min(this.#windowUpdate, FloodBudgets.windowUpdate[0]),
      "windowUpdate",
      seconds,
    );
    this.#windowUpdate = Math.max(this.#windowUpdate, updates);
  }
}

function refilled(tokens: number, kind: FloodKind, seconds: number): number {
  const [burst, perSecond] = FloodBudgets[kind];
  return Math.min(burst, tokens + seconds * perSecond);
}
