// Admission reviews from random and altered bytes: parseAdmissionReview always answers and never throws, what it accepts keeps
// to the promised forms, and an answer to it can always be written.
import fc from "fast-check";
import { encodeAdmissionReview, parseAdmissionReview } from "../../../../control-plane/admission/review.ts";

const good = Buffer.from(
  JSON.stringify({
    apiVersion: "admission.k8s.io/v1",
    kind: "AdmissionReview",
    request: {
      uid: "705ab4f5-6393-11e8-b7cc-42010a800002",
      kind: { group: "", version: "v1", kind: "Pod" },
      resource: { group: "", version: "v1", resource: "pods" },
      name: "nb",
      namespace: "lab",
      operation: "CREATE",
      userInfo: { username: "alice", groups: ["g"], extra: { k: ["v"] } },
      object: { metadata: { name: "nb" } },
      oldObject: null,
      dryRun: false,
      options: {},
    },
  }),
);

/** The review with one field of the request, or of its user, replaced by any JSON value. */
const replaced = fc
  .tuple(
    fc.constantFrom("uid", "kind", "resource", "subResource", "name", "namespace", "operation", "userInfo"),
    fc.constantFrom("object", "oldObject", "options", "dryRun", "uid", "name"),
    fc.jsonValue(),
    fc.jsonValue(),
  )
  .map(([first, second, one, two]) => {
    const review = JSON.parse(good.toString());
    review.request[first] = one;
    review.request[second] = two;
    return Buffer.from(JSON.stringify(review));
  });
const mutated = fc
  .array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 3 })
  .map((changes) => {
    const bytes = Buffer.from(good);
    for (const [at, value] of changes) bytes[at] = value;
    return bytes;
  });
const random = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  let cases = 0;
  fc.assert(
    fc.property(fc.oneof(mutated, replaced, random), fc.string(), (bytes, message) => {
      cases++;
      const read = parseAdmissionReview(bytes);
      if (!read.ok) return;
      const { uid, name, namespace, subResource } = read.value;
      if (uid.length !== 36) throw new Error("accepted a uid that is no UUID");
      for (const text of [name, namespace, subResource])
        if (text !== undefined && (text === "" || text.includes("/"))) throw new Error("accepted a path");
      const answer = JSON.parse(encodeAdmissionReview(uid, { allowed: false, code: 403, message }));
      if (answer.response.uid !== uid || answer.response.allowed !== false)
        throw new Error("answered wrongly");
    }),
    {
      seed: options.seed,
      interruptAfterTimeLimit: options.seconds * 1000,
      numRuns: 100_000_000,
      markInterruptAsFailure: false,
    },
  );
  return { cases };
}
