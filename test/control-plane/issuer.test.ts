// Who gets an identity, who gets it again, and who does not.
import { X509Certificate } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { JoinRefusal } from "../../control-plane/attestation/refusal.ts";
import { fileJoinTokens } from "../../control-plane/ca/join-token-files.ts";
import { createJoinToken } from "../../control-plane/ca/join-tokens.ts";
import { createIssuer, type Issuer, type IssuerDeps } from "../../control-plane/issuer.ts";
import type { ClusterState, MeshPod } from "../../control-plane/sources/store.ts";
import type { CertificateRequest__Output } from "../../proto/gen/countersign/mesh/v1/CertificateRequest.ts";
import { createCertificateRequest, createKeys } from "../../sidecar/certs/key-and-csr.ts";
import { parseSvid } from "../../sidecar/core/identity/svid.ts";
import { createTestAuthority, must, type TestAuthority } from "../fakes/authority.ts";
import { clusterState, workload } from "../fakes/resources.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
const UID = "3f0c2a51-6d0e-4c1b-9a57-8b1f6f0c2d11";
const KEY = "lab/notebook/notebook/nb-1";
const ID = "spiffe://test.example/ns/lab/sa/notebook/notebook/nb-1";
const POD: MeshPod = {
  uid: UID,
  namespace: "lab",
  name: "nb-1",
  serviceAccount: "notebook",
  node: "node-1",
  addresses: [],
  ready: true,
  injected: true,
  workload: KEY,
};
const TOKEN = { kind: "service-account-token", token: "a.b.c" } as const;

let authority: TestAuthority;
beforeAll(async () => {
  authority = await createTestAuthority(NOW, "test.example");
});
afterAll(() => authority.close());

function state(pods: readonly MeshPod[] = [POD], kind: "notebook" | "agent" = "notebook"): ClusterState {
  const one = workload("nb-1", "lab", { kind, serviceAccount: "notebook" });
  const declared = workload("declared", "lab");
  return clusterState([], {
    workloads: new Map([
      [KEY, one],
      ["lab/declared", declared],
    ]),
    pods: new Map(pods.map((pod) => [pod.uid, pod])),
  });
}

function issuer(over: Partial<IssuerDeps> = {}): Issuer & { readonly counted: string[] } {
  const counted: string[] = [];
  const made = createIssuer({
    ca: authority.ca,
    joinTokens: fileJoinTokens(authority.stateDir),
    cluster: "eu1",
    clock: { nowMs: () => NOW, monotonicMs: () => 0, sleep: async () => {} },
    state: () => state(),
    metrics: { joined: (result) => counted.push(result), issued: () => {} },
    attest: async () => ({ ok: true, value: { uid: UID, workload: KEY } }),
    ...over,
  });
  return { ...made, counted };
}

const request = (): CertificateRequest__Output => ({
  ...createCertificateRequest(createKeys()),
  id: 1,
});

describe("join", () => {
  test("gives a pod its workload's name, and writes its UID into certificate and token", async () => {
    const { join, counted } = issuer();
    const identity = must(await join(TOKEN, request()));
    expect(identity.spiffeId).toBe(ID);
    const [leaf] = identity.certificateChainDer ?? [];
    expect(must(parseSvid(Buffer.from(leaf ?? ""))).instance).toBe(UID);
    expect(new X509Certificate(Buffer.from(leaf ?? "")).subject).toBe(`serialNumber=${UID}`);
    const claims = JSON.parse(
      Buffer.from(String(identity.workloadIdentityToken).split(".")[1] ?? "", "base64url").toString(),
    );
    expect(claims["countersign.dev/wl"]).toMatchObject({ kind: "notebook", name: "nb-1", pod: UID });
    expect(counted).toEqual(["ok"]);
  });

  test("asks nobody about a request that is broken", async () => {
    const attest = async (): Promise<never> => {
      throw new Error("asked");
    };
    const answer = await issuer({ attest }).join(TOKEN, { ...request(), csrDer: Buffer.from("x") });
    expect(answer).toMatchObject({ ok: false, error: { code: "csr_rejected" } });
  });

  test("says what the attestor says, and counts it", async () => {
    const error = new JoinRefusal("not_ready", "for the log", "for the caller");
    const { join, counted } = issuer({ attest: async () => ({ ok: false, error }) });
    expect(await join(TOKEN, request())).toEqual({ ok: false, error });
    expect(counted).toEqual(["failed"]);
  });

  test("does not tell a pod that there is no workload of its name", async () => {
    const { join } = issuer({
      attest: async () => ({ ok: true, value: { uid: UID, workload: "lab/none" } }),
    });
    const answer = await join(TOKEN, request());
    expect(answer).toMatchObject({
      ok: false,
      error: { code: "join_rejected", told: expect.stringMatching(/^the workload cannot have/) },
    });
  });

  test("takes only the kinds of proof that this mesh uses", async () => {
    const tokensOnly = createIssuer({
      ca: authority.ca,
      joinTokens: fileJoinTokens(authority.stateDir),
      cluster: "eu1",
      clock: { nowMs: () => NOW, monotonicMs: () => 0, sleep: async () => {} },
      state: () => state(),
      metrics: { joined: () => {}, issued: () => {} },
    });
    expect(await tokensOnly.join(TOKEN, request())).toMatchObject({
      ok: false,
      error: { code: "unsupported", told: "this control plane takes join tokens only" },
    });
    const { token } = await createJoinToken({
      store: fileJoinTokens(authority.stateDir),
      workload: "lab/declared",
      ttlSeconds: 60,
      rootSpkiSha256: authority.ca.rootSpkiSha256,
      nowMs: NOW,
    });
    const proof = { kind: "join-token", token } as const;
    expect(await issuer({ takesJoinTokens: () => false }).join(proof, request())).toMatchObject({
      ok: false,
      error: { code: "unsupported", told: expect.stringMatching(/declared Workload objects/) },
    });
    const both = issuer({ takesJoinTokens: () => true });
    expect(must(await both.join(proof, request())).spiffeId).toBe(
      "spiffe://test.example/ns/lab/sa/declared/serving/declared",
    );
    expect(await both.join(proof, request())).toMatchObject({
      ok: false,
      error: { code: "join_rejected", told: expect.stringMatching(/^the join token is not valid: unknown/) },
    });
  });
});

describe("renew", () => {
  test("needs nothing but the last state, and keeps the pod's UID", async () => {
    const attest = async (): Promise<never> => {
      throw new Error("the API server was asked");
    };
    const identity = must(await issuer({ attest }).renew(KEY, ID, request(), UID));
    expect(must(parseSvid(Buffer.from(identity.certificateChainDer?.[0] ?? ""))).instance).toBe(UID);
  });

  test.each<{ name: string; instance: string; state: ClusterState; says: RegExp }>([
    { name: "a pod that is gone", instance: UID, state: state([]), says: /of no pod that is known/ },
    {
      name: "a pod of another workload",
      instance: UID,
      state: state([{ ...POD, workload: "lab/other" }]),
      says: /of another workload now/,
    },
    {
      name: "a pod whose workload has another name now",
      instance: UID,
      state: state([POD], "agent"),
      says: /another identity now/,
    },
    { name: "an exported identity", instance: "export", state: state(), says: /exported identity is not/ },
  ])("refuses $name", async ({ instance, state: now, says }) => {
    const answer = await issuer({ state: () => now }).renew(KEY, ID, request(), instance);
    expect(answer).toMatchObject({ ok: false, error: expect.stringMatching(says) });
  });

  test("goes on for declared workloads, which have no pod", async () => {
    const declared = "spiffe://test.example/ns/lab/sa/declared/serving/declared";
    const identity = must(await issuer().renew("lab/declared", declared, request()));
    expect(must(parseSvid(Buffer.from(identity.certificateChainDer?.[0] ?? ""))).instance).toBe("");
    expect(await issuer().renew("lab/declared", declared, request(), "export")).toMatchObject({
      ok: false,
      error: expect.stringMatching(/exported identity is not renewed/),
    });
  });
});
