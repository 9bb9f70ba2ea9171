// Talks to the management API of a running control plane over its Unix socket.
import http from "node:http";
import { join } from "node:path";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";

const TIMEOUT_MS = 10_000;

/**
 * One request to the control plane that owns `stateDir`.
 *
 * @param path for example `/v1/status`.
 * @returns the JSON document of the answer.
 * @throws MeshError `io_failed` when nothing answers, `not_found` or `bad_object` with the control plane's own words.
 */
export function manage(
  stateDir: string,
  method: "GET" | "POST",
  path: string,
  body?: unknown,
): Promise<unknown> {
  const socketPath = join(stateDir, "management.sock");
  const payload = body === undefined ? undefined : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const request = http.request(
      {
        socketPath,
        method,
        path,
        headers: {
          host: "localhost",
          ...(payload === undefined
            ? {}
            : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) }),
        },
        timeout: TIMEOUT_MS,
      },
      (response) => {
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          text += chunk;
        });
        response.on("error", reject);
        response.on("end", () => {
          const status = response.statusCode ?? 0;
          let value: unknown;
          try {
            value = text === "" ? {} : JSON.parse(text);
          } catch {
            reject(
              new MeshError(
                "protocol_error",
                `the control plane answered ${status} with something that is not JSON`,
              ),
            );
            return;
          }
          if (status < 300) resolve(value);
          else reject(new MeshError(status === 404 ? "not_found" : "bad_object", detailOf(value, status)));
        });
      },
    );
    request.on("timeout", () => request.destroy(new Error(`no answer within ${TIMEOUT_MS / 1000} s`)));
    request.on("error", (error: NodeJS.ErrnoException) => reject(unreachable(stateDir, error)));
    request.end(payload);
  });
}

function detailOf(value: unknown, status: number): string {
  if (typeof value === "object" && value !== null && "detail" in value && typeof value.detail === "string")
    return value.detail;
  if (typeof value === "object" && value !== null && "title" in value && typeof value.title === "string")
    return value.title;
  return `the control plane answered ${status}`;
}

function unreachable(stateDir: string, error: NodeJS.ErrnoException): MeshError {
  const why =
    error.code === "ENOENT"
      ? "there is no control plane with this state directory; is it running, and is `--state-dir` right"
      : error.code === "ECONNREFUSED"
        ? "the control plane of this state directory is not running"
        : error.code === "EACCES"
          ? "only the user that runs the control plane may ask it"
          : error.message;
  return new MeshError("io_failed", `cannot reach the control plane in \`${stateDir}\`: ${why}`, {
    cause: error,
  });
}
