// Forged, borrowed and worn-out tokens on a real mesh port, from a peer with a valid certificate: each step of the
// verification order (V1 to V8) refuses with its reason, and the application sees nothing of it.
import type { KeyObject } from "node:crypto";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { createKeys } from "../../../sidecar/certs/key-and-csr.ts";
import { signEs256 } from "../../../sidecar/core/identity/ecdsa.ts";
import { tokenHash } from "../../../sidecar/core/identity/token.ts";
import { parseTrustBundle } from "../../../sidecar/core/identity/trust-bundle.ts";
import { type WorkloadIdentity, withBundle } from "../../../sidecar/core/identity/workload-identity.ts";
import { createTestAuthority, issueTestIdentity, type TestAuthority } from "../../fakes/authority.ts";
import {
  ALLOW_READ,
  type App,
  idOf,
  type ServiceSpec,
  type Sidecar,
  table,
  World,
} from "../sidecar/world.ts";
import { type Answer, HostilePeer, request } from "./peer.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const VICTIM: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-2", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const idOfSpec = ({ namespace, kind, name }: ServiceSpec) => idOf(namespace, kind, name);

type Json = Record<string, unknown>;
type Pair = [string, string];

let world: World;
let other: TestAuthority;
let app: App;
let callee: Sidecar;
let own: WorkloadIdentity;
let victim: WorkloadIdentity;
/** Another certificate and WIT of the same workload as `own`. */
let twin: WorkloadIdentity;
/** An authority of the same name that nobody trusts. */
let stranger: WorkloadIdentity;
let peer: HostilePeer;
let offsetMs = 0;
let bundle: string;

const calleeTable = (more: Partial<Parameters<typeof table>[0]> = {}) =>
  table({ self: THINGS, policies: [ALLOW_READ], bundle, ...more });

beforeAll(async () => {
  world = await World.create();
  other = await createTestAuthority(Date.now());
  bundle = world.authority.bundle.json;
  app = await world.app((_head, socket) => {
    socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
  });
  callee = await world.sidecar(THINGS, { app, meshNowMs: () => Date.now() + offsetMs });
  own = world.identity(NOTEBOOK);
  twin = world.identity(NOTEBOOK);
  victim = world.identity(VICTIM);
  stranger = issueTestIdentity(other, idOfSpec(NOTEBOOK), Date.now());
});
beforeEach(async () => {
  offsetMs = 0;
  expect(callee.plane.setTable(calleeTable())).toEqual({ ok: true, value: undefined });
  peer = await HostilePeer.connect(callee.meshPort, own);
});
afterEach(() => peer.close());
afterAll(async () => {
  await world.close();
  await other.close();
});

const part = (value: unknown): string =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
const sign = (header: unknown, payload: unknown, key: KeyObject): string => {
  const signed = `${part(header)}.${part(payload)}`;
  return `${signed}.${signEs256(Buffer.from(signed), key).toString("base64url")}`;
};
const claimsOf = (token: string): Json =>
  JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString());
const nowSeconds = (): number => Math.floor(Date.now() / 1000);
const packs = (): string => callee.plane.enforcement?.ports.get(8080)?.packsDigest ?? "";
const hop = (more: Json = {}): Json => ({ op: "thing.read", packs: packs(), n: 1, via: [], ...more });

/** Claims of a good proof of `own` for `GET /things/a`. */
const proofClaims = (more: Json = {}): Json => ({
  aud: idOfSpec(THINGS),
  iat: nowSeconds(),
  exp: nowSeconds() + 60,
  jti: `j-${Math.random()}`,
  wth: tokenHash(own.wit),
  cnf: { "x5t#S256": own.leafThumbprint },
  "countersign.dev/hop": hop(),
  ...more,
});
const WPT = { alg: "ES256", typ: "wpt+jwt" };
const proof = (more: Json = {}, header: unknown = WPT, key: KeyObject = own.tokenKey): string =>
  sign(header, proofClaims(more), key);
const withHop = (more: Json): string => proof({ "countersign.dev/hop": hop(more) });
const tokens = (wpt: string, wit: string = own.wit): Pair[] => [
  ["workload-identity-token", wit],
  ["workload-proof-token", wpt],
];
/** Without members whose value is undefined. */
const without = (claims: Json, ...names: string[]): Json =>
  Object.fromEntries(Object.entries(claims).filter(([name]) => !names.includes(name)));
/** A WIT signed by the mesh's own key as the control plane never would; `key` signs the proofs it goes with. */
const forgedWit = (more: Json, header: Json = {}): string => {
  const { wit } = world.authority.ca;
  return sign(
    { alg: "ES256", typ: "wit+jwt", kid: wit.kid, ...header },
    { ...claimsOf(own.wit), ...more },
    wit.key,
  );
};
const proofOver = (wit: string): Pair[] => tokens(proof({ wth: tokenHash(wit) }), wit);

const reasonOf = (answer: Answer): unknown =>
  answer.body === "" ? undefined : JSON.parse(answer.body).reason;
const ask = (pairs: readonly Pair[]): Promise<Answer> => peer.ask(request("GET", "/things/a", ...pairs));

/** Sends it, and looks that the application saw nothing and that the next honest request is served. */
async function refused(pairs: readonly Pair[], status: number, reason: string): Promise<void> {
  const seen = app.received.length;
  const answer = await ask(pairs);
  expect([answer.status, reasonOf(answer)]).toEqual([status, reason]);
  expect(app.received).toHaveLength(seen);
  expect((await ask(tokens(proof()))).status).toBe(200);
}

test("an honest proof is good, again and again", async () => {
  const good = tokens(proof());
  for (let round = 0; round < 3; round++) expect((await ask(good)).status).toBe(200);
});

describe("V1: the certificate", () => {
  test.each<[string, () => WorkloadIdentity]>([
    ["an authority of the same name", () => withBundle(stranger, world.authority.bundle)],
    [
      "an expired certificate",
      () =>
        issueTestIdentity(world.authority, idOfSpec(NOTEBOOK), Date.now() - 3_600_000, { ttlMs: 600_000 }),
    ],
  ])("%s is not heard", async (_name, identity) => {
    const seen = app.received.length;
    const hostile = await HostilePeer.connect(callee.meshPort, identity()).catch(() => undefined);
    const answer = await hostile?.ask(request("GET", "/things/a"));
    hostile?.close();
    expect(answer?.status ?? 0).toBe(0);
    expect(app.received).toHaveLength(seen);
  });

  test("counts no more once it has ended, on an open connection too", async () => {
    const short = issueTestIdentity(world.authority, idOfSpec(NOTEBOOK), Date.now(), { ttlMs: 120_000 });
    const hostile = await HostilePeer.connect(callee.meshPort, short);
    expect((await hostile.ask(request("GET", "/things/a"))).status).toBe(200);
    offsetMs = 122_000;
    const answer = await hostile.ask(request("GET", "/things/a"));
    expect([answer.status, reasonOf(answer)]).toEqual([403, "AUTHN_MTLS_REQUIRED"]);
    hostile.close();
  });
});

describe("V2: shape", () => {
  const cut = (text: string, from: number, to: number): string => text.slice(0, from) + text.slice(to);
  test.each<[string, () => Pair[]]>([
    ["a proof without identity token", () => tokens(proof()).slice(1)],
    ["an identity token without proof", () => tokens(proof()).slice(0, 1)],
    ["two proofs", () => [...tokens(proof()), ["workload-proof-token", proof()]]],
    ["two identity tokens", () => [...tokens(proof()), ["workload-identity-token", own.wit]]],
    ["an empty proof", () => tokens("")],
    [
      "no signature algorithm",
      () => tokens(sign({ alg: "none", typ: "wpt+jwt" }, proofClaims(), own.tokenKey)),
    ],
    ["no signature", () => tokens(proof().split(".").slice(0, 2).join("."))],
    ["an empty signature", () => tokens(`${proof().split(".").slice(0, 2).join(".")}.`)],
    ["an HMAC", () => tokens(proof({}, { alg: "HS256", typ: "wpt+jwt" }))],
    ["a longer curve", () => tokens(proof({}, { alg: "ES384", typ: "wpt+jwt" }))],
    ["the type of another token", () => tokens(proof({}, { alg: "ES256", typ: "wit+jwt" }))],
    ["a type in other letters", () => tokens(proof({}, { alg: "ES256", typ: "WPT+JWT" }))],
    ["no type", () => tokens(proof({}, { alg: "ES256" }))],
    ["a critical extension", () => tokens(proof({}, { ...WPT, crit: ["b64"], b64: false }))],
    ["a key in the header", () => tokens(proof({}, { ...WPT, jwk: { kty: "EC" } }))],
    ["padding", () => tokens(`${proof()}==`)],
    ["padding of a segment", () => tokens(proof().replace(".", "=."))],
    ["plain base64", () => tokens(proof().replace(/[A-Za-z]/, "+"))],
    ["four segments", () => tokens(`${proof()}.x`)],
    ["a space inside", () => tokens(proof().replace(".", ". "))],
    ["a missing character", () => tokens(cut(proof(), 60, 61))],
    ["more than 4 KiB", () => tokens(proof({ pad: "x".repeat(4096) }))],
    ["the tokens swapped", () => tokens(own.wit, proof())],
    [
      "duplicate claims",
      () => {
        const text = JSON.stringify(proofClaims()).replace('{"aud":', '{"aud":"spiffe://x/y","aud":');
        return tokens(sign(WPT, text, own.tokenKey));
      },
    ],
    [
      "duplicate claims further down",
      () => {
        const text = JSON.stringify(proofClaims()).replace('"n":1', '"n":9,"n":1');
        return tokens(sign(WPT, text, own.tokenKey));
      },
    ],
    ["claims that are a list", () => tokens(sign(WPT, [], own.tokenKey))],
    ["claims that are not JSON", () => tokens(sign(WPT, "{", own.tokenKey))],
  ])("%s", (_name, make) => refused(make(), 400, "AUTHN_PROOF_INVALID"));
});

describe("V3: the identity token", () => {
  test.each<[string, () => Pair[]]>([
    [
      "of another workload",
      () => tokens(proof({ wth: tokenHash(victim.wit) }, WPT, victim.tokenKey), victim.wit),
    ],
    ["of another workload, own key", () => proofOver(victim.wit)],
    [
      "of an authority of the same name",
      () => {
        const key = stranger.tokenKey;
        return tokens(proof({ wth: tokenHash(stranger.wit) }, WPT, key), stranger.wit);
      },
    ],
    [
      "signed by the workload itself",
      () => {
        const wit = sign(
          { alg: "ES256", typ: "wit+jwt", kid: world.authority.ca.wit.kid },
          claimsOf(own.wit),
          own.tokenKey,
        );
        return proofOver(wit);
      },
    ],
    ["with a key of another kind of the bundle", () => proofOver(forgedWit({}, { kid: "unknown" }))],
    [
      "without key id",
      () => {
        const { wit } = world.authority.ca;
        return proofOver(sign({ alg: "ES256", typ: "wit+jwt" }, claimsOf(own.wit), wit.key));
      },
    ],
    [
      "of another trust domain",
      () => proofOver(forgedWit({ sub: "spiffe://other.example/ns/lab/sa/default/notebook/nb-1" })),
    ],
    ["with an audience", () => proofOver(forgedWit({ aud: idOfSpec(THINGS) }))],
    ["that has expired", () => proofOver(forgedWit({ exp: nowSeconds() - 61 }))],
    ["that is not valid yet", () => proofOver(forgedWit({ nbf: nowSeconds() + 120 }))],
    [
      "without end",
      () => {
        const { wit } = world.authority.ca;
        return proofOver(
          sign({ alg: "ES256", typ: "wit+jwt", kid: wit.kid }, without(claimsOf(own.wit), "exp"), wit.key),
        );
      },
    ],
    ["that ends in infinity", () => proofOver(forgedWit({ exp: 1e300 }))],
    [
      "without a key to prove",
      () => {
        const { wit } = world.authority.ca;
        return proofOver(
          sign({ alg: "ES256", typ: "wit+jwt", kid: wit.kid }, without(claimsOf(own.wit), "cnf"), wit.key),
        );
      },
    ],
    [
      "with its last bit turned",
      () => {
        const last = own.wit.at(-1) === "A" ? "Q" : "A";
        return proofOver(own.wit.slice(0, -1) + last);
      },
    ],
  ])("%s", async (_name, make) => {
    const seen = app.received.length;
    const answer = await ask(make());
    expect(answer.status).toBe(400);
    expect(["AUTHN_WIT_INVALID", "AUTHN_PROOF_INVALID"]).toContain(reasonOf(answer));
    expect(app.received).toHaveLength(seen);
    expect((await ask(tokens(proof()))).status).toBe(200);
  });
});

describe("V4: the proof", () => {
  test.each<[string, () => Pair[]]>([
    ["signed by the TLS key", () => tokens(proof({}, WPT, own.tlsKey))],
    ["signed by a key of the moment", () => tokens(proof({}, WPT, createKeys().tokenKey))],
    ["signed by the victim", () => tokens(proof({}, WPT, victim.tokenKey))],
    ["over another identity token", () => tokens(proof({ wth: tokenHash(twin.wit) }))],
    ["for another callee", () => tokens(proof({ aud: idOfSpec(VICTIM) }))],
    ["for several callees", () => tokens(proof({ aud: [idOfSpec(THINGS)] }))],
    ["for a longer name of the callee", () => tokens(proof({ aud: `${idOfSpec(THINGS)}x` }))],
    ["that has expired", () => tokens(proof({ exp: nowSeconds() - 61 }))],
    ["that lives too long", () => tokens(proof({ exp: nowSeconds() + 300 }))],
    ["without end", () => tokens(sign(WPT, without(proofClaims(), "exp"), own.tokenKey))],
    ["with an end that is text", () => tokens(proof({ exp: String(nowSeconds() + 60) }))],
    ["from the future", () => tokens(proof({ nbf: nowSeconds() + 110, exp: nowSeconds() + 115 }))],
    [
      "bound to another certificate of the workload",
      () => tokens(proof({ cnf: { "x5t#S256": twin.leafThumbprint } })),
    ],
    ["bound to nothing", () => tokens(sign(WPT, without(proofClaims(), "cnf"), own.tokenKey))],
    [
      "without a word on the bearer token beside it",
      () => [...tokens(proof()), ["authorization", "Bearer abc"]],
    ],
    [
      "over another bearer token",
      () => [...tokens(proof({ ath: tokenHash("abc") })), ["authorization", "Bearer abd"]],
    ],
    ["over a bearer token that is not there", () => tokens(proof({ ath: tokenHash("abc") }))],
    ["without hop", () => tokens(sign(WPT, without(proofClaims(), "countersign.dev/hop"), own.tokenKey))],
  ])("%s", (_name, make) => refused(make(), 400, "AUTHN_PROOF_INVALID"));

  test("of one connection does not serve another certificate of the same workload", async () => {
    const stolen = tokens(proof());
    expect((await ask(stolen)).status).toBe(200);
    const hostile = await HostilePeer.connect(callee.meshPort, twin);
    const answer = await hostile.ask(request("GET", "/things/a", ...stolen));
    expect([answer.status, reasonOf(answer)]).toEqual([400, "AUTHN_PROOF_INVALID"]);
    hostile.close();
  });

  test("of another workload does not serve its thief", async () => {
    const victims = await HostilePeer.connect(callee.meshPort, victim);
    const claims = proofClaims({ wth: tokenHash(victim.wit), cnf: { "x5t#S256": victim.leafThumbprint } });
    const stolen = tokens(sign(WPT, claims, victim.tokenKey), victim.wit);
    expect((await victims.ask(request("GET", "/things/a", ...stolen))).status).toBe(200);
    victims.close();
    await refused(stolen, 400, "AUTHN_WIT_INVALID");
  });

  test("is looked at again when it has expired, cached or not", async () => {
    const worn = tokens(proof());
    expect((await ask(worn)).status).toBe(200);
    offsetMs = 125_000;
    const answer = await ask(worn);
    expect([answer.status, reasonOf(answer)]).toEqual([400, "AUTHN_PROOF_INVALID"]);
  });
});

describe("V5: a transaction token in a mesh that has none", () => {
  test.each<[string, () => Pair[]]>([
    ["made up, with a proof", () => [...tokens(proof()), ["txn-token", "a.b.c"]]],
    ["made up, without", () => [["txn-token", "a.b.c"]]],
    ["announced by the proof only", () => tokens(proof({ tth: tokenHash("a.b.c") }))],
    ["announced and made up", () => [...tokens(proof({ tth: tokenHash("a.b.c") })), ["txn-token", "a.b.c"]]],
  ])("%s", (_name, make) => refused(make(), 400, "AUTHN_TXN_INVALID"));
});

describe("V6: the operation", () => {
  test.each<[string, () => Pair[]]>([
    ["another one", () => tokens(withHop({ op: "thing.write" }))],
    ["a wider one", () => tokens(withHop({ op: "thing" }))],
    ["an unknown one", () => tokens(withHop({ op: "unknown" }))],
  ])("%s", (_name, make) => refused(make(), 400, "AUTHN_PROOF_MISMATCH"));

  test("a proof for one operation does not serve another", async () => {
    const read = tokens(proof());
    expect((await ask(read)).status).toBe(200);
    const answer = await peer.ask(request("POST", "/things/a", ...read), "x");
    expect([answer.status, reasonOf(answer)]).toEqual([400, "AUTHN_PROOF_MISMATCH"]);
  });

  test("with another list of packs the callee's own computation decides", async () => {
    const seen = app.received.length;
    const answer = await peer.ask(
      request("POST", "/chat", ...tokens(withHop({ op: "thing.read", packs: "other" }))),
      '{"model":"m"}',
    );
    expect([answer.status, reasonOf(answer)]).toEqual([403, "NO_MATCHING_ALLOW"]);
    expect(app.received).toHaveLength(seen);
  });
});

describe("V8 and V9: chain and caveat", () => {
  const via = (...names: string[]): Json[] =>
    names.map((name) => ({ s: idOf("lab", "job", name), o: "x.y" }));
  test.each<[string, () => Pair[], number, string]>([
    [
      "a chain that is too deep",
      () => tokens(withHop({ n: 6, via: via("a", "b", "c", "d", "e") })),
      403,
      "CHAIN_TOO_DEEP",
    ],
    [
      "fewer hops than it counts",
      () => tokens(withHop({ n: 1, via: via("a", "b") })),
      400,
      "AUTHN_PROOF_INVALID",
    ],
    ["a loop", () => tokens(withHop({ n: 4, via: via("a", "a", "a") })), 403, "CHAIN_LOOP"],
    [
      "a hop of no workload",
      () => tokens(withHop({ n: 2, via: [{ s: "alice", o: "x" }] })),
      400,
      "AUTHN_PROOF_INVALID",
    ],
    [
      "a hop without operation",
      () => tokens(withHop({ n: 2, via: [{ s: idOf("lab", "job", "a") }] })),
      400,
      "AUTHN_PROOF_INVALID",
    ],
    ["a chain that is no list", () => tokens(withHop({ n: 2, via: "a" })), 400, "AUTHN_PROOF_INVALID"],
    [
      "a caveat for other operations",
      () => tokens(withHop({ cav: { scope: "model.chat thing.write" } })),
      403,
      "SCOPE_EXCEEDED",
    ],
    ["an empty caveat", () => tokens(withHop({ cav: { scope: "" } })), 403, "SCOPE_EXCEEDED"],
    [
      "a caveat with a shorter name",
      () => tokens(withHop({ cav: { scope: "thing.rea" } })),
      403,
      "SCOPE_EXCEEDED",
    ],
    [
      "a caveat that is over",
      () => tokens(withHop({ cav: { exp: nowSeconds() - 1 } })),
      403,
      "SCOPE_EXCEEDED",
    ],
    ["a caveat that is none", () => tokens(withHop({ cav: "all" })), 400, "AUTHN_PROOF_INVALID"],
  ])("%s", (_name, make, status, reason) => refused(make(), status, reason));

  test("a caveat that names the operation, or what it lies under, leaves it", async () => {
    for (const scope of ["thing.read", "thing", "model thing.read"])
      expect((await ask(tokens(withHop({ cav: { scope, exp: nowSeconds() + 30 } })))).status).toBe(200);
  });
});

describe("when keys and policies change", () => {
  /** The bundle without its token keys, and with a new sequence. */
  const withoutTokenKeys = (): string => {
    const document = JSON.parse(bundle);
    const keys = document.keys.filter((key: Json) => key["use"] !== "wit-svid");
    return JSON.stringify({ ...document, spiffe_sequence: document.spiffe_sequence + 1, keys });
  };

  test("a withdrawn token key ends every token it signed, cached or not", async () => {
    const good = tokens(proof());
    expect((await ask(good)).status).toBe(200);
    const withdrawn = withoutTokenKeys();
    const parsed = parseTrustBundle(withdrawn, "lake.example");
    if (!parsed.ok) throw new Error(parsed.error);
    expect(callee.plane.setTable(calleeTable({ bundle: withdrawn })).ok).toBe(true);
    const answer = await ask(good);
    expect([answer.status, reasonOf(answer)]).toEqual([400, "AUTHN_WIT_INVALID"]);
    expect(callee.plane.setTable(calleeTable()).ok).toBe(true);
    expect((await ask(tokens(proof()))).status).toBe(200);
  });

  test("a policy that is withdrawn while a hundred requests come decides each by the table of its moment", async () => {
    const good = tokens(proof());
    const heads = app.heads.length;
    const many = (count: number) => Array.from({ length: count }, async () => (await ask(good)).status);
    const before = await Promise.all(many(20));
    const during = many(60);
    await new Promise((resolve) => setImmediate(resolve));
    expect(callee.plane.setTable(calleeTable({ policies: [] })).ok).toBe(true);
    const statuses = [...before, ...(await Promise.all([...during, ...many(20)]))];
    expect(new Set(statuses)).toEqual(new Set([200, 403]));
    expect(app.heads.length - heads).toBe(statuses.filter((status) => status === 200).length);
    expect((await ask(good)).status).toBe(403);
  });

  test("a renewed certificate of the callee leaves open connections and proofs as they are", async () => {
    const good = tokens(proof());
    expect((await ask(good)).status).toBe(200);
    await callee.plane.setIdentity(world.identity(THINGS));
    expect((await ask(good)).status).toBe(200);
  });
});

test("proofs required: a peer with a certificate alone is refused", async () => {
  expect(callee.plane.setTable(calleeTable({ settings: { proofs: "Required" } })).ok).toBe(true);
  const answer = await ask([]);
  expect([answer.status, reasonOf(answer)]).toEqual([400, "AUTHN_PROOF_INVALID"]);
  expect((await ask(tokens(proof()))).status).toBe(200);
});

test("whatever was tried, requests at the application are decisions allowed and forwarded", () => {
  const { forwarded, attempts, allowedAndForwarded } = callee.plane.metrics;
  expect(app.heads.length).toBeGreaterThan(50);
  expect(app.heads.length).toBe(forwarded.read(attempts));
  expect(app.heads.length).toBe(forwarded.read(allowedAndForwarded));
});
