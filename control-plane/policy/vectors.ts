// Decision tables (`world`, `vectors`; DOMAIN 3.7): compiles the policies for a described world and runs every vector
// through the classifier and the engine that production uses; PURE. For `countersign policy test` and the conformance test.

import type { Call, Caller, Hop, User } from "../../sidecar/core/policy/call.ts";
import { createCaller, plaintextCaller } from "../../sidecar/core/policy/caller.ts";
import { buildCatalog, type Pack, parsePack } from "../../sidecar/core/policy/catalog.ts";
import { createCelCompiler } from "../../sidecar/core/policy/cel.ts";
import type { Classified } from "../../sidecar/core/policy/classified.ts";
import {
  type CompiledProgram,
  createProgram,
  type Decision,
  decide,
  needsResource,
} from "../../sidecar/core/policy/decide.ts";
import { type Explanation, explain } from "../../sidecar/core/policy/explain.ts";
import type { BodyFacts } from "../../sidecar/core/policy/mcp.ts";
import { type Classifier, createClassifier } from "../../sidecar/core/policy/operations.ts";
import { intersectScopes } from "../../sidecar/core/policy/scope.ts";
import { MeshError, type Result } from "../../sidecar/core/runtime/errors.ts";
import type { AccessPolicy } from "./access-policy.ts";
import { type Compiled, compile } from "./compile.ts";
import { parseWorld, type VectorWorld } from "./vector-world.ts";

/** One row. Fields that only some rows need are optional; unknown fields are refused, so that a typo cannot pass. */
export interface Vector {
  readonly id: string;
  /** Key in `world.workloads`, or `plaintext`. */
  readonly from: string;
  readonly to?: string;
  readonly external?: string;
  /** `METHOD /path?query`, `WS /path`, `GRPC /package.Service/Method` or `MCP method [name]`. */
  readonly req: string;
  readonly want: "Allow" | "Deny";
  readonly reason?: string;
  /** `policy/rule`, or `policy` of a grant. */
  readonly by?: string;
  readonly would?: "Allow" | "Deny";
  readonly user?: string;
  /** Roles in place of the user's. */
  readonly roles?: readonly string[];
  readonly authAge?: string;
  readonly via?: readonly string[];
  readonly at?: string;
  readonly body?: unknown;
  readonly rawBody?: string;
  /** Pads the body to this many bytes. */
  readonly bodyBytes?: number;
  readonly bodyName?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly used?: number;
  readonly scope?: string | readonly string[];
  readonly caveats?: readonly (readonly string[])[];
  readonly sourceIp?: string;
  readonly port?: number;
  /** Audit level that the call must have. */
  readonly audit?: string;
}

export interface VectorTable {
  readonly world: VectorWorld;
  readonly vectors: readonly Vector[];
}

export interface VectorResult {
  readonly id: string;
  readonly ok: boolean;
  readonly expected: string;
  readonly got: string;
  /** Set when the row differs and the call reached the engine. */
  readonly explanation: Explanation | undefined;
}

/** What a row came to, before it is compared. */
export interface VectorOutcome {
  readonly allowed: boolean;
  readonly reason: string;
  readonly by: string | undefined;
  readonly would: "Allow" | "Deny" | undefined;
  readonly audit: string | undefined;
}

const FIELDS = new Set(
  "id from to external req want reason by would user roles authAge via at body rawBody bodyBytes bodyName headers used scope caveats sourceIp port audit".split(
    " ",
  ),
);

/** Reads the parsed YAML of a decision table (its `policies` are the caller's business). Errors name row and field. */
export function parseVectors(document: unknown): Result<VectorTable, readonly string[]> {
  const problems: string[] = [];
  if (!isRecord(document)) return { ok: false, error: ["a mapping with `world` and `vectors` is expected"] };
  const world = parseWorld(document["world"]);
  if (!world.ok) problems.push(...world.error);
  const rows = document["vectors"];
  if (!Array.isArray(rows) || rows.length === 0)
    problems.push("`vectors` must be a list with at least one row");
  const ids = new Set<string>();
  for (const [i, row] of (Array.isArray(rows) ? rows : []).entries()) {
    if (!isRecord(row)) problems.push(`vectors[${i}] is no mapping`);
    else problems.push(...problemsOfRow(row, `vectors[${i}]`, ids));
  }
  if (problems.length > 0 || !world.ok) return { ok: false, error: problems };
  return { ok: true, value: { world: world.value, vectors: rows as Vector[] } }; // every row was checked above
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const TEXT = ["id", "from", "req", "want"] as const;
const OPTIONAL_TEXT = [
  "to",
  "external",
  "reason",
  "by",
  "would",
  "user",
  "authAge",
  "at",
  "rawBody",
  "bodyName",
  "sourceIp",
  "audit",
] as const;

function problemsOfRow(row: Record<string, unknown>, path: string, ids: Set<string>): string[] {
  const out: string[] = [];
  const name = typeof row["id"] === "string" ? `vector \`${row["id"]}\`` : path;
  for (const key of Object.keys(row)) if (!FIELDS.has(key)) out.push(`${name}: unknown field \`${key}\``);
  for (const key of TEXT) if (typeof row[key] !== "string") out.push(`${name}: \`${key}\` must be text`);
  for (const key of OPTIONAL_TEXT)
    if (row[key] !== undefined && typeof row[key] !== "string") out.push(`${name}: \`${key}\` must be text`);
  for (const key of ["roles", "via"])
    if (row[key] !== undefined && !isTextList(row[key]))
      out.push(`${name}: \`${key}\` must be a list of texts`);
  for (const key of ["used", "port", "bodyBytes"]) {
    if (row[key] !== undefined && !Number.isSafeInteger(row[key]))
      out.push(`${name}: \`${key}\` must be a number`);
  }
  if (row["scope"] !== undefined && typeof row["scope"] !== "string" && !isTextList(row["scope"]))
    out.push(`${name}: \`scope\` must be text or a list`);
  if (row["caveats"] !== undefined && !(Array.isArray(row["caveats"]) && row["caveats"].every(isTextList)))
    out.push(`${name}: \`caveats\` must be a list of lists`);
  if (
    row["headers"] !== undefined &&
    !(isRecord(row["headers"]) && isTextList(Object.values(row["headers"])))
  )
    out.push(`${name}: \`headers\` must map names to texts`);
  if (row["want"] !== "Allow" && row["want"] !== "Deny") out.push(`${name}: \`want\` must be Allow or Deny`);
  if ((row["to"] === undefined) === (row["external"] === undefined))
    out.push(`${name}: give one of \`to\` and \`external\``);
  if (typeof row["id"] === "string") {
    if (ids.has(row["id"])) out.push(`${name} is there twice`);
    ids.add(row["id"]);
  }
  return out;
}

const isTextList = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every((item) => typeof item === "string");

export interface RunDeps {
  readonly policies: readonly AccessPolicy[];
  /** Text of the built-in packs by name. */
  readonly packs: ReadonlyMap<string, string>;
}

/** Runs a table; rows that name what the world lacks count as failed, with the reason in `got`. */
export function runVectors(table: VectorTable, deps: RunDeps): readonly VectorResult[] {
  const bench = createBench(table.world, deps);
  return table.vectors.map((vector) => {
    const expected = expectation(vector);
    try {
      const { outcome, explanation } = bench.run(vector);
      const got = describe(outcome, vector);
      return {
        id: vector.id,
        ok: got === expected,
        expected,
        got,
        explanation: got === expected ? undefined : explanation(),
      };
    } catch (error) {
      if (!(error instanceof MeshError)) throw error;
      return { id: vector.id, ok: false, expected, got: error.message, explanation: undefined };
    }
  });
}

function expectation(vector: Vector): string {
  const reason = vector.reason ?? (vector.want === "Allow" ? "ALLOWED" : "any reason");
  return text(vector.want, reason, vector.by, vector.would, vector.audit);
}

function describe(outcome: VectorOutcome, vector: Vector): string {
  const reason = vector.reason === undefined && vector.want === "Deny" ? "any reason" : outcome.reason;
  const by = vector.by === undefined ? undefined : outcome.by;
  return text(
    outcome.allowed ? "Allow" : "Deny",
    reason,
    by,
    outcome.would,
    vector.audit === undefined ? undefined : outcome.audit,
  );
}

function text(
  verdict: string,
  reason: string,
  by: string | undefined,
  would: string | undefined,
  audit: string | undefined,
): string {
  const parts = [verdict, reason];
  if (by !== undefined) parts.push(`by ${by}`);
  if (would !== undefined) parts.push(`would ${would}`);
  if (audit !== undefined) parts.push(`audit ${audit}`);
  return parts.join(" ");
}

export interface VectorBench {
  readonly compiled: Compiled;
  run(vector: Vector): {
    readonly outcome: VectorOutcome;
    readonly explanation: () => Explanation | undefined;
  };
  /** The call of a row, or why the request is malformed. */
  callOf(vector: Vector): Result<{ readonly program: CompiledProgram; readonly call: Call }, string>;
}

/** Compiles the world once; `run` decides on single rows. */
export function createBench(world: VectorWorld, deps: RunDeps): VectorBench {
  const compiled = compile(world.stateOf(deps.policies), deps.packs, { supportAll: true });
  const cel = createCelCompiler();
  const packs = packsOf(deps.packs);
  const programs = new Map<string, CompiledProgram>();
  const classifiers = new Map<string, Classifier>();

  const programOf = (id: string): CompiledProgram => {
    let program = programs.get(id);
    if (program === undefined) {
      const source = compiled.programs.get(id) ?? compiled.externals.get(id);
      if (source === undefined) throw new MeshError("not_found", `the world has no target \`${id}\``);
      const created = createProgram(source, { cel });
      if (!created.ok) throw new MeshError("bad_object", created.error);
      program = created.value;
      programs.set(id, program);
    }
    return program;
  };
  const classifierOf = (program: CompiledProgram): Classifier => {
    const { id, name, ports } = program.program;
    let classifier = classifiers.get(id);
    if (classifier === undefined) {
      const listed = (ports[0]?.packs ?? []).map((pack) => {
        const found = packs.get(pack);
        if (found === undefined) throw new MeshError("not_found", `there is no operation pack \`${pack}\``);
        return found;
      });
      classifier = createClassifier({ packs: listed, selfName: name });
      classifiers.set(id, classifier);
    }
    return classifier;
  };
  const callOf = (vector: Vector): Result<{ program: CompiledProgram; call: Call }, string> => {
    const program = programOf(world.targetOf(vector));
    const classified = classifyRequest(vector, classifierOf(program), program);
    return classified.ok
      ? { ok: true, value: { program, call: assembleCall(vector, world, program, classified.value) } }
      : classified;
  };
  return {
    compiled,
    callOf,
    run(vector) {
      const made = callOf(vector);
      if (!made.ok) {
        const outcome = {
          allowed: false,
          reason: "REQ_MALFORMED",
          by: undefined,
          would: undefined,
          audit: undefined,
        };
        return { outcome, explanation: () => undefined };
      }
      const { program, call } = made.value;
      return {
        outcome: outcomeOf(decide(program, call), vector.used ?? 0),
        explanation: () => explain(program, call, { cel }),
      };
    },
  };
}

function packsOf(texts: ReadonlyMap<string, string>): ReadonlyMap<string, Pack> {
  const packs: Pack[] = [];
  for (const [name, content] of texts) {
    const parsed = parsePack(name, content);
    if (!parsed.ok) throw new MeshError("bad_object", parsed.error);
    packs.push(parsed.value);
  }
  const catalog = buildCatalog(packs);
  if (!catalog.ok) throw new MeshError("bad_object", catalog.error);
  return catalog.value.packs;
}

/** With `used` calls counted at this very instant, a GCRA limiter has room as long as fewer than `burst` were. */
function outcomeOf(decision: Decision, used: number): VectorOutcome {
  const full = decision.winners.find(
    ({ with: demands }) => demands?.rateLimit !== undefined && used >= demands.rateLimit.burst,
  );
  const would = decision.would === undefined ? undefined : decision.would.allowed ? "Allow" : "Deny";
  const by =
    decision.policyName === undefined
      ? undefined
      : decision.reason === "GRANTED"
        ? decision.policyName
        : `${decision.policyName}/${decision.rule ?? ""}`;
  const shared = { would, audit: decision.audit?.level } as const;
  if (full !== undefined)
    return { allowed: false, reason: "RATE_LIMITED", by: `${full.policyName}/${full.rule}`, ...shared };
  return { allowed: decision.allowed, reason: decision.reason, by, ...shared };
}

/** A request in the words of a table's row. */
export type DescribedRequest = Pick<
  Vector,
  "req" | "body" | "rawBody" | "bodyBytes" | "bodyName" | "headers"
>;

interface Request {
  readonly method: string;
  readonly target: string;
  readonly websocket: boolean;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer | undefined;
  readonly truncated: boolean;
}

const MCP_VERSION = "2026-07-28";

function requestOf(vector: DescribedRequest): Request {
  const [verb = "", target = "", name] = vector.req.split(" ");
  const headers = new Map(
    Object.entries(vector.headers ?? {}).map(([key, value]) => [key.toLowerCase(), value]),
  );
  const set = (key: string, value: string): void => {
    if (!headers.has(key)) headers.set(key, value);
  };
  let body: unknown = vector.body;
  let method = verb;
  let path = target;
  if (verb === "MCP") {
    method = "POST";
    path = "/mcp";
    set("mcp-protocol-version", MCP_VERSION);
    set("mcp-method", target);
    if (name !== undefined) set("mcp-name", name);
    const inBody = vector.bodyName ?? name;
    const params =
      inBody === undefined ? {} : target === "resources/read" ? { uri: inBody } : { name: inBody };
    body = { jsonrpc: "2.0", id: 1, method: target, params };
  } else if (verb === "GRPC") {
    method = "POST";
    set("content-type", "application/grpc");
  } else if (verb === "WS") {
    method = "GET";
  }
  let content = vector.rawBody ?? (body === undefined ? undefined : JSON.stringify(body));
  if (vector.bodyBytes !== undefined) content = (content ?? "{}").padEnd(vector.bodyBytes);
  if (content !== undefined) set("content-type", "application/json");
  const bytes = content === undefined ? undefined : Buffer.from(content, "utf8");
  const truncated = bytes !== undefined && bytes.length > 65_536;
  return {
    method,
    target: path,
    websocket: verb === "WS",
    headers,
    body: truncated ? bytes.subarray(0, 65_536) : bytes,
    truncated,
  };
}

/** What a described request is to a target: as in its sidecar, body included where a policy needs it. */
export function classifyRequest(
  vector: DescribedRequest,
  classifier: Classifier,
  program: CompiledProgram,
): Result<Classified, string> {
  const request = requestOf(vector);
  const header: BodyFacts["header"] = (name) => request.headers.get(name);
  const contentType = request.headers.get("content-type");
  const classified = classifier.classify({
    method: request.method,
    target: request.target,
    contentType,
    websocket: request.websocket,
    hasBody: request.body !== undefined,
    header,
    corsMethod:
      request.method === "OPTIONS" && request.headers.has("origin")
        ? request.headers.get("access-control-request-method")
        : undefined,
  });
  if (!classified.ok || classified.value.pending === undefined) return classified;
  const { pending, operation } = classified.value;
  if (pending.kind !== "mcp" && !needsResource(program, operation)) return classified;
  const contentEncoding = request.headers.get("content-encoding");
  return classifier.withBody(classified.value, request.body ?? Buffer.alloc(0), {
    contentType,
    contentEncoding,
    truncated: request.truncated,
    header,
  });
}

function assembleCall(
  vector: Vector,
  world: VectorWorld,
  program: CompiledProgram,
  classified: Classified,
): Call {
  const nowMs = world.timeOf(vector.at);
  const caller: Caller =
    vector.from === "plaintext" ? plaintextCaller : createCaller(world.callerOf(vector.from));
  const via: Hop[] = (vector.via ?? []).map((key) => {
    const { spiffeId, kind, name, namespace, serviceAccount } = world.callerOf(key);
    return { spiffeId, kind, name, namespace, serviceAccount, operation: "" };
  });
  let user: User | undefined =
    vector.user === undefined ? undefined : world.userOf(vector.user, nowMs, vector.authAge);
  if (user !== undefined && vector.roles !== undefined) user = { ...user, roles: vector.roles };
  const stated = typeof vector.scope === "string" ? [vector.scope] : vector.scope;
  const scope = (vector.caveats ?? []).reduce<readonly string[] | undefined>(
    (rest, caveat) => intersectScopes(rest, caveat),
    stated,
  );
  return {
    caller,
    user,
    via,
    port: vector.port ?? program.program.ports[0]?.port ?? 0,
    request: { ...classified.request, host: program.program.name },
    operation: classified.operation,
    resource: classified.resource,
    folded: classified.folded,
    sourceIp: vector.sourceIp ?? "10.1.2.3",
    scope,
    nowMs,
  };
}
