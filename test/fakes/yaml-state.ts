// The state of a cluster from YAML text, without files: for tests of what is said about an object in its surroundings.
import { parseAllDocuments } from "yaml";
import { createObjectParser, type TypedObject } from "../../control-plane/policy/typed-object.ts";
import { buildClusterState, EMPTY_STATE } from "../../control-plane/sources/cluster-state.ts";
import { keyOf } from "../../control-plane/sources/file-reader.ts";
import type { Accepted } from "../../control-plane/sources/reconcile.ts";
import { loadSchemas, type ValidObject } from "../../control-plane/sources/schema.ts";
import type { ClusterState } from "../../control-plane/sources/store.ts";

const schemas = loadSchemas();
const parse = createObjectParser();

/** Documents of objects; `apiVersion` may be left out. @throws Error for one that the schema or parser refuses. */
export function objectsOfYaml(
  text: string,
): { readonly valid: ValidObject; readonly typed: TypedObject; readonly raw: object }[] {
  return parseAllDocuments(text).flatMap((document) => {
    const fields: unknown = document.toJS();
    if (typeof fields !== "object" || fields === null) return [];
    const apiVersion = "kind" in fields && fields.kind === "Namespace" ? "v1" : "countersign.dev/v1alpha1";
    const raw = { apiVersion, ...fields };
    const checked = schemas.validate(raw);
    if (!checked.ok) throw new Error(JSON.stringify(checked.error));
    const typed = parse(checked.value, 0);
    if (!typed.ok) throw new Error(JSON.stringify(typed.error));
    return [{ valid: checked.value, typed: typed.value, raw }];
  });
}

export function stateOfYaml(text: string): ClusterState {
  const accepted = objectsOfYaml(text).map(({ valid, typed, raw }): Accepted => {
    const key = keyOf(raw).key ?? "";
    return { key, file: "a.yaml", digest: "", raw, valid, typed, acceptedAtMs: 0, current: true };
  });
  return buildClusterState(EMPTY_STATE, accepted, new Set(accepted.map(({ valid }) => valid.kind)));
}
