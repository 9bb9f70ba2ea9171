import { describe, expect, test } from "@jest/globals";
import { type AdminState, adminPages, healthPages, unreadyReason } from "../../sidecar/admin.ts";
import { parseProbes } from "../../sidecar/capture/probes.ts";
import type { DataPlane } from "../../sidecar/data-plane.ts";
import { SidecarMetrics } from "../../sidecar/metrics.ts";

const NOW = 1_000_000;
const probes = parseProbes("{}");

interface Parts {
  readonly identity?: unknown;
  readonly table?: unknown;
  readonly started?: boolean;
  readonly meshPort?: number | undefined;
}

function stateOf(parts: Parts, isDraining = false): AdminState {
  const plane = {
    identity: { notAfterMs: NOW + 1 },
    table: { program: { kind: "service" } },
    started: true,
    meshPort: 16_008,
    metrics: new SidecarMetrics(),
    ...parts,
  };
  return {
    // Only what these pages look at.
    plane: plane as unknown as DataPlane,
    config: { probes: probes.ok ? probes.value : new Map(), appMetrics: undefined, appHost: "127.0.0.1" },
    meshNowMs: () => NOW,
    isDraining: () => isDraining,
    isConnected: () => true,
    gatewayUnready: () => "no certificate",
  };
}

describe("readiness", () => {
  test.each([
    { name: "everything is in place", parts: {}, reason: undefined },
    { name: "nothing listens yet, or capture does not work", parts: { started: false }, reason: /listeners/ },
    { name: "there is no identity", parts: { identity: undefined }, reason: /no identity/ },
    { name: "the certificate has expired", parts: { identity: { notAfterMs: NOW } }, reason: /expired/ },
    { name: "the mesh port is not bound", parts: { meshPort: undefined }, reason: /mesh port/ },
    { name: "there is no table", parts: { table: undefined }, reason: /no policy/ },
    {
      name: "a gateway cannot serve",
      parts: { table: { program: { kind: "gateway" } } },
      reason: /no certificate/,
    },
  ])("when $name", async ({ parts, reason }) => {
    const state = stateOf(parts);
    const page = await healthPages(state)("/readyz", new URLSearchParams());
    if (reason === undefined) {
      expect(unreadyReason(state)).toBeUndefined();
      expect(page).toMatchObject({ status: 200 });
    } else {
      expect(unreadyReason(state)).toMatch(reason);
      expect(page).toMatchObject({ status: 503 });
    }
    // Whoever is not ready is alive all the same: a restart would not help.
    expect(await healthPages(state)("/livez", new URLSearchParams())).toMatchObject({ status: 200 });
  });

  test("ends with the drain", () => {
    expect(unreadyReason(stateOf({}, true))).toBe("draining");
  });

  test("shows the application's metrics only where they are declared", async () => {
    for (const path of ["/app-metrics", "/merged-metrics"])
      for (const pages of [healthPages(stateOf({})), adminPages(stateOf({}))])
        expect(await pages(path, new URLSearchParams())).toBeUndefined();
  });
});
