// The endpoints of one port of one service, as its callers here share them: which one is next, who is ejected, what is
// left for retries. Lives as long as tables name the service, so that a new table forgets nothing.
import { RetryBudget } from "../balance/budget.ts";
import { localShare } from "../balance/locality.ts";
import { isPanic, mayEject } from "../balance/outlier.ts";
import { pickByHash, pickLeastRequest, pickRoundRobin } from "../balance/pick.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { SidecarMetrics } from "../metrics.ts";
import { Member, type MemberGroup, type MemberState } from "./member.ts";
import type { ServiceTraffic } from "./service-traffic.ts";
import type { Upstream } from "./upstream.ts";

export interface GroupDeps {
  readonly clock: Clock;
  readonly random: () => number;
  readonly metrics: SidecarMetrics;
  readonly log: Logger;
  /** Zone of this sidecar; empty: not known. */
  readonly zone: () => string;
}

/** Below this part of usable endpoints all are used, where no policy says another. */
const PANIC_PERCENT = 50;
/** A pause that an endpoint may ask for. */
const MAX_REST_MS = 60_000;

export class EndpointGroup implements MemberGroup {
  /** `namespace/name`. */
  readonly service: string;
  readonly port: number;
  readonly clock: Clock;
  readonly budget = new RetryBudget();
  readonly #deps: GroupDeps;
  #traffic: ServiceTraffic;
  #members: readonly Member[] = [];
  /** In the own zone, and all others; both empty where zones do not count. */
  #local: readonly Member[] = [];
  #remote: readonly Member[] = [];
  /** Members that are not healthy. */
  #impaired = 0;
  #panic = false;
  #turn = 0;
  #zone = "";
  /** When the service was asked for last; active checks end some time after. */
  #calledAtMs: number;

  constructor(
    { service, port }: Pick<EndpointGroup, "service" | "port">,
    upstreams: readonly Upstream[],
    traffic: ServiceTraffic,
    deps: GroupDeps,
  ) {
    this.service = service;
    this.port = port;
    this.clock = deps.clock;
    this.#deps = deps;
    this.#traffic = traffic;
    this.#calledAtMs = deps.clock.monotonicMs();
    this.#setMembers(upstreams, Number.NEGATIVE_INFINITY);
  }

  get traffic(): ServiceTraffic {
    return this.#traffic;
  }

  get members(): readonly Member[] {
    return this.#members;
  }

  get panic(): boolean {
    return this.#panic;
  }

  get slowStartMs(): number {
    return this.#traffic.slowStartMs;
  }

  get maxRequests(): number {
    return this.#traffic.bounds.requests;
  }

  get calledAtMs(): number {
    return this.#calledAtMs;
  }

  /** What a new table says. Members that stay keep what is known of them. */
  update(upstreams: readonly Upstream[], traffic: ServiceTraffic): void {
    this.#traffic = traffic;
    this.#setMembers(
      upstreams,
      this.#members.length === 0 ? Number.NEGATIVE_INFINITY : this.clock.monotonicMs(),
    );
  }

  #setMembers(upstreams: readonly Upstream[], rampFromMs: number): void {
    for (const member of this.#members) member.adopt(this.#traffic);
    const known = new Map(this.#members.map((member) => [member.upstream, member]));
    this.#members = upstreams.map(
      (upstream) => known.get(upstream) ?? new Member(upstream, this, rampFromMs),
    );
    this.#split();
    this.#recount();
  }

  #split(): void {
    const zone = this.#deps.zone();
    this.#zone = zone;
    const zoned = this.#traffic.preferZone && zone !== "" && this.#traffic.lb.kind !== "consistentHash";
    this.#local = zoned ? this.#members.filter((member) => member.upstream.endpoint.zone === zone) : [];
    this.#remote =
      this.#local.length === 0 ? [] : this.#members.filter((member) => !this.#local.includes(member));
  }

  /**
   * The endpoint of the next request.
   *
   * @param tried endpoints that it was sent to already; one of them is chosen when there is no other.
   * @param key hash of what it is kept together with others by; undefined: nothing.
   * @returns undefined when none has room, or there is none.
   */
  pick(tried: ReadonlySet<Member> | undefined, key: number | undefined): Member | undefined {
    if (this.#impaired > 0) this.#panic = this.#isPanic();
    const picked = this.#pickZoned(tried, key);
    if (picked !== undefined) return picked;
    const again = tried === undefined ? undefined : this.#pickZoned(undefined, key);
    return again ?? this.#pickUnreachable(tried);
  }

  /** Nothing is known to be there: any may have come back since it was last tried. */
  #pickUnreachable(tried: ReadonlySet<Member> | undefined): Member | undefined {
    const { length } = this.#members;
    const offset = Math.floor(this.#deps.random() * length);
    let second: Member | undefined;
    for (let i = 0; i < length; i++) {
      const member = this.#members[(offset + i) % length];
      // Those that are reachable have no room.
      if (member === undefined || member.upstream.reachable || !member.hasRoom) continue;
      if (tried?.has(member) !== true) return member;
      second ??= member;
    }
    return second;
  }

  /** Whether there is an endpoint that this request has not been sent to. */
  hasOther(tried: ReadonlySet<Member> | undefined): boolean {
    return this.#members.some((member) => member.usable && tried?.has(member) !== true);
  }

  called(nowMs: number): void {
    this.#calledAtMs = nowMs;
    if (this.#traffic.retries !== undefined) this.budget.request(nowMs);
  }

  #pickZoned(tried: ReadonlySet<Member> | undefined, key: number | undefined): Member | undefined {
    const local = this.#local;
    if (local.length === 0) return this.#pickFrom(this.#members, tried, key);
    let usable = 0;
    for (const member of local) if (member.usable) usable++;
    const stays = this.#deps.random() < localShare(usable, local.length);
    const [first, second] = stays ? [local, this.#remote] : [this.#remote, local];
    return this.#pickFrom(first, tried, key) ?? this.#pickFrom(second, tried, key);
  }

  #pickFrom(
    from: readonly Member[],
    tried: ReadonlySet<Member> | undefined,
    key: number | undefined,
  ): Member | undefined {
    const { kind } = this.#traffic.lb;
    if (kind === "consistentHash" && key !== undefined) return pickByHash(from, tried, key);
    return kind === "roundRobin"
      ? pickRoundRobin(from, tried, this.#turn++, this.#deps.random)
      : pickLeastRequest(from, tried, this.#deps.random);
  }

  /** What an answer says of the endpoint. */
  ended(member: Member, verdict: "good" | "bad" | undefined): void {
    if (verdict === "bad") this.failed(member);
    else if (verdict === "good" && this.#traffic.outlier !== undefined) member.outlier.succeed();
  }

  /** An attempt that failed for a reason that speaks against the endpoint. */
  failed(member: Member): void {
    const { outlier } = this.#traffic;
    if (outlier === undefined || !member.outlier.fail(outlier)) return;
    let ejected = 0;
    for (const each of this.#members) if (each.outlier.ejected) ejected++;
    if (!mayEject(ejected, this.#members.length, outlier.maxEjectPercent)) return;
    const nowMs = this.clock.monotonicMs();
    member.outlier.eject(outlier, nowMs);
    this.#changed(member, "failures", Math.round(member.outlier.untilMs - nowMs));
  }

  /** The endpoint asked for a pause. */
  rest(member: Member, forMs: number): void {
    if (forMs <= 0) return;
    const rested = !member.healthy;
    member.rest(this.clock.monotonicMs() + Math.min(MAX_REST_MS, forMs));
    if (!rested) this.#changed(member, "retry_after", Math.min(MAX_REST_MS, forMs));
  }

  /** A call was refused because no endpoint has room for it. */
  overflowed(): void {
    const { overflows } = this.#deps.metrics;
    overflows.add(overflows.series(this.service));
  }

  /** A result of an active check. */
  checked(member: Member, good: boolean): void {
    const { healthCheck } = this.#traffic;
    if (healthCheck === undefined || !member.checks.note(good, healthCheck)) return;
    if (!good) this.#changed(member, "health_check", 0);
    else {
      member.refresh();
      this.#recount();
      this.#deps.log.info("endpoint healthy again", this.#fieldsOf(member));
    }
  }

  #changed(member: Member, reason: "failures" | "retry_after" | "health_check", forMs: number): void {
    const { metrics, log } = this.#deps;
    member.refresh();
    this.#recount();
    metrics.ejections.add(metrics.ejections.series(this.service, reason));
    log.info("endpoint not used for a while", { ...this.#fieldsOf(member), reason, forMs });
  }

  #fieldsOf({ upstream: { endpoint } }: Member): Record<string, string> {
    return {
      service: this.service,
      peer: endpoint.spiffeId,
      address: `${endpoint.address}:${endpoint.meshPort}`,
    };
  }

  /** Ends rests whose time is over. */
  sweep(nowMs: number): void {
    // Known with the first connection to the control plane, which may come after the table.
    if (this.#deps.zone() !== this.#zone) this.#split();
    const { outlier } = this.#traffic;
    if (outlier === undefined && this.#impaired === 0) return;
    for (const member of this.#members) {
      if (outlier !== undefined) member.outlier.sweep(outlier, nowMs);
      member.sweep(nowMs);
      member.refresh();
    }
    this.#recount();
  }

  /** How many members are in which state. */
  states(): ReadonlyMap<MemberState, number> {
    const states = new Map<MemberState, number>();
    for (const { state } of this.#members) states.set(state, (states.get(state) ?? 0) + 1);
    return states;
  }

  #recount(): void {
    this.#impaired = 0;
    for (const member of this.#members) if (!member.healthy) this.#impaired++;
    this.#panic = this.#impaired > 0 && this.#isPanic();
  }

  #isPanic(): boolean {
    let usable = 0;
    for (const member of this.#members) if (member.healthy && member.upstream.reachable) usable++;
    return isPanic(usable, this.#members.length, this.#traffic.outlier?.panicPercent ?? PANIC_PERCENT);
  }
}
