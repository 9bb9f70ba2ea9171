import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { createKubernetesRest } from "../../../control-plane/kubernetes/rest.ts";
import { buildRevocations } from "../../../control-plane/resources/build.ts";
import {
  createRevocation,
  parseRevocation,
  type Revocation,
} from "../../../control-plane/revocations/revocation.ts";
import { openRevocationFile } from "../../../control-plane/revocations/revocation-file.ts";
import { openRevocationRecords } from "../../../control-plane/revocations/revocation-records.ts";
import { RevocationList } from "../../../control-plane/revocations/store.ts";
import type { MeshPod } from "../../../control-plane/sources/store.ts";
import type { Delta__Output } from "../../../proto/gen/countersign/mesh/v1/Delta.ts";
import type { Revocations__Output } from "../../../proto/gen/countersign/mesh/v1/Revocations.ts";
import { messageCodec } from "../../../proto/load.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { decodeResource } from "../../../sidecar/discovery/decode.ts";
import { must } from "../../fakes/authority.ts";
import { FakeKubeApi } from "../../fakes/kube-api.ts";
import { workload } from "../../fakes/resources.ts";
import { identityProvider } from "../../fakes/token-service.ts";

const NOW = 1_790_000_000_000;
const UID = "3f0c2a51-6d0e-4c1b-9a57-8b1f6f0c2d11";
const pod: MeshPod = {
  ...{ uid: UID, namespace: "lab", name: "nb-0", serviceAccount: "a", node: "n", addresses: [] },
  ...{ ready: true, injected: true, workload: "lab/nb" },
};
const state = {
  workloads: new Map([["lab/nb", workload("nb", "lab", { kind: "notebook" })]]),
  pods: new Map([[UID, pod]]),
  identityProviders: new Map([["okta-main", identityProvider("https://idp.example")]]),
};
const make = (request: object): Revocation =>
  createRevocation({ reason: "INC-1", ...request }, state, "lake.example", NOW);

describe("a revocation", () => {
  test("of a workload names its SPIFFE ID, with an epoch that covers what laggards still issue", () => {
    const made = make({ workload: "lab/nb" });
    expect(made.spiffeId).toMatch(/^spiffe:\/\/lake\.example\/ns\/lab\/.*\/nb$/);
    expect(made).toMatchObject({ pod: "", reason: "INC-1", beforeMs: NOW + 3_000 });
    expect(made.expiresAtMs - made.beforeMs).toBe(7 * 86_400_000);
  });

  test.each([["lab/nb-0"], [UID]])("of pod %s names its UID", (text) => {
    expect(make({ pod: text })).toMatchObject({ pod: UID, spiffeId: "" });
  });

  test("of a pod that is gone is by its UID", () => {
    const gone = "11111111-1111-4111-8111-111111111111";
    expect(make({ pod: gone }).pod).toBe(gone);
  });

  test.each([
    [{}, "name one of"],
    [{ workload: "lab/nb", pod: UID }, "name one of"],
    [{ user: "okta-main|alice", session: "BDp8kX2pQvOe3m1zR4sTuw" }, "name one of"],
    [{ user: "alice" }, "write `identity-provider|id`"],
    [{ user: "okta-main|" }, "write `identity-provider|id`"],
    [{ user: "okta-man|alice" }, "did you mean `okta-main`?"],
    [{ session: "short" }, "no id of a session"],
    [{ workload: "lab/mb" }, "did you mean `lab/nb`?"],
    [{ pod: "lab/nb-1" }, "did you mean `lab/nb-0`?"],
    [{ pod: "elsewhere/x" }, "give its UID"],
  ])("%j is refused", (request, words) => {
    expect(() => make(request)).toThrow(words);
  });

  test.each([
    [null],
    [[]],
    [{ ...make({ pod: UID }), spiffeId: "spiffe://x/y" }],
    [{ ...make({ pod: UID }), pod: "" }],
    [{ ...make({ pod: UID }), beforeMs: Number.NaN }],
    [{ ...make({ pod: UID }), expiresAtMs: 1 }],
    [{ ...make({ pod: UID }), id: 7 }],
    [{ ...make({ pod: UID }), user: "okta-main|alice" }],
    [{ ...make({ pod: UID }), session: 7 }],
  ])("is not read from %j", (value) => {
    expect(parseRevocation(value)).toBeUndefined();
  });
});

describe("a revocation of who is signed in", () => {
  const USER = { user: "okta-main|alice" };
  const SESSION = { session: "0123456789abcdef.BDp8kX2pQvOe3m1zR4sTuw" };
  test.each([USER, SESSION, { session: "0123456789abcdef" }])(
    "%j is kept until no session is left",
    (subject) => {
      const made = make(subject);
      expect(made).toMatchObject({ ...subject, spiffeId: "", pod: "", beforeMs: NOW + 3_000 });
      expect(made.expiresAtMs - NOW).toBeGreaterThan(12 * 3_600_000);
      expect(parseRevocation(JSON.parse(JSON.stringify(made)))).toEqual(made);
      expect(make({ ...subject, untilMs: NOW + 60_000 }).expiresAtMs).toBe(NOW + 60_000);
    },
  );

  test("is told to sidecars until its tokens have ended, and known here as long as its sessions", () => {
    let now = NOW;
    const list = new RevocationList(
      () => {},
      () => now,
    );
    const all = [make(USER), make(SESSION), make({ pod: UID })];
    list.replace(all);
    expect(list.published).toHaveLength(3);
    now += 700_000;
    list.replace([...all, make({ workload: "lab/nb" })]);
    expect(list.published.map(({ user, session }) => [user, session])).toEqual([
      [undefined, undefined],
      [undefined, undefined],
    ]);
    expect(list.coversTxn({ sub: "okta-main|alice", iat: NOW / 1000, rctx: {} })).toBe(true);
  });

  test("reaches sidecars beside the others, so that one without users takes the table", () => {
    const { encoded } = buildRevocations([make(USER), make(SESSION), make({ pod: UID })]);
    const [resource] = messageCodec<object, Delta__Output>("countersign.mesh.v1.Delta").decode(
      encoded,
    ).upsert;
    const { type, name, body } = resource ?? { type: "", name: "", body: Buffer.alloc(0) };
    const { entries } = messageCodec<object, Revocations__Output>("countersign.mesh.v1.Revocations").decode(
      body,
    );
    expect(entries).toHaveLength(1);
    const decoded = must(decodeResource(type, name, body));
    expect(decoded).toMatchObject({ kind: "revocations", value: [{ pod: UID }, USER, SESSION] });
  });
});

describe("revocations in a file", () => {
  let dir: string;
  let changes: number;
  const open = () => {
    const list = new RevocationList(
      () => changes++,
      () => NOW,
    );
    return openRevocationFile(dir, list).then((store) => ({ list, store }));
  };
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), "revocations-"));
    changes = 0;
  });
  afterEach(() => rm(dir, { recursive: true, force: true }));

  test("are in force at once and after a restart, until they expire", async () => {
    const { list, store } = await open();
    const [one, two] = [make({ workload: "lab/nb" }), make({ pod: UID })];
    await Promise.all([store.add(one), store.add(two)]);
    expect(changes).toBe(2);
    expect(list.covers({ spiffeId: one.spiffeId as never, instance: "", notBeforeMs: NOW - 300_000 })).toBe(
      true,
    );
    const again = await open();
    expect(
      again.store
        .list()
        .map(({ id }) => id)
        .sort(),
    ).toEqual([one.id, two.id].sort());
    expect(await again.store.purge(one.expiresAtMs)).toBe(2);
    expect((await open()).store.list()).toEqual([]);
  });

  test("what has expired leaves with the next one", async () => {
    const { store } = await open();
    await store.add(make({ session: "BDp8kX2pQvOe3m1zR4sTuw", untilMs: NOW + 4_000 }));
    const later = createRevocation({ pod: UID, reason: "INC-2" }, state, "lake.example", NOW + 60_000);
    await store.add(later);
    expect((await open()).store.list().map(({ id }) => id)).toEqual([later.id]);
  });

  test.each([["{"], ['{"revocations":[{}]}'], ["[]"]])("a damaged file ends the start: %s", async (text) => {
    await writeFile(join(dir, "revocations.json"), text, { mode: 0o600 });
    await expect(open()).rejects.toThrow("is damaged; restore it");
  });
});

test("revocations in records are followed; what is not understood revokes nothing and stops nothing", async () => {
  const api = await FakeKubeApi.start();
  const stop = new AbortController();
  try {
    const time = (ms: number) => new Date(ms).toISOString();
    const spec = { pod: UID, before: time(NOW), expiresAt: time(NOW + 1_000), reason: "r" };
    api.set("system", "a", { spec });
    api.set("system", "b", { spec: { ...spec, before: "yesterday" } });
    const list = new RevocationList(
      () => {},
      () => NOW,
    );
    const sent: { readonly body: { readonly spec: object } }[] = [];
    const deleted: string[] = [];
    const store = await openRevocationRecords(
      {
        custom: {
          createNamespacedCustomObject: async (request) => void sent.push(request as never),
          deleteNamespacedCustomObject: async ({ name }) => void deleted.push(name),
        },
        rest: createKubernetesRest(api.credentials),
        ...{ namespace: "system", clock: systemClock, log: silentLogger },
      },
      list,
      stop.signal,
    );
    expect(store.list()).toEqual([
      { id: "a", spiffeId: "", pod: UID, beforeMs: NOW, reason: "r", expiresAtMs: NOW + 1_000 },
    ]);
    await store.add(make({ workload: "lab/nb" }));
    expect(sent[0]?.body.spec).toMatchObject({ before: time(NOW + 3_000), reason: "INC-1" });
    expect(await store.purge(NOW + 1_000)).toBe(1);
    expect(deleted).toEqual(["a"]);
    api.delete("system", "a");
    while (store.list().length > 0) await new Promise((resolve) => setImmediate(resolve));
  } finally {
    stop.abort();
    await api.close();
  }
});
