// A connection to a port of a pod through the API server, as `kubectl port-forward` makes it: for the command line, which
// reaches the cluster no other way.
import { Duplex, PassThrough, type Readable, Writable } from "node:stream";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";

/** What `PortForward` of `@kubernetes/client-node` has and this file needs. */
export interface Forwarder {
  portForward(
    namespace: string,
    pod: string,
    ports: number[],
    output: Writable,
    problems: Writable,
    input: Readable,
  ): Promise<unknown>;
}

export interface PodPort {
  readonly namespace: string;
  readonly pod: string;
  readonly port: number;
}

const CONNECT_WITHIN_MS = 15_000;

/** The bytes of one connection to a pod; no TLS of its own. */
class PodConnection extends Duplex {
  readonly input = new PassThrough();
  readonly output: Writable;
  readonly problems: Writable;
  #webSocket: WebSocketLike | undefined;

  constructor({ namespace, pod, port }: PodPort) {
    super();
    this.output = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        this.push(chunk);
        done();
      },
    });
    this.problems = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        const text = chunk.toString("utf8").replaceAll("\n", " ").trim();
        // The container runtime tells a long story of namespaces; this is what matters of it.
        const why = /connection refused/.test(text) ? "nothing listens there" : text.slice(0, 300);
        if (text !== "")
          this.destroy(
            new MeshError(
              "io_failed",
              `port ${port} of pod \`${namespace}/${pod}\` cannot be reached: ${why}`,
            ),
          );
        done();
      },
    });
    // It may fail before anybody holds it: then `forwardPort` tells.
    this.on("error", () => {});
  }

  /** From here on it ends with the connection to the API server. */
  attach(webSocket: WebSocketLike): void {
    this.#webSocket = webSocket;
    // Not in the same turn: TLS above may be in the middle of a write, and Node has crashed on streams that vanish then.
    webSocket.on("close", () => setImmediate(() => this.destroy()));
    if (this.destroyed) webSocket.close();
  }

  override _read(): void {
    // Bytes are pushed as they come; whoever reads them sets the pace of HTTP, one request at a time.
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.input.write(chunk);
    done();
  }

  override _final(done: () => void): void {
    this.input.end();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#webSocket?.close();
    this.push(null);
    done(error);
  }
}

interface WebSocketLike {
  on(event: "close", listener: () => void): unknown;
  close(): void;
}

/**
 * Opens a connection.
 *
 * @throws MeshError `io_failed` (not allowed: the message says what to grant; no such pod; nothing listens, which may show
 *   only when the connection is used), `timeout` (15 s).
 */
export async function forwardPort(forwarder: Forwarder, target: PodPort): Promise<Duplex> {
  const { namespace, pod, port } = target;
  const connection = new PodConnection(target);
  const { output, problems, input } = connection;
  const opening = forwarder.portForward(namespace, pod, [port], output, problems, input);
  try {
    const late = new Promise<never>((_, reject) => {
      AbortSignal.timeout(CONNECT_WITHIN_MS).addEventListener("abort", () =>
        reject(
          new MeshError("timeout", `the API server did not connect to pod \`${namespace}/${pod}\` in time`),
        ),
      );
    });
    late.catch(() => {});
    // Without retries the library answers with the socket itself.
    connection.attach((await Promise.race([opening, late])) as WebSocketLike);
    if (connection.errored !== null) throw connection.errored;
    return connection;
  } catch (cause) {
    connection.destroy();
    if (cause instanceof MeshError) throw cause;
    throw new MeshError("io_failed", `cannot reach pod \`${namespace}/${pod}\`: ${reasonOf(cause, target)}`, {
      cause,
    });
  }
}

function reasonOf(cause: unknown, { namespace, pod }: PodPort): string {
  // `ws` says no more than the status of the answer; an event of its own has the message inside.
  const message =
    typeof cause === "object" && cause !== null && "message" in cause
      ? String(cause.message)
      : messageOf(cause);
  const status = /server response: (\d{3})/.exec(message)?.[1];
  if (status === "403")
    return `you may not forward ports in namespace \`${namespace}\`; grant it with: kubectl create role countersign-port-forward --namespace ${namespace} --verb=create --resource=pods/portforward, and bind it`;
  if (status === "404") return `there is no pod \`${pod}\` any more; try again`;
  return status === undefined ? message : `the API server answers ${status}`;
}
