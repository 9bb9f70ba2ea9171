// Carries out one probe of a container on behalf of the kubelet: the application is asked from inside the pod, and only
// whether it is well is passed on.
import { connect } from "node:net";
import { assertNever } from "../core/runtime/errors.ts";
import { type Page, textPage } from "../core/runtime/metrics-server.ts";
import type { Probe, ProbeAction, Probes } from "./probes.ts";

const PREFIX = "/probe/";

/**
 * Answers `/probe/{container}/{liveness|readiness|startup}`.
 *
 * @param appHost where the application listens, as seen from here.
 * @returns undefined for another path or a probe that was not declared.
 */
export function relayProbe(probes: Probes, appHost: string, path: string): Promise<Page> | undefined {
  const probe = path.startsWith(PREFIX) ? probes.get(path.slice(PREFIX.length)) : undefined;
  return probe === undefined ? undefined : carryOut(probe, appHost);
}

async function carryOut({ action, timeoutMs }: Probe, host: string): Promise<Page> {
  const signal = AbortSignal.timeout(timeoutMs);
  try {
    const status = await ask(action, host, timeoutMs, signal);
    // A redirect is a success for the kubelet, but without its Location, which is not for it, it could not be read.
    return textPage(status >= 300 && status < 400 ? 200 : status, `the application answered ${status}\n`);
  } catch {
    return textPage(
      503,
      signal.aborted ? "the application did not answer in time\n" : "the application cannot be reached\n",
    );
  }
}

async function ask(
  action: ProbeAction,
  host: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<number> {
  switch (action.kind) {
    case "http":
      return askHttp(action, host, signal);
    case "tcp":
      return askTcp(action.port, host, signal);
    case "grpc": {
      const { askGrpc } = await import("./probe-grpc.ts");
      return (await askGrpc(host, action.port, action.service, timeoutMs)) ? 200 : 503;
    }
    default:
      return assertNever(action);
  }
}

function askTcp(port: number, host: string, signal: AbortSignal): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, signal });
    socket.once("connect", () => {
      socket.destroy();
      resolve(200);
    });
    socket.once("error", reject);
  });
}

function askHttp(
  action: ProbeAction & { readonly kind: "http" },
  host: string,
  signal: AbortSignal,
): Promise<number> {
  // As in metrics-server.ts: imported as modules these would cost every start.
  const { request } = process.getBuiltinModule(action.https ? "node:https" : "node:http");
  return new Promise((resolve, reject) => {
    const headers: Record<string, string> = { "user-agent": "countersign-probe", connection: "close" };
    for (const [name, value] of action.headers) headers[name.toLowerCase()] = value;
    const call = request(
      {
        host,
        port: action.port,
        path: action.path,
        headers,
        signal,
        agent: false,
        // Like the kubelet: a probe asks whether somebody answers, not who.
        ...(action.https ? { rejectUnauthorized: false } : {}),
      },
      (response) => {
        const { statusCode } = response;
        response.destroy();
        if (statusCode === undefined) reject(new Error("no status"));
        else resolve(statusCode);
      },
    );
    call.once("error", reject);
    call.end();
  });
}
