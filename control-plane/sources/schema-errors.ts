// Says in the author's words what ajv found: the field, what is wrong with it, and the closest valid name; PURE.
import type { ErrorObject } from "ajv";
import { closestName } from "./closest-name.ts";
import { type FieldProblem, MAX_PROBLEMS } from "./field-problem.ts";

/** A value as messages show it: in backticks, on one line, at most 60 characters. */
export function quote(value: unknown): string {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? String(value));
  const safe = text.replace(/[\x00-\x1f\x7f`]/g, "\ufffd");
  return `\`${safe.length > 60 ? `${safe.slice(0, 57)}...` : safe}\``;
}

/** `/spec/rules/0/from` as `spec.rules[0].from`. */
export function fieldPath(pointer: string): string {
  let path = "";
  for (const raw of pointer.split("/").slice(1)) {
    const part = raw.replaceAll("~1", "/").replaceAll("~0", "~");
    if (/^\d+$/.test(part)) path += `[${part}]`;
    else if (!/^[\w-]+$/.test(part)) path += `[${quote(part)}]`;
    else path += path === "" ? part : `.${part}`;
  }
  return path;
}

const TYPE_WORDS: Readonly<Record<string, string>> = {
  object: "an object with fields",
  array: "a list",
  string: "a string",
  integer: "a whole number",
  number: "a number",
  boolean: "`true` or `false`",
};

function typeOf(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "an object";
  return `${quote(value)}, a ${typeof value}`;
}

const lowerFirst = (text: string): string => text.charAt(0).toLowerCase() + text.slice(1);

type Described = { path: string; message: string; hint?: string };

function describe(error: ErrorObject): Described {
  const path = fieldPath(error.instancePath);
  const { data } = error;
  // Verbose mode of ajv gives the schema that failed; ours are plain objects.
  const schema = (error.parentSchema ?? {}) as Readonly<Record<string, unknown>>;
  const params = error.params as Readonly<Record<string, unknown>>;
  const limit = String(params["limit"]);
  switch (error.keyword) {
    case "additionalProperties": {
      const name = String(params["additionalProperty"]);
      const at = fieldPath(`${error.instancePath}/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`);
      const known = Object.keys((schema["properties"] ?? {}) as object);
      const closest = closestName(name, known);
      const hint =
        closest === undefined
          ? `fields here are ${known.map(quote).join(", ")}`
          : `did you mean \`${closest}\`?`;
      return { path: at, message: `unknown field \`${at.replaceAll("`", "")}\``, hint };
    }
    case "required": {
      const name = String(params["missingProperty"]);
      return { path: path === "" ? name : `${path}.${name}`, message: "is missing" };
    }
    case "enum": {
      const allowed = (schema["enum"] ?? []) as readonly unknown[];
      const closest = typeof data === "string" ? closestName(data, allowed.map(String)) : undefined;
      const words =
        allowed.length === 1
          ? `can only be ${quote(allowed[0])}`
          : `must be one of ${allowed.map(quote).join(", ")}`;
      return {
        path,
        message: `${quote(data)} is not valid: it ${words}`,
        ...(closest === undefined ? {} : { hint: `did you mean \`${closest}\`?` }),
      };
    }
    case "type":
      return {
        path,
        message: `must be ${TYPE_WORDS[String(schema["type"])] ?? String(schema["type"])}, but is ${typeOf(data)}`,
      };
    case "minItems":
      return {
        path,
        message: "is an empty list, which would match nothing",
        hint: "leave the field out, or list at least one entry",
      };
    case "minProperties":
      return { path, message: "is an empty object", hint: "leave it out, or set at least one of its fields" };
    case "minLength":
      return { path, message: data === "" ? "is an empty string" : `${quote(data)} is too short` };
    case "maxItems":
      return {
        path,
        message: `has ${Array.isArray(data) ? data.length : "too many"} entries; at most ${limit}`,
      };
    case "maxProperties":
      return { path, message: `has too many fields; at most ${limit}` };
    case "maxLength":
      return { path, message: `is ${String(data).length} characters long; at most ${limit}` };
    case "minimum":
      return { path, message: `${quote(data)} is too small; at least ${limit}` };
    case "maximum":
      return { path, message: `${quote(data)} is too large; at most ${limit}` };
    case "pattern":
      return {
        path,
        message: `${quote(data)} is not valid`,
        hint:
          typeof schema["description"] === "string"
            ? `write ${lowerFirst(schema["description"])}`
            : `it must match \`${String(schema["pattern"])}\``,
      };
    case "format":
      return {
        path,
        message: `${quote(data)} is not a time`,
        hint: "write one such as `2027-01-01T00:00:00Z`",
      };
    case "x-kubernetes-list-type": {
      const keys = schema["x-kubernetes-list-map-keys"];
      return {
        path,
        message: Array.isArray(keys)
          ? `two entries have the same \`${keys.join("`, `")}\``
          : "an entry is listed twice",
      };
    }
    default:
      return { path, message: error.message ?? "is not valid" };
  }
}

/** Every problem once, at most one per field and at most 20, in the order of the schema. */
export function describeErrors(errors: readonly ErrorObject[]): FieldProblem[] {
  const byPath = new Map<string, Described>();
  for (const error of errors) {
    const described = describe(error);
    const known = byPath.get(described.path);
    // A wrong type or an empty text fails the pattern or enum beside it too: the more basic message says more.
    if (known === undefined || error.keyword === "type" || error.keyword === "minLength")
      byPath.set(described.path, described);
    if (byPath.size >= MAX_PROBLEMS) break;
  }
  return [...byPath.values()];
}
