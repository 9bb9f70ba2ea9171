import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  formatSpiffeId,
  isTrustDomain,
  parseSpiffeId,
  trustDomainOf,
  workloadOf,
} from "../../../../sidecar/core/identity/spiffe-id.ts";
import { must } from "../../../fakes/authority.ts";

const segment = fc.stringMatching(/^[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}$/);
const domain = fc.stringMatching(/^[a-z0-9][a-z0-9._-]{0,20}$/);

describe("parseSpiffeId", () => {
  test.each([
    "spiffe://corp.example/ns/lab/sa/notebook/notebook/nb-1",
    "spiffe://a/b",
    "spiffe://a_b-c.9/.x/..y/...",
    `spiffe://td/${"a".repeat(2048 - 12)}`,
  ])("accepts %p", (text) => {
    expect(parseSpiffeId(text)).toEqual({ ok: true, value: text });
  });

  test.each([
    ["", "not_spiffe_uri"],
    ["https://a/b", "not_spiffe_uri"],
    ["SPIFFE://a/b", "not_spiffe_uri"],
    ["spiffe:/a/b", "not_spiffe_uri"],
    ["spiffe:///b", "bad_trust_domain"],
    ["spiffe://A/b", "bad_trust_domain"],
    ["spiffe://a:80/b", "bad_trust_domain"],
    ["spiffe://u@a/b", "bad_trust_domain"],
    ["spiffe://a%2e/b", "bad_trust_domain"],
    [`spiffe://${"a".repeat(256)}/b`, "bad_trust_domain"],
    ["spiffe://a", "bad_path"],
    ["spiffe://a/", "bad_path"],
    ["spiffe://a/b/", "bad_path"],
    ["spiffe://a//b", "bad_path"],
    ["spiffe://a/./b", "bad_path"],
    ["spiffe://a/b/..", "bad_path"],
    ["spiffe://a/b%41", "bad_path"],
    ["spiffe://a/b?c", "bad_path"],
    ["spiffe://a/b#c", "bad_path"],
    ["spiffe://a/b c", "bad_path"],
    ["spiffe://a/b\u0000", "bad_path"],
    ["spiffe://a/bé", "bad_path"],
    ["spiffe://a/b, URI:spiffe://c/d", "bad_path"],
    [`spiffe://a/${"b".repeat(2048)}`, "too_long"],
  ])("refuses %p as %s", (text, error) => {
    expect(parseSpiffeId(text)).toEqual({ ok: false, error });
  });

  test("agrees with the standard's grammar on any text", () => {
    const grammar = /^spiffe:\/\/[a-z0-9._-]{1,255}(\/(?!\.{1,2}(\/|$))[A-Za-z0-9._-]+)+$/;
    const piece = fc.constantFrom(
      "spiffe://",
      "a",
      "/",
      ".",
      "..",
      "-",
      "_",
      "%",
      ":",
      "@",
      "A",
      "?",
      " ",
      "\n",
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const text = pieces.join("");
        expect(parseSpiffeId(text).ok).toBe(
          text.length <= 2048 && grammar.test(text) && !text.endsWith("\n"),
        );
      }),
      { numRuns: 3000 },
    );
  });
});

describe("workload IDs", () => {
  test("format and workloadOf are inverse", () => {
    fc.assert(
      fc.property(
        domain,
        segment,
        segment,
        segment,
        segment,
        (trustDomain, namespace, serviceAccount, kind, name) => {
          const parts = { trustDomain, namespace, serviceAccount, kind, name };
          const id = formatSpiffeId(parts);
          expect(workloadOf(id)).toEqual(parts);
          expect(trustDomainOf(id)).toBe(trustDomain);
          expect(isTrustDomain(trustDomain)).toBe(true);
        },
      ),
    );
  });

  test.each(["a/b", "", ".", "..", "a b", "a%20"])("cannot be made with the name %p", (name) => {
    const parts = { trustDomain: "td", namespace: "n", serviceAccount: "s", kind: "service", name };
    expect(() => formatSpiffeId(parts)).toThrow(expect.objectContaining({ code: "bad_config" }));
  });

  test.each([
    "spiffe://td/ns/a/sa/b/c",
    "spiffe://td/ns/a/sa/b/c/d/e",
    "spiffe://td/sa/a/ns/b/c/d",
    "spiffe://td/x",
  ])("are told from other paths: %s", (text) => {
    expect(workloadOf(must(parseSpiffeId(text)))).toBeUndefined();
  });
});
