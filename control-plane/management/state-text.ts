// The state of the mesh as JSON, piece by piece: a big one takes a tenth of a second and more, in which no sidecar would
// be answered. PURE.
import { objectText } from "./revision-content.ts";

/** JSON text in pieces of one object each; whoever sends it may pause between them. */
export class JsonPieces {
  readonly pieces: Iterable<string>;

  constructor(pieces: Iterable<string>) {
    this.pieces = pieces;
  }
}

/** Maps, as in a ClusterState, become JSON objects. */
export function replaceMaps(_key: string, value: unknown): unknown {
  if (value instanceof Map) return Object.fromEntries(value);
  return value instanceof Set ? [...value] : value;
}

const exactText = (value: unknown): string =>
  typeof value === "object" && value !== null ? objectText(value) : JSON.stringify(value);
const plainText = (value: unknown): string => JSON.stringify(value, replaceMaps);

/**
 * Fields of a state, whose maps are cut into their entries. States never change, so pauses do not matter.
 *
 * @param form `exact`: maps keep their kind, for the command line, which compiles what it gets (`decodeValue` reads it),
 *   below the name `state`; `plain`: maps are objects.
 */
export function* stateText(state: object, form: "exact" | "plain"): Generator<string> {
  const isExact = form === "exact";
  const textOf = isExact ? exactText : plainText;
  yield isExact ? '{"state":{' : "{";
  let between = "";
  for (const [name, value] of Object.entries(state)) {
    if (value === undefined) continue;
    yield `${between}${JSON.stringify(name)}:`;
    between = ",";
    if (!(value instanceof Map)) yield textOf(value);
    else {
      yield isExact ? '{"$map":[' : "{";
      let next = "";
      for (const [key, item] of value) {
        const name = JSON.stringify(isExact ? key : String(key));
        yield isExact ? `${next}[${name},${textOf(item)}]` : `${next}${name}:${textOf(item)}`;
        next = ",";
      }
      yield isExact ? "]}" : "}";
    }
  }
  yield isExact ? "}}" : "}";
}
