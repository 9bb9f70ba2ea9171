// WorkloadProgram to bytes and back (proto/mesh/v1/policy.proto). Canonical: equal programs have equal bytes, so their
// hash tells whether a sidecar already has them. Strict: what this build does not know is an error, which becomes a NACK.
import { messageOf, type Result } from "../runtime/errors.ts";
import { ACCESS_CLASSES, WORKLOAD_KINDS } from "./call.ts";
import {
  decodeMessage,
  encodeMessage,
  type FieldType,
  type MessageTable,
  type MessageValue,
  messageTable,
} from "./protobuf.ts";
import {
  AUDIT_LEVELS,
  IDENTITY_HEADERS,
  LIMIT_KEYS,
  PORT_PROTOCOLS,
  type ProgramPolicy,
  WEEKDAYS,
  type WorkloadProgram,
} from "./rule.ts";

/** Parts of the policy language that came after the first version; a program lists those it uses. */
export const SUPPORTED_FEATURES = [
  "audit-payload",
  "audit-required",
  "cel",
  "concurrency",
  "rate-limit",
  "replay-strict",
  "role-grants",
  "schedule",
  "token-limit",
  "via",
] as const;
export type PolicyFeature = (typeof SUPPORTED_FEATURES)[number];

const STRING: FieldType = { kind: "string" };
const BOOL: FieldType = { kind: "bool" };
const UINT: FieldType = { kind: "uint" };
const SINT: FieldType = { kind: "sint" };
const MAP: FieldType = { kind: "map" };
const oneOf = (...values: readonly string[]): FieldType => ({ kind: "enum", values });
const message = (table: MessageTable): FieldType => ({ kind: "message", message: table });

const HOP_MATCH = messageTable(
  "HopMatch",
  [
    ["kinds", 1, oneOf(...WORKLOAD_KINDS), "list"],
    ["names", 2, STRING, "list"],
    ["namespaces", 3, STRING, "list"],
    ["serviceAccounts", 4, STRING, "list"],
  ],
  true,
);

const WORKLOAD_MATCH = messageTable(
  "WorkloadMatch",
  [
    ["kinds", 1, oneOf(...WORKLOAD_KINDS), "list"],
    ["names", 2, STRING, "list"],
    ["namespaces", 3, STRING, "list"],
    ["serviceAccounts", 4, STRING, "list"],
    ["trustDomains", 5, STRING, "list"],
    ["spiffeIds", 6, STRING, "list"],
  ],
  true,
);

const USER_MATCH = messageTable("UserMatch", [
  ["presence", 1, oneOf("Required", "Forbidden", "Any"), "value"],
  ["ids", 2, STRING, "list"],
  ["roles", 3, STRING, "list"],
  ["idps", 4, STRING, "list"],
  ["types", 5, oneOf("person", "servicePrincipal"), "list"],
]);

const VIA_MATCH = messageTable(
  "ViaMatch",
  [
    ["origin", 1, message(HOP_MATCH), "optional"],
    ["through", 2, message(HOP_MATCH), "optional"],
    ["maxHops", 3, UINT, "optional"],
  ],
  true,
);

const FROM_CLAUSE = messageTable(
  "FromClause",
  [
    ["any", 1, BOOL, "optional"],
    ["workload", 2, message(WORKLOAD_MATCH), "optional"],
    ["user", 3, message(USER_MATCH), "optional"],
    ["via", 4, message(VIA_MATCH), "optional"],
  ],
  true,
);

const HTTP_MATCH = messageTable(
  "HttpMatch",
  [
    ["methods", 1, STRING, "list"],
    ["paths", 2, STRING, "list"],
  ],
  true,
);
const GRPC_MATCH = messageTable(
  "GrpcMatch",
  [
    ["service", 1, STRING, "optional"],
    ["methods", 2, STRING, "list"],
  ],
  true,
);
const MCP_MATCH = messageTable(
  "McpMatch",
  [
    ["methods", 1, STRING, "list"],
    ["names", 2, STRING, "list"],
  ],
  true,
);

const OPERATION_CLAUSE = messageTable(
  "OperationClause",
  [
    ["any", 1, BOOL, "optional"],
    ["op", 2, STRING, "optional"],
    ["access", 3, oneOf(...ACCESS_CLASSES), "list"],
    ["resources", 4, STRING, "list"],
    ["http", 5, message(HTTP_MATCH), "optional"],
    ["grpc", 6, message(GRPC_MATCH), "optional"],
    ["mcp", 7, message(MCP_MATCH), "optional"],
  ],
  true,
);

const SCHEDULE = messageTable("Schedule", [
  ["timeZone", 1, STRING, "value"],
  ["days", 2, oneOf(...WEEKDAYS), "list"],
  ["from", 3, STRING, "optional"],
  ["to", 4, STRING, "optional"],
]);

const AUTHN = messageTable(
  "Authn",
  [
    ["maxAgeMs", 1, UINT, "optional"],
    ["amr", 2, STRING, "list"],
    ["acr", 3, STRING, "list"],
  ],
  true,
);

const WHEN = messageTable(
  "When",
  [
    ["notBeforeMs", 1, SINT, "optional"],
    ["notAfterMs", 2, SINT, "optional"],
    ["schedule", 3, message(SCHEDULE), "optional"],
    ["environments", 4, STRING, "list"],
    ["sourceCidrs", 5, STRING, "list"],
    ["authn", 6, message(AUTHN), "optional"],
    ["cel", 7, STRING, "optional"],
  ],
  true,
);

const LIMIT_KEY = oneOf(...LIMIT_KEYS);

const OBLIGATIONS = messageTable("Obligations", [
  [
    "rateLimit",
    1,
    message(
      messageTable("RateLimit", [
        ["key", 1, LIMIT_KEY, "list"],
        ["requests", 2, UINT, "value"],
        ["perMs", 3, UINT, "value"],
        ["burst", 4, UINT, "value"],
      ]),
    ),
    "optional",
  ],
  [
    "tokenLimit",
    2,
    message(
      messageTable("TokenLimit", [
        ["key", 1, LIMIT_KEY, "list"],
        ["tokens", 2, UINT, "value"],
        ["perMs", 3, UINT, "value"],
        ["count", 4, oneOf("total", "input", "output"), "value"],
      ]),
    ),
    "optional",
  ],
  ["concurrency", 3, UINT, "optional"],
  [
    "audit",
    4,
    message(
      messageTable("AuditSetting", [
        ["level", 1, oneOf(...AUDIT_LEVELS), "value"],
        ["sample", 2, { kind: "double" }, "value"],
        ["mode", 3, oneOf("BestEffort", "Required"), "value"],
      ]),
    ),
    "optional",
  ],
  [
    "headers",
    5,
    message(
      messageTable("HeaderChange", [
        ["set", 1, MAP, "value"],
        ["remove", 2, STRING, "listOrEmpty"],
      ]),
    ),
    "optional",
  ],
  [
    "identity",
    6,
    message(messageTable("IdentityForward", [["forward", 1, oneOf(...IDENTITY_HEADERS), "listOrEmpty"]])),
    "optional",
  ],
  ["replay", 7, oneOf("Strict"), "optional"],
]);

const RULE = messageTable("PolicyRule", [
  ["name", 1, STRING, "value"],
  ["from", 2, message(FROM_CLAUSE), "list"],
  ["unless", 3, message(FROM_CLAUSE), "list"],
  ["operations", 4, message(OPERATION_CLAUSE), "list"],
  ["when", 5, message(WHEN), "optional"],
  ["with", 6, message(OBLIGATIONS), "optional"],
]);

const POLICY = messageTable("ProgramPolicy", [
  ["id", 1, STRING, "value"],
  ["name", 2, STRING, "value"],
  ["cluster", 3, BOOL, "value"],
  ["source", 4, oneOf("policy", "grant", "role"), "value"],
  ["action", 5, oneOf("Allow", "Deny", "Audit"), "value"],
  ["enforcement", 6, oneOf("Enforce", "DryRun"), "value"],
  ["ports", 7, UINT, "list"],
  ["roles", 8, STRING, "list"],
  ["rules", 9, message(RULE), "list"],
]);

const PROGRAM = messageTable("WorkloadProgram", [
  ["id", 1, STRING, "value"],
  ["spiffeId", 2, STRING, "value"],
  ["kind", 3, STRING, "value"],
  ["name", 4, STRING, "value"],
  ["namespace", 5, STRING, "value"],
  ["labels", 6, MAP, "value"],
  [
    "ports",
    7,
    message(
      messageTable("ProgramPort", [
        ["port", 1, UINT, "value"],
        ["protocol", 2, oneOf(...PORT_PROTOCOLS), "value"],
        ["packs", 3, STRING, "listOrEmpty"],
      ]),
    ),
    "listOrEmpty",
  ],
  ["defaultAction", 8, oneOf("Allow", "Deny"), "value"],
  ["maxHops", 9, UINT, "value"],
  ["trustDomain", 10, STRING, "value"],
  ["policies", 11, message(POLICY), "listOrEmpty"],
  ["features", 12, STRING, "listOrEmpty"],
]);

const asMessage = (value: object): MessageValue => value as MessageValue; // an interface lacks only the index signature

/**
 * Bytes of a program.
 *
 * @throws MeshError `bad_resource` for a program with an empty list or clause: those would mean "everything" to the reader.
 */
export function encodeProgram(program: WorkloadProgram): Buffer {
  return encodeMessage(PROGRAM, asMessage(program));
}

/** An encoder that keeps the bytes of policies: one edit among 10 000 encodes one of them. Same bytes as `encodeProgram`. */
export function createProgramEncoder(): (program: WorkloadProgram) => Buffer {
  const kept = new WeakMap<object, Buffer>();
  const nested = (table: MessageTable, value: MessageValue): Buffer => {
    if (table !== POLICY) return encodeMessage(table, value, nested);
    let bytes = kept.get(value);
    if (bytes === undefined) {
      bytes = encodeMessage(table, value);
      kept.set(value, bytes);
    }
    return bytes;
  };
  return (program) => encodeMessage(PROGRAM, asMessage(program), nested);
}

/** Reads untrusted bytes; every field, enum value and feature has to be one of this build. */
export function decodeProgram(bytes: Uint8Array): Result<WorkloadProgram, string> {
  let program: WorkloadProgram;
  try {
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    program = decodeMessage(PROGRAM, buffer) as unknown as WorkloadProgram; // INVARIANT: the tables above mirror rule.ts
  } catch (error) {
    return { ok: false, error: `program cannot be read: ${messageOf(error)}` };
  }
  const problem = problemOf(program);
  return problem === undefined ? { ok: true, value: program } : { ok: false, error: problem };
}

const SUPPORTED: readonly string[] = SUPPORTED_FEATURES;

function problemOf(program: WorkloadProgram): string | undefined {
  for (const feature of program.features) {
    if (!SUPPORTED.includes(feature))
      return `program needs the feature \`${feature}\`, which this build lacks`;
  }
  for (const policy of program.policies) {
    const problem = policyProblem(policy);
    if (problem !== undefined) return `policy \`${policy.id}\` ${problem}`;
  }
  return undefined;
}

/** What the schema says about actions, held again here: a rule that lost its `from` would allow everyone. */
function policyProblem(policy: ProgramPolicy): string | undefined {
  if (policy.rules === undefined) return "has no rules";
  if (policy.source !== "policy" && policy.action !== "Allow") return "is derived and not an Allow";
  if (policy.roles !== undefined && policy.source !== "grant") return "gives roles and is no grant";
  for (const rule of policy.rules) {
    const where = `rule \`${rule.name}\``;
    if (policy.action === "Allow" && (rule.from === undefined || rule.operations === undefined))
      return `${where} allows without \`from\` and \`operations\``;
    if (policy.action !== "Deny" && rule.unless !== undefined)
      return `${where} has \`unless\` and is no Deny`;
    if (policy.action === "Deny" && rule.with !== undefined) return `${where} has obligations on a Deny`;
    if (
      rule.with?.rateLimit !== undefined &&
      !(rule.with.rateLimit.perMs > 0 && rule.with.rateLimit.requests > 0)
    )
      return `${where} has a rate limit of nothing`;
    const tokens = rule.with?.tokenLimit;
    if (tokens !== undefined && !(tokens.perMs > 0 && tokens.tokens > 0))
      return `${where} has a token limit of nothing`;
    if (rule.with?.concurrency === 0) return `${where} lets no call run`;
  }
  return undefined;
}
