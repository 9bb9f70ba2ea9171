// What a compiled CEL condition looks like to the engine. The CEL library itself is loaded only by processes that
// have such conditions (cel.ts), because it costs memory that most sidecars never need.
import type { Result } from "../runtime/errors.ts";
import type { Call, Operation, Resource } from "./call.ts";
import type { WorkloadProgram } from "./rule.ts";

/** Variables of DOMAIN 3.2. A key that is missing makes every read of it an error. */
export interface CelVariables {
  readonly [name: string]: unknown;
}

/** Evaluates to a boolean or throws; a throw is the *error* of three-valued matching. */
export type CelCondition = (variables: CelVariables) => unknown;

export interface CelCompiler {
  /** @returns the condition, or why it cannot be used (one line). */
  compile(source: string): Result<CelCondition, string>;
}

/** The variables of one view of a call; the absent stay absent, so that reading them is an error. */
export function celVariables(
  program: Pick<WorkloadProgram, "kind" | "name" | "namespace" | "labels">,
  call: Call,
  view: { readonly operation: Operation; readonly resource: Resource; readonly path: string },
): CelVariables {
  const { caller, user } = call;
  const chain = call.via.map((hop) => hop.spiffeId);
  if (caller.authenticated) chain.push(caller.spiffeId);
  const variables: Record<string, unknown> = {
    caller: caller.authenticated
      ? withoutUndefined({
          spiffeId: caller.spiffeId,
          kind: caller.kind,
          name: caller.name,
          namespace: caller.namespace,
          serviceAccount: caller.serviceAccount,
          labels: caller.labels,
          owner: caller.owner,
          env: caller.env,
        })
      : {},
    user:
      user === undefined
        ? {}
        : withoutUndefined({
            id: user.id,
            roles: user.roles,
            idp: user.idp,
            type: user.type,
            amr: user.amr,
            authTime: user.authTimeMs === undefined ? undefined : new Date(user.authTimeMs),
          }),
    target: { kind: program.kind, name: program.name, namespace: program.namespace, labels: program.labels },
    request: isUnseen(call)
      ? { host: call.request.host }
      : { method: call.request.method, path: view.path, host: call.request.host },
    source: withoutUndefined({ ip: call.sourceIp }),
    chain,
    now: new Date(call.nowMs),
  };
  if (view.operation.kind === "known") variables["op"] = view.operation.name;
  else if (view.operation.kind === "unknown") variables["op"] = "unknown";
  // An undetermined operation leaves the resource undetermined too (M6).
  if (view.operation.kind !== "undetermined") {
    if (view.resource.kind === "known") variables["resource"] = view.resource.value;
    else if (view.resource.kind === "none") variables["resource"] = "";
  }
  return variables;
}

/** Bytes whose requests are encrypted: there are some, and nothing can be said of them. */
const isUnseen = ({ operation, request }: Call): boolean =>
  operation.kind === "undetermined" && request.method === "";

function withoutUndefined(fields: Record<string, unknown>): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(fields)) if (value !== undefined) out[key] = value;
  return out;
}
