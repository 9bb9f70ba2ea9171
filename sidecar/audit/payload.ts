// PURE. What audit levels `Headers` and `Body` add to an event: fields of request and answer, and the beginnings of their
// bodies, without what is secret.
import type { AuditLevel } from "../core/policy/rule.ts";
import { redactedField, redactedForm, redactedJson, type SecretNames } from "./redaction.ts";

/** Bytes of one body that an event holds at most. */
export const MAX_BODY_SAMPLE = 16_384;
const MAX_FIELD_VALUE = 1_024;

export interface NameAndValue {
  readonly name: string;
  readonly value: string;
}

/** The beginning of a body. */
class BodySample {
  readonly #chunks: Buffer[] = [];
  #kept = 0;
  total = 0;

  add(chunk: Buffer): void {
    this.total += chunk.length;
    const room = MAX_BODY_SAMPLE - this.#kept;
    if (room <= 0) return;
    // A copy: the view would keep the whole received buffer alive.
    const part = Buffer.from(chunk.length > room ? chunk.subarray(0, room) : chunk);
    this.#chunks.push(part);
    this.#kept += part.length;
  }

  bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  get isCut(): boolean {
    return this.total > this.#kept;
  }
}

/** One direction of a call. */
class Message {
  fields: readonly NameAndValue[] = [];
  readonly body = new BodySample();

  text(withBody: boolean, secret: SecretNames): object {
    const fields = this.fields
      .filter(({ name }) => !name.startsWith(":"))
      .map(({ name, value }) => [name, redactedField(name, value, secret).slice(0, MAX_FIELD_VALUE)]);
    return withBody ? { fields, ...this.#bodyText(secret) } : { fields };
  }

  #bodyText(secret: SecretNames): object {
    const { body } = this;
    const bytes = body.bytes();
    const encoding = this.#value("content-encoding");
    const type = (this.#value("content-type").split(";")[0] ?? "").trim().toLowerCase();
    const truncated = body.isCut;
    const isText =
      encoding === "" &&
      (type.startsWith("text/") || /[/+](?:json|x-www-form-urlencoded|x-ndjson)$/.test(type));
    if (!isText) return { body: bytes.toString("base64"), encoding: "base64", truncated };
    const plain = bytes.toString("utf8");
    const text = type.endsWith("x-www-form-urlencoded")
      ? redactedForm(plain, secret)
      : redactedJson(plain, secret);
    return { body: text, encoding: "utf8", truncated };
  }

  #value(name: string): string {
    return this.fields.find((field) => field.name === name)?.value.toLowerCase() ?? "";
  }
}

/** Gathers what one event needs. */
export class AuditPayload {
  readonly request = new Message();
  readonly response = new Message();
  readonly #withBodies: boolean;
  readonly #secret: SecretNames;

  constructor(withBodies: boolean, secret: SecretNames) {
    this.#withBodies = withBodies;
    this.#secret = secret;
  }

  /** @returns undefined: this level adds nothing. */
  static of(
    level: AuditLevel | undefined,
    takesBodies: boolean,
    secret: SecretNames,
  ): AuditPayload | undefined {
    if (level !== "Headers" && level !== "Body") return undefined;
    return new AuditPayload(level === "Body" && takesBodies, secret);
  }

  requestBody(chunk: Buffer): void {
    if (this.#withBodies) this.request.body.add(chunk);
  }

  responseBody(chunk: Buffer): void {
    if (this.#withBodies) this.response.body.add(chunk);
  }

  /** As JSON text. */
  text(): string {
    return JSON.stringify({
      request: this.request.text(this.#withBodies, this.#secret),
      response: this.response.text(this.#withBodies, this.#secret),
    });
  }
}
