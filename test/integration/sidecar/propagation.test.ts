// On whose behalf a call goes on: a gateway calls an agent for people, and the agent's application calls a model. What it
// copies (the trace, the token, nothing) decides whom the model's sidecar sees.
import { randomBytes } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { NO_MATCH } from "../../../control-plane/policy/route-policy.ts";
import type { ViaHop } from "../../../sidecar/core/identity/claims.ts";
import type { HeldTxn } from "../../../sidecar/core/identity/held-txn.ts";
import { ProofSigner } from "../../../sidecar/core/identity/proofs.ts";
import type { TxnClaims } from "../../../sidecar/core/identity/txn.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import type { SidecarTable } from "../../../sidecar/discovery/table.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";
import { HostilePeer, request } from "../attacks/peer.ts";
import { type Answer, type App, idOf, type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const GATEWAY: ServiceSpec = { namespace: "mesh", kind: "gateway", name: "people", ports: [8443] };
const AGENT: ServiceSpec = { namespace: "agents", kind: "agent", name: "helper", ports: [8080] };
const OTHER: ServiceSpec = { namespace: "agents", kind: "agent", name: "other", ports: [8080] };
const MODEL: ServiceSpec = { namespace: "ml", kind: "serving", name: "model", ports: [8080] };
const idOfSpec = ({ namespace, kind, name }: ServiceSpec) => idOf(namespace, kind, name);

const ALLOW_ALL: ProgramPolicy = {
  id: "ml/all",
  name: "all",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [{ name: "all", from: [{ any: true }], operations: [{ any: true }] }],
};

type Modes = SidecarTable["settings"]["propagation"];

let world: World;
let service: TestTokenService;
let bundle: string;
let gateway: WorkloadIdentity;
let agent: Sidecar;
let model: Sidecar;
let modelApp: App;
let peer: HostilePeer;
let offsetMs = 0;
const meshNowMs = () => Date.now() + offsetMs;
/** What the agent's application copies from the request it serves; by path. */
let copies: (head: string) => readonly string[] = () => [];
/** Comes between the request and the call it causes. */
let pause: () => Promise<void> = () => Promise.resolve();

const lineOf = (head: string, name: string): string[] =>
  head.split("\r\n").filter((line) => line.toLowerCase().startsWith(`${name}:`));
const copyTrace = (head: string) => lineOf(head, "traceparent");
const copyToken = (head: string) => lineOf(head, "txn-token");

/** `/things/x` makes the agent call `/things/x` of the model; it answers with what it got. */
const relay: Answer = (head, socket) => {
  const target = / (\S+) HTTP/.exec(head)?.[1] ?? "";
  const method = head.slice(0, head.indexOf(" "));
  const lines = copies(head).map((line) => `${line}\r\n`);
  const body = method === "POST" ? "content-length: 0\r\n" : "";
  void pause()
    .then(() =>
      send(
        agent.proxyPort,
        `${method} http://model.ml:8080${target} HTTP/1.1\r\nhost: model.ml:8080\r\n${body}${lines.join("")}\r\n`,
      ),
    )
    .then((answer) => {
      const reason = answer.status === 200 ? "" : String(JSON.parse(answer.body).reason);
      const text = `${answer.status} ${reason}`;
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
    });
};

function enforce(modes: Modes): void {
  const settings = { propagation: modes };
  const services = [{ service: MODEL, meshPort: model.meshPort }];
  const policies = [ALLOW_ALL];
  for (const result of [
    agent.plane.setTable(table({ self: AGENT, policies, services, bundle, settings })),
    model.plane.setTable(table({ self: MODEL, policies, bundle })),
  ])
    expect(result.ok).toBe(true);
}

beforeEach(async () => {
  offsetMs = 0;
  pause = () => Promise.resolve();
  world = await World.create();
  service = new TestTokenService();
  bundle = service.bundleJson(world.authority.bundle.json);
  modelApp = await world.app((_head, socket) =>
    socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
  );
  model = await world.sidecar(MODEL, { app: modelApp, meshNowMs });
  agent = await world.sidecar(AGENT, { app: await world.app(relay), meshNowMs });
  gateway = world.identity(GATEWAY);
  peer = await HostilePeer.connect(agent.meshPort, gateway, idOfSpec(AGENT));
});
afterEach(async () => {
  peer.close();
  await world.close();
});

const tokenOf = (user: string, over: Partial<TxnClaims> = {}): HeldTxn =>
  service.held(txnClaims(user, Date.now(), { reqWl: idOfSpec(GATEWAY), ...over }));
let count = 0;

interface Ask {
  readonly txn?: HeldTxn | undefined;
  readonly traceId?: string;
  readonly scope?: string;
  readonly path?: string;
  readonly method?: "GET" | "POST";
  readonly via?: readonly ViaHop[];
}

/** A call of the gateway to the agent. @returns what the agent's application got from the model. */
async function ask({
  txn,
  traceId,
  scope,
  path = "/things/a",
  method = "GET",
  via = [],
}: Ask): Promise<string> {
  const signer = new ProofSigner({
    identity: () => gateway,
    nowMs: () => Date.now(),
    randomId: () => `j-${count++}`,
  });
  const { wit, wpt } = signer.proof({
    audience: idOfSpec(AGENT),
    operation: method === "GET" ? "thing.read" : "thing.write",
    packsDigest: agent.plane.enforcement?.ports.get(8080)?.packsDigest ?? "",
    via,
    caveat: scope === undefined ? undefined : { scope },
    tth: txn?.tth,
  });
  const trace = `00-${traceId ?? randomBytes(16).toString("hex")}-00f067aa0ba902b7-01`;
  const answer = await peer.ask(
    request(
      method,
      path,
      ["workload-identity-token", wit],
      ["workload-proof-token", wpt],
      ["traceparent", trace],
      ...(txn === undefined ? [] : [["txn-token", txn.token] as [string, string]]),
    ),
    method === "POST" ? "" : undefined,
  );
  expect(answer.status).toBe(200);
  return answer.body;
}

interface Seen {
  readonly user: string | undefined;
  readonly chain: readonly string[];
  readonly path: string;
  readonly txn: string | null;
  readonly reason: string;
}

/** What a sidecar wrote down, oldest first. */
async function seenBy(sidecar: Sidecar): Promise<readonly Seen[]> {
  return (await sidecar.audit()).map((event) => {
    // The shape of an event is what record.test.ts holds.
    const data = event["data"] as {
      userIdentity: { id: string } | null;
      identityMetadata: { chain: { s: string }[] };
      resource: { name: string };
      decision: { reason: string };
      txn: string | null;
    };
    return {
      user: data.userIdentity?.id,
      chain: data.identityMetadata.chain.map(({ s }) => s),
      path: data.resource?.name,
      txn: data.txn,
      reason: data.decision.reason,
    };
  });
}
const fallbacks = (): string => {
  const text = exposition(agent.plane.metrics).body;
  return /countersign_propagation_fallbacks_total\{reason="ambiguous"\} (\d+)/.exec(text)?.[1] ?? "0";
};

describe("trace", () => {
  beforeEach(() => {
    enforce(["trace"]);
    copies = copyTrace;
  });

  test("carries each person to the model, many at once", async () => {
    const people = ["alice", "bob", "carol"].map((user) => tokenOf(user));
    const many = Array.from({ length: 90 }, (_, i) => {
      const txn = people[i % 3];
      return ask({ txn, path: `/things/${txn?.claims.tctx.username}` });
    });
    expect(new Set(await Promise.all(many))).toEqual(new Set(["200 "]));
    const seen = await seenBy(model);
    expect(seen).toHaveLength(90);
    for (const { user, path, chain, txn } of seen) {
      expect(user).toBe(`okta-main|${path}`);
      expect(txn).toBe(`txn-${path}`);
      expect(chain).toEqual(["gateway/people", "agent/helper"]);
    }
    // No token ever enters an application.
    expect(modelApp.heads.join("")).not.toContain("txn-token");
  });

  test("lets routes choose by the roles of the person", async () => {
    const services = [{ service: MODEL, meshPort: model.meshPort }];
    // For contractors the service is one that does not exist.
    const routes = [
      {
        service: "ml/model",
        rules: [
          {
            ...{ name: "r", ports: undefined, mirrors: [], stickyBy: { by: "user" as const } },
            ...{ requestTimeoutMs: undefined, tryTimeoutMs: undefined },
            ...{ requestHeaders: [], responseHeaders: [] },
            matches: [{ ...NO_MATCH, roles: ["contractor"] }],
            backends: [{ service: undefined, port: undefined, weight: 1 }],
          },
        ],
        traffic: undefined,
      },
    ];
    const settings = { propagation: ["trace"] as const };
    const result = agent.plane.setTable(
      table({ self: AGENT, policies: [ALLOW_ALL], services, bundle, settings, routes }),
    );
    expect(result.ok).toBe(true);
    const contractor = tokenOf("bob", {
      tctx: { ...tokenOf("bob").claims.tctx, roles: ["ds", "contractor"] },
    });
    expect(await ask({ txn: contractor })).toBe("503 NO_ENDPOINTS");
    expect(await ask({ txn: tokenOf("alice") })).toBe("200 ");
    expect(await ask({})).toBe("200 ");
  });

  test("is nobody's where one trace id stands for two people, and says so", async () => {
    const traceId = randomBytes(16).toString("hex");
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    let waiting = 0;
    pause = () => {
      if (++waiting === 2) release();
      return held;
    };
    const both = await Promise.all(["alice", "bob"].map((user) => ask({ txn: tokenOf(user), traceId })));
    expect(both).toEqual(["200 ", "200 "]);
    for (const { user, chain } of await seenBy(model)) {
      expect(user).toBeUndefined();
      expect(chain).toEqual(["agent/helper"]);
    }
    expect(fallbacks()).toBe("2");
  });

  test("a trace id that this workload does not serve selects nobody", async () => {
    copies = () => [`traceparent: 00-${randomBytes(16).toString("hex")}-00f067aa0ba902b7-01`];
    expect(await ask({ txn: tokenOf("alice") })).toBe("200 ");
    expect((await seenBy(model))[0]).toMatchObject({ user: undefined, chain: ["agent/helper"] });
  });

  test("ignores a token that the application found somewhere", async () => {
    const stolen = tokenOf("bob");
    copies = () => [`txn-token: ${stolen.token}`];
    expect(await ask({ txn: tokenOf("alice") })).toBe("200 ");
    expect((await seenBy(model))[0]?.user).toBeUndefined();
  });

  test("goes on with what hops have restricted, and no further than the token lives", async () => {
    const txn = tokenOf("alice");
    expect(await ask({ txn, scope: "thing.read" })).toBe("200 ");
    const narrow = {
      txn: tokenOf("alice", { scope: "thing" }),
      scope: "thing.write",
      method: "POST",
    } as const;
    expect(await ask(narrow)).toBe("200 ");
    expect((await seenBy(model)).map(({ reason }) => reason)).toEqual(["ALLOWED", "ALLOWED"]);
    // It ends while the agent thinks.
    const iat = Math.floor(Date.now() / 1000);
    const short = tokenOf("alice", { iat: iat - 200, exp: iat + 50 });
    pause = () => {
      offsetMs = 55_000;
      return Promise.resolve();
    };
    expect(await ask({ txn: short })).toBe("400 AUTHN_TXN_EXPIRED");
    expect((await seenBy(agent)).find(({ reason }) => reason === "AUTHN_TXN_EXPIRED")).toMatchObject({
      user: "okta-main|alice",
    });
  });
});

describe("forward", () => {
  beforeEach(() => {
    enforce(["forward", "trace"]);
    copies = copyToken;
  });

  test("the application copies the token, and nothing else", async () => {
    for (const user of ["alice", "bob"]) expect(await ask({ txn: tokenOf(user) })).toBe("200 ");
    expect((await seenBy(model)).map(({ user }) => user)).toEqual(["okta-main|alice", "okta-main|bob"]);
    expect((await seenBy(model))[0]?.chain).toEqual(["gateway/people", "agent/helper"]);
  });

  test("beats the trace", async () => {
    const alice = tokenOf("alice");
    copies = copyToken;
    expect(await ask({ txn: alice })).toBe("200 ");
    copies = (head) => [...copyTrace(head), `txn-token: ${alice.token}`];
    expect(await ask({ txn: tokenOf("bob") })).toBe("200 ");
    expect((await seenBy(model)).map(({ user }) => user)).toEqual(["okta-main|alice", "okta-main|alice"]);
  });

  test("a token that was never delivered here is refused, and recorded", async () => {
    const stolen = tokenOf("bob");
    copies = () => [`txn-token: ${stolen.token}`];
    expect(await ask({ txn: tokenOf("alice") })).toBe("403 TXN_NOT_HELD");
    expect(await seenBy(model)).toEqual([]);
    expect((await seenBy(agent)).map(({ reason }) => reason)).toContain("TXN_NOT_HELD");
  });

  test("two of them are refused", async () => {
    copies = (head) => [...copyToken(head), ...copyToken(head)];
    expect(await ask({ txn: tokenOf("alice") })).toBe("400 AUTHN_TXN_INVALID");
    expect(await seenBy(model)).toEqual([]);
  });

  test("a token that came to one pod is of no use in another", async () => {
    expect(await ask({ txn: tokenOf("alice") })).toBe("200 ");
    const other = await world.sidecar(OTHER, { meshNowMs });
    const services = [{ service: MODEL, meshPort: model.meshPort }];
    const settings = { propagation: ["forward", "trace"] as const };
    expect(other.plane.setTable(table({ self: OTHER, services, bundle, settings })).ok).toBe(true);
    const alice = tokenOf("alice");
    expect(await ask({ txn: alice })).toBe("200 ");
    const answer = await send(
      other.proxyPort,
      `GET http://model.ml:8080/things/a HTTP/1.1\r\nhost: model.ml:8080\r\ntxn-token: ${alice.token}\r\n\r\n`,
    );
    expect([answer.status, JSON.parse(answer.body).reason]).toEqual([403, "TXN_NOT_HELD"]);
  });
});

test("none carries nobody, whatever the application copies", async () => {
  enforce(["none"]);
  copies = (head) => [...copyTrace(head), ...copyToken(head)];
  expect(await ask({ txn: tokenOf("alice") })).toBe("200 ");
  expect((await seenBy(model))[0]).toMatchObject({ user: undefined, chain: ["agent/helper"] });
});
