// `AdmissionReview` v1 as the API server posts it: bytes to a typed request, and an answer to bytes. PURE. Whoever reaches the
// port may post anything, so everything is bounded and checked here; what is in `object` stays `unknown` to its reader.
import type { Result } from "../../sidecar/core/runtime/errors.ts";

/** An object of 1.5 MiB (etcd's limit), once as it was and once as it shall be. */
export const MAX_REVIEW_BYTES = 3 * 1024 * 1024;

export interface GroupVersionKind {
  readonly group: string;
  readonly version: string;
  readonly kind: string;
}

export interface GroupVersionResource {
  readonly group: string;
  readonly version: string;
  readonly resource: string;
}

/** Who asked, as the API server authenticated them; the fields of `SubjectAccessReview.spec`. */
export interface AdmissionUser {
  readonly username: string;
  readonly uid: string | undefined;
  readonly groups: readonly string[];
  readonly extra: ReadonlyMap<string, readonly string[]>;
}

const OPERATIONS = ["CREATE", "UPDATE", "DELETE", "CONNECT"] as const;
export type AdmissionOperation = (typeof OPERATIONS)[number];

/** Fields of an object that nobody has checked. */
export type UnknownFields = Readonly<Record<string, unknown>>;

export interface AdmissionRequest {
  /** UUID of the review; the answer repeats it. */
  readonly uid: string;
  readonly operation: AdmissionOperation;
  /** Of `object`, in the version that the webhook's rule asked for. */
  readonly kind: GroupVersionKind;
  readonly resource: GroupVersionResource;
  /** Such as `ephemeralcontainers`; undefined for the object itself. */
  readonly subResource: string | undefined;
  /** Undefined where the API server has yet to make one up (`generateName`). */
  readonly name: string | undefined;
  /** Undefined for an object of the cluster. */
  readonly namespace: string | undefined;
  readonly user: AdmissionUser;
  /** As it shall be; undefined on DELETE. */
  readonly object: UnknownFields | undefined;
  /** As it is; undefined on CREATE. */
  readonly oldObject: UnknownFields | undefined;
  /** `CreateOptions`, `UpdateOptions`, …: `fieldManager`, `fieldValidation`. */
  readonly options: UnknownFields | undefined;
  /** Nothing will be stored. Handlers have no side effects either way. */
  readonly dryRun: boolean;
}

/** RFC 6902; paths are JSON pointers (RFC 6901). */
export type JsonPatchOperation =
  | { readonly op: "add" | "replace" | "test"; readonly path: string; readonly value: unknown }
  | { readonly op: "remove"; readonly path: string };

export type AdmissionAnswer =
  | {
      readonly allowed: true;
      readonly patch?: readonly JsonPatchOperation[];
      readonly warnings?: readonly string[];
    }
  | {
      readonly allowed: false;
      /** HTTP status that the client of the API server gets: 403, 422, 500. */
      readonly code: number;
      /** One line with what to do next. */
      readonly message: string;
      readonly warnings?: readonly string[];
    };

/** Decides on one review from the review (and what this replica knows) alone: changes nothing, reveals nothing else. */
export type AdmissionHandler = (request: AdmissionRequest) => Promise<AdmissionAnswer>;

const UUID = /^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$/;
/** DNS subdomains, and for names also `system:…`: everything that Kubernetes takes as one segment of a path. */
const NAME = /^[^/%\x00-\x20\x7f]{1,253}$/;
const NAMESPACE = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const GROUP = /^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$/;
const VERSION = /^[a-z0-9]{1,63}$/;
const KIND = /^[A-Za-z][A-Za-z0-9]{0,62}$/;
const RESOURCE = /^[a-z0-9][a-z0-9-]{0,62}$/;
const MAX_USER_TEXT = 4_096;
const MAX_GROUPS = 2_048;
const MAX_EXTRA = 256;

const refuse = (error: string): Result<never, string> => ({ ok: false, error });

/** Whether this is a JSON object (not null, not a list). */
export function isFields(value: unknown): value is UnknownFields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Reads the body of a POST. Fields that we do not know are passed over: a newer API server may send more.
 *
 * @param body JSON in UTF-8, at most `MAX_REVIEW_BYTES`.
 * @returns the request, or what is wrong with it, for an answer of status 400.
 */
export function parseAdmissionReview(body: Uint8Array): Result<AdmissionRequest, string> {
  if (body.length > MAX_REVIEW_BYTES) return refuse(`is larger than ${MAX_REVIEW_BYTES} bytes`);
  let review: unknown;
  try {
    review = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    return refuse("is not JSON in UTF-8");
  }
  if (!isFields(review)) return refuse("is not an object");
  if (review["apiVersion"] !== "admission.k8s.io/v1" || review["kind"] !== "AdmissionReview")
    return refuse("is not an `AdmissionReview` of `admission.k8s.io/v1`");
  const request = review["request"];
  return isFields(request) ? parseRequest(request) : refuse("has no `request`");
}

function parseRequest(fields: UnknownFields): Result<AdmissionRequest, string> {
  const uid = fields["uid"];
  if (typeof uid !== "string" || !UUID.test(uid)) return refuse("has a `request.uid` that is no UUID");
  const operation = OPERATIONS.find((known) => known === fields["operation"]);
  if (operation === undefined) return refuse("has a `request.operation` that is none of the four");
  const kind = parseKind(fields["kind"]);
  if (kind === undefined) return refuse("has no usable `request.kind`");
  const resource = parseResource(fields["resource"]);
  if (resource === undefined) return refuse("has no usable `request.resource`");
  const subResource = optionalText(fields["subResource"], RESOURCE);
  const name = optionalText(fields["name"], NAME);
  const namespace = optionalText(fields["namespace"], NAMESPACE);
  if (!subResource.ok) return refuse("has a `request.subResource` that is no name");
  if (!name.ok) return refuse("has a `request.name` that is no name");
  if (!namespace.ok) return refuse("has a `request.namespace` that is no name");
  const user = parseUser(fields["userInfo"]);
  if (!user.ok) return user;
  const object = optionalFields(fields["object"]);
  const oldObject = optionalFields(fields["oldObject"]);
  const options = optionalFields(fields["options"]);
  if (!object.ok || !oldObject.ok || !options.ok)
    return refuse("has a `request.object`, `oldObject` or `options` that is no object");
  const dryRun = fields["dryRun"] ?? false;
  if (typeof dryRun !== "boolean") return refuse("has a `request.dryRun` that is no boolean");
  return {
    ok: true,
    value: {
      uid,
      operation,
      kind,
      resource,
      subResource: subResource.value,
      name: name.value,
      namespace: namespace.value,
      user: user.value,
      object: object.value,
      oldObject: oldObject.value,
      options: options.value,
      dryRun,
    },
  };
}

function optionalText(value: unknown, form: RegExp): Result<string | undefined, string> {
  if (value === undefined || value === null || value === "") return { ok: true, value: undefined };
  return typeof value === "string" && form.test(value) ? { ok: true, value } : refuse("");
}

function optionalFields(value: unknown): Result<UnknownFields | undefined, string> {
  if (value === undefined || value === null) return { ok: true, value: undefined };
  return isFields(value) ? { ok: true, value } : refuse("");
}

function matching(value: unknown, form: RegExp): string | undefined {
  return typeof value === "string" && form.test(value) ? value : undefined;
}

function parseKind(value: unknown): GroupVersionKind | undefined {
  if (!isFields(value)) return undefined;
  const group = matching(value["group"] ?? "", GROUP);
  const version = matching(value["version"], VERSION);
  const kind = matching(value["kind"], KIND);
  return group === undefined || version === undefined || kind === undefined
    ? undefined
    : { group, version, kind };
}

function parseResource(value: unknown): GroupVersionResource | undefined {
  if (!isFields(value)) return undefined;
  const group = matching(value["group"] ?? "", GROUP);
  const version = matching(value["version"], VERSION);
  const resource = matching(value["resource"], RESOURCE);
  return group === undefined || version === undefined || resource === undefined
    ? undefined
    : { group, version, resource };
}

const isUserText = (value: unknown): value is string =>
  typeof value === "string" && value.length <= MAX_USER_TEXT;

function textsOf(value: unknown, most: number): readonly string[] | undefined {
  if (value === undefined || value === null) return [];
  return Array.isArray(value) && value.length <= most && value.every(isUserText) ? value : undefined;
}

function parseUser(value: unknown): Result<AdmissionUser, string> {
  const bad = refuse("has a `request.userInfo` that cannot be read");
  if (!isFields(value)) return bad;
  const username = value["username"] ?? "";
  const uid = value["uid"] ?? undefined;
  const groups = textsOf(value["groups"], MAX_GROUPS);
  const given = optionalFields(value["extra"]);
  if (!isUserText(username) || (uid !== undefined && !isUserText(uid)) || groups === undefined || !given.ok)
    return bad;
  const extra = new Map<string, readonly string[]>();
  const entries = Object.entries(given.value ?? {});
  if (entries.length > MAX_EXTRA) return bad;
  for (const [key, list] of entries) {
    const texts = textsOf(list, MAX_GROUPS);
    if (!isUserText(key) || texts === undefined) return bad;
    extra.set(key, texts);
  }
  return { ok: true, value: { username, uid, groups, extra } };
}

/** The API server cuts warnings of more than 256 characters and drops what goes beyond 4096 in all. */
const MAX_WARNING = 256;
const MAX_WARNINGS = 16;
const MAX_MESSAGE = 2_048;
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g;

/** One line without control characters, at most `most` UTF-16 units and never half a character. */
function oneLine(text: string, most: number): string {
  const line = text.replace(CONTROLS, " ").trim();
  return (line.length <= most ? line : `${line.slice(0, most - 1)}…`).toWellFormed();
}

const STATUS_REASONS: ReadonlyMap<number, string> = new Map([
  [400, "BadRequest"],
  [403, "Forbidden"],
  [422, "Invalid"],
  [500, "InternalError"],
  [503, "ServiceUnavailable"],
]);

/** The answer to the review `uid`, as JSON text. An empty patch is left out. */
export function encodeAdmissionReview(uid: string, answer: AdmissionAnswer): string {
  const warnings = (answer.warnings ?? [])
    .slice(0, MAX_WARNINGS)
    .map((text) => oneLine(text, MAX_WARNING))
    .filter((text) => text !== "");
  const response = {
    uid,
    allowed: answer.allowed,
    ...(answer.allowed ? encodePatch(answer.patch) : { status: encodeStatus(answer.code, answer.message) }),
    ...(warnings.length > 0 ? { warnings } : {}),
  };
  return JSON.stringify({ apiVersion: "admission.k8s.io/v1", kind: "AdmissionReview", response });
}

function encodePatch(patch: readonly JsonPatchOperation[] | undefined): UnknownFields {
  if (patch === undefined || patch.length === 0) return {};
  return { patchType: "JSONPatch", patch: Buffer.from(JSON.stringify(patch)).toString("base64") };
}

function encodeStatus(code: number, message: string): UnknownFields {
  const reason = STATUS_REASONS.get(code);
  return {
    status: "Failure",
    code,
    message: oneLine(message, MAX_MESSAGE),
    ...(reason === undefined ? {} : { reason }),
  };
}
