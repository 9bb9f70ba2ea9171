// `countersign explain` of a described call: compiles the policies of a directory and decides as a sidecar would.
import { jsonRpcProblem, problemJson } from "../../sidecar/core/http/problem.ts";
import type { Decision } from "../../sidecar/core/policy/decide.ts";
import { REASONS, type Reason } from "../../sidecar/core/policy/reason.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import type { Compiled } from "../policy/compile.ts";
import { type DescribedCall, type DescribedDecision, decideDescribed } from "./described-call.ts";
import { printPolicies, shownExplanation, userText } from "./explanation.ts";
import type { MeshOptions } from "./mesh.ts";
import { counted, EXIT, type ExitStatus, type Output, plain, printJson, timeText } from "./print.ts";
import type { World } from "./world.ts";

/** Options as the command line gave them. */
export interface ExplainOptions extends MeshOptions {
  readonly sidecar?: string;
  /** `name` or `namespace/name` of the pod whose sidecar answered with the decision id. */
  readonly pod?: string;
  readonly namespace?: string;
  readonly configDir?: string;
  readonly from?: string;
  readonly to?: string;
  readonly request?: string;
  readonly body?: string;
  readonly port?: number;
  readonly user?: string;
  readonly roles?: string;
  readonly via?: string;
  readonly at?: string;
  readonly json?: boolean;
}

/**
 * Explains a described call in a world of policies.
 *
 * @returns `EXIT.ok` when the call is allowed, `EXIT.no` when it is denied.
 * @throws MeshError `bad_config` for what is named and not there.
 */
export function explainCall(
  described: DescribedCall,
  world: World,
  options: { readonly json?: boolean },
  output: Output,
): ExitStatus {
  const { compiled, packs } = world;
  const result = decideDescribed(described, compiled, packs);
  const answer = problemOf(result, compiled.state.config.explainDenials);
  const allowed = result.decision?.allowed === true;
  const excluded = excludedPolicies(compiled);
  if (options.json === true) {
    const { caller, target, port, malformed, decision, explanation } = result;
    printJson(output, {
      allowed,
      reason: decision?.reason ?? "REQ_MALFORMED",
      policy: decision?.policy ?? null,
      rule: decision?.rule ?? null,
      ...{ caller, target, port, at: new Date(described.nowMs).toISOString() },
      operation: operationText(result),
      resource: result.call?.resource ?? null,
      malformed: malformed ?? null,
      would: decision?.would ?? null,
      obligations: decision?.winners.map(({ policy, rule, with: demands }) => ({
        policy,
        rule,
        with: demands,
      })),
      policies: explanation?.policies ?? [],
      ...{ excluded, refused: world.refused.length > 0 ? world.refused : world.problems },
      answer: answer ?? null,
    });
    return allowed ? EXIT.ok : EXIT.no;
  }
  printDecision(described, result, output);
  if (answer !== undefined)
    output.out(`\nthe caller would see: HTTP ${answer.status} ${answer.contentType}\n  ${answer.body}\n`);
  if (excluded.length > 0) output.out(`\nnot in force:\n${excluded.map((text) => `  ${text}\n`).join("")}`);
  if (world.problems.length > 0) {
    output.err(
      `${counted(world.problems.length, "problem")}: what is refused was not considered; see \`${world.see}\`\n`,
    );
    for (const problem of world.problems.slice(0, 5)) output.err(`  ${plain(problem)}\n`);
  }
  return allowed ? EXIT.ok : EXIT.no;
}

/** @throws MeshError `bad_config` for options that are missing or are not what they should be. */
export function describedOf(options: ExplainOptions, nowMs: number): DescribedCall {
  const { from, to, request, body, port, user, roles, via, at } = options;
  const needed = { from, to, request };
  for (const [name, value] of Object.entries(needed))
    if (value === undefined)
      throw new MeshError("bad_config", `\`--${name}\` is missing; see \`countersign explain --help\``);
  if (user === undefined && roles !== undefined)
    throw new MeshError("bad_config", "`--roles` are those of a user; give `--user` too");
  const time = at === undefined ? nowMs : timeOf(at);
  return {
    ...{ from: from ?? "", to: to ?? "", request: request ?? "", port, user, nowMs: time },
    ...(body === undefined ? {} : { body: jsonOf(body) }),
    roles: listOption(roles),
    via: listOption(via),
  };
}

function listOption(text: string | undefined): readonly string[] | undefined {
  if (text === undefined) return undefined;
  return text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");
}

function timeOf(text: string): number {
  const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/i.test(text)
    ? Date.parse(text)
    : Number.NaN;
  if (Number.isNaN(time))
    throw new MeshError(
      "bad_config",
      `\`--at ${text}\` is no RFC 3339 time; write for example \`2026-09-15T02:10:00+02:00\``,
    );
  return time;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new MeshError("bad_config", '`--body` is not JSON; write for example \'{"name": "fraud"}\'');
  }
}

function operationText({ call }: DescribedDecision): string {
  if (call === undefined) return "malformed";
  return call.operation.kind === "known" ? call.operation.name : call.operation.kind;
}

function printDecision(described: DescribedCall, result: DescribedDecision, output: Output): void {
  const { decision, call, explanation } = result;
  const reason = decision?.reason ?? "REQ_MALFORMED";
  const by =
    decision?.policy === undefined
      ? ""
      : ` by ${decision.policy}${decision.rule === undefined ? "" : `/${decision.rule}`}`;
  output.out(`${decision?.allowed === true ? "ALLOWED" : "DENIED"} ${reason}${by}\n`);
  output.out(`  caller    ${result.caller}${userText(described.user ?? "")}\n`);
  output.out(`  target    ${result.target} port ${result.port}\n`);
  const resource =
    call?.resource.kind === "known"
      ? `, ${call.resource.type} \`${call.resource.value}\``
      : call?.resource.kind === "unknown"
        ? `, ${call.resource.type} could not be told`
        : "";
  output.out(`  request   ${described.request} (${operationText(result)}${resource})\n`);
  output.out(`  at        ${timeText(described.nowMs)}\n`);
  if (result.malformed !== undefined)
    output.out(`  malformed ${result.malformed}; such a request reaches no policy and no application\n`);
  if (decision === undefined || explanation === undefined) return;
  const shown = shownExplanation(explanation);
  if (shown.would !== "")
    output.out(`  dry run   if its policies were enforced, the call were ${shown.would}\n`);
  for (const line of obligationLines(decision)) output.out(`  ${line}\n`);
  if (!decision.allowed && REASONS[decision.reason].hint !== "")
    output.out(`  hint      ${REASONS[decision.reason].hint}\n`);
  output.out("\npolicies that select the target:\n");
  printPolicies(shown, output);
}

/** What an allowed call brings with it. */
function obligationLines({ winners, audit, identityHeaders }: Decision): string[] {
  const lines: string[] = [];
  for (const { policy, rule, with: demands } of winners) {
    const limit = demands?.rateLimit;
    if (limit !== undefined)
      lines.push(
        `limit     ${limit.requests} requests per ${limit.perMs / 1000} s and ${limit.key.join("+")} (${policy}/${rule})`,
      );
  }
  if (identityHeaders.length > 0) lines.push(`forwards  ${identityHeaders.join(", ")} to the application`);
  if (audit !== undefined) lines.push(`audit     ${audit.level}, sample ${audit.sample}`);
  return lines;
}

/** Policies that exist but are not in force, with the reason: the first suspect when a call is denied. */
function excludedPolicies(compiled: Compiled): string[] {
  return [...compiled.policies].flatMap(([key, { problems }]) => {
    const error = problems.find(({ severity }) => severity === "error");
    return error === undefined
      ? []
      : [`${key.replace("/", " ")}: ${error.reason}: ${error.path}: ${error.message}`];
  });
}

function problemOf(
  result: DescribedDecision,
  explainDenials: boolean,
): ReturnType<typeof problemJson> | undefined {
  const { decision, call } = result;
  if (decision?.allowed === true) return undefined;
  const reason: Reason = decision?.reason ?? "REQ_MALFORMED";
  const isMcp = call?.request.mcp !== undefined;
  return (isMcp ? jsonRpcProblem : problemJson)({
    reason,
    operation: call === undefined ? undefined : operationText(result),
    target: result.target,
    caller: result.caller === "plaintext" ? undefined : result.caller,
    decisionId: "d-0123456789abcdef",
    detail: result.malformed,
    policy: explainDenials ? decision?.policy : undefined,
    rule: explainDenials ? decision?.rule : undefined,
  });
}
