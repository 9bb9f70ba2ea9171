// A host outside the mesh as a sidecar's table tells of it: the ExternalService `lab/outside`, reached at `localhost`.
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import type { SidecarTable } from "../../../sidecar/discovery/table.ts";
import { TRUST_DOMAIN } from "./world.ts";

export const OUTSIDE = "lab/outside";

/** The same table, with the host. */
export function withOutside(
  base: SidecarTable,
  port: number,
  policies: readonly ProgramPolicy[],
  plaintext?: "http" | "h2c",
): SidecarTable {
  const program = {
    ...base.program,
    id: `external:${OUTSIDE}`,
    spiffeId: "",
    kind: "external",
    name: "outside",
    ports: [{ port, protocol: "http" as const, packs: ["things"] }],
    trustDomain: TRUST_DOMAIN,
    policies,
  };
  const service = { id: OUTSIDE, hosts: ["localhost"], program };
  const spoken = plaintext === undefined ? service : { ...service, plaintext };
  return { ...base, externals: new Map([[OUTSIDE, spoken]]) };
}
