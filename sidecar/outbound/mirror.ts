// Copies of requests for services that shadow another: sent when the request is whole, beside the call and never in its
// way. Answers are dropped, nothing is sent again, and the callee decides on a copy like on any request, with its own proof.

import type { Timed } from "../balance/deadline-wheel.ts";
import { COUNTERSIGN_MIRROR } from "../core/identity/claims.ts";
import type { Classified } from "../core/policy/classified.ts";
import type { Result } from "../core/runtime/errors.ts";
import type { Field } from "../wire/field.ts";
import { CallFacts } from "./call-facts.ts";
import type { Member } from "./member.ts";
import { writeMeshHead } from "./mesh-request.ts";
import { MeshStream } from "./mesh-stream.ts";
import { labelOf } from "./operation-label.ts";
import type { Destination } from "./resolve.ts";
import type { MirrorTarget } from "./route.ts";
import type { OutboundServices } from "./services.ts";
import type { UpstreamConnection, UpstreamExchange } from "./upstream-connection.ts";

/** A body that is longer is not copied. */
export const MAX_MIRRORED_BYTES = 65_536;
/** Copies under way at a time in this process; what comes then is counted and not sent. */
const MAX_UNDER_WAY = 256;
const IDEMPOTENT: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]);

/** What became of a copy. */
export type MirrorResult = "answered" | "failed" | "not_idempotent" | "too_large" | "incomplete" | "dropped";

/** Keeps count of the copies under way; one per process. */
export class MirrorBudget {
  #underWay = 0;

  take(): boolean {
    if (this.#underWay >= MAX_UNDER_WAY) return false;
    this.#underWay++;
    return true;
  }

  giveBack(): void {
    this.#underWay--;
  }
}

/** Whether the rule lets this request be copied: what is done twice must not matter, unless it says that it does not. */
function mayBeCopied({ allMethods }: MirrorTarget, { head, classified }: CallFacts): boolean {
  return allMethods || IDEMPOTENT.has(head.method) || classified?.access === "read";
}

function count({ metrics }: OutboundServices, result: MirrorResult): void {
  metrics.mirrored.add(metrics.mirrored.series(result));
}

/** The call that is copied. */
export interface CopiedCall {
  readonly facts: CallFacts;
  readonly services: OutboundServices;
  /** For another destination: a service that shadows may know other operations on its port. */
  readonly classify: (destination: Destination) => Result<Classified, string>;
}

/**
 * Chooses who gets a copy of a request.
 *
 * @returns undefined: nobody.
 */
export function copiesOf(mirrors: readonly MirrorTarget[], call: CopiedCall): RequestCopies | undefined {
  const { services, facts } = call;
  const chosen: MirrorTarget[] = [];
  for (const mirror of mirrors) {
    if (services.random() >= mirror.share) continue;
    if (mayBeCopied(mirror, facts)) chosen.push(mirror);
    else count(services, "not_idempotent");
  }
  return chosen.length === 0 ? undefined : new RequestCopies(chosen, call);
}

/** The body of one request as it goes by, until it is whole. */
export class RequestCopies {
  readonly #mirrors: readonly MirrorTarget[];
  readonly #call: CopiedCall;
  #body: Buffer[] = [];
  #bytes = 0;
  #over = false;

  constructor(mirrors: readonly MirrorTarget[], call: CopiedCall) {
    this.#mirrors = mirrors;
    this.#call = call;
  }

  take(chunk: Buffer): void {
    if (this.#over || chunk.length === 0) return;
    this.#bytes += chunk.length;
    if (this.#bytes > MAX_MIRRORED_BYTES) this.#giveUp("too_large");
    // A copy: the view would keep the whole received buffer alive.
    else this.#body.push(Buffer.from(chunk));
  }

  /** The request is whole. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    const body = this.#body.length === 1 ? this.#body[0] : Buffer.concat(this.#body);
    for (const mirror of this.#mirrors) this.#send(mirror, body ?? Buffer.alloc(0));
    this.#body = [];
  }

  /** The request will never be whole. */
  abandon(): void {
    if (!this.#over) this.#giveUp("incomplete");
  }

  #giveUp(result: MirrorResult): void {
    this.#over = true;
    this.#body = [];
    for (const _ of this.#mirrors) count(this.#call.services, result);
  }

  #send({ destination }: MirrorTarget, body: Buffer): void {
    const { services, facts, classify } = this.#call;
    if (destination === undefined || !services.mirrors.take()) {
      count(services, "dropped");
      return;
    }
    const copy = new CallFacts(facts.head, facts.startedMs, facts.nowMs);
    const { fixed, classified, operation, traceparent, ownTrace, route } = facts;
    Object.assign(copy, { fixed, classified, operation, traceparent, ownTrace, route, destination });
    if (destination.packsDigest !== facts.destination?.packsDigest) {
      const again = classify(destination);
      if (again.ok) copy.operation = labelOf(again.value);
    }
    new MirrorExchange(copy, body, this.#call).start();
  }
}

/** One copy on its way. */
class MirrorExchange implements UpstreamExchange, Timed {
  slot = -1;
  wheelSlot = -1;
  wheelIndex = -1;
  deadlineMs: number;
  readonly #facts: CallFacts;
  readonly #body: Buffer;
  readonly #call: CopiedCall;
  #member: Member | undefined;
  #mesh: MeshStream | undefined;
  #over = false;

  /** @param facts of the copy, with its own destination. */
  constructor(facts: CallFacts, body: Buffer, call: CopiedCall) {
    this.#facts = facts;
    this.#body = body;
    this.#call = call;
    const { clock, timeouts } = call.services;
    this.deadlineMs = clock.monotonicMs() + timeouts.responseMs;
  }

  start(): void {
    const group = this.#facts.destination?.group;
    this.#member = group?.pick(undefined, undefined);
    if (group === undefined || this.#member === undefined) {
      this.#finish("failed");
      return;
    }
    this.#call.services.deadlines.add(this);
    if (!this.#member.upstream.request(this, group.traffic.bounds)) this.#finish("failed");
  }

  onUpstreamReady(connection: UpstreamConnection): void {
    const { destination, operation, nowMs } = this.#facts;
    if (this.#over || destination === undefined) return;
    const mesh = MeshStream.open(connection, this);
    if (mesh === undefined) {
      if (this.#member?.upstream.wait(this) !== true) this.#finish("failed");
      return;
    }
    this.#mesh = mesh;
    const { stream } = mesh;
    const { h2, countersigner } = connection;
    const proof = countersigner.fields(
      operation,
      destination.packsDigest,
      this.#call.facts.chain,
      this.#call.facts.authorization,
      nowMs,
    );
    h2.beginHeaders(stream);
    const { cache } = this.#call.services;
    const protocol = this.#facts.isGrpc ? "h2c" : "http";
    writeMeshHead(h2, this.#facts, { proof, cache, protocol, leftMs: Number.POSITIVE_INFINITY });
    h2.putField(this.#call.services.cache.get(COUNTERSIGN_MIRROR, "1"));
    h2.endHeaders(this.#body.length === 0);
    if (this.#body.length > 0) h2.sendData(stream, this.#body, true);
  }

  onUpstreamInformational(): void {}

  onUpstreamHead(_fields: readonly Field[], endStream: boolean): void {
    if (endStream) this.#finish("answered");
  }

  onUpstreamData(chunk: Buffer, endStream: boolean): void {
    if (endStream) this.#finish("answered");
    else this.#mesh?.passedOn(chunk.length);
  }

  onUpstreamTrailers(): void {
    this.#finish("answered");
  }

  onUpstreamWritable(): void {}

  onUpstreamFailed(): void {
    // The connection has let go of it already.
    this.#mesh = undefined;
    this.#finish("failed");
  }

  timeOut(): void {
    this.#finish("failed");
  }

  #finish(result: MirrorResult): void {
    if (this.#over) return;
    this.#over = true;
    const { deadlines, mirrors } = this.#call.services;
    if (this.wheelSlot !== -1) deadlines.remove(this);
    this.#member?.upstream.cancel(this);
    const mesh = this.#mesh;
    this.#mesh = undefined;
    if (result !== "answered") mesh?.reset();
    mesh?.release();
    mirrors.giveBack();
    count(this.#call.services, result);
  }
}
