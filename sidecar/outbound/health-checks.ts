// Active checks of the endpoints of services whose policy asks for them, as long as the service is called from here: each
// endpoint once per interval, jittered, few at a time.
import type { Timed } from "../balance/deadline-wheel.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { HealthCheckSettings } from "../core/traffic/traffic.ts";
import type { EndpointGroup } from "./group.ts";
import { type CheckResult, HealthRequest } from "./health-request.ts";
import type { Member } from "./member.ts";
import type { UpstreamPool } from "./pool.ts";
import type { OutboundServices } from "./services.ts";

/** Under way at a time, of all services together. */
const MAX_UNDER_WAY = 32;
/** Checks of a service end when it was not called for so long. */
const IDLE_MS = 300_000;

/** A ping that was sent; it is over with the pong or the deadline, whichever comes first. */
class PingCheck implements Timed {
  wheelSlot = -1;
  wheelIndex = -1;
  readonly deadlineMs: number;
  readonly #onResult: (check: PingCheck, result: CheckResult) => void;
  #over = false;

  constructor(deadlineMs: number, onResult: (check: PingCheck, result: CheckResult) => void) {
    this.deadlineMs = deadlineMs;
    this.#onResult = onResult;
  }

  end(result: CheckResult): void {
    if (this.#over) return;
    this.#over = true;
    this.#onResult(this, result);
  }

  timeOut(): void {
    this.end("bad");
  }
}

export class HealthChecks {
  readonly #pool: UpstreamPool;
  readonly #services: OutboundServices;
  readonly #log: Logger;
  readonly #underWay = new Set<Member>();
  /** Services whose policy does not let us ask; said once. */
  readonly #denied = new Set<string>();

  constructor(pool: UpstreamPool, services: OutboundServices, log: Logger) {
    this.#pool = pool;
    this.#services = services;
    this.#log = log;
  }

  /** Starts the checks that are due; called twice a second. */
  sweep(nowMs: number): void {
    for (const group of this.#pool.checkedGroups) {
      const { healthCheck } = group.traffic;
      if (healthCheck === undefined || nowMs - group.calledAtMs > IDLE_MS) continue;
      for (const member of group.members) {
        if (this.#underWay.size >= MAX_UNDER_WAY) return;
        if (!this.#underWay.has(member)) this.#checkIfDue(group, member, healthCheck, nowMs);
      }
    }
  }

  #checkIfDue(group: EndpointGroup, member: Member, settings: HealthCheckSettings, nowMs: number): void {
    const { checks } = member;
    const { random } = this.#services;
    if (checks.dueMs === Number.NEGATIVE_INFINITY) {
      // The first ones of many endpoints are spread over an interval.
      checks.schedule(nowMs, settings.intervalMs * random(), random());
      return;
    }
    if (nowMs < checks.dueMs) return;
    checks.schedule(nowMs, settings.intervalMs, random());
    this.#underWay.add(member);
    const deadlineMs = nowMs + settings.timeoutMs;
    const done = (check: Timed, result: CheckResult): void => this.#done(group, member, check, result);
    if (settings.probe.kind === "tcp") {
      const check = new PingCheck(deadlineMs, done);
      this.#services.deadlines.add(check);
      member.upstream.ping(() => check.end("good"), group.traffic.bounds);
      return;
    }
    const destination = this.#services.state.directory?.ofService(group.service, group.port);
    if (destination === undefined || destination.group !== group) {
      this.#underWay.delete(member);
      return;
    }
    const check = new HealthRequest({
      member,
      destination,
      probe: settings.probe,
      nowMs: this.#services.meshNowMs(),
      deadlineMs,
      onResult: done,
    });
    this.#services.deadlines.add(check);
    check.start();
  }

  #done(group: EndpointGroup, member: Member, check: Timed, result: CheckResult): void {
    this.#services.deadlines.remove(check);
    this.#underWay.delete(member);
    const { metrics } = this.#services;
    metrics.healthChecks.add(metrics.healthChecks.series(group.service, result));
    if (result === "good" || result === "bad") {
      group.checked(member, result === "good");
      return;
    }
    if (result !== "denied" || this.#denied.has(group.service)) return;
    this.#denied.add(group.service);
    this.#log.warn("health checks are denied by policy, so the health of endpoints is not known", {
      service: group.service,
    });
  }
}
