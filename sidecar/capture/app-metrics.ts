// The application's own metrics page, asked for from inside the pod on behalf of Prometheus, so that its port need not be
// open to callers without an identity. One declared port and path, bounded in size and time; nothing else can be asked for.
import type { IncomingMessage } from "node:http";
import type { Result } from "../core/runtime/errors.ts";
import type { Page } from "../core/runtime/metrics-server.ts";
import { readBounded } from "../core/runtime/whole-answer.ts";
import type { Metrics } from "../telemetry/exposition.ts";

/** Where the application shows its metrics. */
export interface AppMetrics {
  readonly port: number;
  /** With its query. */
  readonly path: string;
}

const TIMEOUT_MS = 5_000;
const MAX_BYTES = 2 * 1024 * 1024;
const PATH = /^\/[\x21-\x7e]{0,4095}$/;
const TEXT = "text/plain; version=0.0.4; charset=utf-8";

/** Reads `PORT/PATH`: `8080/metrics` is port 8080, path `/metrics`; `8080` alone means `/metrics`. */
export function parseAppMetrics(text: string): Result<AppMetrics, string> {
  const [, port = "", path = ""] = /^([1-9][0-9]{0,4})(\/.*)?$/s.exec(text) ?? [];
  if (port === "" || Number(port) > 65_535) return { ok: false, error: "does not begin with a port" };
  if (path !== "" && !PATH.test(path)) return { ok: false, error: "has a path that cannot be sent" };
  return { ok: true, value: { port: Number(port), path: path === "" ? "/metrics" : path } };
}

/** The application's page, as bytes when it came whole. */
type Fetched = Result<Buffer, string>;

export class AppMetricsRelay {
  readonly #target: AppMetrics;
  readonly #host: string;
  /** Whoever asks while it is under way gets the same: the application is asked once at a time. */
  #pending: Promise<Fetched> | undefined;

  /** @param host where the application listens, as seen from here. */
  constructor(target: AppMetrics, host: string) {
    this.#target = target;
    this.#host = host;
  }

  /** `/app-metrics`: the application's page alone. */
  async page(): Promise<Page> {
    const fetched = await this.#fetch();
    if (!fetched.ok)
      return { status: 502, contentType: "text/plain; charset=utf-8", body: `${fetched.error}\n` };
    return { status: 200, contentType: TEXT, body: fetched.value.toString("utf8") };
  }

  /**
   * `/merged-metrics`: the sidecar's and the application's in one page. Without the application's the sidecar's are there
   * all the same, and `countersign_app_metrics_up` says so. The `process_` families are the application's.
   */
  async mergedPage(metrics: Metrics): Promise<Page> {
    const fetched = await this.#fetch();
    const [{ exposition }, { ForeignExposition }] = await Promise.all([
      import("../telemetry/exposition.ts"),
      import("../telemetry/foreign-exposition.ts"),
    ]);
    const foreign = new ForeignExposition();
    if (fetched.ok) {
      for (let at = 0; at < fetched.value.length; at += SLICE_BYTES) {
        foreign.push(fetched.value.toString("latin1", at, at + SLICE_BYTES));
        // Calls go on in between: a large page takes tens of milliseconds.
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    const theirs = Buffer.from(foreign.end(), "latin1").toString("utf8");
    const isProcess = ({ name }: { readonly name: string }): boolean => name.startsWith("process_");
    const own = exposition({
      counters: () => metrics.counters(),
      histograms: () => metrics.histograms(),
      totals: () => metrics.totals().filter((family) => !isProcess(family)),
      gauges: () => [
        ...metrics.gauges().filter((family) => !isProcess(family)),
        {
          name: "countersign_app_metrics_up",
          help: "whether the application's metrics are on this page",
          labels: [],
          read: () => [[[], fetched.ok ? 1 : 0]],
        },
        {
          name: "countersign_app_metrics_dropped_lines",
          help: "lines of the application's metrics that were left out of this page",
          labels: [],
          read: () => [[[], foreign.dropped]],
        },
      ],
    });
    return { status: 200, contentType: own.contentType, body: own.body + theirs };
  }

  #fetch(): Promise<Fetched> {
    this.#pending ??= fetchPage(this.#target, this.#host).finally(() => {
      this.#pending = undefined;
    });
    return this.#pending;
  }
}

const SLICE_BYTES = 65_536;

async function fetchPage({ port, path }: AppMetrics, host: string): Promise<Fetched> {
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  try {
    const response = await ask(port, path, host, signal);
    if (response.statusCode !== 200) {
      response.destroy();
      return { ok: false, error: `the application answered ${response.statusCode}` };
    }
    if (response.headers["content-encoding"] !== undefined) {
      response.destroy();
      return { ok: false, error: "the application answered in an encoding that was not asked for" };
    }
    const page = await readBounded(response, MAX_BYTES);
    return page === undefined
      ? { ok: false, error: `the application's metrics have more than ${MAX_BYTES} bytes` }
      : { ok: true, value: page };
  } catch {
    return {
      ok: false,
      error: signal.aborted ? "the application did not answer in time" : "the application cannot be reached",
    };
  }
}

function ask(port: number, path: string, host: string, signal: AbortSignal): Promise<IncomingMessage> {
  // As in metrics-server.ts: imported as a module this would cost every start.
  const { request } = process.getBuiltinModule("node:http");
  return new Promise((resolve, reject) => {
    const headers = {
      "user-agent": "countersign-metrics",
      accept: "text/plain;version=0.0.4",
      "accept-encoding": "identity",
      connection: "close",
    };
    const call = request({ host, port, path, headers, signal, agent: false }, resolve);
    call.once("error", reject);
    call.end();
  });
}
