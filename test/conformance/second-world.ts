// Dense random worlds for the second reference: few names, so that rules meet calls often, and every field, error and
// edge of the semantics occurs.
import type { Call, Hop, Operation, Resource, User } from "../../sidecar/core/policy/call.ts";
import { createCaller, plaintextCaller } from "../../sidecar/core/policy/caller.ts";
import {
  AUDIT_LEVELS,
  type FromClause,
  IDENTITY_HEADERS,
  type Obligations,
  type OperationClause,
  type PolicyRule,
  type ProgramPolicy,
  type Schedule,
  WEEKDAYS,
  type When,
  type WorkloadProgram,
} from "../../sidecar/core/policy/rule.ts";
import type { Dice } from "./random-world.ts";
import { type CelOracle, type CelQuestion, secondFold, type Tri } from "./second-reference.ts";

const HOUR = 3_600_000;
const known = (value: boolean): Tri => (value ? "true" : "false");
const kleeneAnd = (a: Tri, b: Tri): Tri => (a === "false" || b === "false" ? "false" : a === "error" ? a : b);
const kleeneOr = (a: Tri, b: Tri): Tri => (a === "true" || b === "true" ? "true" : a === "error" ? a : b);

/** Reading what is not there is an error, and so is reading anything of a caller without identity. */
const compared = (a: string | undefined, b: string | undefined): Tri =>
  a === undefined || b === undefined ? "error" : known(a === b);
const ofCaller = <T>({ call }: CelQuestion, value: T): T | undefined =>
  call.caller.authenticated ? value : undefined;
const opOf = ({ view }: CelQuestion): string | undefined =>
  view.operation.kind === "known"
    ? view.operation.name
    : view.operation.kind === "unknown"
      ? "unknown"
      : undefined;
function resourceOf({ view }: CelQuestion): string | undefined {
  if (view.operation.kind === "undetermined" || view.resource.kind === "unknown") return undefined;
  return view.resource.kind === "known" ? view.resource.value : "";
}

/** Expressions with their meaning written out, each from the list of variables and the rules on what is missing. */
const EXPRESSIONS = new Map<string, (asked: CelQuestion) => Tri>([
  ["true", () => "true"],
  ["1 / 0 == 1", () => "error"],
  ["user.id == caller.owner", (q) => compared(q.call.user?.id, ofCaller(q, q.call.caller.owner))],
  ["has(user.id)", (q) => known(q.call.user !== undefined)],
  [
    "!has(user.id) || user.idp == 'okta'",
    (q) => known(q.call.user === undefined || q.call.user.idp === "okta"),
  ],
  [
    "has(user.id) && now - user.authTime > duration('1h')",
    ({ call }) =>
      call.user === undefined
        ? "false"
        : call.user.authTimeMs === undefined
          ? "error"
          : known(call.nowMs - call.user.authTimeMs > HOUR),
  ],
  ["'ds' in user.roles", (q) => (q.call.user === undefined ? "error" : known(q.roles.includes("ds")))],
  [
    "user.amr.exists(m, m == 'mfa')",
    (q) => (q.call.user === undefined ? "error" : known(q.call.user.amr.includes("mfa"))),
  ],
  ["caller.env == 'prod'", (q) => compared(ofCaller(q, q.call.caller.env), "prod")],
  [
    "caller.kind == 'job' || caller.env == 'prod'",
    (q) =>
      kleeneOr(
        compared(ofCaller(q, q.call.caller.kind), "job"),
        compared(ofCaller(q, q.call.caller.env), "prod"),
      ),
  ],
  [
    "caller.namespace == target.namespace && op == 'serving.invoke'",
    (q) =>
      kleeneAnd(
        compared(ofCaller(q, q.call.caller.namespace), q.program.namespace),
        compared(opOf(q), "serving.invoke"),
      ),
  ],
  ["op == 'unknown'", (q) => compared(opOf(q), "unknown")],
  ["resource == 'm1'", (q) => compared(resourceOf(q), "m1")],
  ["resource == ''", (q) => compared(resourceOf(q), "")],
  [
    "request.path.startsWith('/a') && request.method == 'GET'",
    (q) => known(q.view.path.startsWith("/a") && q.call.request.method === "GET"),
  ],
  ["source.ip == '10.1.1.1'", (q) => compared(q.call.sourceIp, "10.1.1.1")],
  ["size(chain) > 1", (q) => known(q.call.via.length + (q.call.caller.authenticated ? 1 : 0) > 1)],
  ["target.labels['tier'] == 'one'", () => "true"],
  ["target.labels['none'] == 'one'", () => "error"],
  [
    "now < timestamp('2026-10-25T01:00:00Z')",
    (q) => known(q.call.nowMs < Date.parse("2026-10-25T01:00:00Z")),
  ],
]);

export const secondCel: CelOracle = (source, asked) => EXPRESSIONS.get(source)?.(asked) ?? "error";

const KINDS = ["notebook", "job", "gateway"] as const;
const NAMES = ["fraud", "fraud-1", "chat"];
const NAME_PATTERNS = [...NAMES, "fraud*", "f*", "*", "fraud-*"];
const SPACES = ["ml", "ml-dev"];
const SPACE_PATTERNS = [...SPACES, "ml*", "m*"];
const ACCOUNTS = ["a", "b"];
const ACCOUNT_PATTERNS = ["a", "b", "ml/a", "ml-dev/b"];
const DOMAINS = ["home", "home", "partner"];
const ROLES = ["ds", "admin", "glass"];
const IDS = ["u1", "u2"];
const OPS = ["serving.invoke", "serving.invoke.chat", "serving.admin", "mlflow.read"];
const OP_PATTERNS = [...OPS, "serving", "mlflow", "serving.inv"];
const ACCESS = ["read", "execute", "admin"] as const;
const RESOURCES = ["m1", "M1", "secret", "Secret", "ΑΣΑ", "maß"];
const RESOURCE_PATTERNS = ["m1", "M*", "M1", "sec*", "Secret", "SEC*", "ΑΣ*", "MAß", "*"];
const PATHS = ["/a", "/STRAßE", "/ΑΣ/x", "/A/", "/a/b", "/Docs/x", "/docs/x/", "/"];
const PATH_PATTERNS = [
  "/a",
  "/straße",
  "/ΑΣ/**",
  "/A",
  "/a/",
  "/a/**",
  "/A/**",
  "/docs/X",
  "/Docs/**",
  "/**",
  "/",
];
const ADDRESSES = [
  "10.1.1.1",
  "192.168.1.1",
  "2001:db8::1",
  "::ffff:10.1.1.1",
  "::1",
  "nonsense",
  "10.1.1.256",
];
const BLOCKS = [
  "10.0.0.0/8",
  "10.1.1.1/32",
  "0.0.0.0/0",
  "2001:db8::/32",
  "::/0",
  "::ffff:10.1.0.0/112",
  "192.168.0.0/31",
];
const ZONES = [
  "Europe/Berlin",
  "America/New_York",
  "UTC",
  "Asia/Kolkata",
  "Australia/Lord_Howe",
  "Pacific/Apia",
];
const TIMES = ["00:00", "01:00", "02:00", "02:30", "03:00", "06:00", "12:30", "22:00", "23:59"];
/** Around changes of clocks (autumn and spring in several zones), and an ordinary week. */
const MOMENTS = [
  "2026-10-24T20:00:00Z",
  "2027-03-27T20:00:00Z",
  "2026-11-01T03:00:00Z",
  "2027-03-14T04:00:00Z",
  "2026-09-15T08:00:00Z",
];

/** Rolls until at least one field is set: an empty object would be refused long before it is evaluated. */
function filled<T extends object>(roll: () => T): T {
  for (;;) {
    const value = roll();
    if (Object.values(value).some((field) => field !== undefined)) return value;
  }
}

const anyPlace = (dice: Dice) => ({
  kinds: dice.maybe(0.4, () => dice.some(KINDS)),
  names: dice.maybe(0.4, () => dice.some(NAME_PATTERNS)),
  namespaces: dice.maybe(0.4, () => dice.some(SPACE_PATTERNS)),
  serviceAccounts: dice.maybe(0.25, () => dice.some(ACCOUNT_PATTERNS)),
});

const place = (dice: Dice) => filled(() => anyPlace(dice));

function fromClause(dice: Dice): FromClause {
  if (dice.chance(0.2)) return { any: true };
  return filled(() => someFrom(dice));
}

function someFrom(dice: Dice): FromClause {
  const workload = dice.maybe(0.6, () =>
    filled(() => ({
      ...anyPlace(dice),
      trustDomains: dice.maybe(0.3, () => dice.some(["home", "partner"])),
      spiffeIds: dice.maybe(0.1, () => dice.some([0, 0]).map(() => spiffeId(dice))),
    })),
  );
  const user = dice.maybe(0.5, () => ({
    presence: dice.of(["Required", "Required", "Forbidden", "Any"] as const),
    roles: dice.maybe(0.4, () => dice.some(ROLES)),
    ids: dice.maybe(0.2, () => dice.some(IDS)),
    idps: dice.maybe(0.15, () => dice.some(["okta", "entra"])),
    types: dice.maybe(0.15, () => dice.some(["person", "servicePrincipal"] as const)),
  }));
  const via = dice.maybe(0.25, () =>
    filled(() => ({
      origin: dice.maybe(0.4, () => place(dice)),
      through: dice.maybe(0.3, () => place(dice)),
      maxHops: dice.maybe(0.5, () => 1 + dice.below(3)),
    })),
  );
  return { workload, user, via };
}

function operationClause(dice: Dice): OperationClause {
  return dice.chance(0.2) ? { any: true } : filled(() => someOperation(dice));
}

function someOperation(dice: Dice): OperationClause {
  return {
    op: dice.maybe(0.5, () => dice.of(OP_PATTERNS)),
    access: dice.maybe(0.2, () => dice.some(ACCESS)),
    resources: dice.maybe(0.3, () => dice.some(RESOURCE_PATTERNS)),
    http: dice.maybe(0.25, () =>
      filled(() => ({
        methods: dice.maybe(0.4, () => dice.some(["GET", "POST"])),
        paths: dice.maybe(0.7, () => dice.some(PATH_PATTERNS)),
      })),
    ),
    grpc: dice.maybe(0.06, () =>
      filled(() => ({
        service: dice.maybe(0.7, () => "s.S"),
        methods: dice.maybe(0.5, () => ["M"]),
      })),
    ),
    mcp: dice.maybe(0.12, () =>
      filled(() => ({
        methods: dice.maybe(0.6, () => dice.some(["tools/call", "tools/list"])),
        names: dice.maybe(0.6, () => dice.some(["get*", "delete_x", "*"])),
      })),
    ),
  };
}

const schedule = (dice: Dice): Schedule => ({
  timeZone: dice.of(ZONES),
  days: dice.maybe(0.6, () => dice.some(WEEKDAYS, 4)),
  from: dice.maybe(0.8, () => dice.of(TIMES)),
  to: dice.maybe(0.8, () => dice.of([...TIMES, "24:00"])),
});

function when(dice: Dice): When {
  const atMs = Date.parse(dice.of(MOMENTS));
  return {
    notBeforeMs: dice.maybe(0.15, () => atMs + (dice.below(5) - 2) * HOUR),
    notAfterMs: dice.maybe(0.15, () => atMs + (dice.below(9) - 2) * HOUR),
    schedule: dice.maybe(0.3, () => schedule(dice)),
    environments: dice.maybe(0.2, () => dice.some(["prod", "dev"])),
    sourceCidrs: dice.maybe(0.25, () => dice.some(BLOCKS)),
    authn: dice.maybe(0.2, () =>
      filled(() => ({
        maxAgeMs: dice.maybe(0.5, () => HOUR),
        amr: dice.maybe(0.5, () => dice.some(["mfa", "pwd"])),
        acr: dice.maybe(0.3, () => ["high"]),
      })),
    ),
    cel: dice.maybe(0.3, () => dice.of([...EXPRESSIONS.keys()])),
  };
}

const audit = (dice: Dice) => ({
  level: dice.of(AUDIT_LEVELS),
  sample: dice.of([0, 0.25, 0.5, 1]),
  mode: dice.of(["BestEffort", "BestEffort", "Required"] as const),
});

function obligations(dice: Dice): Obligations {
  return {
    rateLimit: dice.maybe(0.4, () => ({ key: ["user"], requests: 5, perMs: 1000, burst: 5 })),
    concurrency: dice.maybe(0.2, () => 4),
    audit: dice.maybe(0.5, () => audit(dice)),
    headers: dice.maybe(0.3, () => ({ set: new Map([["x-a", dice.of(["1", "2"])]]), remove: ["x-b"] })),
    identity: dice.maybe(0.4, () => ({ forward: dice.some(IDENTITY_HEADERS) })),
  };
}

function rule(dice: Dice, action: ProgramPolicy["action"], i: number): PolicyRule {
  const free = action !== "Allow";
  const demands =
    action === "Audit" ? { audit: audit(dice) } : dice.maybe(0.3, () => filled(() => obligations(dice)));
  return {
    name: `r${i}`,
    from: free && dice.chance(0.4) ? undefined : dice.some([0, 0]).map(() => fromClause(dice)),
    operations: free && dice.chance(0.3) ? undefined : dice.some([0, 0]).map(() => operationClause(dice)),
    unless:
      action === "Deny" ? dice.maybe(0.5, () => dice.some([0, 0]).map(() => fromClause(dice))) : undefined,
    when: dice.maybe(0.35, () => filled(() => when(dice))),
    with: action === "Deny" ? undefined : demands,
  };
}

function policy(dice: Dice, i: number, clusters: number): ProgramPolicy {
  const source = dice.of(["policy", "policy", "policy", "policy", "role", "grant"] as const);
  const action =
    source === "policy"
      ? dice.of(["Allow", "Allow", "Allow", "Allow", "Allow", "Deny", "Audit"] as const)
      : "Allow";
  const cluster = source === "policy" && i < clusters;
  const name = `p${String(i).padStart(2, "0")}`;
  const head = { id: cluster ? name : `ml/${name}`, name, cluster, source, action } as const;
  const ports = dice.maybe(0.2, () => dice.some([80, 90]));
  const rules = Array.from({ length: 1 + dice.below(3) }, (_, j) => rule(dice, action, j));
  if (source !== "grant")
    return { ...head, enforcement: dice.chance(0.25) ? "DryRun" : "Enforce", ports, rules };
  const bare = rules.map((each) => ({ ...each, with: undefined }));
  return {
    ...head,
    enforcement: "Enforce",
    ports,
    roles: dice.maybe(0.4, () => dice.some(ROLES)),
    rules: bare,
  };
}

/** A program with up to 24 policies over the same target. */
export function secondProgram(dice: Dice): WorkloadProgram {
  const count = dice.of([0, 1, 1, 2, 3, 5, 8, 24]);
  const clusters = dice.below(count + 1);
  const policies = Array.from({ length: count }, (_, i) => policy(dice, i, clusters));
  return {
    id: "ml/t",
    spiffeId: "spiffe://home/ns/ml/sa/t/serving/t",
    kind: "serving",
    name: "t",
    namespace: "ml",
    labels: new Map([["tier", "one"]]),
    ports: [{ port: 80, protocol: "http", packs: ["p"] }],
    defaultAction: dice.chance(0.3) ? "Allow" : "Deny",
    maxHops: dice.of([2, 3, 4, 4]),
    trustDomain: "home",
    // As the compiler sorts them: cluster before namespaced, then by name.
    policies: [...policies.filter((each) => each.cluster), ...policies.filter((each) => !each.cluster)],
    features: ["cel"],
  };
}

function spiffeId(dice: Dice): string {
  return `spiffe://${dice.of(DOMAINS)}/ns/${dice.of(SPACES)}/sa/${dice.of(ACCOUNTS)}/${dice.of(KINDS)}/${dice.of(NAMES)}`;
}

function hopOf(id: string): Hop & { readonly trustDomain: string } {
  const [, , trustDomain = "", , namespace = "", , serviceAccount = "", kind = "", name = ""] = id.split("/");
  return { spiffeId: id, trustDomain, namespace, serviceAccount, kind, name, operation: "" };
}

function operation(dice: Dice): Operation {
  if (dice.chance(0.12)) return { kind: "unknown" };
  if (dice.chance(0.08)) return { kind: "undetermined" };
  return { kind: "known", name: dice.of(OPS), access: dice.of(ACCESS), template: "t" };
}

function resource(dice: Dice, of: Operation): Resource {
  if (of.kind === "unknown" || dice.chance(0.3)) return { kind: "none" };
  if (of.kind === "undetermined" || dice.chance(0.2)) return { kind: "unknown", type: "m" };
  return { kind: "known", type: "m", value: dice.of(RESOURCES) };
}

function foldedViews(dice: Dice, operationSeen: Operation, target: Resource, path: string): Call["folded"] {
  const folded = secondFold(path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path);
  if (folded === path && !dice.chance(0.1)) return [];
  const other = dice.chance(0.5) ? operationSeen : operation(dice);
  const lowered = target.kind === "known" ? { ...target, value: secondFold(target.value) } : target;
  const views = [{ operation: other, resource: lowered, path: folded }];
  return dice.chance(0.2)
    ? [...views, { operation: operation(dice), resource: lowered, path: secondFold(path) }]
    : views;
}

function user(dice: Dice, nowMs: number): User {
  return {
    id: dice.of(IDS),
    roles: dice.chance(0.25) ? [] : dice.some(ROLES),
    idp: dice.of(["okta", "entra"]),
    type: dice.of(["person", "servicePrincipal"] as const),
    amr: dice.of([[], ["mfa"], ["pwd", "mfa"]]),
    acr: dice.maybe(0.3, () => dice.of(["high", "low"])),
    authTimeMs: dice.maybe(0.7, () => nowMs - dice.of([0, HOUR - 1, HOUR, HOUR + 1, 9 * HOUR])),
  };
}

/** A call to such a program. */
export function secondCall(dice: Dice): Call {
  const id = spiffeId(dice);
  const { trustDomain, namespace, serviceAccount, kind, name } = hopOf(id);
  const plaintext = dice.chance(0.06);
  const owner = dice.maybe(0.5, () => dice.of(IDS));
  const env = dice.maybe(0.6, () => dice.of(["prod", "dev", "test"]));
  const own = {
    spiffeId: id,
    trustDomain,
    local: trustDomain === "home",
    namespace,
    serviceAccount,
    kind,
    name,
  };
  const caller = plaintext ? plaintextCaller : createCaller({ ...own, labels: new Map(), owner, env });
  const nowMs = Date.parse(dice.of(MOMENTS)) + dice.below(36 * 60) * 60_000 + dice.of([0, 0, 1, 59_999]);
  const exact = operation(dice);
  const path = dice.of(PATHS);
  const target = resource(dice, exact);
  const mcpMethod = dice.maybe(0.8, () => dice.of(["tools/call", "tools/list", "prompts/get"]));
  const mcp = { method: mcpMethod, name: mcpMethod && dice.maybe(0.7, () => dice.of(["get_x", "delete_x"])) };
  return {
    caller,
    user: plaintext ? undefined : dice.maybe(0.6, () => user(dice, nowMs)),
    via: plaintext
      ? []
      : Array.from({ length: dice.of([0, 0, 0, 1, 1, 2, 3]) }, () =>
          hopOf(dice.chance(0.3) ? id : spiffeId(dice)),
        ),
    port: dice.of([80, 90]),
    request: {
      method: dice.of(["GET", "POST"]),
      path,
      host: "t",
      grpc: dice.maybe(0.1, () => ({ service: dice.of(["s.S", "o.O"]), method: dice.of(["M", "N"]) })),
      mcp: dice.maybe(0.25, () => mcp),
    },
    operation: exact,
    resource: target,
    folded: foldedViews(dice, exact, target, path),
    sourceIp: dice.maybe(0.85, () => dice.of(ADDRESSES)),
    scope: dice.maybe(0.07, () =>
      dice.chance(0.1) ? [] : dice.some(["serving", "serving.invoke.chat", "mlflow", "serving.inv"]),
    ),
    nowMs,
  };
}
