// What one replica tells the leader of the sidecars that are connected to it: lines of JSON, first all of them, then what
// changes. PURE. A line without anything says that it is alive.
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type { ProxyStatus } from "../discovery/server.ts";

/** What the leader finds out itself is left out. */
export type ReportedProxy = Omit<ProxyStatus, "expectedDigest">;

export interface ReportLine {
  /** Of the first line. */
  readonly hello?: { readonly replica: string; readonly software: string };
  readonly set?: readonly ReportedProxy[];
  /** Identifiers of sidecars that are no longer known. */
  readonly gone?: readonly string[];
  /** Everything was told once. */
  readonly complete?: true;
}

/** Sidecars in one line; a line stays below `MAX_REPORT_LINE`. */
const PER_LINE = 100;
const MAX_TEXT = 2_048;
const MAX_PER_LINE = 1_000;

/** Bytes of one line. */
export const MAX_REPORT_LINE = 2 * 1024 * 1024;

export const proxyId = ({ workload, instance }: Pick<ProxyStatus, "workload" | "instance">): string =>
  `${workload} ${instance}`;

/** Remembers what was told, and finds what has to be told next. */
export class ReportWriter {
  readonly #told = new Map<string, string>();
  #isFirst = true;

  /** @returns lines with their ends; empty when there is nothing new. */
  next(proxies: readonly ProxyStatus[]): readonly string[] {
    const now = new Map<string, string>();
    for (const proxy of proxies) now.set(proxyId(proxy), JSON.stringify(reported(proxy)));
    const set: string[] = [];
    for (const [id, text] of now) if (this.#told.get(id) !== text) set.push(text);
    const gone = [...this.#told.keys()].filter((id) => !now.has(id));
    for (const id of gone) this.#told.delete(id);
    for (const [id, text] of now) this.#told.set(id, text);
    const lines: string[] = [];
    for (let i = 0; i < set.length; i += PER_LINE)
      lines.push(`{"set":[${set.slice(i, i + PER_LINE).join(",")}]}\n`);
    for (let i = 0; i < gone.length; i += PER_LINE)
      lines.push(`${JSON.stringify({ gone: gone.slice(i, i + PER_LINE) })}\n`);
    if (this.#isFirst) lines.push('{"complete":true}\n');
    this.#isFirst = false;
    return lines;
  }
}

function reported({ expectedDigest: _, nack, ...proxy }: ProxyStatus): ReportedProxy {
  return { ...proxy, nack: nack === undefined ? undefined : nack.slice(0, MAX_TEXT).toWellFormed() };
}

const isFields = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isText = (value: unknown): value is string => typeof value === "string" && value.length <= MAX_TEXT;
const isCount = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);

/** Reads one line. Fields that are not known are passed over: the other end may be newer. */
export function parseReportLine(line: string): Result<ReportLine, string> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return { ok: false, error: "a line is not JSON" };
  }
  if (!isFields(value)) return { ok: false, error: "a line is not an object" };
  const { hello, set = [], gone = [], complete } = value;
  if (hello !== undefined && (!isFields(hello) || !isText(hello["replica"]) || !isText(hello["software"])))
    return { ok: false, error: "`hello` is malformed" };
  if (!Array.isArray(gone) || gone.length > MAX_PER_LINE || !gone.every(isText))
    return { ok: false, error: "`gone` is malformed" };
  if (!Array.isArray(set) || set.length > MAX_PER_LINE) return { ok: false, error: "`set` is malformed" };
  const proxies: ReportedProxy[] = [];
  for (const one of set) {
    const proxy = parseProxy(one);
    if (!proxy) return { ok: false, error: "a sidecar in `set` is malformed" };
    proxies.push(proxy);
  }
  return {
    ok: true,
    value: {
      ...(isFields(hello)
        ? { hello: { replica: String(hello["replica"]), software: String(hello["software"]) } }
        : {}),
      set: proxies,
      gone,
      ...(complete === true ? { complete: true } : {}),
    },
  };
}

const STATES = ["synced", "stale", "disconnected"] as const;

function parseProxy(value: unknown): ReportedProxy | undefined {
  if (!isFields(value)) return undefined;
  const { workload, instance, pod, node, softwareVersion, digest, nack, syncedRevision, sinceMs, leaf } =
    value;
  const state = STATES.find((known) => known === value["state"]);
  const texts = isText(workload) && isText(instance) && isText(pod) && isText(node);
  if (!texts || state === undefined || !isText(softwareVersion) || !isText(digest)) return undefined;
  if (!(nack === undefined || isText(nack)) || !isCount(syncedRevision) || !isCount(sinceMs))
    return undefined;
  if (!isFields(leaf) || !isText(leaf["issuerKeyId"]) || !isCount(leaf["notAfterMs"])) return undefined;
  return {
    ...{ workload, instance, pod, node, softwareVersion, state, digest, nack, syncedRevision, sinceMs },
    leaf: { issuerKeyId: leaf["issuerKeyId"], notAfterMs: leaf["notAfterMs"] },
  };
}
