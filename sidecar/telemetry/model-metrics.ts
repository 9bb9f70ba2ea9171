// Counts what models were asked for: tokens, time to the first one, time for each further one. Names of models come from
// answers, so there is a bound on how many become label values.
import { Counters, Histograms } from "./counters.ts";
import type { ModelUse } from "./model-meter.ts";

const MAX_MODELS = 200;
const LABELS = ["callee", "model"];
/** Seconds; the buckets that OpenTelemetry's GenAI conventions give. */
const TTFT_BOUNDS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];
const TPOT_BOUNDS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5];

export class ModelMetrics {
  readonly tokens = new Counters("countersign_model_tokens_total", "tokens of calls to models", [
    ...LABELS,
    "type",
  ]);
  readonly estimated = new Counters(
    "countersign_model_estimated_calls_total",
    "calls to models whose answer did not say all of its tokens, so that they were estimated",
    LABELS,
  );
  readonly timeToFirst = new Histograms(
    "countersign_model_ttft_seconds",
    "from a streamed call's forwarding to the first event of its answer",
    LABELS,
    TTFT_BOUNDS,
  );
  readonly timePerToken = new Histograms(
    "countersign_model_tpot_seconds",
    "time for each token of a streamed answer after the first",
    LABELS,
    TPOT_BOUNDS,
  );
  readonly #models = new Set<string>();

  /** @param forwardedMs when the application was asked, same clock as in `use`. @param named the model as the request names it. */
  observe(use: ModelUse, callee: string, named: string | undefined, forwardedMs: number): void {
    const model = this.#label(use.model ?? named ?? "unknown");
    this.tokens.add(this.tokens.series(callee, model, "input"), use.input);
    this.tokens.add(this.tokens.series(callee, model, "output"), use.output);
    if (use.estimated) this.estimated.add(this.estimated.series(callee, model));
    if (use.stream === undefined) return;
    const { firstMs, lastMs } = use.stream;
    this.timeToFirst.observe(
      this.timeToFirst.series(callee, model),
      Math.max(0, firstMs - forwardedMs) / 1_000,
    );
    if (use.output > 1)
      this.timePerToken.observe(
        this.timePerToken.series(callee, model),
        (lastMs - firstMs) / 1_000 / (use.output - 1),
      );
  }

  #label(model: string): string {
    if (this.#models.has(model)) return model;
    if (this.#models.size >= MAX_MODELS) return "other";
    this.#models.add(model);
    return model;
  }
}
