// Many small writes to the Kubernetes API over a few kept connections. The typed client opens a connection for each call,
// which is fine for a Secret now and then, but not for statuses and events.
import { Agent as PlainAgent } from "node:http";
import { Agent } from "node:https";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { type ApiCredentials, openRequest, type Query, type RequestBody, readAll } from "./rest.ts";

/** Server-side apply; the object is JSON, which is YAML. */
export const APPLY_PATCH = "application/apply-patch+yaml";
export const MERGE_PATCH = "application/merge-patch+json";
export const JSON_BODY = "application/json";

/** Who manages the fields that the control plane writes. */
export const FIELD_MANAGER = "countersign";

export interface WriteRequest {
  readonly method: RequestBody["method"];
  readonly path: string;
  readonly query?: Query;
  readonly contentType: typeof APPLY_PATCH | typeof MERGE_PATCH | typeof JSON_BODY;
  readonly body: object;
}

export interface KubernetesWriter {
  /**
   * @returns the object as the API server has it now.
   * @throws ApiError for an answer that is not 2xx; MeshError `io_failed`, `timeout` (10 s), `protocol_error`.
   */
  send(request: WriteRequest, signal: AbortSignal): Promise<unknown>;
  /** Lets go of its connections. */
  close(): void;
}

const ANSWER_WITHIN_MS = 10_000;
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

/** @param connections at most so many at a time; further requests wait for one. */
export function createKubernetesWriter(credentials: ApiCredentials, connections: number): KubernetesWriter {
  const isPlain = credentials.getCurrentCluster()?.server.startsWith("http:") === true;
  const options = { keepAlive: true, maxSockets: connections, timeout: 60_000 };
  const agent = isPlain ? new PlainAgent(options) : new Agent(options);
  return {
    async send({ method, path, query = {}, contentType, body }, signal) {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_WITHIN_MS)]);
      const sending = { method, contentType, body: JSON.stringify(body), agent };
      const response = await openRequest(credentials, path, query, limit, sending);
      const answer = await readAll(response, MAX_ANSWER_BYTES);
      try {
        return JSON.parse(answer.toString("utf8")) as unknown;
      } catch (cause) {
        throw new MeshError("protocol_error", `the API server's answer to \`${path}\` is not JSON`, {
          cause,
        });
      }
    },
    close: () => agent.destroy(),
  };
}
