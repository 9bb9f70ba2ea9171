// A call described on the command line, against a configuration: who it names, what the request is, what is decided.
// The same compiler, classifier and engine as in production. PURE.
import { parseSpiffeId, workloadOf } from "../../sidecar/core/identity/spiffe-id.ts";
import type { Call, Caller, Hop, User } from "../../sidecar/core/policy/call.ts";
import { createCaller, plaintextCaller } from "../../sidecar/core/policy/caller.ts";
import { type Pack, parsePack } from "../../sidecar/core/policy/catalog.ts";
import { createCelCompiler } from "../../sidecar/core/policy/cel.ts";
import { createProgram, type Decision, decide } from "../../sidecar/core/policy/decide.ts";
import { type Explanation, explain } from "../../sidecar/core/policy/explain.ts";
import { createClassifier } from "../../sidecar/core/policy/operations.ts";
import { plaintextProgram } from "../../sidecar/core/policy/plaintext.ts";
import type { WorkloadProgram } from "../../sidecar/core/policy/rule.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import type { Compiled } from "../policy/compile.ts";
import { spiffeIdOf } from "../policy/select.ts";
import { classifyRequest } from "../policy/vectors.ts";
import { settingsName } from "../resources/build.ts";
import { closestName } from "../sources/closest-name.ts";
import type { ClusterState } from "../sources/store.ts";
import { workloadNamed } from "./workload-names.ts";

/** A call in the words of the command line. */
export interface DescribedCall {
  /** A workload (see workload-names.ts), a SPIFFE ID, or `plaintext`. */
  readonly from: string;
  /** As `from`, or `external/name`. */
  readonly to: string;
  readonly request: string;
  readonly body?: unknown;
  readonly port?: number | undefined;
  readonly user?: string | undefined;
  readonly roles?: readonly string[] | undefined;
  readonly via?: readonly string[] | undefined;
  readonly nowMs: number;
}

export interface DescribedDecision {
  /** `kind/name`, or `plaintext`. */
  readonly caller: string;
  readonly target: string;
  readonly port: number;
  /** undefined: the request is malformed; `malformed` says why. */
  readonly call: Call | undefined;
  readonly malformed: string | undefined;
  readonly decision: Decision | undefined;
  readonly explanation: Explanation | undefined;
}

/**
 * Decides on a described call.
 *
 * @throws MeshError `bad_config` for a name that the configuration does not have (with the closest that it has), a
 *   request that is no request, or a port that is not declared.
 */
export function decideDescribed(
  described: DescribedCall,
  compiled: Compiled,
  packs: ReadonlyMap<string, string>,
): DescribedDecision {
  const { state } = compiled;
  const caller = callerOf(described.from, state);
  const declared = targetOf(described.to, caller, compiled);
  const target = state.workloads.get(declared.id);
  const letsIn = target !== undefined && settingsName(state, target).startsWith("permissive");
  const source = !caller.authenticated && letsIn ? plaintextProgram(declared) : declared;
  const cel = createCelCompiler();
  const program = createProgram(source, { cel });
  if (!program.ok) throw new MeshError("bad_object", program.error);
  const port = portOf(source, described.port);
  const classifier = createClassifier({ packs: packsOf(port.packs, state, packs), selfName: source.name });
  const request = checkedRequest(described.request);
  const classified = classifyRequest({ req: request, body: described.body }, classifier, program.value);
  const names = {
    caller: caller.authenticated ? `${caller.kind}/${caller.name}` : "plaintext",
    target: `${source.kind}/${source.name}`,
    port: port.port,
  };
  if (!classified.ok) {
    const nothing = { call: undefined, decision: undefined, explanation: undefined };
    return { ...names, ...nothing, malformed: classified.error };
  }
  const { operation, resource, folded } = classified.value;
  const call: Call = {
    caller,
    user: described.user === undefined ? undefined : userOf(described.user, described),
    via: (described.via ?? []).map((name) => hopOf(callerOf(name, state))),
    port: port.port,
    request: { ...classified.value.request, host: source.name },
    operation,
    resource,
    folded,
    sourceIp: undefined,
    scope: undefined,
    nowMs: described.nowMs,
  };
  return {
    ...names,
    call,
    malformed: undefined,
    decision: decide(program.value, call),
    explanation: explain(program.value, call, { cel }),
  };
}

function callerOf(text: string, state: ClusterState): Caller {
  if (text === "plaintext") return plaintextCaller;
  const { trustDomain } = state.config;
  if (text.startsWith("spiffe://")) return callerOfId(text, trustDomain);
  const [, workload] = workloadNamed(text, state, "--from");
  const { namespace, serviceAccount, kind, name, labels, owner, env } = workload;
  const spiffeId = spiffeIdOf(trustDomain, workload);
  return createCaller({
    ...{ spiffeId, trustDomain, local: true, namespace, serviceAccount, kind, name },
    ...{ labels, owner, env },
  });
}

/** A caller that the configuration need not know, for example of another trust domain. */
function callerOfId(text: string, trustDomain: string): Caller {
  const id = parseSpiffeId(text);
  const path = id.ok ? workloadOf(id.value) : undefined;
  if (!id.ok || path === undefined)
    throw new MeshError(
      "bad_config",
      `\`${text}\` is not a workload's SPIFFE ID; write \`spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT/KIND/NAME\``,
    );
  const local = path.trustDomain === trustDomain;
  return createCaller({
    ...{ ...path, spiffeId: id.value, local },
    ...{ labels: new Map(), owner: undefined, env: undefined },
  });
}

function targetOf(text: string, caller: Caller, compiled: Compiled): WorkloadProgram {
  const { state, programs, externals } = compiled;
  if (text.startsWith("external/") || text.startsWith("external:")) {
    const name = text.slice("external/".length);
    const id = `external:${name.includes("/") ? name : `${caller.namespace}/${name}`}`;
    const program = externals.get(id);
    if (program !== undefined) return program;
    const closest = closestName(id, externals.keys());
    throw new MeshError(
      "bad_config",
      `\`--to ${text}\`: there is no such ExternalService in the caller's namespace${closest === undefined ? "" : `; did you mean \`${closest}\`?`}`,
    );
  }
  const [key] = workloadNamed(text, state, "--to");
  const program = programs.get(key);
  if (program === undefined) throw new MeshError("bad_config", `\`--to ${text}\` has no program`);
  return program;
}

function portOf(source: WorkloadProgram, wanted: number | undefined): WorkloadProgram["ports"][number] {
  const [first, ...others] = source.ports;
  if (first === undefined)
    throw new MeshError(
      "bad_config",
      `\`${source.kind}/${source.name}\` declares no \`ports\`, so it cannot be called`,
    );
  const numbers = source.ports.map(({ port }) => port).join(", ");
  if (wanted === undefined) {
    if (others.length === 0) return first;
    throw new MeshError(
      "bad_config",
      `\`${source.kind}/${source.name}\` has several ports; give \`--port\`: ${numbers}`,
    );
  }
  const found = source.ports.find(({ port }) => port === wanted);
  if (found === undefined)
    throw new MeshError(
      "bad_config",
      `\`--port ${wanted}\`: \`${source.kind}/${source.name}\` declares ${numbers}`,
    );
  return found;
}

function packsOf(
  names: readonly string[],
  state: ClusterState,
  builtIn: ReadonlyMap<string, string>,
): readonly Pack[] {
  const custom = [...state.catalogs.values()].flatMap((catalog) => catalog.packs);
  return names.map((name) => {
    const text = builtIn.get(name) ?? custom.find((pack) => pack.name === name)?.text;
    const parsed = text === undefined ? undefined : parsePack(name, text);
    if (parsed?.ok === true) return parsed.value;
    const closest = closestName(name, [...builtIn.keys(), ...custom.map((pack) => pack.name)]);
    throw new MeshError(
      "bad_object",
      parsed?.error ??
        `there is no operation pack \`${name}\`${closest === undefined ? "" : `; did you mean \`${closest}\`?`}`,
    );
  });
}

const REQUEST = /^(?:MCP [^\s]+(?: [^\s]+)?|[A-Z][A-Z0-9_-]* \/[^\s]*)$/;

function checkedRequest(text: string): string {
  const request = text.trim();
  if (REQUEST.test(request)) return request;
  throw new MeshError(
    "bad_config",
    `\`--request ${text}\` is no request; write \`METHOD /path\`, \`WS /path\`, \`GRPC /package.Service/Method\` or \`MCP method [name]\``,
  );
}

/** Signed in just now with a second factor: conditions on the sign-in hold, those on the person are what is asked. */
function userOf(id: string, { roles, nowMs }: DescribedCall): User {
  const bar = id.indexOf("|");
  return {
    id,
    roles: roles ?? [],
    idp: bar < 0 ? "" : id.slice(0, bar),
    type: "person",
    amr: ["pwd", "mfa"],
    acr: undefined,
    authTimeMs: nowMs,
  };
}

function hopOf({ spiffeId, kind, name, namespace, serviceAccount }: Caller): Hop {
  return { spiffeId, kind, name, namespace, serviceAccount, operation: "" };
}
