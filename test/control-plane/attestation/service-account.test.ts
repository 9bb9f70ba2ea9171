import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  createServiceAccountAttestor,
  type ServiceAccountAttestor,
} from "../../../control-plane/attestation/service-account.ts";
import type { MeshPod } from "../../../control-plane/sources/store.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { FakeTokenReviews, podReview, type ReviewStatus } from "../../fakes/token-reviews.ts";

const AUDIENCE = "countersign.dev/lake.example";
const UID = "3f0c2a51-6d0e-4c1b-9a57-8b1f6f0c2d11";
const TOKEN = "aGVhZA.cGF5bG9hZA.c2lnbmF0dXJl";
const POD: MeshPod = {
  uid: UID,
  namespace: "lab",
  name: "nb-1",
  serviceAccount: "notebook",
  node: "node-1",
  addresses: ["10.0.0.7"],
  ready: false,
  injected: true,
  workload: "lab/notebook/notebook/nb-1",
};
const GOOD = podReview(POD, AUDIENCE);

interface World {
  readonly attest: ServiceAccountAttestor;
  readonly reviews: FakeTokenReviews;
  readonly clock: FakeClock;
  readonly pods: Map<string, MeshPod>;
}

function world(status: ReviewStatus = GOOD): World {
  const reviews = new FakeTokenReviews();
  reviews.statuses.set(TOKEN, status);
  const clock = new FakeClock(0);
  const pods = new Map([[UID, POD]]);
  const attest = createServiceAccountAttestor({
    review: reviews.api,
    audience: AUDIENCE,
    pod: (uid) => pods.get(uid),
    clock,
  });
  return { attest, reviews, clock, pods };
}

/** Lets everything that is ready run. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe("a ServiceAccount token", () => {
  test("stands for the pod that it is bound to, after one review with our audience", async () => {
    const { attest, reviews } = world();
    expect(await attest(TOKEN)).toEqual({
      ok: true,
      value: { uid: UID, workload: "lab/notebook/notebook/nb-1" },
    });
    expect(reviews.asked).toEqual([
      expect.objectContaining({ spec: { token: TOKEN, audiences: [AUDIENCE] } }),
    ]);
  });

  const user = GOOD.user ?? {};
  const extra = user.extra ?? {};
  test.each<{ name: string; status: ReviewStatus; log: RegExp; told: RegExp }>([
    {
      name: "that the API server refuses",
      status: { authenticated: false, error: "token audiences [a] is invalid for the target audiences [b]" },
      log: /does not count: token audiences .*countersign-token/,
      told: /^the ServiceAccount token is not valid/,
    },
    { name: "with a review that says nothing", status: {}, log: /does not know it/, told: /not valid/ },
    {
      name: "that is authenticated by another word than true",
      status: { ...GOOD, authenticated: "true" as unknown as boolean },
      log: /does not count/,
      told: /not valid/,
    },
    {
      name: "whose audience the API server did not look at",
      status: { ...GOOD, audiences: [] },
      log: /is for ``, not for/,
      told: /has not the audience/,
    },
    {
      name: "for another audience",
      status: { ...GOOD, audiences: ["https://kubernetes.default.svc", `${AUDIENCE}.evil`] },
      log: /not for `countersign\.dev\/lake\.example`/,
      told: /has not the audience/,
    },
    {
      name: "of a person",
      status: { ...GOOD, user: { ...user, username: "kubernetes-admin" } },
      log: /`kubernetes-admin` is not of a ServiceAccount/,
      told: /not a ServiceAccount token/,
    },
    {
      name: "of a name that only looks like a ServiceAccount",
      status: { ...GOOD, user: { ...user, username: "system:serviceaccount:lab:notebook:x" } },
      log: /is not of a ServiceAccount/,
      told: /not a ServiceAccount token/,
    },
    {
      name: "bound to no pod",
      status: { ...GOOD, user: { ...user, extra: {} } },
      log: /`lab\/notebook` is bound to no pod/,
      told: /bound to no pod/,
    },
    {
      name: "bound to two pods",
      status: {
        ...GOOD,
        user: { ...user, extra: { ...extra, "authentication.kubernetes.io/pod-uid": [UID, "b"] } },
      },
      log: /bound to no pod/,
      told: /bound to no pod/,
    },
    {
      name: "of another ServiceAccount than the pod's",
      status: { ...GOOD, user: { ...user, username: "system:serviceaccount:lab:other" } },
      log: /has a token of `lab\/other`, but is `lab\/nb-1` of ServiceAccount `notebook`/,
      told: /of another pod/,
    },
    {
      name: "of another namespace than the pod's",
      status: { ...GOOD, user: { ...user, username: "system:serviceaccount:other:notebook" } },
      log: /has a token of `other\/notebook`/,
      told: /of another pod/,
    },
    {
      name: "of a pod of another name",
      status: {
        ...GOOD,
        user: { ...user, extra: { ...extra, "authentication.kubernetes.io/pod-name": ["nb-2"] } },
      },
      log: /`lab\/nb-2`/,
      told: /of another pod/,
    },
  ])("$name is refused", async ({ status, log, told }) => {
    const { attest } = world(status);
    const answer = await attest(TOKEN);
    expect(answer).toMatchObject({ ok: false, error: { code: "join_rejected" } });
    if (answer.ok) return;
    expect(answer.error.message).toMatch(log);
    expect(answer.error.told).toMatch(told);
    expect(answer.error.message + answer.error.told).not.toContain(TOKEN);
  });

  test.each([
    { name: "a pod without sidecar", pod: { ...POD, injected: false } },
    { name: "a pod that is of no workload", pod: { ...POD, workload: undefined } },
  ])("$name is not in the mesh", async ({ pod }) => {
    const { attest, pods } = world();
    pods.set(UID, pod);
    expect(await attest(TOKEN)).toMatchObject({
      ok: false,
      error: { code: "join_rejected", message: expect.stringContaining("countersign.dev/inject=enabled") },
    });
  });

  test("of a pod that the watch has not told of waits for it", async () => {
    const { attest, clock, pods } = world();
    pods.clear();
    const asked = attest(TOKEN);
    await settle();
    clock.advance(1_000);
    await settle();
    pods.set(UID, POD);
    clock.advance(50);
    expect(await asked).toMatchObject({ ok: true, value: { uid: UID } });
  });

  test("of a pod that stays unknown is to be tried again", async () => {
    const { attest, clock, pods } = world();
    pods.clear();
    const asked = attest(TOKEN);
    for (let i = 0; i < 61; i++) {
      await settle();
      clock.advance(50);
    }
    expect(await asked).toMatchObject({
      ok: false,
      error: { code: "not_ready", message: expect.stringMatching(/gone, the watch of pods is behind/) },
    });
  });
});

describe("the API server", () => {
  test.each([
    {
      name: "is away",
      failure: new Error("connect ECONNREFUSED 10.0.0.1:6443"),
      log: /is the API server up/,
    },
    {
      name: "refuses the control plane",
      failure: Object.assign(new Error("HTTP-Code: 403\nBody: {secret}"), { code: 403 }),
      log: /may not create `tokenreviews`/,
    },
  ])("that $name makes the caller try again", async ({ failure, log }) => {
    const { attest, reviews } = world();
    reviews.failure = failure;
    const answer = await attest(TOKEN);
    expect(answer).toMatchObject({
      ok: false,
      error: { code: "not_ready", told: "the token cannot be checked now, try again" },
    });
    if (answer.ok) return;
    expect(answer.error.message).toMatch(log);
    expect(answer.error.message).not.toContain("secret");
    reviews.failure = undefined;
    expect(await attest(TOKEN)).toMatchObject({ ok: true });
  });

  test("is asked 32 questions at once at most, and all who wait get their answer", async () => {
    const { attest, reviews } = world();
    const held = Promise.withResolvers<void>();
    reviews.before = held.promise;
    const asked = Array.from({ length: 300 }, () => attest(TOKEN));
    await settle();
    expect(reviews.asked).toHaveLength(32);
    held.resolve();
    const answers = await Promise.all(asked);
    expect(answers.filter(({ ok }) => ok)).toHaveLength(288);
    expect(reviews.asked).toHaveLength(288);
    for (const answer of answers)
      if (!answer.ok) expect(answer.error.told).toMatch(/too many sidecars join at once/);
    expect(await attest(TOKEN)).toMatchObject({ ok: true });
  });

  test("that does not answer is waited for 10 s", async () => {
    const { attest, reviews, clock } = world();
    reviews.before = new Promise(() => {});
    const asked = attest(TOKEN);
    await settle();
    clock.advance(10_000);
    expect(await asked).toMatchObject({
      ok: false,
      error: { code: "not_ready", message: expect.stringMatching(/did not answer.*10000 ms/) },
    });
    reviews.before = Promise.resolve();
    expect(await attest(TOKEN)).toMatchObject({ ok: true });
  });

  test("is not asked about what cannot be a token", async () => {
    const { attest, reviews } = world();
    const parts = (text: string): boolean => /^[\w-]+\.[\w-]+\.[\w-]+$/.test(text);
    await fc.assert(
      fc.asyncProperty(
        fc.string({ unit: "binary", maxLength: 60 }).filter((text) => !parts(text)),
        async (text) => {
          expect(await attest(text)).toMatchObject({ ok: false, error: { code: "join_rejected" } });
        },
      ),
    );
    expect(await attest(`a.${"b".repeat(16_384)}.c`)).toMatchObject({ ok: false });
    expect(reviews.asked).toEqual([]);
  });

  test("cannot bring down the control plane with an odd review", async () => {
    const odd = fc.anything({ maxDepth: 3, values: [fc.string(), fc.boolean(), fc.constant(null)] });
    await fc.assert(
      fc.asyncProperty(
        fc.record(
          {
            authenticated: fc.constant(true),
            audiences: fc.oneof(odd, fc.constant([AUDIENCE])),
            user: fc.oneof(
              odd,
              fc.record({ username: fc.oneof(odd, fc.constant("system:serviceaccount:a:b")), extra: odd }),
            ),
          },
          { requiredKeys: ["authenticated"] },
        ),
        async (status) => {
          // Holds for no API server: that is the point.
          const { attest } = world(status as unknown as ReviewStatus);
          expect((await attest(TOKEN)).ok).toBe(false);
        },
      ),
    );
  });
});
