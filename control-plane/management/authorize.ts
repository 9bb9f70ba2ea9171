// What a Kubernetes user may do on the secured port: RBAC decides, by SubjectAccessReview on the virtual resource
// `management` of group `countersign.dev`. Allows are remembered for ten seconds, denials for one.
import type { AuthorizationV1Api } from "@kubernetes/client-node";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import type { ApiReviews } from "./api-reviews.ts";
import type { TokenUser } from "./authenticate.ts";
import { type Right, resourceOf } from "./routes.ts";
import { ShortCache } from "./short-cache.ts";

export interface AuthorizerOptions {
  readonly reviews: Pick<AuthorizationV1Api, "createSubjectAccessReview">;
  readonly ask: ApiReviews;
  /** Of the control plane: a RoleBinding there is enough. */
  readonly namespace: string;
  readonly clock: Clock;
}

export type Permission =
  | { readonly kind: "allowed" }
  | { readonly kind: "refused"; readonly status: 403 | 503; readonly detail: string };

/** ClusterRoles of the chart: every right of this port, and reading. */
const MANAGEMENT_ROLE = { update: "countersign-management", get: "countersign-management-view" };
const ALLOWED_FOR_MS = 10_000;
const DENIED_FOR_MS = 1_000;
const MAX_DECISIONS = 4_096;

/** Asks RBAC. */
export class Authorizer {
  readonly #options: AuthorizerOptions;
  readonly #known = new ShortCache<Permission>(MAX_DECISIONS);

  constructor(options: AuthorizerOptions) {
    this.#options = options;
  }

  /** @param digest of the user's token: what is remembered ends with it. */
  async decide(user: TokenUser, digest: string, right: Right): Promise<Permission> {
    const { clock, namespace } = this.#options;
    const key = `${digest} ${right.verb} ${right.subresource}`;
    const known = this.#known.get(key, clock.monotonicMs());
    if (known !== undefined) return known;
    const reviewed = await this.#options.ask.ask("SubjectAccessReview", () =>
      this.#options.reviews.createSubjectAccessReview({
        body: {
          apiVersion: "authorization.k8s.io/v1",
          kind: "SubjectAccessReview",
          spec: {
            user: user.name,
            uid: user.uid,
            groups: [...user.groups],
            extra: user.extra,
            resourceAttributes: {
              ...{ group: "countersign.dev", resource: "management", verb: right.verb, namespace },
              ...(right.subresource === "" ? {} : { subresource: right.subresource }),
            },
          },
        },
      }),
    );
    if (reviewed.kind === "unavailable") return { kind: "refused", status: 503, detail: reviewed.detail };
    const { status } = reviewed.value;
    const allowed = status?.allowed === true && status.denied !== true;
    const permission: Permission = allowed
      ? { kind: "allowed" }
      : { kind: "refused", status: 403, detail: howToGrant(user, right) };
    const ttlMs = allowed ? ALLOWED_FOR_MS : DENIED_FOR_MS;
    this.#known.set(key, permission, ttlMs, clock.monotonicMs());
    return permission;
  }
}

/** One line that an administrator can run. */
function howToGrant({ name }: TokenUser, right: Right): string {
  const account = /^system:serviceaccount:([^:]+):([^:]+)$/.exec(name);
  const subject =
    account === null
      ? `--user='${name.replaceAll("'", "")}'`
      : `--serviceaccount=${account[1]}:${account[2]}`;
  const label = (account?.[2] ?? name)
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, "-")
    .slice(0, 40);
  return `\`${name}\` may not ${right.verb} \`${resourceOf(right)}\` of group countersign.dev; grant it with: kubectl create clusterrolebinding countersign-${label} --clusterrole=${MANAGEMENT_ROLE[right.verb]} ${subject}`;
}
