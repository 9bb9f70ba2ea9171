// A replica that does not lead tells the leader how its sidecars stand: everything once, then what changes, within a
// quarter of a second.
import { connect, type TLSSocket } from "node:tls";
import { CONTROL_PLANE_SERVER_NAME } from "../../proto/protocol.ts";
import { type BackoffLimits, backoffMs } from "../../sidecar/core/runtime/backoff.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { ProxyStatus } from "../discovery/server.ts";
import type { LeaseHolder } from "../leader/lease.ts";
import { ReportWriter } from "./replica-report.ts";
import { contextOf, HEARTBEAT_MS, isControlPlane, type ReplicaMaterial } from "./report-connection.ts";

export interface ReportClientOptions {
  /** Of this process among the replicas, as in the Lease. */
  readonly identity: string;
  readonly softwareVersion: string;
  readonly trustDomain: string;
  readonly material: () => ReplicaMaterial;
  /** The sidecars connected here. */
  readonly proxies: () => readonly ProxyStatus[];
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
}

const CONNECT_WITHIN_MS = 5_000;
const SETTLE_MS = 250;
/** A connection that held for so long was a good one. */
const LASTED_MS = 10_000;
/** Failures in a row that are nothing to speak of: a new leader opens its port only when it leads. */
const TELL_AFTER = 4;
const AGAIN: BackoffLimits = { firstMs: 250, maxMs: 5_000 };
/** What waits for a leader that does not read; beyond, the connection is given up. */
const MAX_WAITING_BYTES = 16 * 1024 * 1024;

/** Reports while another replica leads, until `close`. */
export class ReportClient {
  readonly #options: ReportClientOptions;
  #holder: LeaseHolder | undefined;
  #changed = true;
  #wake = new AbortController();
  /** Aborts when another leads. */
  #term = new AbortController();

  constructor(options: ReportClientOptions) {
    this.#options = options;
  }

  /** Somebody else leads now. */
  follow(holder: LeaseHolder | undefined): void {
    this.#holder = holder;
    this.#term.abort();
    this.#term = new AbortController();
    this.#wake.abort();
  }

  /** A sidecar came, went, or stands differently. */
  changed(): void {
    this.#changed = true;
    this.#wake.abort();
  }

  /** Reports until the signal aborts; never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, random, log, identity } = this.#options;
    let failures = 0;
    while (!signal.aborted) {
      const term = this.#term.signal;
      const ends = AbortSignal.any([signal, term]);
      const holder = this.#holder;
      if (holder === undefined || holder.identity === identity || holder.address === undefined) {
        failures = 0;
        await clock.sleep(60_000, ends);
        continue;
      }
      const startedMs = clock.monotonicMs();
      try {
        await this.#report(holder.address, ends);
      } catch (error) {
        if (clock.monotonicMs() - startedMs >= LASTED_MS) failures = 0;
        if (!ends.aborted && failures++ === TELL_AFTER)
          log.warn("the leader cannot be told how sidecars stand; its status does not count them", {
            leader: holder.identity,
            error: messageOf(error),
          });
      }
      if (!ends.aborted) await clock.sleep(backoffMs(failures, AGAIN, random()), ends);
    }
  }

  async #report(address: string, signal: AbortSignal): Promise<void> {
    const { clock, identity, softwareVersion, proxies } = this.#options;
    const socket = await this.#connect(address, signal);
    const ended = new AbortController();
    socket.once("close", () => ended.abort());
    const ends = AbortSignal.any([signal, ended.signal]);
    try {
      const writer = new ReportWriter();
      socket.write(`${JSON.stringify({ hello: { replica: identity, software: softwareVersion } })}\n`);
      this.#changed = true;
      while (!ends.aborted) {
        const lines = this.#changed ? writer.next(proxies()) : [];
        this.#changed = false;
        socket.write(lines.length === 0 ? "{}\n" : lines.join(""));
        if (socket.writableLength > MAX_WAITING_BYTES)
          throw new MeshError("timeout", "the leader does not read its replicas' reports");
        await clock.sleep(SETTLE_MS, ends);
        if (this.#changed) continue;
        this.#wake = new AbortController();
        await clock.sleep(HEARTBEAT_MS, AbortSignal.any([ends, this.#wake.signal]));
      }
      if (!signal.aborted) throw new MeshError("io_failed", "the leader closed the connection");
    } finally {
      socket.destroy();
    }
  }

  #connect(address: string, signal: AbortSignal): Promise<TLSSocket> {
    const { material, trustDomain } = this.#options;
    const { hostname, port } = new URL(`tls://${address}`);
    return new Promise((resolve, reject) => {
      const socket = connect(
        {
          ...contextOf(material()),
          host: hostname.replace(/^\[|\]$/g, ""),
          port: Number(port),
          servername: CONTROL_PLANE_SERVER_NAME,
          checkServerIdentity: (_host, certificate) =>
            isControlPlane(certificate.raw, trustDomain)
              ? undefined
              : new Error("the leader's certificate is not the control plane's"),
        },
        () => {
          socket.setTimeout(0);
          resolve(socket);
        },
      );
      const stop = (): void => void socket.destroy();
      socket.setTimeout(CONNECT_WITHIN_MS, () =>
        socket.destroy(new Error("the leader did not answer in time")),
      );
      signal.addEventListener("abort", stop, { once: true });
      socket.once("close", () => {
        signal.removeEventListener("abort", stop);
        reject(new MeshError("io_failed", "the leader closed the connection"));
      });
      socket.on("error", reject);
      // Nothing is said to us; reading shows the end.
      socket.resume();
    });
  }
}
