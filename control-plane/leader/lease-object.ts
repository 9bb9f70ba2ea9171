// Lease objects: read from what the API server sends, written as it wants them.
import type { CoordinationV1Api, V1Lease } from "@kubernetes/client-node";
import { statusOf } from "../kubernetes/client.ts";
import type { LeaseRecord } from "./claim.ts";

export type LeaseApi = Pick<
  CoordinationV1Api,
  "readNamespacedLease" | "createNamespacedLease" | "replaceNamespacedLease"
>;

/** Where replicas find the leader's port for their reports: `host:port`. */
const ADDRESS = "countersign.dev/leader-address";
const FIELD_MANAGER = "countersign";

/** A time as the API wants it in a Lease: six digits of a second. */
class MicroTime extends Date {
  override toISOString(): string {
    return super.toISOString().replace("Z", "000Z");
  }
}

/** A Lease with what is known of it. */
export interface SeenLease {
  readonly object: V1Lease;
  readonly record: LeaseRecord;
  /** Of its holder, `host:port`. */
  readonly address: string | undefined;
}

/** Fields that are missing or of another type count as those of a Lease that nobody holds. */
function seen(object: V1Lease): SeenLease {
  const { metadata, spec } = object;
  return {
    object,
    record: {
      version: metadata?.resourceVersion ?? "",
      holder: spec?.holderIdentity ?? "",
      durationMs: (spec?.leaseDurationSeconds ?? 0) * 1000,
      transitions: spec?.leaseTransitions ?? 0,
    },
    address: metadata?.annotations?.[ADDRESS],
  };
}

export interface LeaseOwner {
  readonly identity: string;
  /** `host:port`, told to other replicas. */
  readonly address: string | undefined;
}

/** One Lease of the API server. Each call rejects as the typed API does; 409 means that somebody else was first. */
export class LeaseObject {
  readonly #api: LeaseApi;
  readonly #where: { readonly namespace: string; readonly name: string };
  readonly #owner: LeaseOwner;
  readonly #durationSeconds: number;

  constructor(
    api: LeaseApi,
    where: { readonly namespace: string; readonly name: string },
    owner: LeaseOwner,
    leaseMs: number,
  ) {
    this.#api = api;
    this.#where = where;
    this.#owner = owner;
    this.#durationSeconds = Math.ceil(leaseMs / 1000);
  }

  /** @returns undefined when there is none. */
  async read(): Promise<SeenLease | undefined> {
    try {
      return seen(await this.#api.readNamespacedLease({ ...this.#where }));
    } catch (error) {
      if (statusOf(error) === 404) return undefined;
      throw error;
    }
  }

  async create(nowMs: number): Promise<SeenLease> {
    const { namespace, name } = this.#where;
    const body: V1Lease = {
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      metadata: { name, namespace, annotations: this.#annotations({}) },
      spec: { ...this.#term(nowMs), leaseTransitions: 0 },
    };
    return seen(await this.#api.createNamespacedLease({ namespace, body, fieldManager: FIELD_MANAGER }));
  }

  /** Begins a term of our own. */
  take(lease: SeenLease, nowMs: number): Promise<SeenLease> {
    const { holder, transitions } = lease.record;
    const leaseTransitions = transitions + (holder === this.#owner.identity ? 0 : 1);
    return this.#replace(lease, { ...this.#term(nowMs), leaseTransitions }, true);
  }

  renew(lease: SeenLease, nowMs: number): Promise<SeenLease> {
    return this.#replace(lease, { ...lease.object.spec, renewTime: new MicroTime(nowMs) }, true);
  }

  /** Leaves it to whoever comes first. */
  release(lease: SeenLease, nowMs: number): Promise<SeenLease> {
    const renewTime = new MicroTime(nowMs);
    return this.#replace(
      lease,
      { ...lease.object.spec, holderIdentity: "", leaseDurationSeconds: 1, renewTime },
      false,
    );
  }

  #term(nowMs: number): NonNullable<V1Lease["spec"]> {
    const now = new MicroTime(nowMs);
    return {
      holderIdentity: this.#owner.identity,
      leaseDurationSeconds: this.#durationSeconds,
      acquireTime: now,
      renewTime: now,
    };
  }

  async #replace(lease: SeenLease, spec: V1Lease["spec"], isHeld: boolean): Promise<SeenLease> {
    const { managedFields: _, ...metadata } = lease.object.metadata ?? {};
    const annotations = isHeld
      ? this.#annotations(metadata.annotations ?? {})
      : without(metadata.annotations ?? {}, ADDRESS);
    const body: V1Lease = {
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      metadata: { ...metadata, annotations },
      ...(spec === undefined ? {} : { spec }),
    };
    return seen(
      await this.#api.replaceNamespacedLease({ ...this.#where, body, fieldManager: FIELD_MANAGER }),
    );
  }

  #annotations(others: Readonly<Record<string, string>>): Record<string, string> {
    const { address } = this.#owner;
    return { ...without(others, ADDRESS), ...(address === undefined ? {} : { [ADDRESS]: address }) };
  }
}

function without(annotations: Readonly<Record<string, string>>, name: string): Record<string, string> {
  const { [name]: _, ...others } = annotations;
  return others;
}
