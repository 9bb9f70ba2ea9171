import type { IncomingMessage } from "node:http";
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { ApiReviews } from "../../../control-plane/management/api-reviews.ts";
import { Authenticator, isOperator, ownIdOf } from "../../../control-plane/management/authenticate.ts";
import { ShortCache } from "../../../control-plane/management/short-cache.ts";
import { controlPlaneSpiffeId } from "../../../proto/protocol.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { FakeReviews, jwt, MESH_AUDIENCE, TRUST_DOMAIN } from "../../fakes/secured-management.ts";

function authenticator() {
  const reviews = new FakeReviews();
  const clock = new FakeClock(1_000_000);
  const ask = new ApiReviews(clock, silentLogger);
  const made = new Authenticator({ reviews, ask, trustDomain: TRUST_DOMAIN, isOperator: () => false, clock });
  const identify = (authorization: string) => {
    // What `identify` reads of a request with this header.
    const request = { headers: { authorization }, rawHeaders: ["Authorization", authorization] };
    return made.identify(request as unknown as IncomingMessage, () => true);
  };
  return { reviews, clock, identify };
}

describe("a header nobody can trust", () => {
  test("whatever it holds is nobody's, and only a bearer token is asked about", async () => {
    const { reviews, identify } = authenticator();
    const header = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.string().map((text) => `Bearer ${text}`),
      fc.array(fc.string(), { maxLength: 4 }).map((parts) => `Bearer ${parts.join(".")}`),
      fc.json().map((text) => `Bearer a.${Buffer.from(text).toString("base64url")}.b`),
    );
    await fc.assert(
      fc.asyncProperty(header, async (text) => {
        reviews.asked.length = 0;
        const found = await identify(text);
        expect(found.kind).toBe("nobody");
        if (reviews.asked.length > 0) expect(text).toMatch(/^Bearer +[A-Za-z0-9._~+/-]+=*$/i);
      }),
    );
  });

  test.each([
    { name: "no audience", claims: { sub: "a" }, asked: "https://kubernetes.default.svc" },
    { name: "ours", claims: { aud: MESH_AUDIENCE }, asked: MESH_AUDIENCE },
    { name: "ours among others", claims: { aud: ["vault", MESH_AUDIENCE] }, asked: MESH_AUDIENCE },
    {
      name: "ours as part of a text",
      claims: { aud: `x${MESH_AUDIENCE}` },
      asked: "https://kubernetes.default.svc",
    },
    { name: "an object", claims: { aud: { [MESH_AUDIENCE]: 1 } }, asked: "https://kubernetes.default.svc" },
  ])("a token that names $name is checked for $asked", async ({ claims, asked }) => {
    const { reviews, identify } = authenticator();
    await identify(`Bearer ${jwt(claims)}`);
    expect(reviews.asked).toEqual([`token ${asked}`]);
  });

  test("a token of more than 16 KiB is not asked about", async () => {
    const { reviews, identify } = authenticator();
    expect(await identify(`Bearer ${"a".repeat(20_000)}`)).toMatchObject({ kind: "nobody", status: 401 });
    expect(reviews.asked).toEqual([]);
  });
});

describe("operators by certificate", () => {
  const own = ownIdOf(controlPlaneSpiffeId(TRUST_DOMAIN));
  const id = (path: string) => ownIdOf(`spiffe://${TRUST_DOMAIN}/${path}`);
  test.each([
    { name: "the control plane", spiffeId: own, expected: true },
    {
      name: "the operator's account",
      spiffeId: id("ns/mesh/sa/countersign-operator/service/x"),
      expected: true,
    },
    {
      name: "that account elsewhere",
      spiffeId: id("ns/ml/sa/countersign-operator/service/x"),
      expected: false,
    },
    {
      name: "another account there",
      spiffeId: id("ns/mesh/sa/default/service/countersign-operator"),
      expected: false,
    },
    { name: "no workload", spiffeId: id("countersign-operator"), expected: false },
  ])("$name: $expected", ({ spiffeId, expected }) => {
    expect(isOperator(spiffeId, own, "mesh")).toBe(expected);
  });
});

describe("ShortCache", () => {
  test("holds so many entries, oldest out first, none beyond its time", () => {
    const cache = new ShortCache<number>(2);
    cache.set("a", 1, 10, 0);
    cache.set("b", 2, 10, 0);
    cache.set("a", 3, 10, 0);
    cache.set("c", 4, 10, 0);
    expect([cache.get("a", 1), cache.get("b", 1), cache.get("c", 1)]).toEqual([3, undefined, 4]);
    expect(cache.get("a", 10)).toBeUndefined();
    cache.set("d", 5, 0, 0);
    cache.set("e", 6, -1, 0);
    expect(cache.get("d", 0)).toBeUndefined();
    expect(cache.size).toBeLessThanOrEqual(2);
  });
});
