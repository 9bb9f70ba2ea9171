// What must be read of a request to a host outside the mesh before it may go on: nothing, its body, or each message of a gRPC
// call. Asks for the decision when that is there, and lets pass what was decided on.
import { GrpcMessages, type MessageRoom, type MessageSink } from "../core/http/grpc-messages.ts";
import { joinedField } from "../core/http/headers.ts";
import { isGrpcProtobuf } from "../core/policy/protobuf-field.ts";
import type { OutboundHead } from "./app-side.ts";
import type { ExternalBody } from "./external-body.ts";
import type { ExternalRefusal } from "./external-ground.ts";
import type { ExternalPermission } from "./external-permission.ts";

/** The exchange that a request belongs to. */
export interface GateOwner {
  readonly head: OutboundHead;
  /** It may be sent. Comes once, unless `onRefused` comes instead. */
  onAllowed(): void;
  /** It may not, or what comes now may not go on. */
  onRefused(refusal: ExternalRefusal): void;
  /** Body bytes that may go on as soon as the call may. */
  onPassed(chunk: Buffer): void;
  /** The request may end. */
  onPassedAll(): void;
}

interface GateDeps {
  readonly permission: ExternalPermission;
  readonly body: ExternalBody;
  /** For messages that wait for the rest of them. */
  readonly room: MessageRoom;
}

export class ExternalGate implements MessageSink {
  readonly #owner: GateOwner;
  readonly #deps: GateDeps;
  #messages: GrpcMessages | undefined;
  /** All messages were looked at. */
  #isLookedAt = true;
  #isReading = false;
  #isClosed = false;

  constructor(owner: GateOwner, deps: GateDeps) {
    this.#owner = owner;
    this.#deps = deps;
  }

  /** The decision waits for more of the body. */
  get isReading(): boolean {
    return this.#isReading;
  }

  /** All of the request may go on. */
  get isPassed(): boolean {
    return this.#deps.body.isEnded && this.#isLookedAt;
  }

  /** Begins, with what of the body has come. */
  open(bodyless: boolean, isWebSocket: boolean): void {
    const { permission, body } = this.#deps;
    const wanted = permission.classify({ bodyless, isWebSocket });
    if (typeof wanted !== "string") {
      this.#owner.onRefused(wanted);
      return;
    }
    const isMessages = wanted === "messages";
    if (wanted === "nothing") this.#decide();
    else if (isMessages && !bodyless && !isWebSocket && this.#hasMessages) this.#readMessages();
    else if (isMessages || isWebSocket || body.isLarge) this.#read(undefined);
    else if (body.isEnded) this.#read(body.whole());
    else this.#isReading = true;
  }

  get #hasMessages(): boolean {
    return isGrpcProtobuf(joinedField(this.#owner.head.fields, "content-type"));
  }

  #readMessages(): void {
    const { body, room } = this.#deps;
    this.#isReading = true;
    this.#isLookedAt = false;
    this.#messages = new GrpcMessages(this, room);
    for (const chunk of body.take()) this.#messages.push(chunk);
    if (body.isEnded) this.end();
  }

  push(chunk: Buffer): void {
    if (this.#messages !== undefined) {
      this.#messages.push(chunk);
      return;
    }
    this.#owner.onPassed(chunk);
    if (!this.#isReading) return;
    const { body } = this.#deps;
    if (body.isLarge) this.#read(undefined);
    else if (body.isEnded) this.#read(body.whole());
  }

  /** Nothing more of the body comes. */
  end(): void {
    if (this.#isClosed) return;
    this.#isLookedAt = true;
    const { body } = this.#deps;
    if (this.#messages?.isWhole === false)
      this.#owner.onRefused({ reason: "REQ_MALFORMED", detail: "the body ends in the middle of a message" });
    // A call without any message names nothing.
    else if (this.#isReading) this.#read(this.#messages === undefined ? body.whole() : undefined);
    else this.#owner.onPassedAll();
  }

  /** Nothing is asked or passed any more. */
  close(): void {
    this.#isClosed = true;
    this.#messages?.close();
  }

  /** @param body undefined: it cannot be read. */
  #read(body: Buffer | undefined): void {
    this.#isReading = false;
    const refusal = this.#deps.permission.readBody(body);
    if (refusal === undefined) this.#decide();
    else this.#owner.onRefused(refusal);
  }

  #decide(): void {
    const refusal = this.#deps.permission.decide();
    if (refusal === undefined) this.#owner.onAllowed();
    else this.#owner.onRefused(refusal);
  }

  // --- from the messages -----------------------------------------------------------------------------------------

  onMessage(message: Buffer | undefined): boolean {
    if (this.#isClosed) return false;
    const refusal = this.#deps.permission.readMessage(message);
    if (refusal !== undefined) this.#owner.onRefused(refusal);
    else if (this.#isReading) {
      this.#isReading = false;
      this.#owner.onAllowed();
    }
    return refusal === undefined && !this.#isClosed;
  }

  onBytes(bytes: Buffer): void {
    if (!this.#isClosed) this.#owner.onPassed(bytes);
  }

  onNoRoom(): void {
    if (this.#isClosed) return;
    this.#owner.onRefused({ reason: "OVERLOADED", detail: "too many requests wait to be decided on" });
  }
}
