// The answer of the sidecar itself: a problem document (RFC 9457) or, where MCP is spoken, a JSON-RPC error, with
// Proxy-Status (RFC 9209) and the fields of the RateLimit draft.
import type { LimitVerdict } from "../balance/limits.ts";
import { jsonRpcProblem, problemJson, proxyStatus } from "../core/http/problem.ts";
import type { jsonRpcIdOf } from "../core/policy/mcp.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerSide, CallerStream } from "./caller-side.ts";
import { writeGrpcProblem } from "./grpc-answer.ts";
import { problemInput } from "./problem-input.ts";
import { limitPolicy, limitState } from "./rate-limit-fields.ts";

export type LimitedVerdict = Extract<LimitVerdict, { allowed: false }>;

interface ProblemAnswer {
  readonly peer: CallerSide;
  readonly stream: CallerStream;
  readonly cache: FieldCache;
  /** Gets status and size of the answer. */
  readonly facts: CallFacts;
  readonly reason: Reason;
  readonly limited: LimitedVerdict | undefined;
  /** Of an MCP request: the answer is a JSON-RPC error. */
  readonly rpc: { readonly code: number; readonly id: ReturnType<typeof jsonRpcIdOf> } | undefined;
}

/** Writes the whole answer and ends the stream's sending side. */
export function writeProblem(answer: ProblemAnswer): void {
  const { peer, stream, facts, reason, limited, rpc } = answer;
  if (rpc === undefined && facts.head.isGrpc) {
    writeGrpcProblem({ ...answer, retryAfterMs: limited?.retryAfterMs });
    return;
  }
  const { decisionId, error } = facts;
  const input = problemInput(facts, peer, reason);
  const problem = rpc === undefined ? problemJson(input) : jsonRpcProblem(input, rpc.code, rpc.id);
  const body = Buffer.from(problem.body);
  facts.status = problem.status;
  facts.responseBytes = body.length;
  const { answers } = peer;
  answers.beginHeaders(stream);
  answers.putStatus(problem.status);
  answers.putField(answer.cache.get("content-type", problem.contentType));
  answers.putPair("content-length", String(body.length));
  answers.putPair("proxy-status", proxyStatus(reason, decisionId, error, facts.enforcement?.target));
  if (limited !== undefined) {
    const seconds = Math.max(1, Math.ceil(limited.retryAfterMs / 1_000));
    answers.putPair("retry-after", String(seconds));
    answers.putPair("ratelimit-policy", limitPolicy(limited.limit));
    answers.putPair("ratelimit", limitState(limited.limit, 0, seconds));
  } else if (problem.status === 503) answers.putPair("retry-after", "1");
  const bodyless = facts.head.method === "HEAD";
  answers.endHeaders(bodyless);
  if (!bodyless) answers.sendData(stream, body, true);
}
