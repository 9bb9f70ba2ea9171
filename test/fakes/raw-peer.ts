// Peers that keep to nothing: a discovery stream that sends any bytes, and sockets that say what they like.
import { connect } from "node:net";
import { Client, type ClientDuplexStream, credentials as grpcCredentials, Metadata } from "@grpc/grpc-js";
import type { ControlPlaneMessage__Output } from "../../proto/gen/countersign/mesh/v1/ControlPlaneMessage.ts";
import type { SidecarMessage } from "../../proto/gen/countersign/mesh/v1/SidecarMessage.ts";
import { messageCodec } from "../../proto/load.ts";
import { CONTROL_PLANE_SERVER_NAME } from "../../proto/protocol.ts";

const outgoing = messageCodec<SidecarMessage>("countersign.mesh.v1.SidecarMessage");
const incoming = messageCodec<object, ControlPlaneMessage__Output>("countersign.mesh.v1.ControlPlaneMessage");

export interface PeerMaterial {
  readonly caPem: string;
  readonly keyPem: string;
  readonly certificatePem: string;
}

/** A stream without any manners. */
export class RawPeer {
  readonly messages: ControlPlaneMessage__Output[] = [];
  /** Why the stream ended: the code of a Refused, or the gRPC status. */
  ended: string | undefined;
  readonly #client: Client;
  readonly #call: ClientDuplexStream<Buffer, ControlPlaneMessage__Output>;
  readonly #waiting = new Set<() => void>();

  constructor(port: number, { caPem, keyPem, certificatePem }: PeerMaterial) {
    const secure = grpcCredentials.createSsl(
      Buffer.from(caPem),
      Buffer.from(keyPem),
      Buffer.from(certificatePem),
      { checkServerIdentity: () => undefined },
    );
    this.#client = new Client(`127.0.0.1:${port}`, secure, {
      "grpc.ssl_target_name_override": CONTROL_PLANE_SERVER_NAME,
      "grpc.use_local_subchannel_pool": 1,
      "grpc.enable_retries": 0,
      "grpc.max_send_message_length": -1,
    });
    this.#call = this.#client.makeBidiStreamRequest(
      "/countersign.mesh.v1.Discovery/Stream",
      (bytes: Buffer) => bytes,
      (bytes: Buffer) => incoming.decode(bytes),
      new Metadata(),
    );
    this.#call.on("data", (message: ControlPlaneMessage__Output) => {
      this.messages.push(message);
      if (message.refused) this.#end(`${message.refused.code}: ${message.refused.message}`);
      this.#wake();
    });
    this.#call.on("error", (error) => this.#end(error.message));
    this.#call.on("end", () => this.#end("end"));
  }

  #end(reason: string): void {
    this.ended ??= reason;
    this.#wake();
  }

  #wake(): void {
    for (const look of [...this.#waiting]) look();
  }

  bytes(bytes: Buffer): void {
    this.#call.write(bytes);
  }

  send(message: SidecarMessage): void {
    this.bytes(outgoing.encode(message));
  }

  hello(over: object = {}): void {
    this.send({ hello: { protocolVersion: 1, softwareVersion: "raw", instance: "raw", ...over } });
  }

  async until(condition: (peer: RawPeer) => boolean, timeoutMs = 100_000): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(
      () =>
        reject(new Error(`never held; ended: ${this.ended}; ${JSON.stringify(this.messages).slice(0, 300)}`)),
      timeoutMs,
    );
    const look = (): void => {
      if (condition(this)) resolve();
    };
    this.#waiting.add(look);
    look();
    await promise.finally(() => {
      clearTimeout(timer);
      this.#waiting.delete(look);
    });
  }

  close(): void {
    this.#call.cancel();
    this.#client.close();
  }
}

/** Sends bytes and collects what comes until the other side closes; `timeoutMs` gives up waiting. */
export function exchangeBytes(
  where: { readonly port: number } | { readonly path: string },
  bytes: Buffer | string,
  timeoutMs: number,
): Promise<{ readonly text: string; readonly closed: boolean }> {
  return new Promise((resolve) => {
    const socket = "port" in where ? connect({ ...where, host: "127.0.0.1" }) : connect(where);
    const chunks: Buffer[] = [];
    const finish = (closed: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve({ text: Buffer.concat(chunks).toString("latin1"), closed });
    };
    const timer = setTimeout(() => finish(false), timeoutMs);
    socket.on("error", () => {});
    socket.on("data", (chunk) => chunks.push(chunk));
    socket.on("close", () => finish(true));
    socket.write(bytes);
  });
}
