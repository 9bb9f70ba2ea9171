// The whole of a rotation against a modelled mesh: what matters is what every sidecar can verify at every moment.
import type { X509Certificate } from "node:crypto";
import { beforeEach, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { type CertificateAuthority, openCertificateAuthority } from "../../../control-plane/ca/root.ts";
import {
  ALONE_LIMITS,
  RootRotation,
  type SeenSidecar,
  seenSidecars,
} from "../../../control-plane/ca/root-rotation.ts";
import type { ProxyStatus } from "../../../control-plane/discovery/server.ts";
import type { MeshPod } from "../../../control-plane/sources/store.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { MemoryStore } from "../../fakes/authority-store.ts";
import { FakeClock } from "../../fakes/clock.ts";

const HOUR = 3_600_000;
/** Longest wait between attempts of a sidecar, with what it takes to notice. */
const COMES_BACK_MS = 25_000;
const TTL = 6 * HOUR;
const START = Date.parse("2026-11-20T10:00:00Z");
const print = (root: X509Certificate): string => root.fingerprint256;

/** Roots that a sidecar trusts, and the leaf that it shows. */
interface Model {
  readonly id: string;
  connected: boolean;
  /** This process of the control plane had a stream of it. */
  seen: boolean;
  /** When it comes back after the control plane started again. */
  backAtMs: number;
  sequence: number;
  trusts: readonly string[];
  leafRoot: string;
  issuerId: string;
  leafUntilMs: number;
}

class Mesh {
  readonly clock = new FakeClock(START);
  readonly store = new MemoryStore(false);
  readonly sidecars: Model[] = [];
  ca!: CertificateAuthority;
  rotation!: RootRotation;

  static async open(count: number): Promise<Mesh> {
    const mesh = new Mesh();
    await mesh.restart();
    for (let i = 0; i < count; i++) {
      const one: Model = {
        id: `s${i}`,
        connected: true,
        seen: true,
        backAtMs: Number.POSITIVE_INFINITY,
        sequence: 0,
        trusts: [],
        leafRoot: "",
        issuerId: "",
        leafUntilMs: 0,
      };
      mesh.sidecars.push(one);
      mesh.acknowledge(one);
      mesh.renew(one);
    }
    return mesh;
  }

  /** The process starts again: what it does not store is gone, and everybody comes back who can. */
  async restart(): Promise<void> {
    const { store, clock } = this;
    this.ca = await openCertificateAuthority({ store, clock, trustDomain: "lake.example" });
    const sidecars = (): SeenSidecar[] =>
      this.sidecars
        .filter(({ seen }) => seen)
        .map((one) => ({
          id: one.id,
          name: one.id,
          connected: one.connected,
          isSynced: one.connected && one.sequence === this.ca.sequence,
          issuerId: one.issuerId,
          leafUntilMs: one.leafUntilMs,
        }));
    this.rotation = new RootRotation({
      ca: this.ca,
      sidecars,
      clock,
      log: silentLogger,
      limits: ALONE_LIMITS,
      heartbeatMs: 5_000,
    });
    for (const one of this.sidecars) {
      one.connected = false;
      one.seen = false;
      one.backAtMs = clock.nowMs() + COMES_BACK_MS;
    }
  }

  /** A stream needs both ends to verify the other. */
  canConnect(one: Model): boolean {
    const isKnown = this.ca.roots.map(print).includes(one.leafRoot);
    return isKnown && one.trusts.includes(print(this.ca.serverRoot)) && this.isLive(one);
  }

  isLive(one: Model): boolean {
    return this.clock.nowMs() < one.leafUntilMs;
  }

  connect(one: Model): void {
    one.connected = this.canConnect(one);
    one.seen ||= one.connected;
    one.backAtMs = Number.POSITIVE_INFINITY;
  }

  acknowledge(one: Model): void {
    if (!one.connected) return;
    one.sequence = this.ca.sequence;
    one.trusts = this.ca.roots.map(print);
  }

  renew(one: Model): void {
    if (!one.connected) return;
    const { ca } = this;
    const { rotation } = ca;
    // An identity comes with the bundle of its moment.
    one.trusts = ca.roots.map(print);
    one.issuerId = ca.issuing.keyIdentifier.toString("hex");
    const isNew = rotation?.to.issuing.keyIdentifier.equals(ca.issuing.keyIdentifier) === true;
    const root = isNew ? rotation?.to.root.certificate : ca.roots[rotation?.record.stage === "sign" ? 1 : 0];
    one.leafRoot = root === undefined ? "" : print(root);
    one.leafUntilMs = this.clock.nowMs() + TTL;
  }

  /** Pairs (callee trusts, caller shows) that would fail now. */
  broken(): string[] {
    const live = this.sidecars.filter((one) => this.isLive(one));
    const pairs = live.flatMap((a) => live.map((b) => [a, b] as const));
    return [
      ...pairs.filter(([a, b]) => !b.trusts.includes(a.leafRoot)).map(([a, b]) => `${b.id} refuses ${a.id}`),
      ...live.filter((one) => one.connected && !this.canConnect(one)).map(({ id }) => `${id} is shut out`),
    ];
  }
}

type Action =
  | { readonly kind: "ack" | "renew" | "leave" | "return"; readonly who: number }
  | { readonly kind: "ack-all" | "renew-all" | "rotate" | "abort" | "restart" }
  | { readonly kind: "pass"; readonly ms: number };

/** Mostly what carries a rotation on, so that every stage is reached; and everything that may come in between. */
const who = fc.nat({ max: 2 });
const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom<Action>({ kind: "ack-all" }, { kind: "renew-all" }) },
  { weight: 8, arbitrary: fc.constantFrom(1_000, 2_000, 5_000).map((ms): Action => ({ kind: "pass", ms })) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(35_000, HOUR, 3 * HOUR).map((ms): Action => ({ kind: "pass", ms })),
  },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constantFrom("ack" as const, "renew" as const), who }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constantFrom("leave" as const, "return" as const), who }),
  },
  { weight: 3, arbitrary: fc.constant<Action>({ kind: "rotate" }) },
  { weight: 1, arbitrary: fc.constantFrom<Action>({ kind: "abort" }, { kind: "restart" }) },
);

async function perform(mesh: Mesh, one: Action): Promise<void> {
  switch (one.kind) {
    case "pass":
      mesh.clock.advance(one.ms);
      for (const sidecar of mesh.sidecars) if (mesh.clock.nowMs() >= sidecar.backAtMs) mesh.connect(sidecar);
      // A certificate renews at half of its life; who is connected never lets it end.
      for (const sidecar of mesh.sidecars)
        if (sidecar.leafUntilMs - mesh.clock.nowMs() < TTL / 3) mesh.renew(sidecar);
      return;
    case "rotate":
      if (mesh.ca.rotation === undefined) await mesh.rotation.start();
      return;
    case "abort":
      if (mesh.ca.rotation?.record.aborting === false) await mesh.rotation.abort();
      return;
    case "restart":
      return mesh.restart();
    case "ack-all":
      for (const sidecar of mesh.sidecars) mesh.acknowledge(sidecar);
      return;
    case "renew-all":
      for (const sidecar of mesh.sidecars) mesh.renew(sidecar);
      return;
    default: {
      const sidecar = mesh.sidecars[one.who];
      if (sidecar === undefined) return;
      if (one.kind === "ack") mesh.acknowledge(sidecar);
      else if (one.kind === "renew") mesh.renew(sidecar);
      else if (one.kind === "leave") sidecar.connected = false;
      else mesh.connect(sidecar);
    }
  }
}

/** Everybody answers: acknowledges, and renews as sidecars below a retiring root do. */
async function settle(mesh: Mesh): Promise<void> {
  for (let turn = 0; turn < 20 && mesh.ca.rotation !== undefined; turn++) {
    for (const one of mesh.sidecars) {
      mesh.connect(one);
      mesh.acknowledge(one);
      if (mesh.ca.retiringRoots.map(print).includes(one.leafRoot)) mesh.renew(one);
    }
    mesh.clock.advance(31_000);
    await mesh.rotation.tick();
    expect(mesh.broken()).toEqual([]);
  }
}

describe("a root rotation", () => {
  test("breaks no pair of sidecars at any moment, whatever comes in between, and ends with one root", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(action, { maxLength: 80, size: "max" }), async (actions) => {
        const mesh = await Mesh.open(3);
        mesh.clock.advance(60_000);
        for (const one of actions) {
          await perform(mesh, one);
          expect(mesh.broken()).toEqual([]);
          await mesh.rotation.tick();
          expect(mesh.broken()).toEqual([]);
        }
        for (const one of mesh.sidecars) mesh.connect(one);
        await settle(mesh);
        expect(mesh.ca.rotation).toBeUndefined();
        expect(mesh.ca.roots).toHaveLength(1);
        expect(mesh.ca.serverRoot.fingerprint256).toBe(mesh.ca.roots[0]?.fingerprint256);
        expect([...mesh.store.files.keys()].filter((name) => name.startsWith("root"))).toHaveLength(1);
      }),
      { numRuns: 50 },
    );
  });

  describe("step by step", () => {
    let mesh: Mesh;
    let before: string;
    beforeEach(async () => {
      mesh = await Mesh.open(2);
      before = print(mesh.ca.serverRoot);
      mesh.clock.advance(60_000);
    });
    const tick = async (ms = 2_000): Promise<void> => {
      mesh.clock.advance(ms);
      await mesh.rotation.tick();
    };
    const everybody = (act: "acknowledge" | "renew"): void => {
      for (const one of mesh.sidecars) mesh[act](one);
    };
    const stage = (): string | undefined => mesh.ca.rotation?.record.stage;

    test("goes distribute, sign, retire, and each waits for what it needs", async () => {
      await mesh.rotation.start();
      await expect(mesh.rotation.start()).rejects.toMatchObject({ code: "conflict" });
      expect(mesh.ca.roots).toHaveLength(2);
      await tick();
      expect(mesh.rotation.status().rotation).toMatchObject({
        stage: "distribute",
        waiting: 2,
        waitingFor: ["s0", "s1"],
      });
      everybody("acknowledge");
      await tick();
      expect(stage()).toBe("sign");
      expect(mesh.ca.retiringRoots.map(print)).toEqual([before]);
      // Who missed all this still gets in: the control plane's own certificate stays below the old root.
      expect(print(mesh.ca.serverRoot)).toBe(before);
      everybody("acknowledge");
      await tick();
      expect(mesh.rotation.status().rotation).toMatchObject({ stage: "sign", waiting: 2, overdue: false });
      everybody("renew");
      await tick();
      expect(stage()).toBe("retire");
      expect(mesh.ca.roots.map(print)).not.toContain(before);
      everybody("acknowledge");
      await tick();
      expect(mesh.rotation.status()).toMatchObject({ rotation: null, roots: [{ signs: true }] });
      expect(mesh.ca.sequence).toBe(5);
    });

    test("a restart goes on where it was, after the sidecars had time to come back", async () => {
      await mesh.rotation.start();
      everybody("acknowledge");
      await tick();
      everybody("renew");
      await mesh.restart();
      for (const one of mesh.sidecars) mesh.connect(one);
      await tick(10_000);
      expect(stage()).toBe("sign");
      await tick(25_000);
      expect(stage()).toBe("retire");
    });

    test("force gives up who does not answer, by name, and abort is refused when there is nothing to abort", async () => {
      await expect(mesh.rotation.abort()).rejects.toMatchObject({ code: "not_found" });
      await mesh.rotation.start();
      const [first] = mesh.sidecars;
      if (first !== undefined) mesh.acknowledge(first);
      await tick(11 * 60_000);
      expect(mesh.rotation.status().rotation).toMatchObject({ overdue: true, waitingFor: ["s1"] });
      expect(await mesh.rotation.force()).toMatchObject({
        givenUp: ["s1"],
        rotation: { givenUp: 1, waiting: 0 },
      });
      await tick();
      expect(stage()).toBe("sign");
    });

    test("what cannot be stored does not happen", async () => {
      mesh.store.failNext = new Error("disk full");
      await expect(mesh.rotation.start()).rejects.toThrow("disk full");
      expect(mesh.ca.rotation).toBeUndefined();
      expect(mesh.ca.roots.map(print)).toEqual([before]);
      await mesh.rotation.start();
      expect(stage()).toBe("distribute");
    });
  });
});

describe("seenSidecars", () => {
  const proxy: ProxyStatus = {
    workload: "lab/a",
    instance: "i1",
    pod: "",
    node: "",
    softwareVersion: "0.1.0",
    state: "synced",
    digest: "d",
    expectedDigest: "d",
    nack: undefined,
    syncedRevision: 1,
    sinceMs: START,
    leaf: { issuerKeyId: "0a", notAfterMs: START + TTL },
  };
  const pod: MeshPod = {
    uid: "u1",
    namespace: "lab",
    name: "a-0",
    serviceAccount: "a",
    node: "n1",
    addresses: ["10.0.0.1"],
    ready: true,
    injected: true,
    workload: "lab/a",
  };

  test("are those that discovery knows, by what they showed", () => {
    const states = [
      proxy,
      { ...proxy, state: "stale", node: "n1" },
      { ...proxy, state: "disconnected", pod: "u9", node: "n1" },
    ] as const;
    expect(seenSidecars(states, [])).toMatchObject([
      { id: "i1", name: "lab/a", connected: true, isSynced: true, issuerId: "0a", leafUntilMs: START + TTL },
      { name: "lab/a on n1", connected: true, isSynced: false },
      { name: "lab/a on u9", connected: false, isSynced: false },
    ]);
  });

  test("are those too of pods that are up and that nobody knows", () => {
    const pods = [
      pod,
      { ...pod, uid: "u2", name: "a-1" },
      { ...pod, uid: "u3", ready: false },
      { ...pod, uid: "u4", injected: false },
    ];
    expect(
      seenSidecars([{ ...proxy, pod: "u1" }], pods).map(({ name, connected }) => [name, connected]),
    ).toEqual([
      ["lab/a on u1", true],
      ["pod lab/a-1", false],
    ]);
  });

  test("a replica that does not lead gives nobody up and says that it does not know them all", async () => {
    const clock = new FakeClock(START);
    const ca = await openCertificateAuthority({
      store: new MemoryStore(),
      clock,
      trustDomain: "lake.example",
    });
    const deps = { ca, clock, log: silentLogger, limits: ALONE_LIMITS, heartbeatMs: 5_000 };
    const rotation = new RootRotation({ ...deps, sidecars: () => [], isLeader: () => false });
    expect(await rotation.start()).toMatchObject({ leads: false, rotation: { stage: "distribute" } });
    await expect(rotation.force()).rejects.toMatchObject({ code: "conflict" });
    clock.advance(HOUR);
    await rotation.tick();
    expect(ca.rotation?.record.stage).toBe("distribute");
  });

  test("a pod that nobody knows holds a rotation up until it is given up", async () => {
    const clock = new FakeClock(START);
    const ca = await openCertificateAuthority({
      store: new MemoryStore(false),
      clock,
      trustDomain: "lake.example",
    });
    const deps = { ca, clock, log: silentLogger, limits: ALONE_LIMITS, heartbeatMs: 5_000 };
    const rotation = new RootRotation({ ...deps, sidecars: () => seenSidecars([], [pod]) });
    await rotation.start();
    clock.advance(HOUR);
    await rotation.tick();
    expect(rotation.status().rotation).toMatchObject({
      stage: "distribute",
      waitingFor: ["pod lab/a-0 (its sidecar is not connected)"],
    });
    await rotation.force();
    for (let step = 0; step < 3; step++) {
      clock.advance(2_000);
      await rotation.tick();
    }
    expect(ca.rotation).toBeUndefined();
  });
});
