// `countersign explain`: which rule decides a described call (explain-call.ts), or why a sidecar decided as it did.
import { REASONS, type Reason } from "../../sidecar/core/policy/reason.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { fieldsOf, numberOf, textOf } from "./answers.ts";
import type { ExplainOptions } from "./explain-call.ts";
import { printPolicies, shownExplanation, userText } from "./explanation.ts";
import { askSidecar } from "./management-client.ts";
import { withMesh } from "./mesh.ts";
import { askPodAboutDecision } from "./pod-sidecar.ts";
import { EXIT, type ExitStatus, type Output, plain, printJson, timeText } from "./print.ts";

/**
 * Explains a decision id (with `sidecar` or `pod`), or a described call (with `configDir`, or on a running mesh).
 *
 * @param nowMs for a described call without `at`.
 * @returns `EXIT.ok` when the call is allowed, `EXIT.no` when it is denied.
 * @throws MeshError `bad_config` for options that do not fit together or name what is not there.
 */
export async function explain(
  decisionId: string | undefined,
  options: ExplainOptions,
  output: Output,
  nowMs: number = Date.now(),
): Promise<ExitStatus> {
  if (decisionId !== undefined) return explainDecision(decisionId, options, output);
  if (options.sidecar !== undefined || options.pod !== undefined)
    throw new MeshError(
      "bad_config",
      "`--sidecar` and `--pod` explain a decision id; write it behind `explain`",
    );
  const { describedOf, explainCall } = await import("./explain-call.ts");
  const { worldOfDirectory, worldOfMesh } = await import("./world.ts");
  const described = describedOf(options, nowMs);
  const { configDir, stateDir, kubeconfig, context } = options;
  if (configDir === undefined)
    return withMesh(options, async (mesh) =>
      explainCall(described, await worldOfMesh(mesh), options, output),
    );
  if (stateDir !== undefined || kubeconfig !== undefined || context !== undefined)
    throw new MeshError(
      "bad_config",
      "give `--config-dir` (policies as files) or a running mesh (`--state-dir`, `--kubeconfig`), not both",
    );
  return explainCall(described, worldOfDirectory(configDir), options, output);
}

async function explainDecision(
  decisionId: string,
  options: ExplainOptions,
  output: Output,
): Promise<ExitStatus> {
  const { sidecar, pod, json } = options;
  if ((sidecar === undefined) === (pod === undefined))
    throw new MeshError(
      "bad_config",
      "a decision id is explained by the sidecar that answered with it; name its pod with `--pod`, or give its state directory with `--sidecar`",
    );
  for (const name of [
    "configDir",
    "from",
    "to",
    "request",
    "body",
    "port",
    "user",
    "roles",
    "via",
    "at",
  ] as const)
    if (options[name] !== undefined)
      throw new MeshError(
        "bad_config",
        "a decision id needs no description of the call; leave out all but `--sidecar` or `--pod`",
      );
  const answer = fieldsOf(
    sidecar === undefined
      ? await askPodAboutDecision(decisionId, { ...options, pod: pod ?? "" })
      : await askSidecar(sidecar, `/v1/decisions/${encodeURIComponent(decisionId)}`),
  );
  if (json === true) {
    printJson(output, answer);
    return EXIT.no;
  }
  const call = fieldsOf(answer["call"]);
  const caller = fieldsOf(call["caller"]);
  const user = fieldsOf(call["user"]);
  const operation = fieldsOf(call["operation"]);
  const request = fieldsOf(call["request"]);
  const reason = plain(textOf(answer["reason"]));
  const by = [textOf(answer["policy"]), textOf(answer["rule"])].filter((part) => part !== "").join("/");
  output.out(`DENIED ${reason}${by === "" ? "" : ` by ${plain(by)}`}\n`);
  output.out(`  decision  ${plain(decisionId)} at ${timeText(numberOf(answer["timeMs"]) ?? Number.NaN)}\n`);
  const name = caller["authenticated"] === true ? textOf(caller["spiffeId"]) : "";
  if (hasFields(answer["call"])) {
    output.out(`  caller    ${plain(name || "without mesh identity")}${userText(textOf(user["id"]))}\n`);
    output.out(
      `  request   ${plain(`${textOf(request["method"])} ${textOf(request["path"])}`)} (${plain(textOf(operation["name"]) || textOf(operation["kind"]))})\n`,
    );
  }
  const detail = plain(textOf(answer["detail"]));
  if (detail !== "") output.out(`  detail    ${detail}\n`);
  if (!hasFields(answer["explanation"])) {
    output.out("no policy was asked: the call was refused before\n");
    if (isReason(reason)) output.out(`hint: ${REASONS[reason].hint}\n`);
    return EXIT.no;
  }
  const explanation = shownExplanation(answer["explanation"]);
  output.out(`\npolicies that select this workload, as of revision ${textOf(answer["revision"]) || "?"}:\n`);
  printPolicies(explanation, output);
  if (explanation.reason !== reason)
    output.out(
      `\nthe policies have changed since, or a limit was reached: the same call would now get ${explanation.reason}\n`,
    );
  return EXIT.no;
}

const isReason = (text: string): text is Reason => Object.hasOwn(REASONS, text);
const hasFields = (value: unknown): boolean => typeof value === "object" && value !== null;
