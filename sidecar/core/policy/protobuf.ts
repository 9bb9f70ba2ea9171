// Protobuf for programs by a table of fields: canonical when it writes (ascending fields, defaults left out), strict when
// it reads (an unknown field, enum value or wire type is an error). General decoders skip what they do not know, which
// would turn a newer, narrower rule into a wider one.
import { MeshError } from "../runtime/errors.ts";

export type FieldType =
  | { readonly kind: "string" }
  | { readonly kind: "bool" }
  /** Non-negative, below 2^53. */
  | { readonly kind: "uint" }
  /** Zigzag, magnitude below 2^52. */
  | { readonly kind: "sint" }
  | { readonly kind: "double" }
  /** Numbers start at 1; 0 means unset. */
  | { readonly kind: "enum"; readonly values: readonly string[] }
  | { readonly kind: "message"; readonly message: MessageTable }
  /** `map<string, string>`, read into a Map. */
  | { readonly kind: "map" };

export interface FieldTable {
  readonly number: number;
  readonly name: string;
  readonly type: FieldType;
  /** A list; empty means not set, so an empty one cannot be written. */
  readonly repeated: boolean;
  /** Unset stays undefined. Without it an unset scalar reads as its default. */
  readonly optional: boolean;
}

export interface MessageTable {
  readonly name: string;
  readonly fields: readonly FieldTable[];
  /** A value without any field would match everything: refused both ways. */
  readonly nonEmpty: boolean;
}

/** One field; `optional` and lists by suffix: `["names", 2, STRING, "list"]`. */
export type FieldRow = readonly [
  name: string,
  number: number,
  type: FieldType,
  how: "value" | "optional" | "list" | "listOrEmpty",
];

export function messageTable(
  name: string,
  rows: readonly FieldRow[],
  nonEmpty = false,
): MessageTable & { readonly emptyLists: ReadonlySet<string> } {
  const fields = rows.map(([field, number, type, how]) => ({
    number,
    name: field,
    type,
    repeated: how.startsWith("list"),
    optional: how === "optional",
  }));
  return {
    name,
    fields,
    nonEmpty,
    emptyLists: new Set(rows.filter((row) => row[3] === "listOrEmpty").map((row) => row[0])),
  };
}

/** Bytes that grow as needed. */
class Writer {
  #buffer = Buffer.allocUnsafe(256);
  #length = 0;

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return;
    const grown = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#length + bytes));
    this.#buffer.copy(grown, 0, 0, this.#length);
    this.#buffer = grown;
  }

  varint(value: number): void {
    this.#reserve(10);
    let rest = value;
    while (rest > 127) {
      this.#buffer[this.#length++] = (rest % 128) + 128;
      rest = Math.floor(rest / 128);
    }
    this.#buffer[this.#length++] = rest;
  }

  bytes(content: Uint8Array): void {
    this.varint(content.length);
    this.#reserve(content.length);
    this.#buffer.set(content, this.#length);
    this.#length += content.length;
  }

  double(value: number): void {
    this.#reserve(8);
    this.#buffer.writeDoubleLE(value, this.#length);
    this.#length += 8;
  }

  finish(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }
}

/** Values of a message as read and written; the owner of a table knows the type that goes with it. */
export type MessageValue = Readonly<Record<string, unknown>>;

/** Called for nested messages, so that an owner can keep bytes of those that did not change. */
export type EncodeNested = (table: MessageTable, value: MessageValue) => Uint8Array;

const bad = (message: string): MeshError => new MeshError("bad_resource", message);

const WIRE = { string: 2, bool: 0, uint: 0, sint: 0, double: 1, enum: 0, message: 2, map: 2 } as const;

/** @throws MeshError `bad_resource` for a value that the table cannot express. */
export function encodeMessage(
  table: MessageTable,
  value: MessageValue,
  nested: EncodeNested = (inner, part) => encodeMessage(inner, part),
): Buffer {
  const writer = new Writer();
  for (const field of table.fields) {
    const content = value[field.name];
    if (content === undefined) continue;
    if (!field.repeated) writeField(writer, field, content, nested);
    else {
      if (!Array.isArray(content)) throw bad(`\`${table.name}.${field.name}\` is not a list`);
      if (content.length === 0 && !isEmptyListAllowed(table, field))
        throw bad(`\`${table.name}.${field.name}\` is empty`);
      for (const item of content) writeField(writer, { ...field, optional: true }, item, nested);
    }
  }
  const bytes = writer.finish();
  if (table.nonEmpty && bytes.length === 0) throw bad(`\`${table.name}\` is empty`);
  return bytes;
}

function isEmptyListAllowed(table: MessageTable, field: FieldTable): boolean {
  return "emptyLists" in table && (table as ReturnType<typeof messageTable>).emptyLists.has(field.name);
}

function writeField(writer: Writer, field: FieldTable, value: unknown, nested: EncodeNested): void {
  const { type } = field;
  const tag = field.number * 8 + WIRE[type.kind];
  switch (type.kind) {
    case "string":
      if (typeof value !== "string") throw bad(`\`${field.name}\` is not a string`);
      if (value === "" && !field.optional) return;
      writer.varint(tag);
      writer.bytes(Buffer.from(value, "utf8"));
      return;
    case "bool":
      if (value !== true && !field.optional) return;
      writer.varint(tag);
      writer.varint(value === true ? 1 : 0);
      return;
    case "uint":
    case "sint": {
      const number = typeof value === "number" && Number.isSafeInteger(value) ? value : Number.NaN;
      const wire = type.kind === "uint" ? number : number < 0 ? -number * 2 - 1 : number * 2;
      if (!(wire >= 0) || !Number.isSafeInteger(wire)) throw bad(`\`${field.name}\` is out of range`);
      if (wire === 0 && !field.optional) return;
      writer.varint(tag);
      writer.varint(wire);
      return;
    }
    case "double":
      if (typeof value !== "number") throw bad(`\`${field.name}\` is not a number`);
      writer.varint(tag);
      writer.double(value);
      return;
    case "enum": {
      const number = type.values.indexOf(String(value)) + 1;
      if (number === 0) throw bad(`\`${field.name}\` cannot be \`${String(value)}\``);
      writer.varint(tag);
      writer.varint(number);
      return;
    }
    case "message":
      writer.varint(tag);
      writer.bytes(nested(type.message, value as MessageValue)); // the caller's table and value belong together
      return;
    case "map":
      if (!(value instanceof Map)) throw bad(`\`${field.name}\` is not a map`);
      for (const [key, text] of [...value].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))) {
        writer.varint(tag);
        writer.bytes(encodeMessage(MAP_ENTRY, { key, value: text }));
      }
      return;
  }
}

const STRING: FieldType = { kind: "string" };
const MAP_ENTRY = messageTable("entry", [
  ["key", 1, STRING, "optional"],
  ["value", 2, STRING, "optional"],
]);

const utf8 = (bytes: Uint8Array): string => {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw bad("text is not UTF-8");
  }
};

class Reader {
  readonly #bytes: Buffer;
  position: number;
  readonly end: number;

  constructor(bytes: Buffer, position: number, end: number) {
    this.#bytes = bytes;
    this.position = position;
    this.end = end;
  }

  varint(): number {
    let value = 0;
    let factor = 1;
    for (let i = 0; i < 8; i++) {
      const byte = this.position < this.end ? this.#bytes[this.position] : undefined;
      if (byte === undefined) throw bad("message ends within a number");
      this.position += 1;
      value += (byte & 127) * factor;
      if (byte < 128) {
        if (!Number.isSafeInteger(value)) throw bad("number is too large");
        return value;
      }
      factor *= 128;
    }
    throw bad("number is too large");
  }

  part(): Reader {
    const length = this.varint();
    if (length > this.end - this.position) throw bad("message ends within a field");
    const start = this.position;
    this.position += length;
    return new Reader(this.#bytes, start, this.position);
  }

  double(): number {
    if (this.end - this.position < 8) throw bad("message ends within a number");
    this.position += 8;
    return this.#bytes.readDoubleLE(this.position - 8);
  }

  text(): string {
    return utf8(this.#bytes.subarray(this.position, this.end));
  }
}

const MAX_DEPTH = 16;

/** @throws MeshError `bad_resource` for everything that the table does not describe. */
export function decodeMessage(table: MessageTable, bytes: Buffer): MessageValue {
  return readMessage(table, new Reader(bytes, 0, bytes.length), 0);
}

function readMessage(table: MessageTable, reader: Reader, depth: number): MessageValue {
  if (depth > MAX_DEPTH) throw bad(`\`${table.name}\` is nested too deeply`);
  if (table.nonEmpty && reader.position === reader.end) throw bad(`\`${table.name}\` is empty`);
  const out: Record<string, unknown> = {};
  while (reader.position < reader.end) {
    const tag = reader.varint();
    const field = table.fields.find(({ number }) => number === Math.floor(tag / 8));
    if (field === undefined)
      throw bad(`\`${table.name}\` has a field ${Math.floor(tag / 8)} that this build does not know`);
    if (tag % 8 !== WIRE[field.type.kind])
      throw bad(`\`${table.name}.${field.name}\` has the wrong wire type`);
    const before = out[field.name];
    if (field.type.kind === "map") {
      const map = before instanceof Map ? before : new Map<string, string>();
      readEntry(map, reader.part(), depth);
      out[field.name] = map;
    } else if (field.repeated) {
      const list = Array.isArray(before) ? before : [];
      list.push(readValue(field, reader, depth));
      out[field.name] = list;
    } else {
      if (before !== undefined) throw bad(`\`${table.name}.${field.name}\` is given twice`);
      out[field.name] = readValue(field, reader, depth);
    }
  }
  for (const field of table.fields) if (out[field.name] === undefined) setDefault(out, table, field);
  return out;
}

function readEntry(map: Map<string, string>, reader: Reader, depth: number): void {
  const entry = readMessage(MAP_ENTRY, reader, depth + 1);
  const key = String(entry["key"] ?? "");
  if (map.has(key)) throw bad(`map key \`${key}\` is given twice`);
  map.set(key, String(entry["value"] ?? ""));
}

function setDefault(out: Record<string, unknown>, table: MessageTable, field: FieldTable): void {
  if (isEmptyListAllowed(table, field)) out[field.name] = [];
  if (field.optional || field.repeated) return;
  const { type } = field;
  if (type.kind === "string") out[field.name] = "";
  else if (type.kind === "bool") out[field.name] = false;
  else if (type.kind === "map") out[field.name] = new Map<string, string>();
  else if (type.kind === "uint" || type.kind === "sint") out[field.name] = 0;
  else throw bad(`\`${table.name}.${field.name}\` is missing`);
}

function readValue(field: FieldTable, reader: Reader, depth: number): unknown {
  const { type } = field;
  switch (type.kind) {
    case "string":
      return reader.part().text();
    case "bool": {
      const value = reader.varint();
      if (value > 1) throw bad(`\`${field.name}\` is not a boolean`);
      return value === 1;
    }
    case "uint":
      return reader.varint();
    case "sint": {
      const value = reader.varint();
      return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
    }
    case "double":
      return reader.double();
    case "enum": {
      const value = type.values[reader.varint() - 1];
      if (value === undefined) throw bad(`\`${field.name}\` has a value that this build does not know`);
      return value;
    }
    case "message":
      return readMessage(type.message, reader.part(), depth + 1);
    case "map":
      throw bad(`\`${field.name}\` is a map`);
  }
}
