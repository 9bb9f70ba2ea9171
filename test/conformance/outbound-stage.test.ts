// The decision vectors on hosts outside the mesh through a real sidecar's outbound stage, which decides on them: a real
// control plane compiles the policies, its token service signs for the notebook's owner, whose roles a binding gives.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { parse, parseAllDocuments } from "yaml";
import { parseVectors, type Vector } from "../../control-plane/policy/vectors.ts";
import { parseSidecarConfig } from "../../sidecar/config.ts";
import { systemClock } from "../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../sidecar/core/runtime/log.ts";
import { runSidecar, type SidecarHandle } from "../../sidecar/main.ts";
import { freePorts } from "../demo/process.ts";
import { must } from "../fakes/authority.ts";
import { edgeCertificate } from "../fakes/edge-certificate.ts";
import { eventually, TestMesh } from "../fakes/mesh.ts";
import { send } from "../integration/sidecar/world.ts";

const read = (name: string): string => readFileSync(new URL(name, import.meta.url), "utf8");
const vectors: readonly Vector[] = must(parseVectors(parse(read("vectors.yaml")))).vectors;
/** Those with a body first: the first call of all waits for the token of its user while its body comes. */
const rows = vectors
  .filter(({ external }) => external !== undefined)
  .sort((a, b) => Number(b.body !== undefined) - Number(a.body !== undefined));
/** As it stands in the fixture. */
const EGRESS = parseAllDocuments(read("policies.yaml"))
  .map((document) => document.toJS())
  .filter(({ metadata }) => metadata.name === "databricks-egress");

interface Event {
  readonly subject: string;
  readonly data: {
    readonly actionName: string;
    readonly userIdentity: { readonly id: string; readonly roles: readonly string[] } | null;
    readonly txn: string | null;
    readonly decision: {
      readonly effect: "Allow" | "Deny";
      readonly reason: string;
      readonly policy: string | null;
      readonly rule: string | null;
    };
  };
}

let mesh: TestMesh;
let dir: string;
let host: Server;
let port: number;
let arrived: { readonly line: string; readonly fields: readonly string[]; readonly body: string }[];
let sidecars: Map<string, SidecarHandle>;
const stop = new AbortController();

const objects = (ports: readonly number[]): readonly object[] => [
  { kind: "MeshConfig", metadata: { name: "default" }, spec: { trustDomain: "lake.acme.example" } },
  {
    kind: "IdentityProvider",
    metadata: { name: "okta-main" },
    spec: {
      ...{ type: "oidc", displayName: "Okta", issuer: "https://idp.example", clientID: "c" },
      clientSecretRef: { name: "s" },
    },
  },
  ...["nb-alice", "nb-shared"].map((name, i) => ({
    kind: "Workload",
    metadata: { name, namespace: "ml-dev" },
    spec: {
      ...{ kind: "notebook", serviceAccount: "notebook", addresses: ["127.0.0.1"], meshPort: ports[i] },
      ...(name === "nb-alice" ? { owner: "okta-main|alice" } : {}),
    },
  })),
  { kind: "MeshRole", metadata: { name: "fraud-ds" }, spec: {} },
  {
    kind: "MeshRoleBinding",
    metadata: { name: "scientists" },
    spec: { roles: ["fraud-ds"], subjects: [{ user: "okta-main|alice" }] },
  },
  {
    kind: "ExternalService",
    metadata: { name: "databricks-prod", namespace: "ml-dev" },
    spec: { hosts: ["localhost"], port, packs: ["databricks"] },
  },
  ...EGRESS,
];

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "countersign-outside-"));
  arrived = [];
  const { cert, key, ca } = await edgeCertificate(["localhost"], Date.now());
  writeFileSync(join(dir, "ca.pem"), ca);
  host = createServer({ cert, key }, (request, response) => {
    let body = "";
    request.setEncoding("utf8").on("data", (text: string) => {
      body += text;
    });
    request.on("end", () => {
      arrived.push({ line: `${request.method} ${request.url}`, fields: Object.keys(request.headers), body });
      response.end("{}");
    });
  });
  await new Promise<void>((resolve) => host.listen(0, "127.0.0.1", resolve));
  port = (host.address() as AddressInfo).port;
  mesh = new TestMesh();
  const documents = objects(await freePorts(2));
  mesh.write(
    "mesh.yaml",
    documents
      .map((one) => JSON.stringify({ apiVersion: "countersign.dev/v1alpha1", ...one }))
      .join("\n---\n"),
  );
  await mesh.start();
  sidecars = new Map(
    await Promise.all(
      ["nb-alice", "nb-shared"].map(async (name) => [name, await start(`ml-dev/${name}`)] as const),
    ),
  );
});
afterAll(async () => {
  stop.abort();
  await Promise.all(Array.from(sidecars?.values() ?? [], ({ done }) => done));
  host?.closeAllConnections();
  host?.close();
  await mesh?.close();
  if (dir !== undefined) rmSync(dir, { recursive: true, force: true });
});

const auditOf = (name: string): string => join(dir, `${name}.jsonl`);

async function start(workload: string): Promise<SidecarHandle> {
  const name = workload.slice(workload.indexOf("/") + 1);
  const tokenFile = join(dir, `${name}.token`);
  const created = await mesh.api("POST", "/v1/join-tokens", { workload, ttlSeconds: 600 });
  writeFileSync(tokenFile, String(created.body["token"]), { mode: 0o600 });
  const { bootstrap, discovery, tokens } = mesh.handle.ports;
  const handle = await runSidecar(
    parseSidecarConfig([
      ...["--workload", workload, "--state-dir", join(dir, name), "--join-token-file", tokenFile],
      ...["--control-plane", `127.0.0.1:${discovery}`, "--bootstrap", `127.0.0.1:${bootstrap}`],
      ...["--token-service", `127.0.0.1:${tokens}`, "--audit-file", auditOf(name)],
      ...["--mesh-listen", "127.0.0.1:0", "--outbound-proxy", "127.0.0.1:0", "--metrics-listen", "none"],
      ...["--drain-timeout", "0s", "--external-ca-file", join(dir, "ca.pem")],
    ]),
    { log: silentLogger, clock: systemClock },
    stop.signal,
  );
  await handle.ready;
  return handle;
}

/** The row's request, from a notebook's application, which knows neither tokens nor TLS. */
async function call(name: string, { req, body }: Vector): Promise<{ status: number; event: Event }> {
  const before = recorded(name).length;
  const [method = "", target = ""] = req.split(" ");
  const text = body === undefined ? "" : JSON.stringify(body);
  const lines = [
    `${method} http://localhost:${port}${target} HTTP/1.1`,
    `host: localhost:${port}`,
    ...(method === "GET" ? [] : ["content-type: application/json", `content-length: ${text.length}`]),
  ];
  const { status } = await send(
    sidecars.get(name)?.ports.outbound ?? 0,
    `${lines.join("\r\n")}\r\n\r\n${text}`,
  );
  const event = await eventually(
    () => recorded(name)[before],
    (found) => found !== undefined,
  );
  if (event === undefined) throw new Error("nothing was recorded");
  return { status, event };
}

function recorded(name: string): Event[] {
  let text = "";
  try {
    text = readFileSync(auditOf(name), "utf8");
  } catch {
    // nothing yet
  }
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Event);
}

describe("decision vectors on hosts outside the mesh", () => {
  test("all of them, under the policy of the fixture", () => {
    expect(rows.map(({ id }) => id)).toEqual(["T39", "T40", "T37", "T38", "T41"]);
    expect(EGRESS).toHaveLength(1);
  });

  test.each(rows.map((vector) => [vector.id, vector] as const))("%s", async (_id, vector) => {
    const before = arrived.length;
    const { status, event } = await call("nb-alice", vector);
    const { effect, reason, policy, rule } = event.data.decision;
    expect(event.subject).toBe("external/databricks-prod");
    expect([effect, reason]).toEqual([vector.want, vector.reason ?? "ALLOWED"]);
    if (vector.by !== undefined) expect(`${policy}/${rule}`).toBe(`ml-dev/${vector.by}`);
    // The token service said who it is, a binding what she may be.
    expect(event.data.userIdentity).toMatchObject({ id: "okta-main|alice", roles: ["fraud-ds"] });
    expect(event.data.txn).toEqual(expect.any(String));
    // What was decided is what happened, and nothing of the mesh went along.
    const there = arrived.slice(before);
    expect(status).toBe(vector.want === "Allow" ? 200 : 403);
    expect(there.map(({ line }) => line)).toEqual(vector.want === "Allow" ? [vector.req] : []);
    for (const { fields } of there)
      expect(fields.filter((name) => /token|mesh|forwarded/.test(name))).toEqual([]);
  });

  test.each(rows.filter(({ want }) => want === "Allow").map((vector) => [vector.id, vector] as const))(
    "%s from a notebook of nobody is refused: the rule wants a user",
    async (_id, vector) => {
      const before = arrived.length;
      const { status, event } = await call("nb-shared", vector);
      expect([status, event.data.decision.reason]).toEqual([403, "NO_MATCHING_ALLOW"]);
      expect(event.data.userIdentity).toBeNull();
      expect(arrived).toHaveLength(before);
    },
  );
});
