// The probes of a pod's containers as the injector hands them over: they point at the sidecar's port instead, which relays
// them, so that no port of the application is open to callers without an identity. PURE.
import type { Result } from "../core/runtime/errors.ts";

const PROBE_KINDS = ["liveness", "readiness", "startup"] as const;

export type ProbeAction =
  | {
      readonly kind: "http";
      readonly port: number;
      readonly path: string;
      readonly https: boolean;
      readonly headers: readonly (readonly [name: string, value: string])[];
    }
  | { readonly kind: "tcp"; readonly port: number }
  /** grpc.health.v1.Health/Check of a service; empty: of the server as a whole. */
  | { readonly kind: "grpc"; readonly port: number; readonly service: string };

export interface Probe {
  readonly action: ProbeAction;
  readonly timeoutMs: number;
}

/** By `container/liveness`, `container/readiness` or `container/startup`. */
export type Probes = ReadonlyMap<string, Probe>;

const MAX_PROBES = 64;
const MAX_HEADERS = 32;
const MAX_TIMEOUT_SECONDS = 300;
/** At most 127: its length is one byte in the request (probe-grpc.ts). */
const SERVICE = /^[\x21-\x7e]{0,127}$/;
const KEY = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\/(liveness|readiness|startup)$/;
const PATH = /^\/[\x21-\x7e]{0,4095}$/;
const HEADER_NAME = /^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$/;
const HEADER_VALUE = /^[\x20-\x7e\t]{0,4096}$/;

const refuse = (error: string): Result<never, string> => ({ ok: false, error });
type Fields = Readonly<Record<string, unknown>>;
const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Reads `{"app/liveness": {"httpGet": {"path": "/healthz", "port": 8080}, "timeoutSeconds": 1}}`: the fields of a
 * Kubernetes probe with ports as numbers. `httpGet`, `tcpSocket` and `grpc` are relayed; thresholds and periods stay with the
 * kubelet and are ignored here, like `exec` probes, which need no relay.
 */
export function parseProbes(text: string): Result<Probes, string> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return refuse("is not JSON");
  }
  if (!isFields(value)) return refuse("is not an object of probes");
  const entries = Object.entries(value);
  if (entries.length > MAX_PROBES) return refuse(`has more than ${MAX_PROBES} probes`);
  const probes = new Map<string, Probe>();
  for (const [key, body] of entries) {
    if (!KEY.test(key))
      return refuse(
        `names \`${key.slice(0, 80)}\`, which is not a container and one of ${PROBE_KINDS.join(", ")}`,
      );
    const probe = parseProbe(body);
    if (!probe.ok) return refuse(`has a probe \`${key}\` ${probe.error}`);
    probes.set(key, probe.value);
  }
  return { ok: true, value: probes };
}

function parseProbe(body: unknown): Result<Probe, string> {
  if (!isFields(body)) return refuse("that is not an object");
  const seconds = body["timeoutSeconds"] ?? 1;
  if (typeof seconds !== "number" || !(seconds >= 1 && seconds <= MAX_TIMEOUT_SECONDS))
    return refuse(`whose timeoutSeconds is not between 1 and ${MAX_TIMEOUT_SECONDS}`);
  const { httpGet, tcpSocket, grpc } = body;
  const action = isFields(httpGet)
    ? parseHttp(httpGet)
    : isFields(tcpSocket)
      ? parseTcp(tcpSocket)
      : isFields(grpc)
        ? parseGrpc(grpc)
        : refuse("without httpGet, tcpSocket or grpc");
  return action.ok ? { ok: true, value: { action: action.value, timeoutMs: seconds * 1_000 } } : action;
}

function parsePort(value: unknown): number | undefined {
  return typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= 65_535
    ? value
    : undefined;
}

function parseTcp(body: Fields): Result<ProbeAction, string> {
  const port = parsePort(body["port"]);
  return port === undefined
    ? refuse("whose port is not a number")
    : { ok: true, value: { kind: "tcp", port } };
}

function parseGrpc(body: Fields): Result<ProbeAction, string> {
  const port = parsePort(body["port"]);
  const service = body["service"] ?? "";
  if (port === undefined) return refuse("whose port is not a number");
  if (typeof service !== "string" || !SERVICE.test(service)) return refuse("whose service is not a name");
  return { ok: true, value: { kind: "grpc", port, service } };
}

function parseHttp(body: Fields): Result<ProbeAction, string> {
  const port = parsePort(body["port"]);
  if (port === undefined) return refuse("whose port is not a number");
  const given = body["path"] ?? "/";
  const path = typeof given === "string" && !given.startsWith("/") ? `/${given}` : given;
  if (typeof path !== "string" || !PATH.test(path)) return refuse("whose path cannot be sent");
  const scheme = body["scheme"] ?? "HTTP";
  if (scheme !== "HTTP" && scheme !== "HTTPS") return refuse("whose scheme is neither HTTP nor HTTPS");
  const list = body["httpHeaders"] ?? [];
  if (!Array.isArray(list) || list.length > MAX_HEADERS)
    return refuse(`with more than ${MAX_HEADERS} headers`);
  const headers: [string, string][] = [];
  for (const item of list as readonly unknown[]) {
    const name = isFields(item) ? item["name"] : undefined;
    const value = isFields(item) ? (item["value"] ?? "") : undefined;
    if (
      typeof name !== "string" ||
      typeof value !== "string" ||
      !HEADER_NAME.test(name) ||
      !HEADER_VALUE.test(value)
    )
      return refuse("with a header that cannot be sent");
    headers.push([name, value]);
  }
  return { ok: true, value: { kind: "http", port, path, https: scheme === "HTTPS", headers } };
}
