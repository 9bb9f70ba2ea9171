// Every field of every kind is enforced, refused as unsupported, or meant for people: nothing that somebody writes is
// without effect in silence. A field that is added to a schema fails here until it is said which of these it is.
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "@jest/globals";
import { parse as parseYaml } from "yaml";
import { createAdmitter } from "../../../control-plane/policy/admit.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { createObjectParser } from "../../../control-plane/policy/typed-object.ts";
import { loadSchemas } from "../../../control-plane/sources/schema.ts";

const repository = new URL("../../../", import.meta.url);
const POLICIES = ["AccessPolicy", "ClusterAccessPolicy"];

interface Schema {
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
}

/** `Kind path` of each leaf of each schema, without what every object has. */
function leaves(): string[] {
  const out: string[] = [];
  for (const file of readdirSync(new URL("crds/", repository)).filter((name) => name.endsWith(".yaml"))) {
    const crd = parseYaml(readFileSync(new URL(`crds/${file}`, repository), "utf8"));
    const walk = (schema: Schema, path: string): void => {
      if (schema.items !== undefined) walk(schema.items, `${path}[]`);
      else if (schema.properties === undefined) out.push(`${crd.spec.names.kind} ${path}`);
      else
        for (const [name, child] of Object.entries(schema.properties))
          walk(child, path === "" ? name : `${path}.${name}`);
    };
    const { spec, status } = crd.spec.versions[0].schema.openAPIV3Schema.properties;
    walk(spec, "spec");
    if (status !== undefined) walk(status, "status");
  }
  return out;
}

/** Leaves by pattern, with the file in which they take effect and the word that stands for them there. */
const ENFORCED: readonly (readonly [RegExp, file: string, word: string])[] = [
  [
    / spec\.(rules\[\]\.)?targets\[\]\.(kinds|names|namespaces|ports)/,
    "control-plane/policy/select.ts",
    "target.",
  ],
  [/Policy spec\.targets\[\]\.external$/, "control-plane/policy/policy-entry.ts", "external"],
  [/^ExternalService spec\.(hosts\[\]|port|packs\[\])$/, "sidecar/outbound/external.ts", "hosts"],
  [/^ExternalService spec\.plaintext$/, "sidecar/outbound/external.ts", "plaintext"],
  [/[sS]elector\.match/, "control-plane/policy/select.ts", "matchesSelector"],
  [/Policy spec\.action$/, "sidecar/core/policy/rule-record.ts", "action"],
  [/Policy spec\.enforcement$/, "sidecar/core/policy/decide.ts", "enforcement"],
  [/Policy spec\.rules\[\]\.name$/, "sidecar/core/policy/rule-entry.ts", "name"],
  [/(from|unless)\[\]\./, "sidecar/core/policy/match.ts", "serviceAccounts"],
  [/operations\[\]\.(any|op|access|resources|http|grpc|mcp)/, "sidecar/core/policy/match.ts", "resources"],
  [
    /when\.(notBefore|notAfter|environments|sourceCIDRs|authn)/,
    "sidecar/core/policy/match.ts",
    "environments",
  ],
  [/when\.schedule\./, "sidecar/core/policy/schedule.ts", "timeZone"],
  [/when\.cel$/, "sidecar/core/policy/condition.ts", "CelCondition"],
  [/with\.rateLimit\./, "sidecar/balance/limits.ts", "burst"],
  [/with\.tokenLimit\./, "sidecar/balance/limits.ts", "tokenLimit"],
  [/with\.concurrency$/, "sidecar/balance/concurrency.ts", "limit"],
  [/with\.audit\.sample$/, "sidecar/audit/trail.ts", "sample"],
  [/with\.audit\.level$/, "sidecar/audit/payload.ts", "level"],
  [/with\.audit\.mode$/, "sidecar/inbound/duties.ts", "Required"],
  [/with\.replay$/, "sidecar/inbound/replay.ts", "Strict"],
  [/with\.headers\./, "sidecar/inbound/header-changes.ts", "remove"],
  [/with\.identity\.forward\[\]$/, "sidecar/inbound/identity-fields.ts", "x-mesh-roles"],
  [/^AccessGrant spec\.(subject\.|roles)/, "control-plane/policy/derived.ts", "subject"],
  [/^AccessGrant spec\.(duration|approval\.required)$/, "control-plane/policy/access-grant.ts", "duration"],
  [
    /^AccessGrant status\.(phase|activeFrom|activeUntil)$/,
    "control-plane/policy/access-grant.ts",
    "activeFrom",
  ],
  [/^MeshConfig spec\.trustDomain$/, "control-plane/publisher.ts", "trustDomain"],
  [/^MeshConfig spec\.(namespaces\[\]\.)?defaultAction$/, "control-plane/policy/program.ts", "defaultAction"],
  [/^MeshConfig spec\.namespaces\[\]\.names\[\]$/, "control-plane/policy/program.ts", "override.names"],
  [/^MeshConfig spec\.(proofs|explainDenials)$/, "control-plane/resources/build.ts", "proofs"],
  [/^MeshConfig spec\.externalRoots$/, "control-plane/resources/build.ts", "externalRoots"],
  [/^MeshConfig spec\.maxHops$/, "control-plane/policy/program.ts", "maxHops"],
  [/^MeshConfig spec\.txnTTL$/, "control-plane/tokens/grants.ts", "txnTtlMs"],
  [/^MeshConfig spec\.svidTTL$/, "control-plane/issuer.ts", "svidTtlMs"],
  [/^MeshRoleBinding spec\.subjects/, "control-plane/policy/role-subjects.ts", "servicePrincipal"],
  [/^MeshRole/, "control-plane/policy/derived.ts", "roles"],
  [/^OperationCatalog spec\.packs/, "control-plane/publisher.ts", "catalog.packs"],
  [/^Workload spec\.(owner|env|kind)$/, "control-plane/issuer.ts", "workload.owner"],
  [/^Workload spec\.runAs$/, "control-plane/issuer.ts", "workload.runAs"],
  [
    /^Workload spec\.(serviceAccount|addresses|meshPort|service|zone|ports\[\]\..*)/,
    "control-plane/resources/build.ts",
    "meshPort",
  ],
  [/^RoutePolicy spec\.rules\[\]\.match/, "sidecar/outbound/route-match.ts", "callerNames"],
  [/^RoutePolicy spec\.rules\[\]\.(backends|stickyBy)/, "sidecar/outbound/route.ts", "stickyBy"],
  [/^RoutePolicy spec\.rules\[\]\.mirror/, "sidecar/outbound/mirror.ts", "allMethods"],
  [/^RoutePolicy spec\.rules\[\]\.timeouts/, "sidecar/outbound/exchange.ts", "tryTimeoutMs"],
  [/^RoutePolicy spec\.rules\[\]\.headers/, "sidecar/outbound/header-edit.ts", "remove"],
  [/^RoutePolicy spec\.(service|ports)/, "control-plane/policy/route-plan.ts", "service"],
  [/^TrafficPolicy spec\.targets/, "control-plane/policy/traffic-cover.ts", "targets"],
  [/^TrafficPolicy spec\.(lb|preferZone|outlier)/, "sidecar/outbound/group.ts", "preferZone"],
  [/^TrafficPolicy spec\.hashBy/, "sidecar/outbound/hash-key.ts", "sourceIp"],
  [/^TrafficPolicy spec\.healthCheck/, "sidecar/outbound/health-checks.ts", "healthCheck"],
  [/^TrafficPolicy spec\.slowStart/, "sidecar/outbound/member.ts", "slowStartMs"],
  [/^TrafficPolicy spec\.(limits|timeouts)/, "sidecar/outbound/service-traffic.ts", "streamMs"],
  [/^TrafficPolicy spec\.retries/, "sidecar/outbound/retry.ts", "idempotent"],
  [/^IdentityProvider spec\.type$/, "control-plane/policy/identity-provider.ts", "saml"],
  [/^IdentityProvider spec\.\w+Claim$/, "control-plane/tokens/person.ts", "servicePrincipalClaim"],
  [/^IdentityProvider spec\.displayName$/, "sidecar/gateway/page/sign-in-pages.ts", "displayName"],
  [/^IdentityProvider spec\.clientSecretRef\./, "sidecar/gateway-people.ts", "clientSecret.key"],
  [/^IdentityProvider spec\.(stepUpAcr|maxAge)$/, "sidecar/gateway/login/step-up.ts", "stepUpAcr"],
  [
    /^IdentityProvider spec\.(issuer|clientID|scopes\[\]|hostedDomain|offlineAccess|allowInsecureIssuer)$/,
    "sidecar/gateway/login/provider.ts",
    "offlineAccess",
  ],
  [
    /^IdentityProvider spec\.(audiences|algorithms|clockSkew)/,
    "sidecar/core/idp/token-claims.ts",
    "clockSkewSeconds",
  ],
  [/^MeshGateway spec\.(workload|notebooks)/, "control-plane/policy/gateway-plan.ts", "hostPattern"],
  [/^MeshGateway spec\.tier$/, "control-plane/policy/mesh-gateway.ts", "external"],
  [/^MeshGateway spec\.listeners/, "sidecar/gateway-plane.ts", "secretName"],
  [/^MeshGateway spec\.redirectPort$/, "sidecar/gateway/redirect.ts", "redirectPort"],
  [/^MeshGateway spec\.identityProviders/, "sidecar/gateway-people.ts", "idp"],
  [/^MeshGateway spec\.routes\[\]\.cors\./, "sidecar/gateway/cors.ts", "allowCredentials"],
  [/^MeshGateway spec\.routes\[\]\.stepUp\./, "sidecar/gateway/login/step-up.ts", "stepUp"],
  [/^MeshGateway spec\.routes\[\]\.owner$/, "sidecar/gateway/exchange.ts", "owner"],
  [/^MeshGateway spec\.routes/, "sidecar/gateway/route-table.ts", "rewrite"],
  [/^MeshGateway spec\.session\.loginHost$/, "sidecar/gateway/login/hand-over.ts", "loginHost"],
  [/^MeshGateway spec\.session\./, "sidecar/gateway-people.ts", "storeSecretName"],
  [/^MeshGateway spec\.(trustedHops|limits)/, "sidecar/gateway/front.ts", "trustedHops"],
  [/^MeshGateway spec\.securityHeaders/, "sidecar/gateway/security-headers.ts", "noSniff"],
  [/^Workload spec\.propagation\[\]$/, "sidecar/data-plane.ts", "propagation"],
  [/^Workload spec\.labels/, "control-plane/policy/select.ts", "labels"],
];

/** Leaves that are refused in directory mode and take effect in a cluster, with where. */
const ENFORCED_IN_CLUSTER: readonly (readonly [leaf: string, file: string, word: string])[] = [
  ["MeshConfig spec.mtls", "sidecar/inbound/plaintext-listener.ts", "plaintext"],
  ["MeshConfig spec.namespaces[].mtls", "control-plane/resources/build.ts", "mtls"],
  ["MeshConfig spec.outbound", "sidecar/outbound/capture-verdict.ts", "settings.outbound"],
  [
    "MeshConfig spec.trustedSpawners",
    "charts/countersign/templates/admission-policies.yaml",
    "trustedSpawners",
  ],
  [
    "MeshConfig spec.protectedLabels",
    "charts/countersign/templates/admission-policies.yaml",
    "protectedLabels",
  ],
  ["MeshConfig spec.gateways", "control-plane/sources/kubernetes/classify.ts", "gateways"],
];

/** Written by the mesh, or for people alone. */
const DESCRIPTIVE = [/ status\./, /^AccessGrant spec\.reason$/];

const allow = (more: object, targets?: object[]): object => ({
  action: "Allow",
  ...(targets === undefined ? {} : { targets }),
  rules: [{ name: "r", from: [{ any: true }], operations: [{ any: true }], ...more }],
});
const granted = (approval: object): object => ({
  subject: { workload: "lab/a" },
  operations: [{ any: true }],
  duration: "1h",
  reason: "x",
  approval,
});

/** An object with the field, by the leaf that is refused. */
const UNSUPPORTED: Readonly<Record<string, readonly [path: string, spec: object]>> = {
  "Policy spec.rules[].when.cel": [
    "spec.rules[0].when.cel",
    allow({ when: { cel: "caller.labels.a == 'b'" } }),
  ],
  "MeshRole spec.rules[].targets[].external": [
    "spec.rules[0].targets[0].external",
    { rules: [{ operations: [{ any: true }], targets: [{ external: "x" }] }] },
  ],
  "AccessGrant spec.targets[].external": [
    "spec.targets[0].external",
    { ...granted({}), targets: [{ external: "x" }] },
  ],
  "AccessGrant spec.approval.required": ["spec.approval.required", granted({ required: 2 })],
  "AccessGrant spec.approval.fromRoles": ["spec.approval.fromRoles", granted({ fromRoles: ["r"] })],
  "AccessGrant spec.approval.selfApproval": ["spec.approval.selfApproval", granted({ selfApproval: true })],
  "ExternalService spec.credential": [
    "spec.credential",
    {
      hosts: ["a.example"],
      credential: {
        type: "tokenFederation",
        tokenURL: "https://a.example/t",
        servicePrincipal: "p",
        scope: "sql",
      },
    },
  ],
  "MeshConfig spec.mtls": ["spec.mtls", { mtls: "Permissive" }],
  "MeshConfig spec.namespaces[].mtls": [
    "spec.namespaces[0].mtls",
    { namespaces: [{ names: ["a"], mtls: "Permissive" }] },
  ],
  "MeshConfig spec.outbound": ["spec.outbound", { outbound: "Allow" }],
  "MeshConfig spec.trustedSpawners": ["spec.trustedSpawners", { trustedSpawners: ["a/b"] }],
  "MeshConfig spec.protectedLabels": ["spec.protectedLabels", { protectedLabels: ["a"] }],
  "MeshConfig spec.gateways": ["spec.gateways", { gateways: ["a/b"] }],
};

const isRefused = (leaf: string): boolean =>
  Object.keys(UNSUPPORTED).some((known) =>
    leaf.replace(/^(Cluster)?AccessPolicy /, "Policy ").startsWith(known),
  );
const enforcedIn = (leaf: string): (typeof ENFORCED)[number] | undefined =>
  ENFORCED.find(([pattern]) => pattern.test(leaf));

describe("fields", () => {
  test("are all enforced, refused or descriptive", () => {
    const unknown = leaves().filter(
      (leaf) =>
        !isRefused(leaf) && enforcedIn(leaf) === undefined && !DESCRIPTIVE.some((one) => one.test(leaf)),
    );
    expect(unknown).toEqual([]);
    expect(leaves().length).toBeGreaterThan(200);
  });

  test.each(ENFORCED)("%s are enforced in %s", (pattern, file, word) => {
    expect(leaves().some((leaf) => pattern.test(leaf))).toBe(true);
    const url = new URL(file, repository);
    const files = file.endsWith("/") ? readdirSync(url).map((name) => new URL(name, url)) : [url];
    expect(files.some((one) => readFileSync(one, "utf8").includes(word))).toBe(true);
  });

  const schemas = loadSchemas();
  const parse = createObjectParser();
  const admission = createAdmitter(loadBuiltInPacks()).against([]);
  const inCluster = createAdmitter(loadBuiltInPacks(), { mode: "kubernetes" }).against([]);
  const cases = Object.entries(UNSUPPORTED).flatMap(([leaf, [path, spec]]) => {
    const kind = leaf.split(" ")[0] ?? "";
    return (kind === "Policy" ? POLICIES : [kind]).map((one) => ({ leaf, kind: one, path, spec }));
  });

  test.each(cases)("$kind: $leaf is refused as unsupported", ({ leaf, kind, path, spec }) => {
    expect(leaves().some((one) => one.replace(/^(Cluster)?AccessPolicy /, "Policy ").startsWith(leaf))).toBe(
      true,
    );
    const namespaced = ["AccessPolicy", "AccessGrant", "Workload", "ExternalService"].includes(kind);
    const checked = schemas.validate({
      apiVersion: "countersign.dev/v1alpha1",
      kind,
      metadata: {
        name: kind === "MeshConfig" ? "default" : "x",
        ...(namespaced ? { namespace: "lab" } : {}),
      },
      spec,
    });
    if (!checked.ok) {
      // The schema itself has no such value there: refused even earlier.
      expect(checked.error.map((problem) => problem.path)).toContain(path);
      return;
    }
    const typed = parse(checked.value, 0);
    if (!typed.ok) throw new Error(JSON.stringify(typed.error));
    const refused = (by: typeof admission): string[] =>
      by(typed.value, checked.value).map((problem) => `${problem.reason} ${problem.path}`);
    expect(refused(admission)).toContain(`Unsupported ${path}`);
    const onlyHere = ENFORCED_IN_CLUSTER.some(([one]) => one === leaf);
    expect(refused(inCluster).includes(`Unsupported ${path}`)).toBe(!onlyHere);
  });

  test.each(ENFORCED_IN_CLUSTER)("%s takes effect in a cluster, in %s", (leaf, file, word) => {
    expect(Object.keys(UNSUPPORTED)).toContain(leaf);
    expect(readFileSync(new URL(file, repository), "utf8")).toContain(word);
  });
});
