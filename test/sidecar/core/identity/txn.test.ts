import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { parseClaimsJson } from "../../../../sidecar/core/identity/claims.ts";
import { holdTxn } from "../../../../sidecar/core/identity/held-txn.ts";
import { tokenHash } from "../../../../sidecar/core/identity/token.ts";
import { encodeTxnClaims, parseTxnClaims } from "../../../../sidecar/core/identity/txn.ts";
import { must, testId } from "../../../fakes/authority.ts";
import { TestTokenService, txnClaims } from "../../../fakes/txn.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
const good = () => JSON.parse(JSON.stringify(encodeTxnClaims(txnClaims("alice", NOW))));

describe("parseTxnClaims", () => {
  test("reads what it writes", () => {
    fc.assert(
      fc.property(
        fc.record({
          typ: fc.constantFrom("person" as const, "servicePrincipal" as const),
          roles: fc.array(fc.stringMatching(/^[a-z0-9-]{1,20}$/), { maxLength: 20 }),
          idp: fc.constant("okta-main"),
          amr: fc.array(fc.constantFrom("pwd", "mfa", "urn:x:y"), { maxLength: 4 }),
          acr: fc.option(fc.constantFrom("1", "2"), { nil: undefined }),
          email: fc.option(fc.constant("é@acme.example"), { nil: undefined }),
          authTime: fc.option(fc.nat(2_000_000_000), { nil: undefined }),
        }),
        fc.constantFrom("*", "", "mlflow serving.invoke"),
        (tctx, scope) => {
          const claims = { ...txnClaims("alice", NOW), tctx: { ...tctx, username: undefined }, scope };
          const json = Buffer.from(JSON.stringify(encodeTxnClaims(claims)));
          expect(must(parseTxnClaims(must(parseClaimsJson(json))))).toEqual(claims);
        },
      ),
    );
  });

  test.each<readonly [string, Record<string, unknown>, RegExp]>([
    ["lives longer than 300 s", { exp: Math.floor(NOW / 1000) + 301 }, /300 s/],
    ["ends before it begins", { exp: Math.floor(NOW / 1000) }, /300 s/],
    ["a user of another provider", { sub: "entra|alice" }, /`sub`/],
    ["a provider and no user", { sub: "okta-main|" }, /`sub`/],
    ["no audience", { aud: undefined }, /`aud`/],
    ["a list of audiences", { aud: ["lake.example"] }, /`aud`/],
    ["no transaction", { txn: "" }, /`txn`/],
    ["no scope", { scope: undefined }, /`scope`/],
    ["a scope with two spaces", { scope: "a  b" }, /`scope`/],
    ["a requester that is no SPIFFE ID", { req_wl: "gateway" }, /SPIFFE/],
    ["no context", { tctx: undefined }, /`tctx`/],
    ["a kind of subject that is not known", { tctx: { ...good().tctx, typ: "robot" } }, /`typ`/],
    ["a role that would split a header", { tctx: { ...good().tctx, roles: ["a,b"] } }, /`roles`/],
    ["a role that is no string", { tctx: { ...good().tctx, roles: [1] } }, /`roles`/],
    ["too many roles", { tctx: { ...good().tctx, roles: Array(129).fill("r") } }, /`roles`/],
    ["an e-mail address with a line end", { tctx: { ...good().tctx, email: "a\r\nb" } }, /`email`/],
    ["a time of login that is none", { tctx: { ...good().tctx, auth_time: "1" } }, /`auth_time`/],
    ["a request context that is no object", { rctx: "x" }, /`rctx`/],
  ])("refuses %s", (_name, over, error) => {
    expect(parseTxnClaims({ ...good(), ...over })).toEqual({
      ok: false,
      error: expect.stringMatching(error),
    });
  });
});

test("a held token knows its hash and its claims", () => {
  const service = new TestTokenService();
  const claims = txnClaims("alice", NOW, { reqWl: testId("nb") });
  const token = service.mint(claims);
  expect(must(holdTxn(token))).toEqual({ token, tth: tokenHash(token), claims });
  expect(holdTxn("a.b.c")).toMatchObject({ ok: false });
  expect(holdTxn(service.signed({ sub: "okta-main|alice" }))).toMatchObject({ ok: false });
});
