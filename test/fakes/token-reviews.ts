// The API server's TokenReview as attestation sees it: tokens that a test made up, and what is said of each.
import type { V1TokenReview } from "@kubernetes/client-node";
import type { AttestorDeps } from "../../control-plane/attestation/service-account.ts";

export type ReviewStatus = NonNullable<V1TokenReview["status"]>;

/** What the API server says of a projected token of a pod. */
export function podReview(
  pod: {
    readonly uid: string;
    readonly name: string;
    readonly namespace: string;
    readonly serviceAccount: string;
  },
  audience: string,
): ReviewStatus {
  return {
    authenticated: true,
    audiences: [audience],
    user: {
      username: `system:serviceaccount:${pod.namespace}:${pod.serviceAccount}`,
      uid: "a1",
      groups: ["system:serviceaccounts"],
      extra: {
        "authentication.kubernetes.io/pod-uid": [pod.uid],
        "authentication.kubernetes.io/pod-name": [pod.name],
      },
    },
  };
}

export class FakeTokenReviews {
  readonly statuses = new Map<string, ReviewStatus>();
  readonly asked: V1TokenReview[] = [];
  /** Thrown instead of an answer while set. */
  failure: Error | undefined;
  /** Awaited before each answer. */
  before: Promise<void> = Promise.resolve();

  readonly api: AttestorDeps["review"] = {
    createTokenReview: async ({ body }) => {
      this.asked.push(body);
      await this.before;
      if (this.failure !== undefined) throw this.failure;
      const status = this.statuses.get(body.spec.token ?? "") ?? {
        authenticated: false,
        error: "invalid bearer token",
      };
      return { ...body, status };
    },
  };
}
