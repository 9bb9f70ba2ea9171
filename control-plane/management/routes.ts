// What the management API can do: one list of routes for the Unix socket and for the secured port, each with the right
// that it needs there.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import type { RevocationRequest } from "../revocations/revocation.ts";
import { JsonPieces, stateText } from "./state-text.ts";

/** What the API can do; implemented by main.ts. Errors are MeshErrors and become problem documents. */
export interface ManagementActions {
  readonly status: () => unknown;
  readonly policies: () => unknown;
  readonly history: () => unknown;
  readonly diff: (from: number, to: number) => Promise<unknown>;
  readonly state: () => unknown;
  readonly rollback: (revision: number) => Promise<unknown>;
  readonly release: () => Promise<unknown>;
  readonly createJoinToken: (workload: string, ttlSeconds: number) => Promise<unknown>;
  readonly exportIdentity: (workload: string, ttlSeconds: number) => Promise<unknown>;
  readonly revocations: () => unknown;
  readonly revoke: (request: RevocationRequest) => Promise<unknown>;
  readonly caStatus: () => unknown;
  readonly caRotate: () => Promise<unknown>;
  readonly caAbort: () => Promise<unknown>;
  readonly caForce: () => Promise<unknown>;
}

/** The right a route needs: this verb on `management/{subresource}` (or `management`) of group `countersign.dev`. */
export interface Right {
  readonly verb: "get" | "update";
  readonly subresource: "" | "rollback" | "join-tokens" | "identities" | "ca" | "revocations";
}

export type Body = Readonly<Record<string, unknown>>;

export interface Route {
  readonly method: "GET" | "POST";
  readonly path: string;
  /** Name in metrics, and of a write in the audit. */
  readonly action: string;
  readonly right: Right;
  /** Fields that the body may have; they are what the audit repeats, so none of them is a secret. Empty for a read. */
  readonly fields: readonly string[];
  readonly run: (query: URLSearchParams, body: Body) => unknown;
}

const READ: Right = { verb: "get", subresource: "" };

/** `management` or `management/rollback`, as RBAC names it. */
export function resourceOf({ subresource }: Right): string {
  return subresource === "" ? "management" : `management/${subresource}`;
}

/** A request that cannot be understood. */
export function bad(message: string): MeshError {
  return new MeshError("bad_config", message);
}

function wholeNumber(value: unknown, name: string): number {
  const number = typeof value === "string" && /^\d{1,15}$/.test(value) ? Number(value) : value;
  if (typeof number !== "number" || !Number.isSafeInteger(number) || number < 0)
    throw bad(`\`${name}\` must be a whole number`);
  return number;
}

function text(value: unknown, name: string): string {
  if (typeof value !== "string" || value === "" || value.length > 512)
    throw bad(`\`${name}\` must be a text of 1 to 512 characters`);
  return value;
}

/** @throws MeshError `bad_config` for a field that the route does not have. */
export function checkFields(body: Body, { fields }: Route): void {
  const unknown = Object.keys(body).find((key) => !fields.includes(key));
  if (unknown !== undefined)
    throw bad(`unknown field \`${unknown.slice(0, 64)}\`, known are: ${fields.join(", ") || "none"}`);
}

/** `form=exact`: see `stateText`. */
function stateOf(actions: ManagementActions, query: URLSearchParams): unknown {
  const state = actions.state();
  const form = query.get("form") === "exact" ? "exact" : "plain";
  return typeof state === "object" && state !== null ? new JsonPieces(stateText(state, form)) : state;
}

/** All routes, those of reads first. A write is a POST. */
export function routesOf(actions: ManagementActions): readonly Route[] {
  const read = (path: string, run: Route["run"]): Route => ({
    ...{ method: "GET", path, action: path.slice("/v1/".length), right: READ, fields: [], run },
  });
  const write = (
    path: string,
    action: string,
    subresource: Right["subresource"],
    fields: readonly string[],
    run: (body: Body) => unknown,
  ): Route => ({
    ...{ method: "POST", path, action, right: { verb: "update", subresource }, fields },
    run: (_query, body) => run(body),
  });
  const workloadOf = (body: Body, ttlSeconds: number): [string, number] => [
    text(body["workload"], "workload"),
    wholeNumber(body["ttlSeconds"] ?? ttlSeconds, "ttlSeconds"),
  ];
  const identity = ["workload", "ttlSeconds"];
  return [
    read("/v1/status", actions.status),
    read("/v1/policies", actions.policies),
    read("/v1/history", actions.history),
    read("/v1/ca", actions.caStatus),
    read("/v1/revocations", actions.revocations),
    read("/v1/state", (query) => stateOf(actions, query)),
    read("/v1/diff", (query) =>
      actions.diff(wholeNumber(query.get("from"), "from"), wholeNumber(query.get("to"), "to")),
    ),
    write("/v1/rollback", "rollback", "rollback", ["revision"], (body) =>
      actions.rollback(wholeNumber(body["revision"], "revision")),
    ),
    write("/v1/rollback/release", "release", "rollback", [], () => actions.release()),
    write("/v1/join-tokens", "create-join-token", "join-tokens", identity, (body) =>
      actions.createJoinToken(...workloadOf(body, 900)),
    ),
    write("/v1/identity-export", "export-identity", "identities", identity, (body) =>
      actions.exportIdentity(...workloadOf(body, 3600)),
    ),
    write(
      "/v1/revocations",
      "revoke",
      "revocations",
      ["workload", "pod", "user", "session", "reason"],
      (body) =>
        actions.revoke({
          workload: body["workload"] === undefined ? undefined : text(body["workload"], "workload"),
          pod: body["pod"] === undefined ? undefined : text(body["pod"], "pod"),
          user: body["user"] === undefined ? undefined : text(body["user"], "user"),
          session: body["session"] === undefined ? undefined : text(body["session"], "session"),
          reason: text(body["reason"], "reason"),
        }),
    ),
    write("/v1/ca/rotate", "ca-rotate", "ca", [], () => actions.caRotate()),
    write("/v1/ca/abort", "ca-abort", "ca", [], () => actions.caAbort()),
    write("/v1/ca/force", "ca-force", "ca", [], () => actions.caForce()),
  ];
}
