// The secured management port with a real authority and TLS, and an API server whose tokens and rights a test states.
import { request } from "node:https";
import type { V1SubjectAccessReview, V1TokenReview } from "@kubernetes/client-node";
import { createServerIdentity } from "../../control-plane/ca/server-identity.ts";
import type { ManagementRecord } from "../../control-plane/management/audit-log.ts";
import type { ManagementActions } from "../../control-plane/management/routes.ts";
import {
  createSecuredManagementServer,
  type SecuredManagementOptions,
  type SecuredManagementServer,
} from "../../control-plane/management/secured-server.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { silentLogger } from "../../sidecar/core/runtime/log.ts";
import { createTestAuthority, type TestAuthority } from "./authority.ts";
import { FakeClock } from "./clock.ts";

export const TRUST_DOMAIN = "lake.example";
export const MESH_AUDIENCE = `countersign.dev/${TRUST_DOMAIN}`;
const API_AUDIENCE = "https://kubernetes.default.svc";

/** An unsigned JWT: what a token says of itself. */
export function jwt(claims: Readonly<Record<string, unknown>>): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "RS256" })}.${part(claims)}.c2ln`;
}

interface Account {
  readonly user: string;
  readonly groups?: readonly string[];
  readonly audience?: string;
  /** `get management`, `update management/rollback`; `*`: all. */
  readonly rights: readonly string[];
  /** As an API server whose authenticator does not know audiences. */
  readonly withoutAudiences?: boolean;
}

/** Reviews as a real API server answers them: by token, audience and right. */
export class FakeReviews {
  readonly accounts = new Map<string, Account>();
  readonly asked: string[] = [];
  /** What happens instead of an answer. */
  away: (() => Promise<never>) | undefined;

  async createTokenReview({ body }: { readonly body: V1TokenReview }): Promise<V1TokenReview> {
    const { token = "", audiences = [API_AUDIENCE] } = body.spec;
    this.asked.push(`token ${audiences.join(" ")}`);
    if (this.away !== undefined) return this.away();
    const account = this.accounts.get(token);
    if (account === undefined) return { ...body, status: { error: "invalid bearer token" } };
    const audience = account.audience ?? API_AUDIENCE;
    if (!audiences.includes(audience) && account.withoutAudiences !== true)
      return { ...body, status: { error: "token audiences do not match" } };
    const user = { username: account.user, uid: "u1", groups: [...(account.groups ?? [])] };
    const known = account.withoutAudiences === true ? {} : { audiences: [audience] };
    return { ...body, status: { authenticated: true, ...known, user } };
  }

  async createSubjectAccessReview({
    body,
  }: {
    readonly body: V1SubjectAccessReview;
  }): Promise<V1SubjectAccessReview> {
    const { user, resourceAttributes: at } = body.spec;
    const right = `${at?.verb} ${at?.resource}${at?.subresource === undefined ? "" : `/${at.subresource}`}`;
    this.asked.push(`${user} ${right} in ${at?.namespace}`);
    if (this.away !== undefined) return this.away();
    const account = [...this.accounts.values()].find((one) => one.user === user);
    const allowed = account?.rights.some((one) => one === "*" || one === right) === true;
    return { ...body, status: { allowed: at?.group === "countersign.dev" && allowed } };
  }
}

export interface Credentials {
  readonly token?: string;
  readonly cert?: string;
  readonly key?: string;
}

export interface Call extends Credentials {
  readonly method?: string;
  readonly path: string;
  readonly headers?: Readonly<Record<string, string | string[]>>;
  readonly body?: string;
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: Readonly<Record<string, unknown>>;
  readonly text: string;
}

/** Actions that answer what they were called with. */
export const echoActions: ManagementActions = {
  status: () => ({ revision: 7 }),
  policies: () => ({ policies: [] }),
  history: () => ({ revisions: [] }),
  diff: async (from, to) => ({ from, to }),
  state: () => ({ workloads: new Map([["ml/scorer", { name: "scorer" }]]) }),
  rollback: async (revision) => {
    if (revision === 404) throw new MeshError("not_found", "there is no revision 404");
    if (revision === 500) throw new Error("disk is full");
    return { rolledBack: revision };
  },
  release: async () => ({ released: true }),
  createJoinToken: async (workload, ttlSeconds) => ({ token: "SECRET-TOKEN", workload, ttlSeconds }),
  exportIdentity: async (workload) => ({ keyPem: "SECRET-KEY", workload }),
  revocations: () => ({ revocations: [] }),
  revoke: async (request) => ({ revoked: request }),
  caStatus: () => ({ rotation: null }),
  caRotate: async () => ({}),
  caAbort: async () => ({}),
  caForce: async () => ({}),
};

export class SecuredManagement {
  readonly reviews = new FakeReviews();
  readonly records: ManagementRecord[] = [];
  readonly observed: string[] = [];
  readonly clock = new FakeClock(Date.now());
  readonly authority: TestAuthority;
  #server: SecuredManagementServer | undefined;

  private constructor(authority: TestAuthority) {
    this.authority = authority;
  }

  static async start(options: Partial<SecuredManagementOptions> = {}): Promise<SecuredManagement> {
    const made = new SecuredManagement(await createTestAuthority(Date.now(), TRUST_DOMAIN));
    made.#server = await createSecuredManagementServer({
      ...{ host: "127.0.0.1", port: 0, material: made.material(), trustDomain: TRUST_DOMAIN },
      namespace: "countersign-system",
      ...{ tokens: made.reviews, rights: made.reviews, actions: echoActions },
      audit: async (record) => void made.records.push(record),
      ...{ clock: made.clock, log: silentLogger },
      observe: (action, outcome) => made.observed.push(`${action} ${outcome}`),
      ...options,
    });
    return made;
  }

  /** A new server certificate of the authority. */
  material(): SecuredManagementOptions["material"] {
    const made = createServerIdentity(this.authority.ca, Date.now());
    return { certificateChainPem: made.certificateChainPem, keyPem: made.keyPem, rootsPem: made.caPem };
  }

  get server(): SecuredManagementServer {
    if (this.#server === undefined) throw new Error("not started");
    return this.#server;
  }

  call({ method = "GET", path, token, cert, key, headers = {}, body }: Call): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const sent = request(
        {
          ...{ host: "127.0.0.1", port: this.server.port, method, path, agent: false },
          ca: createServerIdentity(this.authority.ca, Date.now()).caPem,
          checkServerIdentity: () => undefined,
          ...(cert === undefined ? {} : { cert, key }),
          headers: {
            ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
            ...(body === undefined ? {} : { "content-type": "application/json" }),
            ...headers,
          },
        },
        (response) => {
          let text = "";
          response.setEncoding("utf8");
          response.on("data", (chunk: string) => {
            text += chunk;
          });
          response.on("error", reject);
          response.on("end", () =>
            resolve({
              status: response.statusCode ?? 0,
              headers: response.headers,
              body: JSON.parse(text === "" ? "{}" : text) as Answer["body"],
              text,
            }),
          );
        },
      );
      sent.on("error", reject);
      sent.end(body);
    });
  }

  async close(): Promise<void> {
    await this.#server?.close();
    await this.authority.close();
  }
}
