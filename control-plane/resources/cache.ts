// The current resources and the table of each workload. What did not change is the same object as before and is not
// encoded again, so an edit costs what it affects plus one pass of identity comparisons (no encoding, no hashing).
import { MAX_RESOURCE_BYTES } from "../../proto/protocol.ts";
import type { RevocationEntry } from "../../sidecar/core/identity/revocations.ts";
import type { WorkloadProgram } from "../../sidecar/core/policy/rule.ts";
import { createProgramEncoder } from "../../sidecar/core/policy/wire.ts";
import type { Compiled } from "../policy/compile.ts";
import { freshProofsOf } from "../policy/fresh-proofs.ts";
import type { MeshService, Workload } from "../sources/store.ts";
import {
  type BuiltResource,
  buildEndpoints,
  buildPack,
  buildProgram,
  buildRevocations,
  buildService,
  buildSettings,
  buildTrustBundle,
  createTable,
  REVOCATIONS_KEY,
  settingsName,
  type WorkloadTable,
} from "./build.ts";
import { buildExternal } from "./external-message.ts";
import { buildGateway } from "./gateway-message.ts";
import { buildRoute } from "./route-message.ts";

export interface CacheInput {
  readonly compiled: Pick<Compiled, "state" | "programs" | "externals" | "callees" | "routes" | "gateways">;
  /** Every operation pack there is, built in and from catalogs; by name. */
  readonly packs: ReadonlyMap<string, string>;
  /** JWKS document of the own trust domain. */
  readonly trustBundle: string;
  /** In force; the same list until it changes. */
  readonly revocations: readonly RevocationEntry[];
  readonly cluster: string;
}

export interface CacheUpdate {
  /** Workloads (`namespace/name`) whose table has another digest now, and those that are gone. */
  readonly changed: ReadonlySet<string>;
  /** Resources that are too large to be sent; the ones before them stay in force. */
  readonly problems: readonly string[];
}

/** Earlier tables kept per workload, so that a sidecar that missed some changes still gets a small delta. */
const KEPT_TABLES = 4;

interface Entry {
  readonly table: WorkloadTable;
  readonly earlier: readonly WorkloadTable[];
  readonly callees: ReadonlySet<string> | undefined;
}

const NOTHING: ReadonlySet<string> = new Set();
const NONE: readonly string[] = [];

function sameSet(left: ReadonlySet<string> | undefined, right: ReadonlySet<string> | undefined): boolean {
  if (left === right) return true;
  if (!left || !right || left.size !== right.size) return false;
  for (const item of left) if (!right.has(item)) return false;
  return true;
}

interface Keyed {
  readonly size: number;
  has(key: string): boolean;
  keys(): Iterable<string>;
}

function intersects(left: Keyed, right: Keyed): boolean {
  const [small, large] = left.size < right.size ? [left, right] : [right, left];
  for (const item of small.keys()) if (large.has(item)) return true;
  return false;
}

export class ResourceCache {
  #input: CacheInput | undefined;
  readonly #entries = new Map<string, Entry>();
  readonly #resources = new Map<string, BuiltResource>();
  readonly #encode = createProgramEncoder();
  /** Services that each workload stands behind. */
  #servicesOf: ReadonlyMap<string, readonly string[]> = new Map();
  /** Operations that ask for fresh proofs, by workload; those without are left out. */
  readonly #fresh = new Map<string, readonly string[]>();
  /** Keys of ExternalServices by namespace; undefined: to be made. */
  #externalsOf: ReadonlyMap<string, readonly string[]> | undefined;
  /** Services whose routes lead to a service. */
  #leadingTo = new Map<string, readonly string[]>();
  #byAddress: ReadonlyMap<string, readonly string[]> | undefined;

  /** Revision of the state that the tables are made of; 0 before the first. */
  get revision(): number {
    return this.#input?.compiled.state.revision ?? 0;
  }

  /** Current table of a workload; undefined when it is not declared. */
  table(workloadId: string): WorkloadTable | undefined {
    return this.#entries.get(workloadId)?.table;
  }

  /** The table with this digest if it is the current one or one of the last few. */
  tableByDigest(workloadId: string, digest: string): WorkloadTable | undefined {
    const entry = this.#entries.get(workloadId);
    if (!entry) return undefined;
    return entry.table.digest === digest
      ? entry.table
      : entry.earlier.find((table) => table.digest === digest);
  }

  workloads(): IterableIterator<string> {
    return this.#entries.keys();
  }

  /** `namespace/name`; undefined when there is no such service. */
  service(serviceId: string): MeshService | undefined {
    return this.#input?.compiled.state.services.get(serviceId);
  }

  /** Services with this IP address: their own, or that of an endpoint. */
  servicesAt(address: string): readonly string[] {
    this.#byAddress ??= indexAddresses(this.#input?.compiled.state.services ?? new Map());
    return this.#byAddress.get(address) ?? [];
  }

  /** Takes a new state. */
  update(input: CacheInput): CacheUpdate {
    const before = this.#input;
    this.#input = input;
    const changedKeys = new Set<string>();
    const problems: string[] = [];
    const put = (resource: BuiltResource): void => {
      const old = this.#resources.get(resource.key);
      if (old?.hash === resource.hash) return;
      if (resource.encoded.length > MAX_RESOURCE_BYTES) {
        problems.push(
          `${resource.key} has ${resource.encoded.length} bytes, at most ${MAX_RESOURCE_BYTES} can be sent`,
        );
        return;
      }
      this.#resources.set(resource.key, resource);
      changedKeys.add(resource.key);
    };
    const drop = (key: string): void => {
      if (this.#resources.delete(key)) changedKeys.add(key);
    };
    const { state, programs } = input.compiled;
    const changedPrograms = this.#updatePrograms(before, programs, put, drop);
    const moved = this.#updateServices(before, put, drop);
    const rerouted = this.#updateRoutes(before, put, drop);
    this.#updateGateways(before, put, drop, changedPrograms);
    this.#updateExternals(before, put, drop, changedPrograms);
    const changedWorkloads = this.#withLeading(
      rerouted.size === 0 ? moved : new Set([...moved, ...rerouted]),
    );
    this.#updateFreshProofs(changedPrograms, put);
    for (const [name, text] of input.packs) if (before?.packs.get(name) !== text) put(buildPack(name, text));
    for (const name of before?.packs.keys() ?? []) if (!input.packs.has(name)) drop(`operation-pack/${name}`);
    if (before?.revocations !== input.revocations) {
      if (input.revocations.length > 0) put(buildRevocations(input.revocations));
      else drop(REVOCATIONS_KEY);
    }
    const domainBefore = before?.compiled.state.config.trustDomain;
    if (before?.trustBundle !== input.trustBundle || domainBefore !== state.config.trustDomain)
      put(buildTrustBundle(state.config.trustDomain, input.trustBundle));
    if (before && before.compiled.state.config !== state.config) {
      // Settings hold the configuration: forget them, those that are needed are built again below.
      for (const key of [...this.#resources.keys()]) if (key.startsWith("settings/")) drop(key);
    }
    return { changed: this.#updateTables(changedPrograms, changedWorkloads, changedKeys, put), problems };
  }

  #updatePrograms(
    before: CacheInput | undefined,
    programs: ReadonlyMap<string, WorkloadProgram>,
    put: (resource: BuiltResource) => void,
    drop: (key: string) => void,
  ): Set<string> {
    const changed = new Set<string>();
    const old = before?.compiled.programs;
    if (old === programs) return changed;
    for (const [id, program] of programs) {
      if (old?.get(id) === program) continue;
      changed.add(id);
      put(buildProgram(program, this.#encode));
    }
    for (const id of old?.keys() ?? []) {
      if (programs.has(id)) continue;
      changed.add(id);
      drop(`workload-program/${id}`);
    }
    return changed;
  }

  /** Rebuilds services whose members changed. @returns workloads that are new, changed or gone. */
  #updateServices(
    before: CacheInput | undefined,
    put: (resource: BuiltResource) => void,
    drop: (key: string) => void,
  ): ReadonlySet<string> {
    const state = this.#input?.compiled.state;
    if (!state) return NOTHING;
    const old = before?.compiled.state;
    const sameDomain = old?.config.trustDomain === state.config.trustDomain;
    const sameWorkloads = old?.workloads === state.workloads && sameDomain;
    if (sameWorkloads && old?.services === state.services) return NOTHING;
    const changed = new Set<string>();
    if (!sameWorkloads) {
      for (const [id, workload] of state.workloads) if (old?.workloads.get(id) !== workload) changed.add(id);
      for (const id of old?.workloads.keys() ?? []) if (!state.workloads.has(id)) changed.add(id);
    }
    for (const [id, service] of state.services) {
      const earlier = old?.services.get(id);
      if (earlier !== service) put(buildService(id, service, this.#freshProofs(service)));
      const sameMembers =
        sameDomain && earlier === service && !service.endpoints.some(({ workload }) => changed.has(workload));
      if (!sameMembers) put(buildEndpoints(id, service, state.workloads, state.config.trustDomain));
    }
    for (const service of old?.services.keys() ?? []) {
      if (state.services.has(service)) continue;
      drop(`service/${service}`);
      drop(`endpoints/${service}`);
    }
    if (old?.services !== state.services) {
      this.#byAddress = undefined;
      const servicesOf = indexMembers(state.services);
      // Whoever may call a workload gets the services it stands behind: where these differ, tables do.
      for (const id of new Set([...servicesOf.keys(), ...this.#servicesOf.keys()]))
        if (servicesOf.get(id)?.join() !== this.#servicesOf.get(id)?.join()) changed.add(id);
      this.#servicesOf = servicesOf;
    }
    return changed;
  }

  /** Services of which an operation now asks for fresh proofs, or does so no more. */
  #updateFreshProofs(changedPrograms: ReadonlySet<string>, put: (resource: BuiltResource) => void): void {
    const input = this.#input;
    if (!input) return;
    const services = new Set<string>();
    for (const id of changedPrograms) {
      const program = input.compiled.programs.get(id);
      const now = program === undefined ? [] : freshProofsOf(program);
      if (now.join() === (this.#fresh.get(id) ?? []).join()) continue;
      if (now.length > 0) this.#fresh.set(id, now);
      else this.#fresh.delete(id);
      for (const service of this.#servicesOf.get(id) ?? []) services.add(service);
    }
    for (const id of services) {
      const service = input.compiled.state.services.get(id);
      if (service !== undefined) put(buildService(id, service, this.#freshProofs(service)));
    }
  }

  #freshProofs({ members }: MeshService): readonly string[] {
    if (this.#fresh.size === 0) return [];
    return [...new Set([...members].flatMap((member) => this.#fresh.get(member) ?? []))].sort();
  }

  /** Encodes routes that changed. @returns workloads whose callers may need other services now. */
  #updateRoutes(
    before: CacheInput | undefined,
    put: (resource: BuiltResource) => void,
    drop: (key: string) => void,
  ): ReadonlySet<string> {
    const now = this.#input?.compiled;
    const plan = now?.routes;
    const earlier = before?.compiled.routes;
    if (now === undefined || plan === undefined || plan.routes === earlier?.routes) return NOTHING;
    const changed = new Set<string>();
    const services = now.state.services;
    const touch = (id: string): void => {
      for (const name of [id, ...(plan.leadsTo.get(id) ?? []), ...(earlier?.leadsTo.get(id) ?? [])])
        for (const member of services.get(name)?.members ?? []) changed.add(member);
    };
    for (const [id, route] of plan.routes) {
      if (earlier?.routes.get(id) === route) continue;
      put(buildRoute(route));
      touch(id);
    }
    for (const id of earlier?.routes.keys() ?? []) {
      if (plan.routes.has(id)) continue;
      drop(`route/${id}`);
      touch(id);
    }
    this.#leadingTo = new Map();
    for (const [id, names] of plan.leadsTo)
      for (const name of names) this.#leadingTo.set(name, [...(this.#leadingTo.get(name) ?? []), id]);
    return changed;
  }

  /** Encodes gateways that changed. @param changed gets their workloads: their tables name what they are. */
  #updateGateways(
    before: CacheInput | undefined,
    put: (resource: BuiltResource) => void,
    drop: (key: string) => void,
    changed: Set<string>,
  ): void {
    const now = this.#input?.compiled.gateways.gateways;
    const earlier = before?.compiled.gateways.gateways;
    if (now === undefined || now === earlier) return;
    const kept = new Set<string>();
    for (const [workload, gateway] of now) {
      kept.add(gateway.id);
      if (earlier?.get(workload) === gateway) continue;
      put(buildGateway(gateway));
      changed.add(workload);
    }
    for (const [workload, { id }] of earlier ?? []) {
      if (!now.has(workload)) changed.add(workload);
      if (!kept.has(id)) drop(`gateway/${id}`);
    }
  }

  /** Encodes ExternalServices that changed. @param changed gets the workloads that may call new ones, or gone ones no more. */
  #updateExternals(
    before: CacheInput | undefined,
    put: (resource: BuiltResource) => void,
    drop: (key: string) => void,
    changed: Set<string>,
  ): void {
    const now = this.#input?.compiled;
    const earlier = before?.compiled;
    if (now === undefined || now.externals === earlier?.externals) return;
    const namespaces = new Set<string>();
    for (const [key, service] of now.state.externalServices) {
      const program = now.externals.get(`external:${key}`);
      const known = earlier?.externals.get(`external:${key}`);
      if (
        program === undefined ||
        (program === known && earlier?.state.externalServices.get(key) === service)
      )
        continue;
      put(buildExternal(service, program));
      if (earlier?.state.externalServices.get(key) !== service) namespaces.add(service.namespace);
    }
    for (const [key, service] of earlier?.state.externalServices ?? []) {
      if (now.state.externalServices.has(key)) continue;
      drop(`external/${key}`);
      namespaces.add(service.namespace);
    }
    if (namespaces.size > 0 || now.state.externalServices !== earlier?.state.externalServices)
      this.#externalsOf = undefined;
    for (const [id, { namespace }] of now.state.workloads) if (namespaces.has(namespace)) changed.add(id);
  }

  /** Keys of the ExternalServices of a namespace: its workloads alone may call them. */
  #externals(namespace: string): readonly string[] {
    if (this.#externalsOf === undefined) {
      const byNamespace = new Map<string, string[]>();
      for (const [key, service] of this.#input?.compiled.state.externalServices ?? []) {
        const keys = byNamespace.get(service.namespace);
        if (keys === undefined) byNamespace.set(service.namespace, [key]);
        else keys.push(key);
      }
      this.#externalsOf = byNamespace;
    }
    return this.#externalsOf.get(namespace) ?? NONE;
  }

  #updateTables(
    changedPrograms: ReadonlySet<string>,
    changedWorkloads: ReadonlySet<string>,
    changedKeys: Set<string>,
    put: (resource: BuiltResource) => void,
  ): Set<string> {
    const changed = new Set<string>();
    const input = this.#input;
    if (!input) return changed;
    const { state, callees } = input.compiled;
    // In every table, also in those that had none: while nothing is revoked there is no such resource.
    const isRevocation = changedKeys.has(REVOCATIONS_KEY);
    for (const [id, workload] of state.workloads) {
      const entry = this.#entries.get(id);
      const mine = callees.get(id);
      const settings = `settings/${settingsName(state, workload)}`;
      const clean =
        entry !== undefined &&
        !isRevocation &&
        !changedPrograms.has(id) &&
        !changedWorkloads.has(id) &&
        sameSet(entry.callees, mine) &&
        (mine === undefined || !intersects(changedWorkloads, mine)) &&
        entry.table.resources.has(settings) &&
        !intersects(changedKeys, entry.table.resources);
      if (clean) continue;
      if (!this.#resources.has(settings)) put(buildSettings(state, workload, input.cluster));
      const table = createTable(this.#needs(workload, id, mine ?? NOTHING, settings));
      if (table.digest === entry?.table.digest) {
        this.#entries.set(id, { ...entry, callees: mine });
        continue;
      }
      const earlier = entry ? [entry.table, ...entry.earlier].slice(0, KEPT_TABLES) : [];
      this.#entries.set(id, { table, earlier, callees: mine });
      changed.add(id);
    }
    for (const id of [...this.#entries.keys()]) {
      if (state.workloads.has(id)) continue;
      this.#entries.delete(id);
      changed.add(id);
    }
    return changed;
  }

  /** Callers of a service need what its route leads to: a workload that changed there has changed for them. */
  #withLeading(changed: ReadonlySet<string>): ReadonlySet<string> {
    if (this.#leadingTo.size === 0 || changed.size === 0) return changed;
    const all = new Set(changed);
    for (const workload of changed)
      for (const service of this.#servicesOf.get(workload) ?? NONE)
        for (const leading of this.#leadingTo.get(service) ?? NONE)
          for (const member of this.#input?.compiled.state.services.get(leading)?.members ?? NONE)
            all.add(member);
    return all;
  }

  /** Services of these workloads, those whose routes lead to one of them, and all that the routes of both lead to. */
  #servicesFor(callees: ReadonlySet<string>): ReadonlySet<string> {
    const services = new Set<string>();
    for (const callee of callees)
      for (const service of this.#servicesOf.get(callee) ?? []) {
        services.add(service);
        for (const leading of this.#leadingTo.get(service) ?? NONE) services.add(leading);
      }
    const leadsTo = this.#input?.compiled.routes.leadsTo;
    if (leadsTo !== undefined && leadsTo.size > 0)
      for (const service of [...services])
        for (const backend of leadsTo.get(service) ?? NONE) services.add(backend);
    return services;
  }

  /** All that one workload needs; what does not exist (an undeclared pack) is left out. */
  #needs(workload: Workload, id: string, callees: ReadonlySet<string>, settings: string): BuiltResource[] {
    const state = this.#input?.compiled.state;
    const keys = new Set<string>([
      `workload-program/${id}`,
      settings,
      `trust-bundle/${state?.config.trustDomain ?? ""}`,
      REVOCATIONS_KEY,
    ]);
    const gateway = this.#input?.compiled.gateways.gateways.get(id);
    if (gateway !== undefined) keys.add(`gateway/${gateway.id}`);
    for (const key of this.#externals(workload.namespace)) {
      keys.add(`external/${key}`);
      for (const pack of state?.externalServices.get(key)?.packs ?? []) keys.add(`operation-pack/${pack}`);
    }
    for (const port of workload.ports) for (const pack of port.packs) keys.add(`operation-pack/${pack}`);
    for (const service of this.#servicesFor(callees)) {
      keys.add(`service/${service}`);
      keys.add(`endpoints/${service}`);
      keys.add(`route/${service}`);
      for (const member of state?.services.get(service)?.members ?? [])
        for (const port of state?.workloads.get(member)?.ports ?? [])
          for (const pack of port.packs) keys.add(`operation-pack/${pack}`);
    }
    const found: BuiltResource[] = [];
    for (const key of keys) {
      const resource = this.#resources.get(key);
      if (resource) found.push(resource);
    }
    return found;
  }
}

/** Services by the workloads behind them, both in order. */
function indexMembers(services: ReadonlyMap<string, MeshService>): Map<string, string[]> {
  const index = new Map<string, string[]>();
  for (const [id, { members }] of services) {
    for (const workload of members) {
      const list = index.get(workload);
      if (list) list.push(id);
      else index.set(workload, [id]);
    }
  }
  return index;
}

function indexAddresses(services: ReadonlyMap<string, MeshService>): Map<string, string[]> {
  const index = new Map<string, string[]>();
  for (const [id, { addresses, endpoints }] of services) {
    for (const address of new Set([...addresses, ...endpoints.map((endpoint) => endpoint.address)])) {
      const list = index.get(address);
      if (list) list.push(id);
      else index.set(address, [id]);
    }
  }
  return index;
}
