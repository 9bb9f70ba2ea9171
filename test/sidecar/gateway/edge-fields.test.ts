import { describe, expect, test } from "@jest/globals";
import { type Anomaly, EdgeFieldNames, forwardedFields } from "../../../sidecar/gateway/edge-fields.ts";
import { clientOf, TrustedHops } from "../../../sidecar/gateway/source-address.ts";
import { createField } from "../../../sidecar/wire/field.ts";

function forward(
  pairs: readonly (readonly [string, string])[],
  over: { trusted?: boolean; bearer?: boolean } = {},
) {
  const anomalies: Anomaly[] = [];
  const kept = forwardedFields({
    fields: pairs.map(([name, value]) => createField(name, value)),
    isTrustedHop: over.trusted === true,
    dropsAuthorization: over.bearer === true,
    names: new EdgeFieldNames(),
    onAnomaly: (anomaly) => anomalies.push(anomaly),
  });
  return { kept: kept.map(({ name }) => name), anomalies };
}

describe("fields from outside", () => {
  test.each([
    "x-forwarded-user",
    "x_forwarded_email",
    "x.forwarded.access.token",
    "x-mesh-caller",
    "x-mesh-anything",
    "txn-token",
    "workload_identity_token",
    "countersign-port",
    "countersign-made-up",
    "remote_user",
    "x-auth-request-groups",
    "x-amzn-oidc-data",
    "ssl-client-s-dn",
    "impersonate-user",
    "kubeflow-userid",
    "x-forwarded-groups",
    "remote-groups",
    "x_webauth_role",
    "x-ms-token-aad-access-token",
    "x-goog-iap-jwt-assertion",
    "x-pomerium-claim-email",
    "x-authentik-username",
    "tailscale-user-login",
    "oidc_claim_sub",
  ])("%s claims to be somebody", (name) => {
    expect(forward([[name, "root"]])).toEqual({ kept: [], anomalies: ["identity"] });
  });

  test.each([
    "x-forwarded-for",
    "forwarded",
    "x_real_ip",
    "x-envoy-external-address",
    "x-forwarded-anything",
    "x-original-host",
  ])("%s is a proxy's, and only a trusted one is expected to send it", (name) => {
    expect(forward([[name, "1.2.3.4"]])).toEqual({ kept: [], anomalies: ["forwarded"] });
    expect(forward([[name, "1.2.3.4"]], { trusted: true })).toEqual({ kept: [], anomalies: [] });
  });

  test("a trusted hop vouches for addresses, not for people", () => {
    expect(forward([["x-forwarded-user", "root"]], { trusted: true }).anomalies).toEqual(["identity"]);
  });

  test("each kind counts once per request", () => {
    const { anomalies } = forward([
      ["x-forwarded-user", "a"],
      ["x-mesh-roles", "b"],
      ["x-http-method-override", "DELETE"],
      ["x-original-url", "/admin"],
      ["x-request-id", "a b"],
    ]);
    expect(anomalies).toEqual(["identity", "method_override", "request_id"]);
  });

  test("what everybody sends goes on; traces, cookies and our bearer token do not", () => {
    const { kept, anomalies } = forward(
      [
        ["accept", "*/*"],
        ["x-requested-with", "XMLHttpRequest"],
        ["x-xsrftoken", "1"],
        ["x-request-id", "abc-1"],
        ["traceparent", "00-1"],
        ["b3", "1"],
        ["x-b3-traceid", "1"],
        ["baggage", "a=b"],
        ["cookie", "a=1"],
        ["authorization", "Bearer x"],
      ],
      { bearer: true },
    );
    expect(kept).toEqual(["accept", "x-requested-with", "x-xsrftoken", "x-request-id"]);
    expect(anomalies).toEqual([]);
  });
});

describe("the address of a client", () => {
  const hops = new TrustedHops(["10.0.0.0/8", "fd00::/8"]);
  test.each([
    ["203.0.113.9", "203.0.113.9"],
    ["6.6.6.6, 203.0.113.9", "203.0.113.9"],
    ["203.0.113.9, 10.1.1.1", "203.0.113.9"],
    ["10.2.2.2, 10.1.1.1", "10.2.2.2"],
    ["unknown", "10.0.0.1"],
    ["203.0.113.9, unknown", "10.0.0.1"],
    ["203.0.113.9:4711", "10.0.0.1"],
    [undefined, "10.0.0.1"],
    [Array.from({ length: 40 }, () => "10.1.1.1").join(), "10.0.0.1"],
    ["2001:db8::1, fd00::2", "2001:db8::1"],
  ])("in `%s` behind a trusted hop is %s", (forwardedFor, expected) => {
    expect(hops.client("10.0.0.1", forwardedFor)).toBe(expected);
  });

  test.each([
    ["203.0.113.9", "203.0.113.9"],
    ["::ffff:203.0.113.9", "203.0.113.9"],
    ["::ffff:cb00:7109", "203.0.113.9"],
    ["2001:db8:1:2:aaaa::1", "20010db800010002::/64"],
    ["2001:DB8:1:2::", "20010db800010002::/64"],
    ["2001:db8:1:3::1", "20010db800010003::/64"],
    ["::1", "0::/64"],
    ["no:address", "no:address"],
    ["", ""],
  ])("%s counts as %s", (address, expected) => {
    expect(clientOf(address)).toBe(expected);
  });

  test("nobody is trusted by default", () => {
    expect(new TrustedHops([]).isTrusted("127.0.0.1")).toBe(false);
  });
});
