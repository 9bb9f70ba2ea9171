// From the authority of a request to the service it means, with everything that is the same for every call to it. Made
// anew from each table; names that are not in it are asked for once (`DiscoveryClient.resolve` keeps the negative cache).
import type { AuditEdge } from "../audit/record.ts";
import type { AuditTrail } from "../audit/trail.ts";
import { parseAuthority } from "../core/http/authority.ts";
import { COUNTERSIGN_PORT } from "../core/identity/claims.ts";
import { type Pack, packsDigest } from "../core/policy/catalog.ts";
import { type Classifier, createClassifier } from "../core/policy/operations.ts";
import { coversOperation } from "../core/policy/scope.ts";
import type { MeshService, ServicePort, SidecarTable } from "../discovery/table.ts";
import { EdgeCounters, type Party, type SidecarMetrics, UNKNOWN_PARTY } from "../metrics.ts";
import { createField, type Field } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import { type AddressedPort, addressIndex } from "./address-index.ts";
import type { EndpointGroup } from "./group.ts";
import type { UpstreamPool } from "./pool.ts";
import { DestinationRoute } from "./route.ts";

export interface OutboundEdge {
  /** Whom this workload acted for when the edge was made. */
  readonly runAs: string | undefined;
  readonly counters: EdgeCounters;
  readonly audit: AuditEdge;
}

/** One port of one service. */
export class Destination {
  readonly service: MeshService;
  readonly port: ServicePort;
  readonly packsDigest: string;
  readonly group: EndpointGroup;
  readonly callee: Party;
  readonly #directory: Directory;
  readonly #packs: readonly Pack[];
  readonly #edges = new Map<string, OutboundEdge>();
  readonly #paths = new Map<string, Field>();
  /** Where its calls go; undefined: nothing says so, they go here. */
  route: DestinationRoute | undefined;
  /** The `countersign-port` field of every call. */
  readonly portField: Field;
  #classifier: Classifier | undefined;
  #authority: Field | undefined;

  constructor(directory: Directory, service: MeshService, port: ServicePort, group: EndpointGroup) {
    this.#directory = directory;
    this.service = service;
    this.port = port;
    this.group = group;
    const { table, packs } = directory;
    this.#packs = port.packs.flatMap((name) => packs.get(name) ?? []);
    this.portField = createField(COUNTERSIGN_PORT, String(port.targetPort ?? port.port));
    this.packsDigest = packsDigest(port.packs.map((name) => table.packs.get(name)?.text ?? ""));
    const [, , , , , , , kind, name] = group.members[0]?.upstream.endpoint.spiffeId.split("/") ?? [];
    this.callee = { kind: kind ?? "service", name: name ?? service.id.slice(service.id.indexOf("/") + 1) };
  }

  get callerSpiffeId(): string {
    return this.#directory.table.program.spiffeId;
  }

  /** The `:path` field of a target without query; one object as long as it is remembered. */
  pathField(target: string): Field {
    let field = this.#paths.get(target);
    if (field === undefined) {
      if (this.#paths.size >= MAX_PATHS) this.#paths.clear();
      field = createField(":path", target);
      this.#paths.set(target, field);
    }
    return field;
  }

  /** The `:authority` field of a call: nearly all calls name their destination alike. */
  authorityField(authority: string, cache: FieldCache): Field {
    if (this.#authority?.value !== authority) this.#authority = cache.get(":authority", authority);
    return this.#authority;
  }

  /** Made at the first call: a table may name many services of which few are called. */
  get classifier(): Classifier {
    this.#classifier ??= createClassifier({ packs: this.#packs, selfName: this.callee.name });
    return this.#classifier;
  }

  /** Whether calls of an operation must show a proof that was not shown before. @param operation as the proof names it. */
  asksFreshProof(operation: string): boolean {
    const { freshProofs } = this.service;
    if (freshProofs === undefined || freshProofs.length === 0) return false;
    // What has no name of its own (`unknown`, `mcp`) may turn out to be any of them.
    if (!operation.includes(".")) return true;
    return freshProofs.some((pattern) => pattern === "*" || coversOperation(pattern, operation));
  }

  edge(operation: string): OutboundEdge {
    let edge = this.#edges.get(operation);
    if (edge === undefined || edge.runAs !== this.#directory.runAs) {
      edge = this.#directory.edge(this.callee, this.service.id, operation);
      this.#edges.set(operation, edge);
    }
    return edge;
  }
}

/** The one destination of a listener or captured connection, whatever the requests on it name. */
export type FixedDestination =
  /** `key`: `namespace/name:port`, where whoever makes it has use for it again and again. */
  | { readonly kind: "service"; readonly service: string; readonly port: number; readonly key?: string }
  /** An address and port as they were connected to; `key` is `addressKey` of both. */
  | {
      readonly kind: "address";
      readonly address: string;
      readonly port: number;
      readonly key: string;
      /** Nothing of the mesh, as far as anybody knows: requests on it may name a host outside. */
      readonly isOutside?: true;
    };

export type Lookup =
  | { readonly kind: "destination"; readonly destination: Destination }
  | { readonly kind: "unknown"; readonly host: string; readonly port: number }
  | { readonly kind: "bad"; readonly detail: string };

const MAX_CACHED_AUTHORITIES = 4_096;
const MAX_PATHS = 1_024;

/** What the own process brings to choices. */
export interface Surroundings {
  /** Name of this pod or machine. */
  readonly node: string;
  /** In [0, 1). */
  readonly random: () => number;
  /** Whom this workload acts for now, `idp|user`. */
  readonly actsFor: () => string | undefined;
}

export class Directory {
  readonly table: SidecarTable;
  readonly packs: ReadonlyMap<string, Pack>;
  readonly #pool: UpstreamPool;
  readonly #metrics: SidecarMetrics;
  readonly #trail: AuditTrail;
  readonly #self: Party;
  readonly #surroundings: Surroundings;
  readonly #destinations = new Map<string, Destination>();
  readonly #authorities = new Map<string, Destination>();
  /** By key of what is fixed: addresses have no slash. */
  readonly #fixed = new Map<string, Destination>();
  readonly #strangers = new Map<string, OutboundEdge>();
  #addresses: ReadonlyMap<string, AddressedPort> | undefined;

  constructor(
    table: SidecarTable,
    packs: ReadonlyMap<string, Pack>,
    pool: UpstreamPool,
    metrics: SidecarMetrics,
    trail: AuditTrail,
    surroundings: Surroundings,
  ) {
    this.table = table;
    this.packs = packs;
    this.#pool = pool;
    this.#metrics = metrics;
    this.#trail = trail;
    this.#surroundings = surroundings;
    this.#self = { kind: table.program.kind, name: table.program.name };
  }

  /** The destination of an authority such as `fraud-scorer.ml-serving:8080`. */
  find(authority: string): Lookup {
    const known = this.#authorities.get(authority);
    if (known !== undefined) return { kind: "destination", destination: known };
    const parsed = parseAuthority(authority, 80);
    if (!parsed.ok) return { kind: "bad", detail: parsed.error };
    const { host, port } = parsed.value;
    const service = this.table.servicesByHost.get(host);
    if (service === undefined) return { kind: "unknown", host, port };
    const explicit = /:[0-9]+$/.test(authority);
    const [only, second] = service.ports;
    const found =
      service.ports.find((candidate) => candidate.port === port) ??
      (!explicit && second === undefined ? only : undefined);
    if (found === undefined) return { kind: "unknown", host, port };
    const destination = this.#destination(service, found);
    if (this.#authorities.size >= MAX_CACHED_AUTHORITIES) this.#authorities.clear();
    this.#authorities.set(authority, destination);
    return { kind: "destination", destination };
  }

  /** The destination of a listener that means one service, or of a captured connection. */
  ofFixed(fixed: FixedDestination): Destination | undefined {
    const { key } = fixed;
    const known = key === undefined ? undefined : this.#fixed.get(key);
    if (known !== undefined) return known;
    const found =
      fixed.kind === "service" ? this.ofService(fixed.service, fixed.port) : this.ofAddress(fixed.key);
    if (key !== undefined && found !== undefined) this.#fixed.set(key, found);
    return found;
  }

  /**
   * The destination of an address and port: a service by its cluster IP, or one endpoint alone by its own address.
   *
   * @param key made by `addressKey`.
   */
  ofAddress(key: string): Destination | undefined {
    // Made at the first captured connection: without capture nobody asks.
    this.#addresses ??= addressIndex(this.table);
    const found = this.#addresses.get(key);
    if (found === undefined) return undefined;
    const { service, port, endpoint } = found;
    if (endpoint === undefined) return this.#destination(service, port);
    const name = `${service.id}@${key}`;
    let destination = this.#destinations.get(name);
    if (destination === undefined) {
      const group = this.#pool.group(name, { service: service.id, port: port.port }, this.table, endpoint);
      destination = new Destination(this, service, port, group);
      this.#destinations.set(name, destination);
    }
    return destination;
  }

  /** One port of a service by its id. */
  ofService(id: string, port: number): Destination | undefined {
    const service = this.table.services.get(id);
    const found = service?.ports.find((candidate) => candidate.port === port);
    return service === undefined || found === undefined ? undefined : this.#destination(service, found);
  }

  get runAs(): string | undefined {
    return this.#surroundings.actsFor();
  }

  /** Edge of calls to a name that is no service: metrics know it as unknown, the audit event has the name. */
  stranger(target: string): OutboundEdge {
    let edge = this.#strangers.get(target);
    if (edge === undefined || edge.runAs !== this.runAs) {
      if (this.#strangers.size >= 1_000) this.#strangers.clear();
      edge = this.edge(UNKNOWN_PARTY, target, "unknown");
      this.#strangers.set(target, edge);
    }
    return edge;
  }

  edge(callee: Party, serviceId: string, operation: string): OutboundEdge {
    const { program, settings } = this.table;
    const { runAs } = this;
    return {
      runAs,
      counters: new EdgeCounters(this.#metrics, "source", this.#self, callee, operation),
      audit: this.#trail.edge({
        source: { spiffeId: program.spiffeId, cluster: settings.cluster },
        target: callee.kind === "unknown" ? serviceId : `${callee.kind}/${callee.name}`,
        targetNamespace: serviceId.includes("/") ? serviceId.slice(0, serviceId.indexOf("/")) : "",
        targetKind: callee.kind,
        operation,
        caller: `${program.kind}/${program.name}`,
        callerSpiffeId: program.spiffeId,
        runAs,
        via: [],
      }),
    };
  }

  #destination(service: MeshService, port: ServicePort): Destination {
    const key = `${service.id}:${port.port}`;
    let destination = this.#destinations.get(key);
    if (destination === undefined) {
      destination = new Destination(
        this,
        service,
        port,
        this.#pool.group(key, { service: service.id, port: port.port }, this.table),
      );
      this.#destinations.set(key, destination);
      // After it is known: two services may lead to each other.
      destination.route = this.#routeOf(destination);
    }
    return destination;
  }

  /** What is written for a service; a call to one endpoint alone follows no route. */
  #routeOf(destination: Destination): DestinationRoute | undefined {
    const written = this.table.routes.get(destination.service.id);
    if (written === undefined || written.rules.length === 0) return undefined;
    const { node, random } = this.#surroundings;
    const route = new DestinationRoute(destination, written.rules, {
      caller: { ...this.#self, spiffeId: this.table.program.spiffeId },
      pod: node,
      random,
      destinationOf: (service, port, called) => this.#backend(service, port, called),
    });
    return route.isEmpty ? undefined : route;
  }

  /** The stated port of a service; where none is stated the one that was called, else its only one. */
  #backend(id: string, port: number | undefined, called: number): Destination | undefined {
    const service = this.table.services.get(id);
    if (service === undefined) return undefined;
    const [only, second] = service.ports;
    const found =
      service.ports.find((candidate) => candidate.port === (port ?? called)) ??
      (port === undefined && second === undefined ? only : undefined);
    return found === undefined ? undefined : this.#destination(service, found);
  }
}
