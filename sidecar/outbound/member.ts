// One endpoint as one service's callers see it: what speaks for and against sending it the next request.
import { HealthRecord } from "../balance/health.ts";
import { OutlierRecord } from "../balance/outlier.ts";
import { type HashedCandidate, hash32 } from "../balance/pick.ts";
import { rampWeight } from "../balance/slow-start.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { ServiceTraffic } from "./service-traffic.ts";
import type { Upstream } from "./upstream.ts";

/** What its group decides for all its members. */
export interface MemberGroup {
  readonly clock: Clock;
  readonly slowStartMs: number;
  /** Requests under way that one endpoint may have. */
  readonly maxRequests: number;
  /** So few are usable that health counts no more. */
  readonly panic: boolean;
}

export type MemberState = "healthy" | "unreachable" | "unhealthy" | "ejected" | "resting";

/** Name of an endpoint, the same in every sidecar. */
export function endpointName(endpoint: Upstream["endpoint"]): string {
  return `${endpoint.spiffeId} ${endpoint.address} ${endpoint.meshPort}`;
}

export class Member implements HashedCandidate {
  readonly upstream: Upstream;
  readonly hash: number;
  readonly outlier = new OutlierRecord();
  #checks = new HealthRecord(Number.NEGATIVE_INFINITY);
  readonly #group: MemberGroup;
  /** Health of all kinds, kept so that a pick reads one field. */
  #healthy = true;
  /** It asked for a pause (`Retry-After`), until then. */
  #restsUntilMs = Number.NEGATIVE_INFINITY;
  #rampFromMs: number;

  /** @param rampFromMs when it came, on the monotonic clock; -Infinity: it was always there. */
  constructor(upstream: Upstream, group: MemberGroup, rampFromMs: number) {
    this.upstream = upstream;
    this.#group = group;
    this.hash = hash32(endpointName(upstream.endpoint));
    this.#rampFromMs = rampFromMs;
  }

  get checks(): HealthRecord {
    return this.#checks;
  }

  get load(): number {
    return this.upstream.load;
  }

  get healthy(): boolean {
    return this.#healthy;
  }

  get usable(): boolean {
    return (this.#healthy || this.#group.panic) && this.upstream.reachable && this.hasRoom;
  }

  get hasRoom(): boolean {
    const { maxRequests } = this.#group;
    return maxRequests === Number.POSITIVE_INFINITY || this.upstream.load < maxRequests;
  }

  get weight(): number {
    const { slowStartMs, clock } = this.#group;
    if (slowStartMs === 0) return 1;
    const from = Math.max(this.#rampFromMs, this.upstream.recoveredAtMs);
    return from === Number.NEGATIVE_INFINITY ? 1 : rampWeight(clock.monotonicMs() - from, slowStartMs);
  }

  get state(): MemberState {
    if (!this.upstream.reachable) return "unreachable";
    if (!this.#checks.healthy) return "unhealthy";
    if (this.outlier.ejected) return "ejected";
    return this.#restsUntilMs === Number.NEGATIVE_INFINITY ? "healthy" : "resting";
  }

  /** Forgets what nothing would ever correct: no settings ask for it any more. */
  adopt({ healthCheck, outlier, watchesAnswers }: ServiceTraffic): void {
    if (healthCheck === undefined) this.#checks = new HealthRecord(Number.NEGATIVE_INFINITY);
    if (outlier === undefined) this.outlier.release();
    if (!watchesAnswers) this.#restsUntilMs = Number.NEGATIVE_INFINITY;
    this.refresh();
  }

  rest(untilMs: number): void {
    this.#restsUntilMs = Math.max(this.#restsUntilMs, untilMs);
    this.refresh();
  }

  /** A pause that it asked for ends. */
  sweep(nowMs: number): void {
    if (nowMs >= this.#restsUntilMs) this.#restsUntilMs = Number.NEGATIVE_INFINITY;
  }

  /** After anything about its health changed; one that recovers begins with a small share. */
  refresh(): void {
    const before = this.#healthy;
    this.#healthy =
      this.#checks.healthy && !this.outlier.ejected && this.#restsUntilMs === Number.NEGATIVE_INFINITY;
    if (this.#healthy && !before) this.#rampFromMs = this.#group.clock.monotonicMs();
  }
}
