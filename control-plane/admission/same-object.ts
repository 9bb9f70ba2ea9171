// Whether what stands in a pod is still what we put there, after the API server and its plugins filled in fields. PURE. Only
// additions that cannot change what the sidecar does count as the same; anything else is made anew.
import { objectsOf } from "./pod-view.ts";
import { parseQuantity } from "./quantity.ts";
import { isFields, type UnknownFields } from "./review.ts";

/** The ServiceAccount plugin mounts the API token into every container it meets. */
const API_TOKEN_DIR = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Equal as JSON, whatever the order of fields. */
export function isSameJson(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (Array.isArray(a) || Array.isArray(b))
    return (
      Array.isArray(a) &&
      Array.isArray(b) &&
      a.length === b.length &&
      a.every((item, index) => isSameJson(item, b[index]))
    );
  if (!isFields(a) || !isFields(b)) return false;
  const keys = Object.keys(a);
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && isSameJson(a[key], b[key]))
  );
}

/** Whether a container of ours is as it should be. */
export function isSameContainer(actual: UnknownFields, wanted: UnknownFields): boolean {
  const mounts = (objectsOf(actual["volumeMounts"]) ?? []).filter(
    (mount) => !(mount["mountPath"] === API_TOKEN_DIR && mount["readOnly"] === true),
  );
  const { resources, volumeMounts: _, ...rest } = actual;
  const { resources: wantedResources, volumeMounts = [], ...wantedRest } = wanted;
  return (
    isSameJson(rest, wantedRest) &&
    isSameJson(mounts, volumeMounts) &&
    coversResources(resources, wantedResources)
  );
}

/** A LimitRange may add limits; what we set must be there, however it is written. */
function coversResources(actual: unknown, wanted: unknown): boolean {
  if (!isFields(actual) || !isFields(wanted)) return false;
  return Object.entries(wanted).every(([part, quantities]) => {
    const given = actual[part];
    if (!isFields(given) || !isFields(quantities)) return false;
    return Object.entries(quantities).every(([name, quantity]) => {
      const present = given[name];
      return (
        typeof present === "string" &&
        typeof quantity === "string" &&
        (present === quantity || parseQuantity(present) === parseQuantity(quantity))
      );
    });
  });
}
