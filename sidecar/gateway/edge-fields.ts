// PURE. Which fields of a request from outside go on. Whatever a proxy, a mesh or a sign-in of somebody else might have
// written could be taken for ours by an application, so it is dropped, and counted: an honest client sends none of it.
import { foldFieldName } from "../core/http/headers.ts";
import { type Field, FieldFlag } from "../wire/field.ts";

/** Why a field is dropped; label values of `countersign_gateway_header_anomalies_total`. */
export const ANOMALIES = ["identity", "forwarded", "method_override", "request_id"] as const;
export type Anomaly = (typeof ANOMALIES)[number];

/** Dropped and not counted: browsers and tools with telemetry of their own send them. The gateway begins a trace of its own. */
const TRACES: ReadonlySet<string> = new Set(["traceparent", "tracestate", "baggage", "b3"]);

const FORWARDED: ReadonlySet<string> = new Set([
  "forwarded",
  "x-real-ip",
  "x-client-ip",
  "x-cluster-client-ip",
  "true-client-ip",
  "cf-connecting-ip",
  "fastly-client-ip",
  "x-original-host",
  "x-host",
  "x-scheme",
  "x-url-scheme",
  "front-end-https",
]);
/** By which proxies and applications tell each other who signed in. */
const IDENTITY: ReadonlySet<string> = new Set([
  "remote-user",
  "remote-name",
  "remote-email",
  "remote-group",
  "remote-groups",
  "x-remote-user",
  "x-remote-group",
  "x-remote-groups",
  "x-user",
  "x-user-id",
  "x-username",
  "x-email",
  "x-groups",
  "x-authenticated-user",
  "x-client-cert",
  "x-client-dn",
  "kubeflow-userid",
]);
const FORWARDED_PREFIX = /^x-(?:forwarded|original-forwarded|envoy)-/;
const IDENTITY_PREFIX =
  /^(?:x-(?:mesh|auth-request|amzn-oidc|goog-authenticated-user|ms-client-principal|remote-extra|ssl|token|jwt|webauth|ms-token|goog-iap|pomerium|authentik|vouch)|countersign|ssl-client|impersonate|cf-access|tailscale-user|oidc-claim)(?:-|$)/;
const B3 = /^x-b3-/;

const REQUEST_ID = /^[A-Za-z0-9._:/+=@-]{1,128}$/;

/**
 * @param name lower case.
 * @returns undefined: it goes on; `trace`: it is dropped without a word.
 */
export function anomalyOf(name: string): Exclude<Anomaly, "request_id"> | "trace" | undefined {
  const folded = foldFieldName(name);
  if (TRACES.has(folded) || B3.test(folded)) return "trace";
  if (FORWARDED.has(folded) || FORWARDED_PREFIX.test(folded))
    return folded.startsWith("x-forwarded-") && IDENTITY_FORWARDED.test(folded) ? "identity" : "forwarded";
  if (IDENTITY.has(folded) || IDENTITY_PREFIX.test(folded)) return "identity";
  return undefined;
}

const IDENTITY_FORWARDED = /^x-forwarded-(?:user|email|preferred-username|access-token|client-cert|groups)$/;

/** What is known of names: most requests bring the same twenty. */
export class EdgeFieldNames {
  #known = new Map<string, Exclude<Anomaly, "request_id"> | "trace" | "keep">();

  kindOf(name: string): Exclude<Anomaly, "request_id"> | "trace" | "keep" {
    let kind = this.#known.get(name);
    if (kind === undefined) {
      kind = anomalyOf(name) ?? "keep";
      if (this.#known.size >= MAX_NAMES) this.#known.clear();
      if (name.length <= MAX_NAME_CHARS) this.#known.set(name, kind);
    }
    return kind;
  }
}

const MAX_NAMES = 2_048;
const MAX_NAME_CHARS = 64;

export interface EdgeFieldsInput {
  readonly fields: readonly Field[];
  /** The peer is a proxy whose forwarding fields are expected. */
  readonly isTrustedHop: boolean;
  /** The Authorization field was for the gateway. */
  readonly dropsAuthorization: boolean;
  readonly names: EdgeFieldNames;
  /** Called once per kind. */
  readonly onAnomaly: (anomaly: Anomaly) => void;
}

/** The fields that go on, without cookies; those of the hop are told by their flags. */
export function forwardedFields(input: EdgeFieldsInput): Field[] {
  const { fields, names } = input;
  const kept: Field[] = [];
  let seen = 0;
  const note = (anomaly: Anomaly): void => {
    const bit = 1 << ANOMALIES.indexOf(anomaly);
    if ((seen & bit) === 0) input.onAnomaly(anomaly);
    seen |= bit;
  };
  for (let i = 0; i < fields.length; i++) {
    const field = fields[i];
    if (field === undefined || (field.flags & FieldFlag.pseudo) !== 0) continue;
    const { name } = field;
    if ((field.flags & (FieldFlag.identity | FieldFlag.methodOverride)) !== 0) {
      note((field.flags & FieldFlag.identity) !== 0 ? "identity" : "method_override");
      continue;
    }
    if (name === "cookie" || (name === "authorization" && input.dropsAuthorization)) continue;
    if (name === "x-request-id" && !REQUEST_ID.test(field.value)) {
      note("request_id");
      continue;
    }
    const kind = names.kindOf(name);
    if (kind === "keep") kept.push(field);
    else if (kind !== "trace" && !(kind === "forwarded" && input.isTrustedHop)) note(kind);
  }
  return kept;
}
