// What is in force: the table and the identity, swapped whole or not at all. The state that every request looks at, and what
// must happen to open connections when it changes.
import { createRequire } from "node:module";
import type { AuditTrail } from "./audit/trail.ts";
import type { ExternalAuthorities } from "./certs/external-authorities.ts";
import { serverTlsOptions } from "./certs/tls-contexts.ts";
import { parseTrustBundle } from "./core/identity/trust-bundle.ts";
import { isRetiring, type WorkloadIdentity, withBundle } from "./core/identity/workload-identity.ts";
import type { CelCompiler } from "./core/policy/condition.ts";
import { needsCel } from "./core/policy/decide.ts";
import type { Clock } from "./core/runtime/clock.ts";
import type { Result } from "./core/runtime/errors.ts";
import type { SidecarTable } from "./discovery/table.ts";
import { createEnforcement, type Enforcement, parsePacks } from "./inbound/authorize.ts";
import type { InboundListener } from "./inbound/listener.ts";
import type { InboundState } from "./inbound/services.ts";
import type { SidecarMetrics } from "./metrics.ts";
import { Externals } from "./outbound/external.ts";
import type { ExternalPools } from "./outbound/external-pools.ts";
import type { UpstreamPool } from "./outbound/pool.ts";
import { Directory } from "./outbound/resolve.ts";
import type { OutboundState } from "./outbound/services.ts";

/** What requests look at; nothing is in force at first. */
export class PlaneState implements InboundState, OutboundState {
  enforcement: Enforcement | undefined;
  directory: Directory | undefined;
  externals: Externals | undefined;
  identity: WorkloadIdentity | undefined;
  identityUntilMs = 0;
  bundleEpoch = "";
  carriesTrace = false;
  takesTxn = false;
  /** Whether calls may be made for the one user of a workload (propagation mode `session`). */
  bindsSession = false;
}

export interface InForceDeps {
  readonly inbound: InboundListener;
  readonly upstreams: UpstreamPool;
  /** Who vouches for hosts outside the mesh, and the connections to them. */
  readonly authorities: ExternalAuthorities;
  readonly externalPools: ExternalPools;
  readonly metrics: SidecarMetrics;
  readonly trail: AuditTrail;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  /** Name of this pod or machine. */
  readonly node: string;
}

export class InForce {
  readonly #state: PlaneState;
  readonly #deps: InForceDeps;
  #cel: CelCompiler | undefined;

  constructor(state: PlaneState, deps: InForceDeps) {
    this.#state = state;
    this.#deps = deps;
  }

  /** Present when a policy in force has had a CEL condition. */
  get cel(): CelCompiler | undefined {
    return this.#cel;
  }

  /** Calls and connections of ours show this identity from now on, open ones stay; who must not, ends. */
  adopt(identity: WorkloadIdentity): void {
    const { inbound, upstreams, clock } = this.#deps;
    const state = this.#state;
    const { epoch, roots } = identity.bundle;
    const left = state.identity;
    if (left !== undefined && left.leafThumbprint !== identity.leafThumbprint && isRetiring(left))
      inbound.reconnectAll();
    const before = left?.bundle;
    if (before !== undefined && before.epoch !== epoch) {
      const kept = new Set(roots.map((root) => root.fingerprint256));
      if (before.roots.some((root) => !kept.has(root.fingerprint256))) inbound.expelAll(clock.monotonicMs());
      upstreams.recheck(roots);
    }
    state.identity = identity;
    state.identityUntilMs = identity.notAfterMs;
    state.bundleEpoch = epoch;
    upstreams.setIdentity(identity);
  }

  /** Puts a table in force whole, or says why it cannot be used and keeps the one before. */
  setTable(table: SidecarTable): Result<void, string> {
    const { upstreams, authorities, externalPools, metrics, trail, random, node } = this.#deps;
    const state = this.#state;
    const packs = parsePacks(table);
    if (!packs.ok) return packs;
    const programs = [table.program, ...[...(table.externals?.values() ?? [])].map(({ program }) => program)];
    const cel = programs.some(needsCel) ? this.#celCompiler() : undefined;
    const enforcement = createEnforcement(table, packs.value, { metrics, trail }, cel);
    if (!enforcement.ok) return enforcement;
    const externals = Externals.create(table, packs.value, { metrics, trail, cel });
    if (!externals.ok) return externals;
    const trusted = this.#trust(table);
    if (!trusted.ok) return trusted;
    upstreams.adopt(table);
    if (authorities.use(table.settings.externalRoots)) externalPools.renew();
    state.directory = new Directory(table, packs.value, upstreams, metrics, trail, {
      node,
      random,
      actsFor: () => state.identity?.actsFor,
    });
    state.externals = externals.value;
    state.enforcement = enforcement.value;
    const { propagation } = table.settings;
    state.carriesTrace = propagation.includes("trace");
    state.takesTxn = propagation.includes("forward");
    state.bindsSession = propagation.includes("session");
    return { ok: true, value: undefined };
  }

  /** The identity in force with the trust bundle of a table. */
  #trust({ trustBundle }: SidecarTable): Result<void, string> {
    const before = this.#state.identity;
    if (before !== undefined && trustBundle !== "" && trustBundle !== before.bundle.json) {
      const bundle = parseTrustBundle(trustBundle, before.trustDomain);
      if (!bundle.ok) return { ok: false, error: `trust bundle: ${bundle.error}` };
      if (bundle.value.epoch !== before.bundle.epoch) {
        const identity = withBundle(before, bundle.value);
        this.#deps.inbound.setTlsOptions(serverTlsOptions(identity));
        this.adopt(identity);
      }
    }
    return { ok: true, value: undefined };
  }

  /** CEL costs memory and start-up time, so it is loaded with the first policy that has a condition. */
  #celCompiler(): CelCompiler {
    if (this.#cel === undefined) {
      const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
      const loaded: unknown = createRequire(import.meta.url)(`./core/policy/cel.${extension}`);
      // The module is ours: its one export of that name is the factory.
      this.#cel = (loaded as { readonly createCelCompiler: () => CelCompiler }).createCelCompiler();
    }
    return this.#cel;
  }
}
