// The discovery port: gRPC over mutual TLS. Owns the streams; what to say on one is decided by its session.
import type { ServerDuplexStream, UntypedServiceImplementation } from "@grpc/grpc-js";
import { logVerbosity, Server, type ServiceDefinition, setLogVerbosity, status } from "@grpc/grpc-js";
import type { CertificateRequest__Output } from "../../proto/gen/countersign/mesh/v1/CertificateRequest.ts";
import type { ControlPlaneMessage } from "../../proto/gen/countersign/mesh/v1/ControlPlaneMessage.ts";
import type { Identity } from "../../proto/gen/countersign/mesh/v1/Identity.ts";
import type { SidecarMessage__Output } from "../../proto/gen/countersign/mesh/v1/SidecarMessage.ts";
import { messageCodec, serviceDefinition } from "../../proto/load.ts";
import type { IssuedTo } from "../../sidecar/core/identity/revocations.ts";
import { type SpiffeId, workloadOf } from "../../sidecar/core/identity/spiffe-id.ts";
import { parseSvid } from "../../sidecar/core/identity/svid.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf, type Result } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { WorkloadTable } from "../resources/build.ts";
import { encodeDelta } from "./chunks.ts";
import type { LiveCredentials } from "./credentials.ts";
import { LIMIT_LEASES, LimitLeases } from "./limit-leases.ts";
import { Session, type SessionAction, type SessionWorld } from "./session.ts";

/** What a stream may see of the tables; implemented by main.ts over the resource cache. */
export interface DiscoveryTables {
  readonly revision: () => number;
  readonly isCurrent: (ms: number) => boolean;
  readonly table: (workloadId: string) => WorkloadTable | undefined;
  readonly tableByDigest: (workloadId: string, digest: string) => WorkloadTable | undefined;
  /**
   * The workload whose sidecar has this certificate, with the SPIFFE ID it must have now.
   *
   * @param svid its SPIFFE ID, and the pod UID in its subject; empty outside Kubernetes.
   */
  readonly workloadOf: (svid: {
    readonly spiffeId: SpiffeId;
    readonly instance: string;
  }) =>
    | { readonly id: string; readonly spiffeId: string; readonly zone?: string | undefined }
    | { readonly problem: string };
  /** Whether what a sidecar shows is revoked. */
  readonly isRevoked: (svid: IssuedTo) => boolean;
  readonly resolve: (
    workloadId: string,
    host: string,
    port: number,
  ) => { readonly service: string } | { readonly reason: string };
  /** Replicas that share the limits of a workload, wherever they are connected; 0: those that are here. */
  readonly replicas: (workloadId: string) => number;
}

/** Where a sidecar stands; read by status and metrics. */
export interface ProxyStatus {
  /** Key in `ClusterState.workloads`. */
  readonly workload: string;
  readonly instance: string;
  /** UID of its pod; empty outside Kubernetes. */
  readonly pod: string;
  readonly node: string;
  readonly softwareVersion: string;
  readonly state: "synced" | "stale" | "disconnected";
  readonly digest: string;
  readonly expectedDigest: string;
  readonly nack: string | undefined;
  /** The newest revision whose table it is known to have had; what did not change since is in force there. */
  readonly syncedRevision: number;
  /** Unix milliseconds of the last change of `state` to or from disconnected. */
  readonly sinceMs: number;
  /** The newest certificate it is known to have: shown with the stream, or issued over it since. */
  readonly leaf: Leaf;
}

interface Leaf {
  /** Key identifier of the certificate that issued it, hex. */
  readonly issuerKeyId: string;
  readonly notAfterMs: number;
}

export interface DiscoveryServerOptions {
  readonly host: string;
  readonly port: number;
  readonly credentials: LiveCredentials;
  readonly trustDomain: string;
  readonly softwareVersion: string;
  readonly heartbeatMs: number;
  readonly tables: DiscoveryTables;
  /** Renews an identity for the holder of the SVID that the stream was opened with. */
  readonly issue: (
    workloadId: string,
    spiffeId: string,
    request: CertificateRequest__Output,
    /** Pod UID in the certificate; empty outside Kubernetes. */
    pod: string,
  ) => Promise<Result<Identity, string>>;
  readonly clock: Clock;
  readonly log: Logger;
  /** A sidecar connected, left, acknowledged or refused, or got a new certificate. */
  readonly onProxy: (workloadId: string, event: ProxyEvent) => void;
}

export type ProxyEvent = "connected" | "disconnected" | "acknowledged" | "refused" | "renewed";

export interface DiscoveryServer {
  readonly port: number;
  /** Workloads whose table changed; every stream learns of the revision with its next heartbeat. */
  changed(workloads: ReadonlySet<string>): void;
  /** Ends the streams of sidecars that showed what is revoked by now. */
  revocationsChanged(): void;
  proxies(): ProxyStatus[];
  /** Says goodbye to every sidecar and closes the port; at most `graceMs`. */
  close(graceMs: number): Promise<void>;
}

type Call = ServerDuplexStream<SidecarMessage__Output, ControlPlaneMessage | Buffer>;

interface Stream {
  readonly workload: string;
  readonly spiffeId: SpiffeId;
  /** UID in the certificate; empty outside Kubernetes. */
  readonly pod: string;
  readonly session: Session;
  readonly call: Call;
  /** What it showed when the stream was opened. */
  readonly shown: IssuedTo;
  readonly notAfterMs: number;
  readonly sinceMs: number;
  leaf: Leaf;
  queue: Buffer[];
  writingSinceMs: number | undefined;
  syncedRevision: number;
  issuing: boolean;
  issueCredit: number;
  closed: boolean;
}

const MAX_STREAMS = 20_000;
const MAX_STREAMS_PER_WORKLOAD = 256;
/** Messages waiting behind a slow connection; a delta of 4 MB chunks counts each chunk. */
const MAX_QUEUE = 256;
const REVOKED = "the client certificate was revoked, join again";
const WRITE_TIMEOUT_MS = 30_000;
const TICK_MS = 1_000;
/** Renewals a sidecar may ask for at once; one more each tick. */
const ISSUE_BURST = 5;

const messageOut = messageCodec<ControlPlaneMessage>("countersign.mesh.v1.ControlPlaneMessage");

function serviceWithBuffers(): ServiceDefinition {
  const service = serviceDefinition("countersign.mesh.v1.Discovery");
  const method = service["Stream"];
  if (!method) throw new Error("discovery.proto has no method Stream");
  // Encoded once by us; the same bytes go to every stream.
  const responseSerialize = (value: ControlPlaneMessage | Buffer): Buffer =>
    Buffer.isBuffer(value) ? value : messageOut.encode(value);
  // proto-loader's definition has all that grpc-js asks of one; the two packages name the type separately.
  return { Stream: { ...method, responseSerialize } } as unknown as ServiceDefinition;
}

/** Opens a port; used by the bootstrap service too. @throws MeshError `bad_config` when the port is taken. */
export function bindServer(
  server: Server,
  host: string,
  port: number,
  credentials: LiveCredentials,
): Promise<number> {
  // The library writes text to standard error; what matters reaches our own log as errors.
  setLogVerbosity(logVerbosity.NONE);
  const address = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
  return new Promise((resolve, reject) => {
    server.bindAsync(address, credentials, (error, bound) => {
      if (error)
        reject(
          new MeshError(
            "bad_config",
            `cannot listen on \`${address}\`: ${error.message}; is another control plane running?`,
          ),
        );
      else resolve(bound);
    });
  });
}

/** Stops a gRPC server: gives calls `graceMs`, then ends them. */
export async function closeServer(server: Server, clock: Clock, graceMs: number): Promise<void> {
  const controller = new AbortController();
  const graceful = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
  await Promise.race([graceful, clock.sleep(graceMs, controller.signal)]);
  controller.abort();
  server.forceShutdown();
}

class Discovery {
  readonly #options: DiscoveryServerOptions;
  readonly #streams = new Set<Stream>();
  readonly #byWorkload = new Map<string, Set<Stream>>();
  /** Last known facts of sidecars that left, until they return or their workload is gone. */
  readonly #left = new Map<string, ProxyStatus>();
  readonly #leases: LimitLeases;

  constructor(options: DiscoveryServerOptions) {
    this.#options = options;
    this.#leases = new LimitLeases(options.tables.replicas, options.clock);
  }

  accept(call: Call): void {
    // Errors come before the stream has an owner, too; unheard they would end the process.
    call.on("error", () => {});
    const opened = this.#open(call);
    if (!opened.ok) {
      this.#options.log.warn("sidecar refused", { reason: opened.error });
      call.write(messageOut.encode({ refused: { code: "identity", message: opened.error } }));
      call.end();
      return;
    }
    const stream = opened.value;
    this.#streams.add(stream);
    const others = this.#byWorkload.get(stream.workload) ?? new Set();
    this.#byWorkload.set(stream.workload, others.add(stream));
    call.on("data", (message: SidecarMessage__Output) => this.#receive(stream, message));
    call.on("error", () => this.#remove(stream));
    call.on("cancelled", () => this.#remove(stream));
    call.on("close", () => this.#remove(stream));
    call.on("end", () => {
      this.#remove(stream);
      call.end();
    });
  }

  /** Who is it, and may it have a stream? */
  #open(call: Call): Result<Stream, string> {
    const { clock, tables, trustDomain, softwareVersion, heartbeatMs } = this.#options;
    const certificate = call.getAuthContext().sslPeerCertificate;
    const svid = certificate?.raw ? parseSvid(certificate.raw) : undefined;
    if (!svid?.ok) return { ok: false, error: "the client certificate is not an SVID" };
    const { spiffeId, instance, notAfterMs, issuerKeyId } = svid.value;
    if (workloadOf(spiffeId)?.trustDomain !== trustDomain)
      return { ok: false, error: `\`${spiffeId}\` is not of this mesh` };
    const found = tables.workloadOf({ spiffeId, instance });
    if ("problem" in found) return { ok: false, error: found.problem };
    const workload = found.id;
    if (found.spiffeId !== spiffeId)
      return { ok: false, error: `workload \`${workload}\` is \`${found.spiffeId}\` now, join again` };
    if (notAfterMs <= clock.nowMs()) return { ok: false, error: "the client certificate has expired" };
    if (tables.isRevoked(svid.value)) return { ok: false, error: REVOKED };
    if (this.#streams.size >= MAX_STREAMS)
      return { ok: false, error: "this control plane serves as many sidecars as it can" };
    if ((this.#byWorkload.get(workload)?.size ?? 0) >= MAX_STREAMS_PER_WORKLOAD) {
      return { ok: false, error: `workload \`${workload}\` has too many streams` };
    }
    const world: SessionWorld = {
      revision: tables.revision,
      zone: found.zone ?? "",
      isCurrent: tables.isCurrent,
      table: () => tables.table(workload),
      tableByDigest: (digest) => tables.tableByDigest(workload, digest),
      resolve: (host, port) => tables.resolve(workload, host, port),
    };
    const nowMs = clock.nowMs();
    return {
      ok: true,
      value: {
        workload,
        spiffeId,
        pod: instance,
        shown: { spiffeId, instance, notBeforeMs: svid.value.notBeforeMs },
        session: new Session({ world, softwareVersion, heartbeatMs }, nowMs),
        call,
        notAfterMs,
        sinceMs: nowMs,
        leaf: { issuerKeyId, notAfterMs },
        queue: [],
        writingSinceMs: undefined,
        syncedRevision: 0,
        issuing: false,
        issueCredit: ISSUE_BURST,
        closed: false,
      },
    };
  }

  #receive(stream: Stream, message: SidecarMessage__Output): void {
    if (stream.closed) return;
    const isHello = stream.session.status.phase === "hello";
    const actions = stream.session.receive(message, this.#options.clock.nowMs());
    const { hello, phase } = stream.session.status;
    if (isHello && hello) {
      // The same process on a new connection: the old one is dead even if TCP does not know yet.
      for (const other of this.#byWorkload.get(stream.workload) ?? []) {
        const same =
          other !== stream &&
          hello.instance !== "" &&
          other.session.status.hello?.instance === hello.instance;
        if (same) this.#act(other, other.session.end("replaced", "the same sidecar opened another stream"));
      }
      this.#left.delete(`${stream.workload}/${hello.instance}`);
      for (const [key, status] of this.#left) if (status.workload === stream.workload) this.#left.delete(key);
      this.#options.log.info("sidecar connected", {
        workload: stream.workload,
        node: hello.node,
        version: hello.softwareVersion,
      });
      if (phase === "waiting") {
        this.#options.log.warn("sidecar is ahead of this control plane and waits for it", {
          workload: stream.workload,
          theirs: hello.tableRevision,
          ours: this.#options.tables.revision(),
        });
      }
      this.#options.onProxy(stream.workload, "connected");
    }
    if (message.hello || message.ack || message.nack) this.#noteSynced(stream);
    this.#act(stream, actions);
    // Before any call can come: what the table says of limits is for all replicas together.
    if (isHello && hello?.features.includes(LIMIT_LEASES) && !stream.closed)
      this.#write(stream, messageOut.encode(this.#leases.join(stream.workload, hello.instance)));
  }

  #noteSynced(stream: Stream): void {
    const { tables } = this.#options;
    if (stream.session.status.digest === tables.table(stream.workload)?.digest)
      stream.syncedRevision = tables.revision();
  }

  #act(stream: Stream, actions: readonly SessionAction[]): void {
    const { log, onProxy } = this.#options;
    for (const action of actions) {
      if (stream.closed) return;
      switch (action.kind) {
        case "send":
          this.#write(stream, messageOut.encode(action.message));
          break;
        case "delta":
          log.debug("delta sent", {
            workload: stream.workload,
            revision: action.revision,
            upsert: action.changes.upsert.length,
          });
          for (const chunk of encodeDelta(action, action.changes)) this.#write(stream, chunk);
          break;
        case "issue":
          void this.#issue(stream, action.request);
          break;
        case "limits":
          this.#leases.report(stream.workload, stream.session.status.hello?.instance ?? "", action.report);
          break;
        case "acknowledged":
          onProxy(stream.workload, "acknowledged");
          break;
        case "refused-by-sidecar":
          log.warn("sidecar refused a configuration", { workload: stream.workload, reason: action.reason });
          onProxy(stream.workload, "refused");
          break;
        case "close":
          log.info("stream closed", { workload: stream.workload, code: action.code, reason: action.message });
          this.#end(stream, messageOut.encode({ refused: { code: action.code, message: action.message } }));
          break;
      }
    }
  }

  async #issue(stream: Stream, request: CertificateRequest__Output): Promise<void> {
    const refuse = (error: string): void =>
      this.#write(stream, messageOut.encode({ identity: { id: request.id, error } }));
    if (stream.issuing || stream.issueCredit < 1)
      return refuse("too many certificate requests, wait a few seconds");
    stream.issuing = true;
    stream.issueCredit -= 1;
    try {
      const issued = await this.#options.issue(stream.workload, stream.spiffeId, request, stream.pod);
      if (issued.ok) {
        this.#write(stream, messageOut.encode({ identity: { ...issued.value, id: request.id } }));
        const leaf = parseSvid(Buffer.from(issued.value.certificateChainDer?.[0] ?? []));
        if (leaf.ok) stream.leaf = { issuerKeyId: leaf.value.issuerKeyId, notAfterMs: leaf.value.notAfterMs };
        this.#options.onProxy(stream.workload, "renewed");
      } else refuse(issued.error);
    } catch (error) {
      this.#options.log.error("certificate not issued", {
        workload: stream.workload,
        error: messageOf(error),
      });
      refuse("the certificate authority failed, try again");
    } finally {
      stream.issuing = false;
    }
  }

  #write(stream: Stream, bytes: Buffer): void {
    if (stream.closed) return;
    if (stream.queue.length >= MAX_QUEUE) {
      this.#options.log.warn("stream cut, the sidecar reads too slowly", { workload: stream.workload });
      this.#cut(stream);
      return;
    }
    stream.queue.push(bytes);
    if (stream.writingSinceMs === undefined) this.#pump(stream);
  }

  /** One write at a time: the next follows when the transport has taken the one before. */
  #pump(stream: Stream): void {
    const next = stream.queue.shift();
    if (!next || stream.closed) {
      stream.writingSinceMs = undefined;
      return;
    }
    stream.writingSinceMs = this.#options.clock.nowMs();
    stream.call.write(next, () => this.#pump(stream));
  }

  #end(stream: Stream, last: Buffer): void {
    this.#remove(stream);
    stream.call.write(last);
    stream.call.end();
  }

  #cut(stream: Stream): void {
    this.#remove(stream);
    // Ends the call as soon as the transport takes anything; if it never does, keepalive ends the connection.
    stream.call.emit("error", { code: status.UNAVAILABLE, details: "the sidecar does not read" });
  }

  #remove(stream: Stream): void {
    if (stream.closed) return;
    stream.closed = true;
    stream.queue = [];
    this.#streams.delete(stream);
    const others = this.#byWorkload.get(stream.workload);
    others?.delete(stream);
    if (others?.size === 0) {
      this.#byWorkload.delete(stream.workload);
      if (stream.session.status.hello) {
        const nowMs = this.#options.clock.nowMs();
        this.#left.set(`${stream.workload}/${stream.session.status.hello.instance}`, {
          ...this.#statusOf(stream),
          state: "disconnected",
          sinceMs: nowMs,
        });
      }
    }
    const { hello } = stream.session.status;
    if (!hello) return;
    const isThere = [...(others ?? [])].some(
      (other) => other.session.status.hello?.instance === hello.instance,
    );
    if (!isThere) this.#leases.leave(stream.workload, hello.instance);
    this.#options.log.info("sidecar disconnected", { workload: stream.workload });
    this.#options.onProxy(stream.workload, "disconnected");
  }

  revocationsChanged(): void {
    for (const stream of [...this.#streams])
      if (this.#options.tables.isRevoked(stream.shown))
        this.#act(stream, stream.session.end("identity", REVOKED));
  }

  changed(workloads: ReadonlySet<string>): void {
    const nowMs = this.#options.clock.nowMs();
    for (const key of this.#left.keys()) {
      const workload = this.#left.get(key)?.workload;
      if (workload !== undefined && this.#options.tables.table(workload) === undefined)
        this.#left.delete(key);
    }
    for (const stream of this.#streams) if (!workloads.has(stream.workload)) this.#noteSynced(stream);
    for (const stream of [...this.#streams]) {
      const { workload, spiffeId, pod } = stream;
      // Also where no table changed: a pod with other labels than before belongs to another workload.
      const now = this.#options.tables.workloadOf({ spiffeId, instance: pod });
      if (!("id" in now) || now.id !== workload || now.spiffeId !== spiffeId)
        this.#act(stream, stream.session.end("identity", "the workload has another identity now"));
      else if (workloads.has(workload)) this.#act(stream, stream.session.changed(nowMs));
    }
    for (const stream of [...this.#streams])
      if (stream.session.status.phase === "waiting") this.#act(stream, stream.session.changed(nowMs));
  }

  tick(): void {
    const nowMs = this.#options.clock.nowMs();
    for (const stream of [...this.#streams]) {
      stream.issueCredit = Math.min(ISSUE_BURST, stream.issueCredit + 1);
      if (nowMs >= stream.notAfterMs) {
        this.#act(
          stream,
          stream.session.end("identity", "the certificate of this connection has expired, connect again"),
        );
      } else if (stream.writingSinceMs !== undefined && nowMs - stream.writingSinceMs > WRITE_TIMEOUT_MS) {
        this.#options.log.warn("stream cut, the sidecar does not read", { workload: stream.workload });
        this.#cut(stream);
      } else {
        this.#act(stream, stream.session.tick(nowMs));
      }
    }
    this.#lease();
  }

  /** Sends leases of shared limits that are due. */
  #lease(): void {
    for (const { workload, instance, message } of this.#leases.tick())
      for (const stream of this.#byWorkload.get(workload) ?? [])
        if (stream.session.status.hello?.instance === instance)
          this.#write(stream, messageOut.encode(message));
  }

  proxies(): ProxyStatus[] {
    return [
      ...[...this.#streams]
        .filter((stream) => stream.session.status.hello)
        .map((stream) => this.#statusOf(stream)),
      // Not of a workload that is gone: nobody of it comes back.
      ...[...this.#left.values()].filter(
        ({ workload }) => this.#options.tables.table(workload) !== undefined,
      ),
    ];
  }

  #statusOf(stream: Stream): ProxyStatus {
    const { hello, digest, nack } = stream.session.status;
    const expectedDigest = this.#options.tables.table(stream.workload)?.digest ?? "";
    return {
      workload: stream.workload,
      instance: hello?.instance ?? "",
      pod: stream.pod,
      node: hello?.node ?? "",
      softwareVersion: hello?.softwareVersion ?? "",
      state: digest === expectedDigest ? "synced" : "stale",
      digest,
      expectedDigest,
      nack: nack && (nack.resource === "" ? nack.reason : `${nack.resource}: ${nack.reason}`),
      syncedRevision: stream.syncedRevision,
      sinceMs: stream.sinceMs,
      leaf: stream.leaf,
    };
  }

  endAll(): void {
    for (const stream of [...this.#streams])
      this.#act(stream, stream.session.end("shutdown", "the control plane stops"));
  }
}

/** Opens the discovery port. @throws MeshError `bad_config` when it is taken. */
export async function createDiscoveryServer(options: DiscoveryServerOptions): Promise<DiscoveryServer> {
  const discovery = new Discovery(options);
  const server = new Server({
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 5_000,
    // Sidecars ping every 20 s even when nothing else moves.
    "grpc.keepalive_permit_without_calls": 1,
    "grpc-node.max_session_memory": 64,
    "grpc.max_receive_message_length": 262_144,
    "grpc.max_concurrent_streams": 4,
  });
  const service: UntypedServiceImplementation = { Stream: (call: Call) => discovery.accept(call) };
  server.addService(serviceWithBuffers(), service);
  const port = await bindServer(server, options.host, options.port, options.credentials);
  const ticking = new AbortController();
  const ticks = (async () => {
    while (!ticking.signal.aborted) {
      await options.clock.sleep(Math.min(TICK_MS, options.heartbeatMs), ticking.signal);
      if (!ticking.signal.aborted) discovery.tick();
    }
  })();
  return {
    port,
    revocationsChanged: () => discovery.revocationsChanged(),
    changed: (workloads) => discovery.changed(workloads),
    proxies: () => discovery.proxies(),
    async close(graceMs) {
      ticking.abort();
      await ticks;
      discovery.endAll();
      await closeServer(server, options.clock, graceMs);
    },
  };
}
