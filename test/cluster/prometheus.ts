// Debian's Prometheus beside the cluster: finds pods by the annotations of the chart and of the webhook, as the usual
// configuration does, and answers queries.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { adminKubeconfig } from "./layout.ts";

/** The `kubernetes-pods` job that the community chart installs, with the cluster read from outside. */
const configuration = (): string => `
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: kubernetes-pods
  kubernetes_sd_configs:
  - {role: pod, kubeconfig_file: ${adminKubeconfig()}}
  relabel_configs:
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], action: keep, regex: true}
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path], action: replace, target_label: __metrics_path__, regex: (.+)}
  - {source_labels: [__address__, __meta_kubernetes_pod_annotation_prometheus_io_port], action: replace, regex: '([^:]+)(?::\\d+)?;(\\d+)', replacement: '$1:$2', target_label: __address__}
  - {source_labels: [__meta_kubernetes_namespace], action: replace, target_label: namespace}
  - {source_labels: [__meta_kubernetes_pod_name], action: replace, target_label: pod}
  - {source_labels: [__meta_kubernetes_pod_phase], action: drop, regex: Pending|Succeeded|Failed}
`;

export interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: number;
}

export class Prometheus {
  readonly #dir = mkdtempSync(join(tmpdir(), "countersign-prometheus-"));
  readonly #port: number;
  readonly #process: ChildProcess;

  constructor(port: number) {
    this.#port = port;
    const file = join(this.#dir, "prometheus.yml");
    writeFileSync(file, configuration());
    this.#process = spawn(
      "prometheus",
      [
        `--config.file=${file}`,
        `--storage.tsdb.path=${join(this.#dir, "data")}`,
        `--web.listen-address=127.0.0.1:${port}`,
        "--log.level=warn",
      ],
      { stdio: "ignore" },
    );
  }

  async query(expression: string): Promise<readonly Sample[]> {
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
    const ended = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.kill("SIGTERM");
    await ended;
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
