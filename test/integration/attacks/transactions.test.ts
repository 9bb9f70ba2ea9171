// Transaction tokens on a real mesh port: forged, borrowed, widened, worn out and revoked ones from a peer with a valid
// certificate and a valid proof (V5, V7, V8, V9 of the verification order), and what a good one does.
import type { KeyObject } from "node:crypto";
import { generateKeyPairSync } from "node:crypto";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { ProofSigner } from "../../../sidecar/core/identity/proofs.ts";
import { Revocations } from "../../../sidecar/core/identity/revocations.ts";
import { signToken, tokenHash } from "../../../sidecar/core/identity/token.ts";
import { encodeTxnClaims, type TxnClaims } from "../../../sidecar/core/identity/txn.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import type { PolicyRule, ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";
import { type App, idOf, type ServiceSpec, type Sidecar, table, World } from "../sidecar/world.ts";
import { type Answer, HostilePeer, request } from "./peer.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const VICTIM: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-2", ports: [8888] };
const GATEWAY: ServiceSpec = { namespace: "mesh", kind: "gateway", name: "people", ports: [8443] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const idOfSpec = ({ namespace, kind, name }: ServiceSpec) => idOf(namespace, kind, name);

type Pair = [string, string];

const allow = (rule: Partial<PolicyRule>): ProgramPolicy => ({
  id: "ml/people",
  name: "people",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [
    {
      name: "people",
      from: [{ user: { presence: "Required", roles: ["fraud-ds"] } }],
      operations: [{ op: "thing" }],
      ...rule,
    },
  ],
});

let world: World;
let app: App;
let callee: Sidecar;
let own: WorkloadIdentity;
let victim: WorkloadIdentity;
let peer: HostilePeer;
let offsetMs = 0;
const service = new TestTokenService();
let bundle: string;

const enforce = (more: Partial<Parameters<typeof table>[0]> = {}): void => {
  const policies = [allow({})];
  expect(callee.plane.setTable(table({ self: THINGS, policies, bundle, ...more }))).toEqual({
    ok: true,
    value: undefined,
  });
};

beforeAll(async () => {
  world = await World.create();
  bundle = service.bundleJson(world.authority.bundle.json);
  app = await world.app((head, socket) => {
    if (head.startsWith("GET /stream/"))
      socket.write(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\n:a\n\r\n",
      );
    else socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
  });
  callee = await world.sidecar(THINGS, { app, meshNowMs: () => Date.now() + offsetMs });
  own = world.identity(NOTEBOOK);
  victim = world.identity(VICTIM);
});
beforeEach(async () => {
  offsetMs = 0;
  enforce();
  peer = await HostilePeer.connect(callee.meshPort, own);
});
afterEach(() => peer.close());
afterAll(() => world.close());

const claims = (over: Partial<TxnClaims> = {}): TxnClaims =>
  txnClaims("alice", Date.now(), { reqWl: idOfSpec(NOTEBOOK), ...over });
const mint = (over: Partial<TxnClaims> = {}): string => service.mint(claims(over));

interface Shown {
  readonly identity?: WorkloadIdentity;
  readonly via?: readonly ServiceSpec[];
  readonly scope?: string;
  readonly tth?: string;
  readonly operation?: string;
}
let count = 0;
/** Fields of an honest caller's sidecar with this token. */
function shown(
  token: string | undefined,
  { identity = own, via = [], scope, tth, operation = "thing.read" }: Shown = {},
): Pair[] {
  const signer = new ProofSigner({
    identity: () => identity,
    nowMs: () => Date.now(),
    randomId: () => `j-${count++}`,
  });
  const hash = tth ?? (token === undefined ? undefined : tokenHash(token));
  const { wit, wpt } = signer.proof({
    audience: idOfSpec(THINGS),
    operation,
    packsDigest: callee.plane.enforcement?.ports.get(8080)?.packsDigest ?? "",
    via: via.map((hop) => ({ s: idOfSpec(hop), o: "notebook.kernel" })),
    caveat: scope === undefined ? undefined : { scope },
    tth: hash,
  });
  const pairs: Pair[] = [
    ["workload-identity-token", wit],
    ["workload-proof-token", wpt],
  ];
  if (token !== undefined) pairs.push(["txn-token", token]);
  return pairs;
}

const ask = (pairs: readonly Pair[], from = peer): Promise<Answer> =>
  from.ask(request("GET", "/things/a", ...pairs));
const outcome = (answer: Answer): [number, unknown] => [
  answer.status,
  answer.status === 200 ? undefined : JSON.parse(answer.body).reason,
];

/** Sends it, and looks that the application saw nothing and that the next honest request is served. */
async function refused(pairs: readonly Pair[], status: number, reason: string): Promise<void> {
  const seen = app.received.length;
  expect(outcome(await ask(pairs))).toEqual([status, reason]);
  expect(app.received).toHaveLength(seen);
  expect((await ask(shown(mint()))).status).toBe(200);
}

describe("a good token", () => {
  test("speaks for its user again and again, in policy, audit and problem documents", async () => {
    const token = mint();
    for (let round = 0; round < 3; round++) expect((await ask(shown(token))).status).toBe(200);
    // Nobody's call, by the same workload.
    expect(outcome(await ask(shown(undefined)))).toEqual([403, "NO_MATCHING_ALLOW"]);
    const denied = await peer.ask(request("GET", "/health", ...shown(token)));
    expect(JSON.parse(denied.body).txn).toBe("txn-alice");
    const [event] = (await callee.audit()).slice(-5);
    expect(event).toMatchObject({
      data: {
        userIdentity: {
          id: "okta-main|alice",
          type: "person",
          roles: ["fraud-ds"],
          email: "alice@acme.example",
        },
        txn: "txn-alice",
        txnTokenHash: `sha256:${tokenHash(token)}`,
        request: { sourceIp: "10.20.3.4" },
      },
    });
    const line = JSON.stringify(event);
    expect(line).not.toContain(token);
    expect(line).not.toContain(token.split(".")[2] ?? "?");
  });

  test("through other hops, where the first one asked for it", async () => {
    const token = mint({ reqWl: idOfSpec(GATEWAY) });
    expect((await ask(shown(token, { via: [GATEWAY] }))).status).toBe(200);
    const event = (await callee.audit()).at(-1) as { data: { identityMetadata: object } };
    expect(event.data.identityMetadata).toMatchObject({
      caller: "notebook/nb-1",
      origin: "gateway/people",
      hops: 2,
    });
  });

  test("is decided on by each user of one workload apart", async () => {
    const { tctx } = claims();
    const bob = mint({ sub: "okta-main|bob", txn: "txn-bob", tctx: { ...tctx, roles: ["other"] } });
    const alice = mint();
    for (let round = 0; round < 3; round++) {
      expect(outcome(await ask(shown(bob)))).toEqual([403, "NO_MATCHING_ALLOW"]);
      expect((await ask(shown(alice))).status).toBe(200);
    }
  });

  test("gives rules the age and means of the login, the person's address and the identity provider", async () => {
    const { tctx } = claims();
    const rule = (when: PolicyRule["when"]) => enforce({ policies: [allow({ when })] });
    rule({ authn: { maxAgeMs: 8 * 3_600_000, amr: ["mfa"] }, sourceCidrs: ["10.20.0.0/16"] });
    expect((await ask(shown(mint()))).status).toBe(200);
    const nineHours = { ...tctx, authTime: Math.floor(Date.now() / 1000) - 9 * 3_600 };
    for (const other of [nineHours, { ...tctx, amr: ["pwd"] }, { ...tctx, authTime: undefined, amr: [] }])
      expect(outcome(await ask(shown(mint({ tctx: other }))))).toEqual([403, "NO_MATCHING_ALLOW"]);
    const elsewhere = mint({ rctx: { reqIp: "192.0.2.1", sid: "s" } });
    expect(outcome(await ask(shown(elsewhere)))).toEqual([403, "NO_MATCHING_ALLOW"]);
    // Of a pod's own token the address is the pod's; behind other hops it is not known.
    rule({ sourceCidrs: ["127.0.0.0/8"] });
    const without = (reqWl: ServiceSpec) => mint({ rctx: {}, reqWl: idOfSpec(reqWl) });
    expect((await ask(shown(without(NOTEBOOK)))).status).toBe(200);
    expect(outcome(await ask(shown(without(GATEWAY), { via: [GATEWAY] })))).toEqual([
      403,
      "NO_MATCHING_ALLOW",
    ]);
  });
});

describe("what the application is told", () => {
  const head = async (token: string | undefined, forward = true): Promise<string> => {
    const from = [{ any: true as const }];
    const identity = { forward: ["caller", "user", "email", "username", "roles"] as const };
    enforce({ policies: [allow({ from, with: forward ? { identity } : {} })] });
    const forged: Pair[] = [
      ["x-forwarded-user", "root"],
      ["x_forwarded_email", "root@acme.example"],
      ["x-mesh-roles", "ml-admin"],
    ];
    expect((await ask([...shown(token), ...forged])).status).toBe(200);
    return app.heads.at(-1) ?? "";
  };

  test("the verified user, on request", async () => {
    const text = await head(mint());
    for (const line of [
      "x-mesh-caller: notebook/nb-1",
      "x-forwarded-user: okta-main|alice",
      "x-forwarded-email: alice@acme.example",
      "x-forwarded-preferred-username: alice",
      "x-mesh-roles: fraud-ds",
    ])
      expect(text).toContain(`\r\n${line}\r\n`);
    expect(text).not.toMatch(/root|ml-admin|txn-token|workload-/);
  });

  test("names beyond ASCII as their UTF-8", async () => {
    const { tctx } = claims();
    const text = await head(mint({ tctx: { ...tctx, username: "Zoë 李" } }));
    const name = /\r\nx-forwarded-preferred-username: (.*)\r\n/.exec(text)?.[1] ?? "";
    expect(Buffer.from(name, "latin1").toString("utf8")).toBe("Zoë 李");
  });

  test("nothing without a user, or where no rule says so", async () => {
    for (const text of [await head(undefined), await head(mint(), false)])
      expect(text).not.toMatch(/x-forwarded-(user|email|preferred)|x_forwarded|x-mesh-roles/);
  });

  test("the token itself only where the workload passes it on", async () => {
    const token = mint();
    const settings = { propagation: ["forward", "trace"] as const };
    enforce({ settings });
    expect((await ask(shown(token))).status).toBe(200);
    expect(app.heads.at(-1)).toContain(`\r\ntxn-token: ${token}\r\n`);
    enforce();
    expect((await ask(shown(token))).status).toBe(200);
    expect(app.heads.at(-1)).not.toContain("txn-token");
  });
});

describe("V5: the token itself", () => {
  const foreign = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
  const signed = (
    header: { kid?: string; typ?: string; alg?: string } & Record<string, unknown>,
    body: Record<string, unknown> = { ...encodeTxnClaims(claims()) },
    key: KeyObject = service.key,
  ): string => {
    const { typ = "txntoken+jwt", ...rest } = header;
    // Its types are the mesh's: an attacker's are not.
    return signToken({ typ: typ as "wit+jwt", kid: service.kid, ...rest }, body, key);
  };
  const changed = (token: string, change: (claims: Record<string, unknown>) => void): string => {
    const [head, body, signature] = token.split(".");
    const json = JSON.parse(Buffer.from(body ?? "", "base64url").toString());
    change(json);
    return `${head}.${Buffer.from(JSON.stringify(json)).toString("base64url")}.${signature}`;
  };

  test.each<[string, () => string]>([
    ["made up", () => "a.b.c"],
    ["signed by another key of the same name", () => signed({}, undefined, foreign)],
    ["signed by the caller's own token key", () => signed({}, undefined, own.tokenKey)],
    ["signed by the key of WITs", () => signed({}, undefined, world.authority.ca.wit.key)],
    [
      "naming the key of WITs",
      () => signed({ kid: world.authority.ca.wit.kid }, undefined, world.authority.ca.wit.key),
    ],
    ["naming an unknown key", () => signed({ kid: "other" })],
    ["another type of token", () => signed({ typ: "wit+jwt" })],
    ["a plain JWT", () => signed({ typ: "JWT" })],
    ["unsigned", () => signed({ alg: "none" })],
    ["another algorithm", () => signed({ alg: "HS256" })],
    ["with a key embedded", () => signed({ jwk: {} })],
    ["with a critical extension", () => signed({ crit: ["b64"] })],
    [
      "another role",
      () => changed(mint(), (json) => Object.assign(json["tctx"] as object, { roles: ["x"] })),
    ],
    ["another user", () => changed(mint(), (json) => Object.assign(json, { sub: "okta-main|bob" }))],
    ["longer life", () => changed(mint(), (json) => Object.assign(json, { exp: Number(json["exp"]) + 60 }))],
    ["for another trust domain", () => mint({ aud: "other.example" })],
    ["for the callee alone", () => mint({ aud: idOfSpec(THINGS) })],
    ["a list of audiences", () => signed({}, { ...encodeTxnClaims(claims()), aud: ["lake.example"] })],
    [
      "from the future",
      () => service.mint(txnClaims("alice", Date.now() + 120_000, { reqWl: own.spiffeId })),
    ],
    ["living for an hour", () => signed({}, { ...encodeTxnClaims(claims()), exp: claims().iat + 3_600 })],
    ["too long", () => signed({}, { ...encodeTxnClaims(claims()), x: "y".repeat(3_000) })],
    ["with padding", () => `${mint()}=`],
  ])("%s", (_name, make) => refused(shown(make()), 400, "AUTHN_TXN_INVALID"));

  test.each<[string, () => Pair[]]>([
    ["without the proof's word for it", () => [...shown(undefined), ["txn-token", mint()]]],
    ["announced, and not there", () => shown(undefined, { tth: tokenHash(mint()) })],
    ["another one than announced", () => shown(mint({ txn: "a" }), { tth: tokenHash(mint({ txn: "b" })) })],
    ["without any workload token", () => [["txn-token", mint()]]],
    ["under a folded name", () => [...shown(undefined, { tth: tokenHash("x") }), ["txn_token", mint()]]],
  ])("%s", (_name, make) => refused(make(), 400, "AUTHN_TXN_INVALID"));

  test("twice", () => {
    const token = mint();
    return refused([...shown(token), ["txn-token", token]], 400, "AUTHN_PROOF_INVALID");
  });

  test("is over to the second, verified before or not", async () => {
    const iat = Math.floor(Date.now() / 1000) - 301;
    await refused(shown(service.mint({ ...claims(), iat, exp: iat + 300 })), 400, "AUTHN_TXN_EXPIRED");
    const soon = service.mint({ ...claims(), iat: iat + 20, exp: iat + 320 });
    const pairs = shown(soon);
    expect((await ask(pairs)).status).toBe(200);
    offsetMs = 20_000;
    expect(outcome(await ask(pairs))).toEqual([400, "AUTHN_TXN_EXPIRED"]);
  });

  test.each<[string, number, number, unknown]>([
    ["a minute behind", -59_000, 200, undefined],
    ["a minute ahead", 59_000, 200, undefined],
    ["ten minutes behind", -600_000, 400, expect.stringMatching(/^AUTHN_/)],
    ["ten minutes ahead", 600_000, 400, expect.stringMatching(/^AUTHN_/)],
  ])("under a clock that is %s", async (_name, offset, status, reason) => {
    offsetMs = offset;
    expect(outcome(await ask(shown(mint())))).toEqual([status, reason]);
  });

  test("a withdrawn key ends every token it signed, cached or not", async () => {
    const pairs = shown(mint());
    expect((await ask(pairs)).status).toBe(200);
    enforce({ bundle: world.authority.bundle.json });
    expect(outcome(await ask(pairs))).toEqual([400, "AUTHN_TXN_INVALID"]);
    enforce();
    expect((await ask(shown(mint()))).status).toBe(200);
  });
});

describe("V7: revocation", () => {
  const revoke = (entry: { user?: string; session?: string }, beforeMs: number): void =>
    enforce({ revocations: new Revocations([{ spiffeId: "", pod: "", ...entry, beforeMs }]) });

  test.each<[string, { user?: string; session?: string }]>([
    ["the user", { user: "okta-main|alice" }],
    ["the session", { session: "sid-alice" }],
  ])("%s", async (_name, entry) => {
    const pairs = shown(mint());
    expect((await ask(pairs)).status).toBe(200);
    revoke(entry, Date.now() + 1);
    expect(outcome(await ask(pairs))).toEqual([403, "REVOKED"]);
    // Somebody else goes on, and so does who signs in again.
    const bob = mint({ sub: "okta-main|bob", rctx: { sid: "sid-bob" } });
    expect((await ask(shown(bob))).status).toBe(200);
    revoke(entry, claims().iat * 1_000);
    expect((await ask(shown(mint()))).status).toBe(200);
  });
});

describe("an open stream", () => {
  const opened = async (over: Partial<TxnClaims> = {}) => {
    const pairs = shown(mint(over), { operation: "thing.stream" });
    const stream = peer.open(request("GET", "/stream/a", ...pairs), true);
    const untilMs = performance.now() + 60_000;
    while (stream.answer.body === "" && performance.now() < untilMs)
      await new Promise((resolve) => setImmediate(resolve));
    expect(stream.answer).toMatchObject({ status: 200, body: ":a\n" });
    return stream;
  };

  test.each([
    ["its user", { user: "okta-main|alice" }],
    ["its session", { session: "sid-alice" }],
  ])("ends when %s is revoked, and says so", async (_name, subject) => {
    const stream = await opened();
    const bobs = await opened({ sub: "okta-main|bob", rctx: { sid: "sid-bob" } });
    const entry = { spiffeId: "", pod: "", ...subject, beforeMs: Date.now() + 1_000 };
    enforce({ revocations: new Revocations([entry]) });
    const { body } = await stream.done;
    expect(body).toContain("event: error");
    expect(body).toContain("REVOKED");
    expect(bobs.answer.body).toBe(":a\n");
  });

  test("ends when the login is older than the rule wants, not when its token is over", async () => {
    const maxAgeMs = 3_600_000;
    enforce({ policies: [allow({ when: { authn: { maxAgeMs } } })] });
    const { tctx } = claims();
    const authTime = Math.floor(Date.now() / 1_000) - 3_000;
    const old = await opened({ tctx: { ...tctx, authTime } });
    const young = await opened();
    // Both tokens are over; one login is too old.
    offsetMs = 1_000_000;
    const { body } = await old.done;
    expect(body).toContain("NO_MATCHING_ALLOW");
    expect(young.answer).toMatchObject({ body: ":a\n", reset: undefined });
  });
});

describe("V8: the chain begins where the token was asked for", () => {
  test("a token of another pod, shown by this one", async () => {
    const token = mint({ reqWl: idOfSpec(VICTIM) });
    const victims = await HostilePeer.connect(callee.meshPort, victim);
    expect((await ask(shown(token, { identity: victim }), victims)).status).toBe(200);
    victims.close();
    await refused(shown(token), 400, "AUTHN_TXN_INVALID");
  });

  test.each<[string, ServiceSpec, readonly ServiceSpec[]]>([
    ["a gateway's token without the gateway", GATEWAY, []],
    ["the own token behind a gateway", NOTEBOOK, [GATEWAY]],
    ["a gateway's token with the gateway in the middle", GATEWAY, [VICTIM, GATEWAY]],
  ])("%s", (_name, reqWl, via) =>
    refused(shown(mint({ reqWl: idOfSpec(reqWl) }), { via }), 400, "AUTHN_TXN_INVALID"),
  );

  test("too deep", () => {
    const token = mint({ reqWl: idOfSpec(GATEWAY) });
    const via = [GATEWAY, VICTIM, THINGS, VICTIM, THINGS];
    return refused(shown(token, { via }), 403, "CHAIN_TOO_DEEP");
  });

  test("looping", () => {
    const token = mint({ reqWl: idOfSpec(GATEWAY) });
    return refused(shown(token, { via: [GATEWAY, NOTEBOOK, NOTEBOOK] }), 403, "CHAIN_LOOP");
  });
});

describe("V9: the operation is within scope and caveats", () => {
  test.each<[string, string, string | undefined, boolean]>([
    ["everything", "*", undefined, true],
    ["the operation", "model thing.read", undefined, true],
    ["what it lies under", "thing", "thing.read", true],
    ["another operation", "thing.write", undefined, false],
    ["none", "", undefined, false],
    ["a star beside others", "* thing.write", undefined, false],
    ["a caveat that names another", "thing", "thing.write", false],
    ["a caveat wider than the scope", "thing.write", "thing", false],
    ["a caveat that narrows everything", "*", "thing.write", false],
  ])("%s", async (_name, scope, caveat, allowed) => {
    const pairs = shown(mint({ scope }), caveat === undefined ? {} : { scope: caveat });
    if (allowed) expect((await ask(pairs)).status).toBe(200);
    else await refused(pairs, 403, "SCOPE_EXCEEDED");
  });
});
