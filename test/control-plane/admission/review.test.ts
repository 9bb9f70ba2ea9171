import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  encodeAdmissionReview,
  MAX_REVIEW_BYTES,
  parseAdmissionReview,
} from "../../../control-plane/admission/review.ts";

const UID = "705ab4f5-6393-11e8-b7cc-42010a800002";

const REQUEST = {
  uid: UID,
  kind: { group: "", version: "v1", kind: "Pod" },
  resource: { group: "", version: "v1", resource: "pods" },
  requestKind: { group: "", version: "v1", kind: "Pod" },
  namespace: "lab",
  operation: "CREATE",
  userInfo: {
    username: "alice",
    groups: ["system:authenticated"],
    extra: { "authentication.kubernetes.io/credential-id": ["X509SHA256=0"] },
  },
  object: { metadata: { generateName: "job-" } },
  oldObject: null,
  dryRun: true,
  options: { kind: "CreateOptions", fieldValidation: "Strict" },
};

const bytesOf = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const reviewOf = (request: unknown): Buffer =>
  bytesOf({ apiVersion: "admission.k8s.io/v1", kind: "AdmissionReview", request });
const without = (name: string): Record<string, unknown> =>
  Object.fromEntries(Object.entries(REQUEST).filter(([key]) => key !== name));

describe("parseAdmissionReview", () => {
  test("reads what the API server sends", () => {
    const read = parseAdmissionReview(reviewOf(REQUEST));
    expect(read).toEqual({
      ok: true,
      value: {
        uid: UID,
        operation: "CREATE",
        kind: { group: "", version: "v1", kind: "Pod" },
        resource: { group: "", version: "v1", resource: "pods" },
        subResource: undefined,
        name: undefined,
        namespace: "lab",
        user: {
          username: "alice",
          uid: undefined,
          groups: ["system:authenticated"],
          extra: new Map([["authentication.kubernetes.io/credential-id", ["X509SHA256=0"]]]),
        },
        object: { metadata: { generateName: "job-" } },
        oldObject: undefined,
        options: { kind: "CreateOptions", fieldValidation: "Strict" },
        dryRun: true,
      },
    });
  });

  test.each([
    { name: "an object of the cluster", change: { namespace: "" }, field: "namespace" },
    { name: "an object without a name yet", change: { name: "" }, field: "name" },
    { name: "no subresource", change: { subResource: "" }, field: "subResource" },
    { name: "no object, on DELETE", change: { operation: "DELETE", object: null }, field: "object" },
  ])("takes $name as absent", ({ change, field }) => {
    const read = parseAdmissionReview(reviewOf({ ...REQUEST, ...change }));
    expect(read).toMatchObject({ ok: true, value: { [field]: undefined } });
  });

  test.each([
    ["not JSON", Buffer.from("{"), "is not JSON in UTF-8"],
    ["not UTF-8", Buffer.from([0x22, 0xff, 0x22]), "is not JSON in UTF-8"],
    ["a list", bytesOf([]), "is not an object"],
    ["null", bytesOf(null), "is not an object"],
    [
      "another version",
      bytesOf({ apiVersion: "admission.k8s.io/v1beta1", kind: "AdmissionReview", request: REQUEST }),
      "is not an `AdmissionReview` of `admission.k8s.io/v1`",
    ],
    [
      "another kind",
      bytesOf({ apiVersion: "admission.k8s.io/v1", kind: "Pod", request: REQUEST }),
      "is not an `AdmissionReview` of `admission.k8s.io/v1`",
    ],
    ["no request", reviewOf(undefined), "has no `request`"],
    ["too many bytes", Buffer.alloc(MAX_REVIEW_BYTES + 1, 32), "is larger than 3145728 bytes"],
    ["no uid", reviewOf(without("uid")), "has a `request.uid` that is no UUID"],
    ["a uid that is no UUID", reviewOf({ ...REQUEST, uid: "x" }), "has a `request.uid` that is no UUID"],
    [
      "a uid with more behind it",
      reviewOf({ ...REQUEST, uid: `${UID}\n` }),
      "has a `request.uid` that is no UUID",
    ],
    ["no operation", reviewOf(without("operation")), "has a `request.operation` that is none of the four"],
    [
      "another operation",
      reviewOf({ ...REQUEST, operation: "create" }),
      "has a `request.operation` that is none of the four",
    ],
    ["no kind", reviewOf(without("kind")), "has no usable `request.kind`"],
    [
      "a kind that is a path",
      reviewOf({ ...REQUEST, kind: { version: "v1", kind: "a/b" } }),
      "has no usable `request.kind`",
    ],
    ["no resource", reviewOf(without("resource")), "has no usable `request.resource`"],
    ["a name that is a path", reviewOf({ ...REQUEST, name: "a/b" }), "has a `request.name` that is no name"],
    ["a name that is a number", reviewOf({ ...REQUEST, name: 1 }), "has a `request.name` that is no name"],
    [
      "a namespace that is a path",
      reviewOf({ ...REQUEST, namespace: "../x" }),
      "has a `request.namespace` that is no name",
    ],
    [
      "a subresource that is a path",
      reviewOf({ ...REQUEST, subResource: "a/b" }),
      "has a `request.subResource` that is no name",
    ],
    ["no user", reviewOf(without("userInfo")), "has a `request.userInfo` that cannot be read"],
    [
      "a user name that is a list",
      reviewOf({ ...REQUEST, userInfo: { username: [] } }),
      "has a `request.userInfo` that cannot be read",
    ],
    [
      "groups that are no texts",
      reviewOf({ ...REQUEST, userInfo: { groups: [1] } }),
      "has a `request.userInfo` that cannot be read",
    ],
    [
      "extra that is a list",
      reviewOf({ ...REQUEST, userInfo: { extra: [] } }),
      "has a `request.userInfo` that cannot be read",
    ],
    [
      "an object that is a text",
      reviewOf({ ...REQUEST, object: "x" }),
      "has a `request.object`, `oldObject` or `options` that is no object",
    ],
    [
      "an old object that is a list",
      reviewOf({ ...REQUEST, oldObject: [] }),
      "has a `request.object`, `oldObject` or `options` that is no object",
    ],
    [
      "a dry run that is a text",
      reviewOf({ ...REQUEST, dryRun: "true" }),
      "has a `request.dryRun` that is no boolean",
    ],
  ])("refuses %s", (_, body, error) => {
    expect(parseAdmissionReview(body)).toEqual({ ok: false, error });
  });
});

describe("encodeAdmissionReview", () => {
  const read = (text: string): Record<string, unknown> => JSON.parse(text).response;

  test("allows without a patch where there is nothing to change", () => {
    expect(read(encodeAdmissionReview(UID, { allowed: true, patch: [] }))).toEqual({
      uid: UID,
      allowed: true,
    });
  });

  test("carries a patch as base64 of JSON", () => {
    const patch = [{ op: "add", path: "/metadata/annotations", value: { é: "x" } }] as const;
    const response = read(encodeAdmissionReview(UID, { allowed: true, patch }));
    expect(response).toMatchObject({ uid: UID, allowed: true, patchType: "JSONPatch" });
    expect(JSON.parse(Buffer.from(String(response["patch"]), "base64").toString())).toEqual(patch);
  });

  test("says why not, in one line", () => {
    const response = read(
      encodeAdmissionReview(UID, {
        allowed: false,
        code: 403,
        message: "no\nway\u0000",
        warnings: [" ", "mind\r\nit"],
      }),
    );
    expect(response).toEqual({
      uid: UID,
      allowed: false,
      status: { status: "Failure", code: 403, reason: "Forbidden", message: "no way" },
      warnings: ["mind it"],
    });
  });

  test("keeps to the sizes that the API server takes, whatever the texts", () => {
    fc.assert(
      fc.property(fc.array(fc.string({ unit: "binary", maxLength: 600 }), { maxLength: 40 }), (warnings) => {
        const text = encodeAdmissionReview(UID, { allowed: true, warnings });
        expect(text.isWellFormed()).toBe(true);
        const given = (read(text)["warnings"] ?? []) as string[];
        expect(given.join("").length).toBeLessThanOrEqual(4_096);
        for (const warning of given) expect(warning.length).toBeLessThanOrEqual(256);
      }),
    );
  });
});
