import { describe, expect, test } from "@jest/globals";
import { SVID_BACKDATE_MS } from "../../../../sidecar/core/identity/renewal.ts";
import { Revocations } from "../../../../sidecar/core/identity/revocations.ts";
import type { SpiffeId } from "../../../../sidecar/core/identity/spiffe-id.ts";

const NOTEBOOK = "spiffe://lake.example/ns/lab/sa/a/notebook/nb" as SpiffeId;
const OTHER = "spiffe://lake.example/ns/lab/sa/a/notebook/nb-2" as SpiffeId;
const POD = "3f0c2a51-6d0e-4c1b-9a57-8b1f6f0c2d11";
const EPOCH = 1_790_000_000_000;

const issued = (spiffeId: SpiffeId, instance: string, atMs: number) => ({
  spiffeId,
  instance,
  notBeforeMs: atMs - SVID_BACKDATE_MS,
});
const ofWorkload = { spiffeId: NOTEBOOK, pod: "", beforeMs: EPOCH };
const ofPod = { spiffeId: "", pod: POD, beforeMs: EPOCH };

describe("revocations", () => {
  test.each([
    ["nothing is revoked", [], NOTEBOOK, POD, EPOCH - 1, false],
    ["issued before the epoch", [ofWorkload], NOTEBOOK, "", EPOCH - 1, true],
    ["issued at the epoch", [ofWorkload], NOTEBOOK, "", EPOCH, false],
    ["another workload", [ofWorkload], OTHER, "", EPOCH - 1, false],
    ["the pod, whatever its workload", [ofPod], OTHER, POD, EPOCH - 1, true],
    ["the pod, issued after", [ofPod], OTHER, POD, EPOCH + 1, false],
    ["another pod of the workload", [ofPod], OTHER, "11111111-1111-4111-8111-111111111111", 1, false],
    [
      "an earlier epoch does not shorten a later one",
      [ofWorkload, { ...ofWorkload, beforeMs: 5 }],
      NOTEBOOK,
      "",
      EPOCH - 1,
      true,
    ],
    ["no pod is not any pod", [ofPod], NOTEBOOK, "", EPOCH - 1, false],
  ] as const)("%s", (_name, entries, spiffeId, instance, atMs, covered) => {
    expect(new Revocations(entries).covers(issued(spiffeId, instance, atMs))).toBe(covered);
  });
});

describe("revoked transaction tokens", () => {
  const token = (iatMs: number, sid?: string) => ({
    sub: "okta-main|alice",
    iat: iatMs / 1_000,
    rctx: { sid },
  });
  const ofUser = { spiffeId: "", pod: "", user: "okta-main|alice", beforeMs: EPOCH };
  const ofSession = { spiffeId: "", pod: "", session: "s1", beforeMs: EPOCH };
  test.each([
    ["nothing is revoked", [ofWorkload], token(EPOCH - 1_000, "s1"), false],
    ["issued before the user's epoch", [ofUser], token(EPOCH - 1_000), true],
    ["issued at the user's epoch", [ofUser], token(EPOCH), false],
    ["in the second of the epoch", [{ ...ofUser, beforeMs: EPOCH + 1 }], token(EPOCH), true],
    ["another user", [{ ...ofUser, user: "entra|alice" }], token(EPOCH - 1_000), false],
    ["the session", [ofSession], token(EPOCH - 1_000, "s1"), true],
    ["the provider's session", [{ ...ofSession, session: "g1" }], token(EPOCH - 1_000, "g1.s1"), true],
    ["another provider's session", [{ ...ofSession, session: "g2" }], token(EPOCH - 1_000, "g1.s1"), false],
    [
      "one of a provider's sessions",
      [{ ...ofSession, session: "g1.s2" }],
      token(EPOCH - 1_000, "g1.s1"),
      false,
    ],
    ["another session", [ofSession], token(EPOCH - 1_000, "s2"), false],
    ["no session is not any session", [ofSession], token(EPOCH - 1_000), false],
    ["a session named like the user", [{ ...ofSession, session: "okta-main|alice" }], token(1_000), false],
  ] as const)("%s", (_name, entries, claims, covered) => {
    expect(new Revocations(entries).coversTxn(claims)).toBe(covered);
    expect(new Revocations(entries).size).toBe(1);
  });
});
