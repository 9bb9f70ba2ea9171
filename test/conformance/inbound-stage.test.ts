// The decision vectors through the sidecar's inbound stage: each call comes as a head with identity, proof and transaction
// tokens of the product's own making, signed at the time of the row, and goes as far as the application. Roles come from
// bindings, by what the identity provider says of people; what cannot arise on one wire (a login of nine hours ago, a person
// in somebody else's notebook) differs in what the token service is told, not in who signs.
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { parse, parseAllDocuments } from "yaml";
import { issueIdentity } from "../../control-plane/ca/issue.ts";
import { type AccessPolicy, parseAccessPolicy } from "../../control-plane/policy/access-policy.ts";
import { loadBuiltInPacks } from "../../control-plane/policy/packs.ts";
import { createRoleFinder } from "../../control-plane/policy/role-subjects.ts";
import { VECTOR_TRUST_DOMAIN } from "../../control-plane/policy/vector-world.ts";
import { createBench, parseVectors, type Vector } from "../../control-plane/policy/vectors.ts";
import { loadSchemas } from "../../control-plane/sources/schema.ts";
import { mintTxn } from "../../control-plane/tokens/mint.ts";
import { createCertificateRequest, createKeys } from "../../sidecar/certs/key-and-csr.ts";
import { ProofSigner } from "../../sidecar/core/identity/proofs.ts";
import { Revocations } from "../../sidecar/core/identity/revocations.ts";
import { parseSpiffeId } from "../../sidecar/core/identity/spiffe-id.ts";
import { tokenHash } from "../../sidecar/core/identity/token.ts";
import type { TrustBundle } from "../../sidecar/core/identity/trust-bundle.ts";
import { TXN_SCOPE_ALL } from "../../sidecar/core/identity/txn.ts";
import {
  createWorkloadIdentity,
  type WorkloadIdentity,
} from "../../sidecar/core/identity/workload-identity.ts";
import type { SidecarTable } from "../../sidecar/discovery/table.ts";
import { proofOperation } from "../../sidecar/inbound/authorize.ts";
import { createField, type Field } from "../../sidecar/wire/field.ts";
import { createTestAuthority, must, type TestAuthority } from "../fakes/authority.ts";
import { InboundStage } from "../fakes/inbound-stage.ts";
import { stateOfYaml } from "../fakes/yaml-state.ts";

const IDP = "okta-main";
const PARTNER = "partner.example";
/** Rows on destinations outside are decided on at the caller: outbound-stage.test.ts. */
const OUTSIDE = ["T37", "T38", "T39", "T40", "T41"];
/** Rows on callers of another trust domain, which is not federated yet: whatever they want, they are refused. */
const FOREIGN = ["T27", "T28", "T29", "T44"];

/** What the provider says of people, and what it comes to. */
const GROUPS: Readonly<Record<string, readonly string[]>> = {
  alice: ["fraud-data-scientists"],
  bob: ["fraud-data-scientists", "externals"],
  carol: ["fraud-data-scientists", "on-call"],
  dave: ["claims-desk"],
};
const book = stateOfYaml(`
{kind: IdentityProvider, metadata: {name: ${IDP}}, spec: {type: oidc, issuer: "https://acme.okta.com", clientID: c, clientSecretRef: {name: s}}}
---
{kind: MeshRoleBinding, metadata: {name: scientists}, spec: {roles: [fraud-ds], subjects: [{idp: ${IDP}, group: fraud-data-scientists}]}}
---
{kind: MeshRoleBinding, metadata: {name: contractors}, spec: {roles: [contractor], subjects: [{idp: ${IDP}, group: externals}]}}
---
{kind: MeshRoleBinding, metadata: {name: on-call}, spec: {roles: [ml-oncall], subjects: [{idp: ${IDP}, group: on-call}]}}
---
{kind: MeshRoleBinding, metadata: {name: claims-desk}, spec: {roles: [claims-handler], subjects: [{idp: ${IDP}, group: claims-desk}]}}
---
{kind: MeshRoleBinding, metadata: {name: release}, spec: {roles: [release-bot], subjects: [{servicePrincipal: ci}]}}
`);
const finder = createRoleFinder();
const rolesOf = (user: string, type: "person" | "servicePrincipal"): readonly string[] =>
  finder.rolesOf({ idp: IDP, userId: `${IDP}|${user}`, type, groups: GROUPS[user] ?? [], claims: {} }, book)
    .roles;

interface Document {
  readonly world: {
    readonly workloads: Record<string, { owner?: string }>;
    readonly grants: { user?: string }[];
  };
  readonly vectors: readonly Vector[];
}
/** People have the ids that tokens give them. */
function readTable(): Document {
  const document = parse(readFileSync(new URL("vectors.yaml", import.meta.url), "utf8")) as Document;
  for (const workload of Object.values(document.world.workloads))
    if (workload.owner !== undefined) workload.owner = `${IDP}|${workload.owner}`;
  for (const grant of document.world.grants)
    if (grant.user !== undefined) grant.user = `${IDP}|${grant.user}`;
  return document;
}

function policies(): AccessPolicy[] {
  const schemas = loadSchemas();
  return parseAllDocuments(readFileSync(new URL("policies.yaml", import.meta.url), "utf8")).map((document) =>
    must(parseAccessPolicy(must(schemas.validate(document.toJS())))),
  );
}

const table = must(parseVectors(readTable()));
const packs = loadBuiltInPacks();
const bench = createBench(table.world, { policies: policies(), packs });
let authority: TestAuthority;
let bundle: TrustBundle;

beforeAll(async () => {
  authority = await createTestAuthority(Date.parse("2026-09-01T00:00:00Z"), VECTOR_TRUST_DOMAIN);
  bundle = authority.bundle;
});
afterAll(() => authority.close());

/** What a row comes to. */
interface Outcome {
  readonly verdict: "Allow" | "Deny";
  readonly reason: string;
  readonly by: string | undefined;
  readonly would: string | undefined;
}

class Stage {
  readonly #vector: Vector;
  readonly #nowMs: number;
  readonly #stage: InboundStage;
  readonly #identity: WorkloadIdentity;

  /** @param issuer of the caller's identity. */
  constructor(vector: Vector, issuer = authority) {
    this.#vector = vector;
    this.#nowMs = table.world.timeOf(vector.at);
    this.#identity = this.#identityOf(vector.from, issuer);
    this.#stage = new InboundStage({
      ...{ table: this.#table(), bundle, caller: this.#identity, nowMs: this.#nowMs },
    });
  }

  #table(): SidecarTable {
    const program = bench.compiled.programs.get(table.world.targetOf(this.#vector));
    if (program === undefined) throw new Error(`no program for \`${this.#vector.id}\``);
    return {
      ...{ revision: 1, digest: "00", program, trustBundle: bundle.json, revocations: Revocations.none },
      ...{ servicesByHost: new Map(), services: new Map(), endpoints: new Map(), routes: new Map() },
      packs: new Map([...packs].map(([name, text]) => [name, { name, text }])),
      settings: {
        ...{ trustDomain: VECTOR_TRUST_DOMAIN, outbound: "Deny", proofs: "Required", mtls: "Strict" },
        ...{ maxHops: 5, explainDenials: false, cluster: "test", propagation: ["trace"] },
      },
    };
  }

  #identityOf(key: string, issuer: TestAuthority): WorkloadIdentity {
    const { spiffeId, kind, name, owner } = table.world.callerOf(key);
    const keys = createKeys();
    const nowMs = this.#nowMs;
    const issued = must(
      issueIdentity(issuer.ca, {
        ...createCertificateRequest(keys),
        spiffeId: must(parseSpiffeId(spiffeId)),
        workloadFacts: { kind, name, owner },
        ttlMs: 3_600_000,
        nowMs,
      }),
    );
    return must(
      createWorkloadIdentity({
        ...keys,
        ...issued,
        bundle: issuer === authority ? bundle : issuer.bundle,
        nowMs,
      }),
    );
  }

  #token(): string | undefined {
    const { user, authAge, via = [], from, scope } = this.#vector;
    if (user === undefined) return undefined;
    const { type, amr, acr, authTimeMs } = table.world.userOf(user, this.#nowMs, authAge);
    const authTime = authTimeMs === undefined ? undefined : Math.floor(authTimeMs / 1_000);
    const groups = GROUPS[user] ?? [];
    return mintTxn({
      ...{ trustDomain: VECTOR_TRUST_DOMAIN, signer: authority.ca.txn, nowMs: this.#nowMs, ttlSeconds: 300 },
      caller: must(parseSpiffeId(table.world.callerOf(via[0] ?? from).spiffeId)),
      person: { idp: IDP, id: user, type, groups, claims: {}, amr, acr, authTime },
      roles: rolesOf(user, type),
      scope: scope === undefined ? TXN_SCOPE_ALL : typeof scope === "string" ? scope : scope.join(" "),
      request: { reqIp: "10.1.2.3" },
      until: this.#nowMs / 1_000 + 43_200,
    }).token;
  }

  /** Method, target, fields and body of the row's request. */
  #request(): { method: string; target: string; fields: [string, string][]; body: string | undefined } {
    const { req, body, bodyName } = this.#vector;
    const [verb = "", target = "", name] = req.split(" ");
    const json: [string, string] = ["content-type", "application/json"];
    if (verb !== "MCP") {
      const text = body === undefined ? undefined : JSON.stringify(body);
      return { method: verb, target, fields: text === undefined ? [] : [json], body: text };
    }
    const fields: [string, string][] = [json, ["mcp-protocol-version", "2026-07-28"], ["mcp-method", target]];
    if (name !== undefined) fields.push(["mcp-name", name]);
    const inBody = bodyName ?? name;
    const params = inBody === undefined ? {} : { name: inBody };
    const text = JSON.stringify({ jsonrpc: "2.0", id: 1, method: target, params });
    return { method: "POST", target: "/mcp", fields, body: text };
  }

  #fields(): { readonly fields: readonly Field[]; readonly body: string | undefined } {
    const { method, target, fields, body } = this.#request();
    const token = this.#token();
    const named = new Map(fields);
    const port = this.#stage.enforcement.onlyPort;
    const classified = port?.classifier.classify({
      ...{ method, target, websocket: false, contentType: named.get("content-type"), corsMethod: undefined },
      ...{ hasBody: body !== undefined, header: (name: string) => named.get(name) },
    });
    const signer = new ProofSigner({
      identity: () => this.#identity,
      nowMs: () => this.#nowMs,
      randomId: () => "jti",
    });
    const { wit, wpt } = signer.proof({
      audience: this.#stage.enforcement.table.program.spiffeId,
      operation: classified?.ok === true ? proofOperation(classified.value) : "unknown",
      packsDigest: port?.packsDigest ?? "",
      via: (this.#vector.via ?? []).map((key) => ({
        s: must(parseSpiffeId(table.world.callerOf(key).spiffeId)),
        o: "x.y",
      })),
      tth: token === undefined ? undefined : tokenHash(token),
    });
    const pairs: [string, string][] = [
      ...([
        [":method", method],
        [":scheme", "http"],
        [":path", target],
      ] as [string, string][]),
      ...([[":authority", "target:8080"], ...fields] as [string, string][]),
      ...([
        ["workload-identity-token", wit],
        ["workload-proof-token", wpt],
      ] as [string, string][]),
    ];
    if (token !== undefined) pairs.push(["txn-token", token]);
    return { fields: pairs.map(([name, value]) => createField(name, value)), body };
  }

  #call(): Outcome {
    const { fields, body } = this.#fields();
    const before = this.#stage.forwarded;
    this.#stage.call(fields, body);
    const { data } = JSON.parse(this.#stage.lastLine) as {
      data: {
        decision: {
          effect: "Allow" | "Deny";
          reason: string;
          policy: string | null;
          rule: string | null;
          would: { effect: string } | null;
        };
        userIdentity: { id: string } | null;
      };
    };
    const { effect, reason, policy, rule, would } = data.decision;
    // What was decided is what happened.
    expect(this.#stage.forwarded - before).toBe(effect === "Allow" ? 1 : 0);
    const { user } = this.#vector;
    if (user !== undefined && reason !== "CHAIN_TOO_DEEP")
      expect(data.userIdentity?.id).toBe(`${IDP}|${user}`);
    const name = policy?.slice(policy.lastIndexOf("/") + 1);
    return {
      verdict: effect,
      reason,
      by: name === undefined ? undefined : rule === null || reason === "GRANTED" ? name : `${name}/${rule}`,
      would: would?.effect,
    };
  }

  run(): Outcome {
    for (let used = 0; used < (this.#vector.used ?? 0); used++) expect(this.#call().verdict).toBe("Allow");
    return this.#call();
  }
}

const elsewhere = new Set([...OUTSIDE, ...FOREIGN]);
const rows = table.vectors.filter(({ id }) => !elsewhere.has(id));
const foreign = table.vectors.filter(({ id }) => FOREIGN.includes(id));

describe("decision vectors at the inbound stage", () => {
  test("all but those on destinations outside", () => {
    expect(rows.length + foreign.length).toBe(47 - OUTSIDE.length);
    for (const { from } of foreign) expect(table.world.callerOf(from).trustDomain).toBe(PARTNER);
  });

  test.each(["alice", "bob", "carol", "dave", "ci"])("bindings give %s the roles of the table", (name) => {
    const { type, roles } = table.world.userOf(name, 0, undefined);
    expect(rolesOf(name, type)).toEqual([...roles].sort());
  });

  test.each(rows.map((vector) => [vector.id, vector] as const))("%s", (_id, vector) => {
    const got = new Stage(vector).run();
    expect(got).toMatchObject({
      verdict: vector.want,
      ...(vector.reason === undefined ? {} : { reason: vector.reason }),
      ...(vector.by === undefined ? {} : { by: vector.by }),
    });
    expect(got.would).toBe(vector.would);
  });

  test.each(foreign.map((vector) => [vector.id, vector.want, vector] as const))(
    `%s (%s with federation) is REFUSED: ${PARTNER} is not federated in this build`,
    async (_id, _want, vector) => {
      const partner = await createTestAuthority(table.world.timeOf(vector.at) - 60_000, PARTNER);
      // Its certificate leads to none of our roots: in a handshake it would not get this far.
      const got = new Stage(vector, partner).run();
      await partner.close();
      expect(got).toMatchObject({ verdict: "Deny", reason: "AUTHN_MTLS_REQUIRED" });
    },
  );
});
