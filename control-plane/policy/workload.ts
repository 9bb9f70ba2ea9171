// Workload: a workload outside Kubernetes or in directory mode, typed; PURE.
import { WORKLOAD_KINDS } from "../../sidecar/core/policy/call.ts";
import { PORT_PROTOCOLS, type ProgramPort } from "../../sidecar/core/policy/rule.ts";
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { Workload } from "../sources/store.ts";
import { FieldReader } from "./field-reader.ts";
import { isIpAddress } from "./obligation-fields.ts";
import { checkLabelKey } from "./rule-fields.ts";

function readPort(fields: FieldReader): ProgramPort {
  fields.require("port");
  const port = fields.integer("port", 1, 65535) ?? 0;
  if (port >= 16001 && port <= 16080)
    fields.report("ports 16001 to 16080 belong to the mesh: let the application listen on another port");
  return {
    port,
    protocol: fields.oneOf("protocol", PORT_PROTOCOLS) ?? "http",
    packs: fields.texts("packs") ?? [],
  };
}

/** @returns the workload; its labels are those of `spec.labels`. */
export function parseWorkload(object: ValidObject): Result<Workload, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const fields = new FieldReader(object.spec, "spec", problems);
  fields.require("kind", "serviceAccount");
  const workload: Workload = {
    name: object.name,
    namespace: object.namespace ?? "",
    kind: fields.oneOf("kind", WORKLOAD_KINDS) ?? "service",
    serviceAccount: fields.text("serviceAccount") ?? "",
    labels: fields.textMap("labels", checkLabelKey) ?? new Map(),
    addresses:
      fields.texts("addresses", (address) => (isIpAddress(address) ? undefined : "is not an IP address")) ??
      [],
    meshPort: fields.integer("meshPort", 1, 65535) ?? 16008,
    service: fields.text("service"),
    ports: fields.objects("ports", readPort) ?? [],
    propagation: fields.choices("propagation", ["trace", "session", "forward", "none"] as const) ?? [
      "trace",
      "session",
    ],
    owner: fields.text("owner"),
    env: fields.text("env"),
    runAs: fields.text("runAs"),
    zone: fields.text("zone"),
    generation: object.generation,
  };
  if (workload.service !== undefined && workload.ports.length === 0)
    fields.report("a workload with a `service` needs `ports`");
  if (workload.propagation.includes("none") && workload.propagation.length > 1)
    fields.report("`none` stands alone", "propagation");
  if (new Set(workload.ports.map((port) => port.port)).size !== workload.ports.length)
    fields.report("two entries have the same `port`", "ports");
  fields.end();
  return problems.length > 0 ? { ok: false, error: problems } : { ok: true, value: workload };
}
