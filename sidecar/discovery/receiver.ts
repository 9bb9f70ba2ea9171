// What a sidecar does with the messages that change its table: gathers, checks, puts in force, and answers with ACK or
// NACK. PURE but for what `onTable` does.
import type { ControlPlaneMessage__Output } from "../../proto/gen/countersign/mesh/v1/ControlPlaneMessage.ts";
import type { Delta__Output } from "../../proto/gen/countersign/mesh/v1/Delta.ts";
import type { SidecarMessage } from "../../proto/gen/countersign/mesh/v1/SidecarMessage.ts";
import { messageOf, type Result } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { Candidate, DeltaProblem, ResourceStore } from "./store.ts";
import type { SidecarTable } from "./table.ts";

export interface ReceiverDeps {
  readonly store: ResourceStore;
  readonly log: Logger;
  readonly onTable: (table: SidecarTable) => Result<void, string>;
  /** The table is in force. */
  readonly onApplied: (table: SidecarTable) => void;
}

/** Bytes a decoded delta stands for, near enough for a limit. */
function sizeOf(delta: Delta__Output): number {
  let bytes = 128;
  for (const resource of delta.upsert) bytes += resource.body.length + resource.name.length + 64;
  for (const { name } of delta.remove) bytes += name.length + 32;
  return bytes;
}

export class Receiver {
  readonly #deps: ReceiverDeps;
  /** Nonce announced by Prepare: that delta is checked and held. */
  #prepare: number | undefined;
  #held: { readonly nonce: number; readonly candidate: Candidate } | undefined;
  /** Nonce of a refused delta whose remaining chunks are dropped. */
  #refused: number | undefined;

  constructor(deps: ReceiverDeps) {
    this.#deps = deps;
  }

  /** A stream begins: nothing of an earlier one counts. */
  reset(): void {
    this.#prepare = undefined;
    this.#held = undefined;
    this.#refused = undefined;
    this.#deps.store.reset();
  }

  /** @returns the answer, if there is one to send. */
  receive(message: ControlPlaneMessage__Output): SidecarMessage | undefined {
    if (message.prepare) {
      this.#prepare = message.prepare.nonce;
      this.#held = undefined;
      return undefined;
    }
    if (message.commit) return this.#commit(message.commit.nonce, message.commit.commit);
    return message.delta ? this.#delta(message.delta) : undefined;
  }

  #delta(delta: Delta__Output): SidecarMessage | undefined {
    if (this.#refused === delta.nonce) {
      if (delta.last) this.#refused = undefined;
      return undefined;
    }
    const received = this.#deps.store.receive(delta, sizeOf(delta));
    if (!received.ok) {
      if (!delta.last) this.#refused = delta.nonce;
      return this.#nack(delta.nonce, received.error);
    }
    if (!received.value) return undefined;
    if (this.#prepare !== delta.nonce) return this.#apply(delta.nonce, received.value);
    this.#prepare = undefined;
    this.#held = { nonce: delta.nonce, candidate: received.value };
    return { ack: { ...this.#active(), nonce: delta.nonce, prepared: true } };
  }

  #commit(nonce: number, isCommit: boolean): SidecarMessage | undefined {
    const held = this.#held;
    this.#held = undefined;
    if (held?.nonce !== nonce)
      return this.#nack(nonce, { reason: "nothing was prepared under this nonce", type: "", name: "" });
    return isCommit ? this.#apply(nonce, held.candidate) : undefined;
  }

  #apply(nonce: number, candidate: Candidate): SidecarMessage {
    const { store, log, onTable, onApplied } = this.#deps;
    let applied: Result<void, string>;
    try {
      applied = onTable(candidate.table);
    } catch (error) {
      // A bug on our side must not leave half a table: the last good one stays and the control plane learns of it.
      applied = { ok: false, error: messageOf(error) };
    }
    if (!applied.ok) return this.#nack(nonce, { reason: applied.error, type: "", name: "" });
    store.commit(candidate);
    log.debug("table applied", { revision: candidate.table.revision, digest: candidate.table.digest });
    onApplied(candidate.table);
    return { ack: { ...this.#active(), nonce } };
  }

  #nack(nonce: number, problem: DeltaProblem): SidecarMessage {
    this.#deps.log.warn("table refused, the last good one stays", {
      reason: problem.reason,
      type: problem.type,
      name: problem.name,
    });
    const { digest } = this.#active();
    return {
      nack: {
        nonce,
        reason: problem.reason.slice(0, 500),
        resourceType: problem.type.slice(0, 64),
        resourceName: problem.name.slice(0, 256),
        digest,
      },
    };
  }

  #active(): { digest: Buffer; revision: number } {
    const { digest, table } = this.#deps.store;
    return { digest: Buffer.from(digest, "hex"), revision: table?.revision ?? 0 };
  }
}
