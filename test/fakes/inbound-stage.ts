// The inbound stage of a sidecar without sockets: heads come as a mesh connection has parsed them, an application takes
// what is allowed and never answers, and what is recorded is kept.
import { X509Certificate } from "node:crypto";
import { AuditTrail } from "../../sidecar/audit/trail.ts";
import { ConcurrencyLimiter } from "../../sidecar/balance/concurrency.ts";
import { Deadlines } from "../../sidecar/balance/deadlines.ts";
import { createRateLimiter } from "../../sidecar/balance/limits.ts";
import { DEFAULT_LIMITS, DEFAULT_TIMEOUTS } from "../../sidecar/config.ts";
import { lookupField } from "../../sidecar/core/http/headers.ts";
import { ProofVerifier } from "../../sidecar/core/identity/proofs.ts";
import { parseSvid } from "../../sidecar/core/identity/svid.ts";
import type { TrustBundle } from "../../sidecar/core/identity/trust-bundle.ts";
import type { WorkloadIdentity } from "../../sidecar/core/identity/workload-identity.ts";
import { createCelCompiler } from "../../sidecar/core/policy/cel.ts";
import type { SidecarTable } from "../../sidecar/discovery/table.ts";
import { createEnforcement, type Enforcement, parsePacks } from "../../sidecar/inbound/authorize.ts";
import type { CallerSide, CallerStream } from "../../sidecar/inbound/caller-side.ts";
import { InboundExchange } from "../../sidecar/inbound/exchange.ts";
import { PeerLeaves } from "../../sidecar/inbound/peer-leaves.ts";
import { ReplayMemory } from "../../sidecar/inbound/replay.ts";
import type { InboundServices } from "../../sidecar/inbound/services.ts";
import { PeerVerifier } from "../../sidecar/inbound/verify.ts";
import { WaitingBytes } from "../../sidecar/inbound/waiting-body.ts";
import { SidecarMetrics } from "../../sidecar/metrics.ts";
import { Correlation } from "../../sidecar/telemetry/correlation.ts";
import { HeldChains } from "../../sidecar/telemetry/held-chains.ts";
import { RandomIds } from "../../sidecar/telemetry/random-ids.ts";
import type { Field } from "../../sidecar/wire/field.ts";
import { FieldCache } from "../../sidecar/wire/field-cache.ts";
import { createHttp2Shared } from "../../sidecar/wire/http2/shared.ts";
import { must } from "./authority.ts";
import { FakeClock } from "./clock.ts";

const cel = createCelCompiler();

export interface StageSpec {
  /** Of the callee. */
  readonly table: SidecarTable;
  /** Keys of its own trust domain, which is the table's. */
  readonly bundle: TrustBundle;
  /** Who calls. */
  readonly caller: WorkloadIdentity;
  readonly nowMs: number;
}

export class InboundStage {
  readonly enforcement: Enforcement;
  /** The last line that was recorded. */
  lastLine = "";
  /** Requests that the application got. */
  forwarded = 0;
  readonly #services: InboundServices;
  readonly #side: CallerSide;

  constructor({ table, bundle, caller, nowMs }: StageSpec) {
    const { trustDomain, propagation } = table.settings;
    const metrics = new SidecarMetrics();
    const ids = new RandomIds();
    const sink = {
      append: (line: string) => {
        this.lastLine = line;
      },
      commit: () => {},
      hasRoom: true,
    };
    const trail = new AuditTrail({
      ...{ sink, ids, random: () => 0, recordAllows: true, takesBodies: false },
      secretNames: new Set<string>(),
    });
    this.enforcement = must(createEnforcement(table, must(parsePacks(table)), { metrics, trail }, cel));
    const peer = must(parseSvid(new X509Certificate(caller.certificateChainPem).raw));
    const verifier = new PeerVerifier(peer, table.program.spiffeId, {
      verifier: new ProofVerifier({ bundleOf: (domain) => (domain === trustDomain ? bundle : undefined) }),
      trustDomain: () => trustDomain,
    });
    const clock = new FakeClock(nowMs);
    const carriesTrace = propagation.includes("trace");
    this.#services = {
      ...{ cache: new FieldCache(), http2: createHttp2Shared(), clock, meshNowMs: () => nowMs },
      state: {
        enforcement: this.enforcement,
        identityUntilMs: nowMs + 3_600_000,
        bundleEpoch: bundle.epoch,
        carriesTrace,
      },
      ...{ metrics, trail, ids, accessLog: undefined, held: new HeldChains(), ownUser: undefined },
      correlation: carriesTrace ? new Correlation() : undefined,
      limiter: createRateLimiter({ maxKeys: 100 }),
      concurrency: new ConcurrencyLimiter(),
      replays: new ReplayMemory(100, nowMs),
      ...{ timeouts: DEFAULT_TIMEOUTS, limits: DEFAULT_LIMITS, waiting: new WaitingBytes(1_000_000) },
      app: () => ({ take: () => this.#take(), sweep: () => {}, close: () => {} }),
      deadlines: new Deadlines(clock),
      ...{ openTunnels: { count: 0 }, leaves: new PeerLeaves() },
      appAddress: () => ({ kind: "unix", path: "/nowhere" }),
    };
    this.#side = sideOf(caller, verifier);
  }

  /** One request, until its caller is gone. */
  call(fields: readonly Field[], body: string | undefined): void {
    const stream: CallerStream = { context: undefined };
    const exchange = new InboundExchange(this.#services, this.#side, stream, fields);
    exchange.start(body === undefined);
    if (body !== undefined) exchange.onRequestBody(Buffer.from(body), true);
    exchange.onPeerGone();
  }

  /** The application got it; it never answers. */
  #take() {
    this.forwarded++;
    return SILENT_APPLICATION;
  }
}

const nothing = (): void => {};
const SILENT_APPLICATION = {
  ...{ sendHead: nothing, sendBody: nothing, sendEnd: nothing, congested: false, touch: nothing },
  ...{ pauseResponse: nothing, resumeResponse: nothing, abandon: nothing, release: nothing },
};

function sideOf(caller: WorkloadIdentity, verifier: PeerVerifier): CallerSide {
  return {
    answers: {
      ...{ beginHeaders: nothing, putStatus: nothing, putField: nothing, putPair: nothing },
      ...{ endHeaders: nothing, sendData: () => true, consumed: nothing, resetStream: nothing },
    },
    ...{ remoteAddress: "10.9.9.9", name: caller.spiffeId, port: undefined },
    programOf: (enforcement) => enforcement.program,
    identify: (shown, epoch, nowMs) => verifier.identify(shown, epoch, nowMs),
    byConnection: (nowMs) => verifier.byCertificate(nowMs),
    lookup: (fields) => (name) => lookupField(fields, name),
    ...{ countBadProof: nothing, upgradesByConnect: true, switchTo: nothing, finished: nothing },
  };
}
