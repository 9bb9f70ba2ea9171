// Debian's Prometheus beside the cluster. Its build cannot ask Kubernetes for targets, so what the annotations of the chart
// and of the webhook say is read here, by the rules of the usual `kubernetes-pods` job, and handed to it as a file.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { kubectl } from "./kube.ts";

const configuration = (targets: string): string => `
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: kubernetes-pods
  file_sd_configs: [{files: [${targets}]}]
`;

interface AnnotatedPod {
  readonly metadata: {
    readonly name: string;
    readonly namespace: string;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly status: { readonly phase?: string; readonly podIP?: string };
}

/** Pods that ask to be scraped, as targets with the labels of that job. */
async function annotatedTargets(): Promise<readonly object[]> {
  const { items } = JSON.parse(await kubectl(["get", "pods", "-A", "-o", "json"])) as {
    items: readonly AnnotatedPod[];
  };
  return items.flatMap(({ metadata: { name, namespace, annotations = {} }, status: { phase, podIP } }) => {
    const port = annotations["prometheus.io/port"];
    if (annotations["prometheus.io/scrape"] !== "true" || port === undefined) return [];
    if (phase !== "Running" || podIP === undefined) return [];
    const path = annotations["prometheus.io/path"] ?? "/metrics";
    return [{ targets: [`${podIP}:${port}`], labels: { __metrics_path__: path, namespace, pod: name } }];
  });
}

export interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: number;
}

export class Prometheus {
  readonly #dir = mkdtempSync(join(tmpdir(), "countersign-prometheus-"));
  readonly #port: number;
  readonly #process: ChildProcess;
  readonly #ended: Promise<unknown>;
  #said = "";

  constructor(port: number) {
    this.#port = port;
    const file = join(this.#dir, "prometheus.yml");
    writeFileSync(file, configuration(join(this.#dir, "targets.json")));
    writeFileSync(join(this.#dir, "targets.json"), "[]");
    this.#process = spawn(
      "prometheus",
      [
        `--config.file=${file}`,
        `--storage.tsdb.path=${join(this.#dir, "data")}`,
        `--web.listen-address=127.0.0.1:${port}`,
        "--log.level=warn",
      ],
      { stdio: ["ignore", "ignore", "pipe"] },
    );
    this.#process.stderr?.on("data", (text: Buffer) => {
      this.#said = `${this.#said}${text}`.slice(-2_000);
    });
    this.#ended = new Promise((resolve) => this.#process.once("close", resolve));
  }

  /** Reads the annotations of the pods there are now. */
  async discover(): Promise<void> {
    const file = join(this.#dir, "targets.json");
    writeFileSync(`${file}.new`, JSON.stringify(await annotatedTargets()));
    renameSync(`${file}.new`, file);
  }

  async query(expression: string): Promise<readonly Sample[]> {
    if (this.#process.exitCode !== null) throw new Error(`Prometheus ended: ${this.#said}`);
    const answer = await fetch(
      `http://127.0.0.1:${this.#port}/api/v1/query?query=${encodeURIComponent(expression)}`,
    );
    const { status, data, error } = (await answer.json()) as {
      status: string;
      error?: string;
      data?: { result: readonly { metric: Record<string, string>; value: [number, string] }[] };
    };
    if (status !== "success") throw new Error(`${expression}: ${error}`);
    return (data?.result ?? []).map(({ metric, value }) => ({ metric, value: Number(value[1]) }));
  }

  async close(): Promise<void> {
    this.#process.kill("SIGTERM");
    await this.#ended;
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
