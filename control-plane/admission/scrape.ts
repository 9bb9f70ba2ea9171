// Annotations by which Prometheus finds a pod: they come to name the sidecar's page, and the sidecar relays the one that
// they named before, since Prometheus has no identity and the application's port is closed to it. PURE.
import { isOwnPort, STATUS_PORT } from "./own-names.ts";
import { objectsOf, type PodView } from "./pod-view.ts";

const SCRAPE = "prometheus.io/scrape";
const PORT = "prometheus.io/port";
const PATH = "prometheus.io/path";
const SCHEME = "prometheus.io/scheme";
const PAGE = /^\/[\x21-\x7e]{0,1023}$/;

export interface ScrapeRewrite {
  /** Value of the sidecar's `--app-metrics`; undefined: the application shows none that could be relayed. */
  readonly appMetrics: string | undefined;
  /** undefined: the annotation goes. */
  readonly annotations: ReadonlyMap<string, string | undefined>;
  readonly warnings: readonly string[];
}

/**
 * @param earlier `--app-metrics` of a pod that was injected before; undefined: it is the first time.
 * @param open ports that may be called without the mesh: annotations that name one stay as they are.
 */
export function rewriteScrape(
  pod: PodView,
  earlier: string | undefined,
  open: readonly number[],
): ScrapeRewrite {
  const untouched = {
    appMetrics: undefined,
    annotations: new Map<string, string | undefined>(),
    warnings: [],
  };
  const scrape = pod.annotations.get(SCRAPE);
  if (scrape === "false") return untouched;
  const isOurs = pod.annotations.get(PORT) === String(STATUS_PORT);
  const app: AppPage = isOurs ? { appMetrics: earlier, warnings: [] } : appPage(pod, scrape);
  if (app.appMetrics !== undefined && !isOurs && open.includes(Number.parseInt(app.appMetrics, 10)))
    return untouched;
  return {
    appMetrics: app.appMetrics,
    annotations: new Map([
      [SCRAPE, "true"],
      [PORT, String(STATUS_PORT)],
      [PATH, app.appMetrics === undefined ? "/metrics" : "/merged-metrics"],
      [SCHEME, undefined],
    ]),
    warnings: app.warnings,
  };
}

interface AppPage {
  readonly appMetrics: string | undefined;
  readonly warnings: readonly string[];
}

function appPage(pod: PodView, scrape: string | undefined): AppPage {
  const none = (why: string): AppPage => ({
    appMetrics: undefined,
    warnings: [`the application's metrics are not relayed: ${why}`],
  });
  if (scrape !== "true") return { appMetrics: undefined, warnings: [] };
  if ((pod.annotations.get(SCHEME) ?? "http") !== "http")
    return none("only plain HTTP can be, from inside the pod");
  const declared = pod.containers.flatMap(({ fields }) =>
    (objectsOf(fields["ports"]) ?? []).map((port) => port["containerPort"]),
  );
  const given = pod.annotations.get(PORT);
  const port = given === undefined ? (declared.length === 1 ? declared[0] : undefined) : Number(given);
  if (typeof port !== "number" || !Number.isInteger(port) || port < 1 || port > 65_535 || isOwnPort(port))
    return none(`set the annotation \`${PORT}\` to their port`);
  const path = pod.annotations.get(PATH) ?? "/metrics";
  const page = path.startsWith("/") ? path : `/${path}`;
  return PAGE.test(page) ? { appMetrics: `${port}${page}`, warnings: [] } : none(`\`${PATH}\` is not a path`);
}

/** `--app-metrics` of an earlier injection, where it is of the form that we write; anything else counts as none. */
export function relayedPage(text: string | undefined): string | undefined {
  const [, port, page] = /^([1-9][0-9]{0,4})(\/.*)$/s.exec(text?.replaceAll("$$", "$") ?? "") ?? [];
  const isOne = Number(port) <= 65_535 && !isOwnPort(Number(port)) && PAGE.test(page ?? "");
  return isOne ? `${port}${page}` : undefined;
}
