// Reads the parts that several kinds share: callers, operations, targets, selectors; PURE.
import { ACCESS_CLASSES, WORKLOAD_KINDS } from "../../sidecar/core/policy/call.ts";
import type {
  FromClause,
  HopMatch,
  OperationClause,
  UserMatch,
  WorkloadMatch,
} from "../../sidecar/core/policy/rule.ts";
import type { LabelSelector, TargetMatch } from "./access-policy.ts";
import type { FieldReader } from "./field-reader.ts";

const OPERATORS = ["In", "NotIn", "Exists", "DoesNotExist"] as const;

const LABEL_KEY = /^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;

/** Says what is wrong with a label key. */
export function checkLabelKey(key: string): string | undefined {
  return LABEL_KEY.test(key) ? undefined : `\`${key.slice(0, 60)}\` is not a label key`;
}

export function readSelector(fields: FieldReader): LabelSelector {
  const matchExpressions = fields.objects("matchExpressions", (entry) => {
    entry.require("key", "operator");
    const operator = entry.oneOf("operator", OPERATORS) ?? "Exists";
    const values = entry.has("values") ? readLabelValues(entry) : undefined;
    if ((values !== undefined) !== (operator === "In" || operator === "NotIn")) {
      entry.report("`values` belongs to `In` and `NotIn`, and to no other operator");
    }
    const key = entry.text("key") ?? "";
    const wrong = checkLabelKey(key);
    if (wrong !== undefined) entry.report(wrong, "key");
    return { key, operator, values: values ?? [] };
  });
  return { matchLabels: fields.textMap("matchLabels", checkLabelKey), matchExpressions };
}

/** An empty string is a label value too, and what a missing one is not. */
function readLabelValues(entry: FieldReader): readonly string[] | undefined {
  return entry.texts("values");
}

/** @param cluster whether `namespaces` and `namespaceSelector` may be there. */
export function readTarget(fields: FieldReader, cluster: boolean): TargetMatch {
  const target: TargetMatch = {
    kinds: fields.choices("kinds", WORKLOAD_KINDS),
    names: fields.patterns("names"),
    selector: fields.object("selector", readSelector),
    namespaces: cluster ? fields.patterns("namespaces") : undefined,
    namespaceSelector: cluster ? fields.object("namespaceSelector", readSelector) : undefined,
    ports: fields.integers("ports", 1, 65535),
    external: fields.text("external"),
  };
  const { external, ...others } = target;
  if (external !== undefined && Object.values(others).some((value) => value !== undefined)) {
    fields.report("`external` stands alone: put other fields into an entry of their own");
  }
  return target;
}

function readHop(fields: FieldReader): HopMatch {
  return {
    kinds: fields.choices("kinds", WORKLOAD_KINDS),
    names: fields.patterns("names"),
    namespaces: fields.patterns("namespaces"),
    serviceAccounts: fields.texts("serviceAccounts"),
  };
}

function readWorkload(fields: FieldReader): WorkloadMatch {
  return {
    ...readHop(fields),
    trustDomains: fields.texts("trustDomains"),
    spiffeIds: fields.texts("spiffeIDs", (id) =>
      id.startsWith("spiffe://") && !id.includes("*") ? undefined : "must be a SPIFFE ID without wildcard",
    ),
  };
}

function readUser(fields: FieldReader): UserMatch {
  const presence = fields.oneOf("presence", ["Required", "Forbidden", "Any"] as const);
  const match = {
    ids: fields.texts("ids"),
    roles: fields.texts("roles"),
    idps: fields.texts("idps"),
    types: fields.choices("types", ["person", "servicePrincipal"] as const),
  };
  const constrained = Object.values(match).some((value) => value !== undefined);
  if (presence === "Forbidden" && constrained)
    fields.report("`presence: Forbidden` stands alone: a call without user has no id, role or type");
  return { presence: presence ?? (constrained ? "Required" : "Any"), ...match };
}

/** One entry of `from` or `unless`. */
export function readFrom(fields: FieldReader): FromClause {
  const any = fields.onlyTrue("any");
  const workload = fields.object("workload", readWorkload);
  const user = fields.object("user", readUser);
  const via = fields.object("via", (chain) => ({
    origin: chain.object("origin", readHop),
    through: chain.object("through", readHop),
    maxHops: chain.integer("maxHops", 1, 16),
  }));
  if (any && (workload ?? user ?? via))
    fields.report("`any` stands alone: put other fields into an entry of their own");
  return { any, workload, user, via };
}

function checkPath(path: string): string | undefined {
  if (!path.startsWith("/")) return "must start with `/`";
  const star = path.indexOf("*");
  if (star >= 0 && !(path.endsWith("/**") && star === path.length - 2))
    return "`*` is allowed as a trailing `/**` only";
  return undefined;
}

/** One entry of `operations`. */
export function readOperation(fields: FieldReader): OperationClause {
  const any = fields.onlyTrue("any");
  const others = {
    op: fields.text("op"),
    access: fields.choices("access", ACCESS_CLASSES),
    resources: fields.patterns("resources"),
    http: fields.object("http", (http) => ({
      methods: http.texts("methods"),
      paths: http.texts("paths", checkPath),
    })),
    grpc: fields.object("grpc", (grpc) => ({
      service: grpc.text("service"),
      methods: grpc.texts("methods"),
    })),
    mcp: fields.object("mcp", (mcp) => ({ methods: mcp.texts("methods"), names: mcp.patterns("names") })),
  };
  if (any && Object.values(others).some((value) => value !== undefined))
    fields.report("`any` stands alone: put other fields into an entry of their own");
  if (others.op?.includes("*"))
    fields.report("takes no wildcard: an operation covers everything below it at a dot", "op");
  return { any, ...others };
}
