// MeshConfig: the settings of the whole mesh, typed, and what holds without one; PURE.
import { parseAuthorities } from "../../sidecar/core/identity/authorities-pem.ts";
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { MeshConfig, NamespaceOverride } from "../sources/store.ts";
import { FieldReader } from "./field-reader.ts";
import { checkLabelKey, readSelector } from "./rule-fields.ts";

const MODES = ["Strict", "Permissive"] as const;
const ACTIONS = ["Allow", "Deny"] as const;

/** What holds as long as nobody wrote a MeshConfig. */
export const DEFAULT_MESH_CONFIG: MeshConfig = {
  trustDomain: "mesh.local",
  defaultAction: "Deny",
  mtls: "Strict",
  outbound: "Deny",
  proofs: "Optional",
  maxHops: 5,
  svidTtlMs: 6 * 3600_000,
  txnTtlMs: 300_000,
  trustedSpawners: [],
  protectedLabels: [],
  gateways: [],
  explainDenials: false,
  namespaces: [],
};

function readOverride(fields: FieldReader): NamespaceOverride {
  const override = {
    selector: fields.object("selector", readSelector) ?? {},
    names: fields.patterns("names"),
    mtls: fields.oneOf("mtls", MODES),
    defaultAction: fields.oneOf("defaultAction", ACTIONS),
  };
  if (!fields.has("selector") && !fields.has("names"))
    fields.report("an exception names its namespaces: `names` or `selector`");
  if (override.mtls === undefined && override.defaultAction === undefined)
    fields.report("an exception sets `mtls` or `defaultAction`");
  return override;
}

/** In one form, however it was written, so that sidecars get news only where there are any. */
function readRoots(fields: FieldReader): Pick<MeshConfig, "externalRoots"> {
  const text = fields.text("externalRoots");
  if (text === undefined) return {};
  const parsed = parseAuthorities(text);
  if (parsed.ok) return { externalRoots: parsed.value.join("") };
  fields.report(parsed.error, "externalRoots");
  return {};
}

/** Lifetimes are bounded here: an SVID lives 1 minute to 24 hours, a Txn-Token at most 300 seconds (DOMAIN 2.6). */
export function parseMeshConfig(object: ValidObject): Result<MeshConfig, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const fields = new FieldReader(object.spec, "spec", problems);
  const base = DEFAULT_MESH_CONFIG;
  if (object.name !== "default")
    problems.push({ path: "metadata.name", message: "there is one MeshConfig, and its name is `default`" });
  const config: MeshConfig = {
    trustDomain: fields.text("trustDomain") ?? base.trustDomain,
    defaultAction: fields.oneOf("defaultAction", ACTIONS) ?? base.defaultAction,
    mtls: fields.oneOf("mtls", MODES) ?? base.mtls,
    outbound: fields.oneOf("outbound", ACTIONS) ?? base.outbound,
    proofs: fields.oneOf("proofs", ["Optional", "Required"] as const) ?? base.proofs,
    maxHops: fields.integer("maxHops", 1, 16) ?? base.maxHops,
    svidTtlMs: fields.durationMs("svidTTL") ?? base.svidTtlMs,
    txnTtlMs: fields.durationMs("txnTTL") ?? base.txnTtlMs,
    trustedSpawners: fields.texts("trustedSpawners") ?? [],
    protectedLabels: fields.texts("protectedLabels", checkLabelKey) ?? [],
    gateways: fields.texts("gateways") ?? [],
    explainDenials: fields.flag("explainDenials") ?? base.explainDenials,
    namespaces: fields.objects("namespaces", readOverride) ?? [],
    ...readRoots(fields),
  };
  if (config.svidTtlMs < 60_000 || config.svidTtlMs > 24 * 3600_000)
    fields.report("must be between `1m` and `24h`", "svidTTL");
  if (config.txnTtlMs > 300_000) fields.report("must be at most `300s`", "txnTTL");
  fields.end(true);
  return problems.length > 0 ? { ok: false, error: problems } : { ok: true, value: config };
}
