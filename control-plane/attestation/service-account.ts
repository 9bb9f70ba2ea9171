// Attests a pod by its projected ServiceAccount token: the API server says whose it is (TokenReview), our watch says
// which workload that pod is. The token is opaque here and is never logged.
import type { AuthenticationV1Api, V1TokenReview, V1UserInfo } from "@kubernetes/client-node";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf, type Result } from "../../sidecar/core/runtime/errors.ts";
import { statusOf } from "../kubernetes/client.ts";
import type { MeshPod } from "../sources/store.ts";
import { JoinRefusal } from "./refusal.ts";

export interface AttestorDeps {
  readonly review: Pick<AuthenticationV1Api, "createTokenReview">;
  /** `countersign.dev/{trust-domain}`: a token for anybody else is not for us. */
  readonly audience: string;
  /** The pod as our watch last saw it; undefined: unknown, or gone. */
  readonly pod: (uid: string) => MeshPod | undefined;
  readonly clock: Clock;
}

export interface AttestedPod {
  readonly uid: string;
  /** Key in `ClusterState.workloads`. */
  readonly workload: string;
}

/** @returns the pod, or why not; never rejects. */
export type ServiceAccountAttestor = (token: string) => Promise<Result<AttestedPod, JoinRefusal>>;

/** Longest token that is looked at, bytes; the kubelet's have about 1.3 KiB. */
export const MAX_SERVICE_ACCOUNT_TOKEN_BYTES = 16_384;
/** Reviews that the API server is asked for at once. */
const MAX_REVIEWS = 32;
/** Callers that wait for their turn, as when a Job starts hundreds of pods; beyond, they try again. */
const MAX_WAITING = 256;
const REVIEW_TIMEOUT_MS = 10_000;
/** A pod may start faster than the watch tells of it. */
const UNKNOWN_POD_WAIT_MS = 3_000;
const UNKNOWN_POD_LOOK_MS = 50;

/** Three parts of base64url: anything else would only cost the API server's time. */
const JWT = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/;
const USER = /^system:serviceaccount:([a-z0-9.-]{1,253}):([a-z0-9.-]{1,253})$/;
const POD_UID = "authentication.kubernetes.io/pod-uid";
const POD_NAME = "authentication.kubernetes.io/pod-name";

interface TokenSubject {
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly podUid: string;
  readonly podName: string;
}

type Outcome<T> = Result<T, JoinRefusal>;

function refused(message: string, told?: string): { readonly ok: false; readonly error: JoinRefusal } {
  return { ok: false, error: new JoinRefusal("join_rejected", message, told) };
}

function later(
  message: string,
  told: string,
  cause?: unknown,
): { readonly ok: false; readonly error: JoinRefusal } {
  return { ok: false, error: new JoinRefusal("not_ready", message, told, { cause }) };
}

/** Makes the attestor of one mesh. */
export function createServiceAccountAttestor(deps: AttestorDeps): ServiceAccountAttestor {
  const turns = new Turns();
  return async (token) => {
    if (token.length > MAX_SERVICE_ACCOUNT_TOKEN_BYTES || !JWT.test(token))
      return refused("what came as a ServiceAccount token is none", "this is not a ServiceAccount token");
    if (!(await turns.take()))
      return later(
        `${MAX_REVIEWS} token reviews are under way and ${MAX_WAITING} wait; is the API server slow?`,
        "too many sidecars join at once, wait a second",
      );
    let subject: Outcome<TokenSubject>;
    try {
      subject = await review(deps, token);
    } finally {
      turns.give();
    }
    return subject.ok ? place(deps, subject.value) : subject;
  };
}

/** Lets `MAX_REVIEWS` through at once, the others in the order they came. */
class Turns {
  #taken = 0;
  readonly #waiting: (() => void)[] = [];

  /** @returns false when too many wait already. */
  async take(): Promise<boolean> {
    if (this.#taken < MAX_REVIEWS) {
      this.#taken++;
      return true;
    }
    if (this.#waiting.length >= MAX_WAITING) return false;
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
    return true;
  }

  /** Hands the turn on, or back. */
  give(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#taken--;
    else next();
  }
}

async function review(deps: AttestorDeps, token: string): Promise<Outcome<TokenSubject>> {
  const { audience, clock } = deps;
  const limit = new AbortController();
  try {
    const answer = await Promise.race([
      deps.review.createTokenReview({
        body: {
          apiVersion: "authentication.k8s.io/v1",
          kind: "TokenReview",
          spec: { token, audiences: [audience] },
        },
      }),
      clock.sleep(REVIEW_TIMEOUT_MS, limit.signal).then(() => undefined),
    ]);
    return answer === undefined
      ? later(
          `the API server did not answer a TokenReview within ${REVIEW_TIMEOUT_MS} ms`,
          "the token cannot be checked now, try again",
        )
      : subjectOf(answer, audience);
  } catch (error) {
    const status = statusOf(error);
    const advice =
      status === 401 || status === 403
        ? "the control plane may not create `tokenreviews`; bind it the ClusterRole of the chart"
        : "is the API server up?";
    // The library's message carries the answer's body and headers, so it is cut.
    const [reason = ""] = messageOf(error).split("\n");
    return later(
      `a ServiceAccount token cannot be reviewed (${status ?? "no answer"}: ${reason.slice(0, 200)}); ${advice}`,
      "the token cannot be checked now, try again",
      error,
    );
  } finally {
    limit.abort();
  }
}

function single(user: V1UserInfo, name: string): string | undefined {
  const values = user.extra?.[name];
  return values?.length === 1 && values[0] !== "" ? values[0] : undefined;
}

/** What the review says, if it says all that is needed. */
function subjectOf({ status }: V1TokenReview, audience: string): Outcome<TokenSubject> {
  if (status?.authenticated !== true) {
    // The API server's own words: expired, other audience, or the pod or account it is bound to is gone.
    const reason = status?.error ?? "the API server does not know it";
    return refused(
      `a ServiceAccount token does not count: ${reason.slice(0, 300)}; the sidecar needs a projected token with audience \`${audience}\` (volume \`countersign-token\`)`,
      `the ServiceAccount token is not valid: expired, without audience \`${audience}\`, or its pod is gone`,
    );
  }
  // An API server that ignores audiences answers without any: then the token is for whoever it is for.
  if (status.audiences?.includes(audience) !== true)
    return refused(
      `a ServiceAccount token is for \`${(status.audiences ?? []).join("`, `").slice(0, 200)}\`, not for \`${audience}\`; use the projected token of volume \`countersign-token\``,
      `the ServiceAccount token has not the audience \`${audience}\``,
    );
  const user = status.user ?? {};
  const name = USER.exec(user.username ?? "");
  const [, namespace, serviceAccount] = name ?? [];
  if (namespace === undefined || serviceAccount === undefined)
    return refused(
      `a token of \`${(user.username ?? "").slice(0, 100)}\` is not of a ServiceAccount`,
      "this is not a ServiceAccount token",
    );
  const podUid = single(user, POD_UID);
  const podName = single(user, POD_NAME);
  if (podUid === undefined || podName === undefined)
    return refused(
      `a token of ServiceAccount \`${namespace}/${serviceAccount}\` is bound to no pod; only a projected token of the pod itself counts`,
      "the ServiceAccount token is bound to no pod",
    );
  return { ok: true, value: { namespace, serviceAccount, podUid, podName } };
}

/** The workload of that pod, as the watch has it. */
async function place(deps: AttestorDeps, subject: TokenSubject): Promise<Outcome<AttestedPod>> {
  const { namespace, serviceAccount, podUid, podName } = subject;
  const pod = await findPod(deps, podUid);
  const asked = `pod \`${namespace}/${podName}\` (${podUid})`;
  if (pod === undefined)
    return later(
      `${asked} has a good token but is not known here: it is gone, the watch of pods is behind, or it was not injected`,
      "the control plane does not know this pod yet, try again",
    );
  if (pod.namespace !== namespace || pod.serviceAccount !== serviceAccount || pod.name !== podName)
    return refused(
      `${asked} has a token of \`${namespace}/${serviceAccount}\`, but is \`${pod.namespace}/${pod.name}\` of ServiceAccount \`${pod.serviceAccount}\``,
      "the ServiceAccount token is of another pod",
    );
  if (!pod.injected || pod.workload === undefined)
    return refused(
      `${asked} is not in the mesh: it has no sidecar container; label it or its namespace \`countersign.dev/inject=enabled\` and create it anew`,
      "this pod is not in the mesh",
    );
  return { ok: true, value: { uid: podUid, workload: pod.workload } };
}

async function findPod({ pod, clock }: AttestorDeps, uid: string): Promise<MeshPod | undefined> {
  const untilMs = clock.monotonicMs() + UNKNOWN_POD_WAIT_MS;
  for (;;) {
    const found = pod(uid);
    if (found !== undefined || clock.monotonicMs() >= untilMs) return found;
    await clock.sleep(UNKNOWN_POD_LOOK_MS);
  }
}
