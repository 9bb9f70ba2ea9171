// JSON patches (RFC 6902) as injection makes them, and what they come to. PURE. The API server applies them in a cluster;
// `countersign inject` applies them here.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { isFields, type JsonPatchOperation, type UnknownFields } from "./review.ts";

/** One token of a JSON pointer (RFC 6901 section 4). */
export function pointerToken(key: string): string {
  return key.replaceAll("~", "~0").replaceAll("/", "~1");
}

/**
 * Changes keys of a map of texts.
 *
 * @param parent pointer to the object that holds the map, for example `/metadata`.
 * @param map as it is; undefined where it is absent.
 * @param changes undefined: the key goes.
 */
export function mapPatch(
  pointer: string,
  map: UnknownFields | undefined,
  changes: ReadonlyMap<string, string | undefined>,
): readonly JsonPatchOperation[] {
  if (map === undefined) {
    const added = [...changes].filter(([, value]) => value !== undefined);
    return added.length === 0 ? [] : [{ op: "add", path: pointer, value: Object.fromEntries(added) }];
  }
  return [...changes].flatMap(([key, value]): JsonPatchOperation[] => {
    const path = `${pointer}/${pointerToken(key)}`;
    const before = Object.hasOwn(map, key) ? map[key] : undefined;
    if (before === value) return [];
    if (value === undefined) return [{ op: "remove", path }];
    return [{ op: before === undefined ? "add" : "replace", path, value }];
  });
}

/**
 * Applies a patch; the object itself stays as it is.
 *
 * @throws MeshError `bad_object` when the patch does not fit the object.
 */
export function applyPatch(object: UnknownFields, patch: readonly JsonPatchOperation[]): UnknownFields {
  let result: unknown = object;
  for (const operation of patch) {
    const tokens = operation.path.split("/").slice(1);
    result = changed(
      result,
      tokens.map((token) => token.replaceAll("~1", "/").replaceAll("~0", "~")),
      operation,
    );
  }
  if (!isFields(result)) throw misfit("");
  return result;
}

function misfit(path: string): MeshError {
  return new MeshError("bad_object", `the patch does not fit the object at \`${path}\``);
}

/** A copy of `value` in which the place at `tokens` is changed; only what is on the way is copied. */
function changed(value: unknown, tokens: readonly string[], operation: JsonPatchOperation): unknown {
  const [token, ...rest] = tokens;
  if (token === undefined) {
    if (operation.op === "remove" || operation.op === "test") throw misfit(operation.path);
    return operation.value;
  }
  if (Array.isArray(value)) return changedList(value, token, rest, operation);
  if (!isFields(value)) throw misfit(operation.path);
  const exists = Object.hasOwn(value, token);
  if (rest.length > 0) {
    if (!exists) throw misfit(operation.path);
    return { ...value, [token]: changed(value[token], rest, operation) };
  }
  if (operation.op === "add" || (operation.op === "replace" && exists))
    return { ...value, [token]: operation.value };
  if (operation.op !== "remove" || !exists) throw misfit(operation.path);
  return Object.fromEntries(Object.entries(value).filter(([key]) => key !== token));
}

function changedList(
  list: readonly unknown[],
  token: string,
  rest: readonly string[],
  operation: JsonPatchOperation,
): unknown {
  const isEnd = token === "-" && rest.length === 0 && operation.op === "add";
  const index = isEnd ? list.length : /^(0|[1-9][0-9]*)$/.test(token) ? Number(token) : -1;
  const last = rest.length === 0 && operation.op === "add" ? list.length : list.length - 1;
  if (index < 0 || index > last) throw misfit(operation.path);
  if (rest.length > 0) return list.with(index, changed(list[index], rest, operation));
  if (operation.op === "add") return list.toSpliced(index, 0, operation.value);
  if (operation.op === "replace") return list.with(index, operation.value);
  if (operation.op === "remove") return list.toSpliced(index, 1);
  throw misfit(operation.path);
}
