// The audit of what a gateway decides by itself, in the trail of its calls, and so much of it that no stranger can fill a disk.
import type { EdgeAction, EdgeEvent, EdgeSource, EdgeUser } from "../audit/edge-event.ts";
import type { AuditTrail } from "../audit/trail.ts";
import { EventBudget, type EventLimits } from "../core/runtime/event-budget.ts";
import type { SidecarTable } from "../discovery/table.ts";
import type { EdgeRequest } from "./people.ts";
import { clientOf } from "./source-address.ts";

/** What happened, as who knows of it says it. */
export interface EdgeNote {
  readonly action: EdgeAction;
  readonly allowed: boolean;
  readonly reason: string;
  /** Never a token. */
  readonly detail?: string | undefined;
  /** What the person was told to name; one is made otherwise. */
  readonly decisionId?: string | undefined;
  readonly idp?: string | undefined;
  readonly session?: string | undefined;
  readonly user?: EdgeUser | undefined;
  readonly request?: EdgeRequest | undefined;
  /** The endpoint that a token is for. */
  readonly endpoint?: string | undefined;
  readonly status?: number | undefined;
}

/** @returns false: there were too many alike, and it is counted in a later event; what logs them too leaves it out. */
export type TellEdge = (note: EdgeNote) => boolean;

export interface EdgeAuditDeps {
  readonly trail: Pick<AuditTrail, "tell" | "decisionId">;
  readonly table: () => SidecarTable | undefined;
  /** Control plane's time, Unix milliseconds. */
  readonly meshNowMs: () => number;
}

/** Sign-ins of a busy morning: each has cost one at the provider, so that strangers cannot make them. */
const OF_PEOPLE: EventLimits = { all: 20_000, keys: 20_000 };

export class EdgeAudit {
  readonly #deps: EdgeAuditDeps;
  readonly #strangers = new EventBudget<EdgeEvent>();
  /** Apart, so that no flood of strangers hides who signed in. */
  readonly #people = new EventBudget<EdgeEvent>(OF_PEOPLE);

  constructor(deps: EdgeAuditDeps) {
    this.#deps = deps;
  }

  readonly tell: TellEdge = (note) => {
    const { action, reason, user, request, allowed, detail, idp, session, endpoint, status = 0 } = note;
    const event: EdgeEvent = {
      ...{ action, allowed, reason, detail, idp, session, user, endpoint, status },
      decisionId: note.decisionId ?? this.#deps.trail.decisionId(),
      request: request === undefined ? undefined : requestOf(request),
    };
    const kind = `${action} ${reason}`;
    const place = request === undefined ? "" : clientOf(request.sourceIp);
    const isAdmitted =
      user !== undefined && action !== "request"
        ? this.#people.admits(event, `${kind} ${user.id}`, kind)
        : this.#strangers.admits(event, `${kind} ${user?.id ?? ""} ${place}`, kind);
    if (isAdmitted) this.#write(event, 1);
    return isAdmitted;
  };

  /** Writes what was held back, when its time has come. @param nowMs monotonic. */
  sweep(nowMs: number): void {
    for (const budget of [this.#strangers, this.#people])
      for (const { event, count } of budget.due(nowMs)) this.#write(event, count);
  }

  #write(event: EdgeEvent, repeated: number): void {
    const { trail, table, meshNowMs } = this.#deps;
    const now = table();
    if (now === undefined) return;
    const { program, settings, revision } = now;
    const source: EdgeSource = {
      ...{ spiffeId: program.spiffeId, namespace: program.namespace, name: program.name },
      ...{ cluster: settings.cluster, revision },
    };
    trail.tell(event, { source, repeated, timeMs: meshNowMs() });
  }
}

function requestOf(request: EdgeRequest): EdgeEvent["request"] {
  const { method, host, target, sourceIp } = request;
  const question = target.indexOf("?");
  const path = question < 0 ? target : target.slice(0, question);
  return { method, host, path, sourceIp, userAgent: request.field("user-agent") };
}
