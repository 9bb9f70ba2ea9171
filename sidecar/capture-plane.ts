// Captured traffic beside the data path: the ports that iptables redirects to, the application's calls on one, plaintext from
// outside on the other. Only with `--capture on`.
import { hasIpv6, readKernel } from "./capture/ip-families.ts";
import { CAPTURE_PORTS, type IpFamily } from "./capture/rules.ts";
import { PROBE_ADDRESS, verifyCapture } from "./capture/verify.ts";
import type { Logger } from "./core/runtime/log.ts";
import type { DataPlanePart } from "./data-plane-part.ts";
import type { InboundStream } from "./inbound/caller-side.ts";
import { PlaintextListener } from "./inbound/plaintext-listener.ts";
import type { InboundServices } from "./inbound/services.ts";
import { CaptureListener } from "./outbound/capture-listener.ts";
import type { OutboundServices } from "./outbound/services.ts";
import {
  createOriginalDestinationReader,
  type OriginalDestinationReader,
} from "./wire/original-destination.ts";

/** What capture rests on. Tests bring their own; a process takes the kernel's and the ports that the rules name. */
export interface CaptureDeps {
  readonly originalOf: OriginalDestinationReader;
  readonly families: readonly IpFamily[];
  readonly outboundPort: number;
  readonly inboundPort: number;
  /** Whether to look from inside if the rules are in force. */
  readonly verifies: boolean;
}

export interface CapturePlaneDeps {
  readonly capture: CaptureDeps;
  readonly outbound: OutboundServices;
  readonly inbound: InboundServices;
  readonly opaquePorts: readonly number[];
  /** By which a connection of ours to a captured address is known. */
  readonly probeToken: string;
  readonly log: Logger;
}

const VERIFY_MS = 2_000;

export function kernelCapture(): CaptureDeps {
  return {
    originalOf: createOriginalDestinationReader(),
    families: hasIpv6(readKernel) ? ["ipv4", "ipv6"] : ["ipv4"],
    outboundPort: CAPTURE_PORTS.outbound,
    inboundPort: CAPTURE_PORTS.inbound,
    verifies: true,
  };
}

export class CapturePlane implements DataPlanePart {
  readonly #deps: CapturePlaneDeps;
  readonly #outbound: CaptureListener;
  readonly #inbound: PlaintextListener;

  constructor(deps: CapturePlaneDeps) {
    this.#deps = deps;
    const { capture, inbound, outbound, probeToken, log } = deps;
    const { originalOf } = capture;
    const opaquePorts = new Set(deps.opaquePorts);
    this.#outbound = new CaptureListener({ services: outbound, originalOf, probeToken, opaquePorts, log });
    this.#inbound = new PlaintextListener({ services: inbound, originalOf, log });
  }

  /** Binds the ports, and looks from inside whether packets come to them. */
  async start(): Promise<{ readonly outbound: number; readonly inbound: number }> {
    const { capture, probeToken, log } = this.#deps;
    const { families } = capture;
    let port = capture.outboundPort;
    for (const family of families) port = await this.#outbound.listen(PROBE_ADDRESS[family], port);
    const plaintext = await this.#inbound.listen(capture.inboundPort);
    if (capture.verifies) {
      await verifyCapture({ families, token: probeToken, timeoutMs: VERIFY_MS, ownCalls: "pass" });
      log.info("capture verified", { families: families.join(",") });
    }
    return { outbound: port, inbound: plaintext };
  }

  get busy(): number {
    return this.#outbound.busy + this.#inbound.busy;
  }

  /** Accepted connections of the application. */
  get connections(): number {
    return this.#outbound.connections;
  }

  /** Open streams of plaintext callers. */
  collect(into: InboundStream[]): void {
    this.#inbound.collect(into);
  }

  sweep(nowMs: number): void {
    this.#outbound.sweep(nowMs);
    this.#inbound.sweep(nowMs);
  }

  drain(): void {
    this.#outbound.drain();
    this.#inbound.drain();
  }

  drainIdle(): void {
    this.#outbound.drainIdle();
    this.#inbound.drainIdle();
  }

  destroy(): void {
    this.#outbound.destroy();
    this.#inbound.destroy();
  }
}
