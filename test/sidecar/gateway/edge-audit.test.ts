import { expect, test } from "@jest/globals";
import type { SidecarTable } from "../../../sidecar/discovery/table.ts";
import { EdgeAudit } from "../../../sidecar/gateway/edge-audit.ts";
import type { EdgeRequest } from "../../../sidecar/gateway/people.ts";

interface Told {
  readonly user: string | undefined;
  readonly repeated: number;
}

function audit(): { readonly edge: EdgeAudit; readonly told: Told[] } {
  const told: Told[] = [];
  // Of a table it uses who the gateway is.
  const table = { program: {}, settings: {}, revision: 1 } as unknown as SidecarTable;
  const edge = new EdgeAudit({
    trail: {
      decisionId: () => "g-1",
      tell: ({ user }, { repeated }) => {
        told.push({ user: user?.id, repeated });
      },
    },
    table: () => table,
    meshNowMs: () => 0,
  });
  edge.sweep(0);
  return { edge, told };
}

const from = (sourceIp: string): EdgeRequest =>
  ({
    method: "GET",
    host: "lab.example",
    target: "/",
    sourceIp,
    field: () => undefined,
  }) as unknown as EdgeRequest;
const signIn = (id: string) =>
  ({
    action: "login",
    allowed: true,
    reason: "ALLOWED",
    user: { id, roles: [] },
    request: from("10.0.0.1"),
  }) as const;

test("a flood of strangers hides nobody's sign-in", () => {
  const { edge, told } = audit();
  for (let i = 0; i < 10_000; i++)
    edge.tell({
      ...{ action: "login", allowed: false, reason: "INVALID" },
      request: from(`10.${i >> 8}.${i & 255}.7`),
    });
  expect(told.length).toBeLessThanOrEqual(3_000);
  told.length = 0;
  for (const id of ["acme|alice", "acme|bob"]) edge.tell(signIn(id));
  expect(told.map(({ user }) => user)).toEqual(["acme|alice", "acme|bob"]);
});

test("one person's own flood is one line beside the first ten, from however many addresses", () => {
  const { edge, told } = audit();
  for (let i = 0; i < 500; i++) edge.tell({ ...signIn("acme|alice"), request: from(`10.0.${i & 255}.7`) });
  expect(told).toHaveLength(10);
  edge.sweep(60_000);
  expect(told[10]).toEqual({ user: "acme|alice", repeated: 490 });
});
