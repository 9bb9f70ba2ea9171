// Asks a running control plane (management API) or sidecar (admin pages) over the Unix socket in its state directory.
import http from "node:http";
import { join } from "node:path";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { askWhole } from "../../sidecar/core/runtime/whole-answer.ts";

const TIMEOUT_MS = 10_000;
/** No answer is larger, however big the mesh. */
export const MAX_ANSWER_BYTES = 256 * 1024 * 1024;
/** Longest path that `sockaddr_un` holds on every system we know. */
const MAX_SOCKET_PATH_BYTES = 103;

interface Question {
  readonly who: "control plane" | "sidecar";
  readonly stateDir: string;
  readonly socketPath: string;
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly body?: unknown;
}

/**
 * One request to the control plane that owns `stateDir`.
 *
 * @param path for example `/v1/status`.
 * @returns the JSON document of the answer.
 * @throws MeshError `io_failed` when nothing answers or it failed, `bad_object` with the control plane's own words when
 *   it refuses.
 */
export function manage(
  stateDir: string,
  method: "GET" | "POST",
  path: string,
  body?: unknown,
): Promise<unknown> {
  const socketPath = join(stateDir, "management.sock");
  return ask({ who: "control plane", stateDir, socketPath, method, path, body });
}

/** One question to the sidecar that owns `stateDir`; errors as `manage`. */
export function askSidecar(stateDir: string, path: string): Promise<unknown> {
  return ask({ who: "sidecar", stateDir, socketPath: join(stateDir, "admin.sock"), method: "GET", path });
}

async function ask(question: Question): Promise<unknown> {
  const { who, socketPath, method, path, body } = question;
  if (Buffer.byteLength(socketPath) > MAX_SOCKET_PATH_BYTES)
    throw new MeshError(
      "bad_config",
      `\`${socketPath}\` is too long for a Unix socket; go to that directory and give a relative one`,
    );
  const payload = body === undefined ? undefined : JSON.stringify(body);
  const request = http.request({
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
  });
  request.on("timeout", () => request.destroy(new Error(`no answer within ${TIMEOUT_MS / 1000} s`)));
  const whole = await askWhole(request, payload, MAX_ANSWER_BYTES).catch((error: NodeJS.ErrnoException) => {
    throw unreachable(question, error);
  });
  const answer = readAnswer(who, whole.status, whole.body.toString("utf8"));
  if (answer instanceof MeshError) throw answer;
  return answer.value;
}

/** The document of an answer, or what its refusal says. */
export function readAnswer(
  who: Question["who"],
  status: number,
  text: string,
): { value: unknown } | MeshError {
  let value: unknown;
  try {
    value = text === "" ? {} : JSON.parse(text);
  } catch {
    return new MeshError("protocol_error", `the ${who} answered ${status} with something that is not JSON`);
  }
  if (status >= 200 && status < 300) return { value };
  // 4xx: it understood and says no. 5xx: it could not.
  const code = status >= 400 && status < 500 ? "bad_object" : "io_failed";
  return new MeshError(code, detailOf(value) ?? `the ${who} answered ${status}`);
}

function detailOf(value: unknown): string | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  for (const name of ["detail", "error", "title"]) {
    const text: unknown = Reflect.get(value, name);
    if (typeof text === "string") return text;
  }
  return undefined;
}

function unreachable({ who, stateDir }: Question, error: NodeJS.ErrnoException): MeshError {
  const option = who === "sidecar" ? "--sidecar" : "--state-dir";
  const why =
    error.code === "ENOENT" || error.code === "ENOTDIR"
      ? `there is no ${who} with this state directory; is it running, and is \`${option}\` right`
      : error.code === "ECONNREFUSED"
        ? `the ${who} of this state directory is not running; start \`countersign ${who.replace(" ", "-")}\` again`
        : error.code === "EACCES"
          ? `only the user that runs the ${who} may ask it`
          : error.message;
  return new MeshError("io_failed", `cannot reach the ${who} in \`${stateDir}\`: ${why}`, { cause: error });
}
