// PURE. What a gateway decided by itself, before there was a call: who signed in or out, whose session ended, what was
// refused at its front. The same envelope and body as the event of a call (record.ts), so that one reader takes both.

/** `actionName`. */
export type EdgeAction =
  | "login"
  | "logout"
  | "session.end"
  | "token.give"
  | "token.exchange"
  | "token.end"
  | "request";

export interface EdgeUser {
  /** `idp|id`. */
  readonly id: string;
  readonly type?: string | undefined;
  readonly roles: readonly string[];
  readonly email?: string | undefined;
}

export interface EdgeEventRequest {
  readonly method: string;
  readonly host: string;
  /** Without query. */
  readonly path: string;
  readonly sourceIp: string;
  readonly userAgent: string | undefined;
}

export interface EdgeEvent {
  readonly action: EdgeAction;
  readonly allowed: boolean;
  /** A reason code, or of a sign-in its `result` in capitals. */
  readonly reason: string;
  readonly detail: string | undefined;
  readonly decisionId: string;
  /** Name of the IdentityProvider. */
  readonly idp: string | undefined;
  /** `sid`. */
  readonly session: string | undefined;
  readonly user: EdgeUser | undefined;
  readonly request: EdgeEventRequest | undefined;
  /** The endpoint that a token is for, as it was asked for. */
  readonly endpoint?: string | undefined;
  /** 0: nothing was asked that is answered. */
  readonly status: number;
}

/** Of the workload that writes it, as its table says. */
export interface EdgeSource {
  readonly spiffeId: string;
  readonly cluster: string;
  readonly namespace: string;
  readonly name: string;
  readonly revision: number;
}

/** What the trail adds. */
export interface EdgeStamp {
  readonly id: string;
  readonly time: string;
  readonly proxySeq: number;
}

const MAX_ROLES = 32;
const MAX_CHARS = 256;

const text = (value: string | undefined): string | null =>
  value === undefined || value === "" ? null : value.slice(0, MAX_CHARS).toWellFormed();

/** @param repeated how many events like this one it stands for. */
export function edgeEvent(
  event: EdgeEvent,
  { source, stamp, repeated }: { source: EdgeSource; stamp: EdgeStamp; repeated: number },
): string {
  const { user, request, action, allowed } = event;
  return JSON.stringify({
    ...{ specversion: "1.0", id: stamp.id, time: stamp.time, traceparent: null, source: source.spiffeId },
    ...{ type: "dev.countersign.edge.v1", subject: `gateway/${source.name}` },
    datacontenttype: "application/json",
    data: {
      ...{ version: "1", cluster: source.cluster, namespace: source.namespace },
      ...{ serviceName: "gateway", actionName: action },
      resource: event.endpoint === undefined ? null : { type: "endpoint", name: text(event.endpoint) },
      userIdentity:
        user === undefined
          ? null
          : {
              ...{ id: user.id, type: user.type ?? "person" },
              ...{ roles: user.roles.slice(0, MAX_ROLES), email: user.email ?? null },
            },
      ...{ idp: text(event.idp), session: text(event.session), txn: null, requestId: null },
      decisionId: event.decisionId,
      decision: {
        ...{ effect: allowed ? "Allow" : "Deny", reason: event.reason, policy: null, rule: null },
        ...{ revision: source.revision, would: null },
      },
      request:
        request === undefined
          ? null
          : {
              ...{ method: text(request.method), host: text(request.host) },
              ...{ pathTemplate: text(request.path), sourceIp: text(request.sourceIp) },
              userAgent: text(request.userAgent),
            },
      response: { statusCode: event.status === 0 ? null : event.status, errorMessage: text(event.detail) },
      repeated,
      ...{ payload: null, integrity: { proxySeq: stamp.proxySeq } },
    },
  });
}
