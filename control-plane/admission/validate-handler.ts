// The handler behind `/validate`: the pure verdict, then the rights that it asks for. Fails closed: a right that cannot be
// checked is one that is not there.
import type { AuthorizationV1Api, V1SubjectAccessReview } from "@kubernetes/client-node";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { TypedObject } from "../policy/typed-object.ts";
import {
  type AdmissionAnswer,
  type AdmissionHandler,
  type AdmissionRequest,
  type AdmissionUser,
  isFields,
} from "./review.ts";
import { type ValidationContext, validateChange } from "./validate.ts";
import type { Right } from "./validate-rights.ts";

export interface ValidateHandlerDeps extends Omit<ValidationContext, "state" | "nowMs"> {
  readonly state: () => ValidationContext["state"];
  readonly authorization: Pick<AuthorizationV1Api, "createSubjectAccessReview">;
  /** Told of every change that is let through and is no dry run. It may still fail after that. */
  readonly onAdmitted?: (change: AdmittedObject) => void;
  readonly clock: Clock;
  readonly log: Logger;
}

/** A change of an object, and who asked for it. */
export interface AdmittedObject {
  readonly kind: string;
  /** `namespace/name`, or `name` of a cluster-scoped kind. */
  readonly name: string;
  /** undefined: it is deleted. */
  readonly typed: TypedObject | undefined;
  readonly username: string;
}

/** The webhook's own limit is 10 s: the answer has to come before. */
const RIGHT_TIMEOUT_MS = 5_000;
/** Reviews cost the API server work, and a forged one could ask for sixteen. */
const MAX_RIGHTS_IN_FLIGHT = 64;

type Answer = "yes" | "no" | "unknown";

/** Answers reviews of our kinds. Changes nothing; replicas answer alike as far as their states agree. */
export function createValidateHandler(deps: ValidateHandlerDeps): AdmissionHandler {
  let inFlight = 0;
  const ask = async (right: Right, user: AdmissionUser): Promise<Answer> => {
    if (inFlight >= MAX_RIGHTS_IN_FLIGHT) return "unknown";
    inFlight += 1;
    try {
      return await askInTime(deps, right, user);
    } finally {
      inFlight -= 1;
    }
  };
  return async (request) => {
    const { state, clock } = deps;
    const verdict = validateChange(request, { ...deps, state: state(), nowMs: clock.nowMs() });
    if (verdict.kind === "refused") return { allowed: false, code: verdict.code, message: verdict.message };
    const answers = await Promise.all(verdict.rights.map((right) => ask(right, request.user)));
    const refusal = refusalOf(verdict.rights, answers, request.user);
    if (refusal !== undefined) return refusal;
    const isChange = verdict.typed !== undefined || request.operation === "DELETE";
    if (isChange && !request.dryRun) deps.onAdmitted?.(admittedObject(request, verdict.typed));
    return { allowed: true, warnings: verdict.warnings };
  };
}

function admittedObject(request: AdmissionRequest, typed: TypedObject | undefined): AdmittedObject {
  const { kind, namespace, user } = request;
  // A name that the API server makes up (`generateName`) is in the object alone.
  const metadata = isFields(request.object?.["metadata"]) ? request.object["metadata"] : {};
  const own = typeof metadata["name"] === "string" ? metadata["name"] : "";
  const name = request.name ?? own;
  return {
    ...{ kind: kind.kind, typed, username: user.username },
    name: namespace === undefined ? name : `${namespace}/${name}`,
  };
}

function refusalOf(
  rights: readonly Right[],
  answers: readonly Answer[],
  user: AdmissionUser,
): AdmissionAnswer | undefined {
  const denied = rights.filter((_, i) => answers[i] === "no");
  if (denied.length > 0) {
    const message = denied.map((right) => deniedText(right, user)).join(" ");
    return { allowed: false, code: 403, message };
  }
  if (answers.every((answer) => answer === "yes")) return undefined;
  const message =
    "the API server did not say whether you may do this, so it is refused: try again in a few seconds";
  return { allowed: false, code: 503, message };
}

/** Names the right and how to give it. */
function deniedText({ verb, resource, name, namespace, purpose }: Right, user: AdmissionUser): string {
  const target = name === undefined ? "" : ` \`${name}\``;
  const where = namespace === undefined ? "" : ` in namespace \`${namespace}\``;
  const role = namespace === undefined ? "clusterrole" : `role --namespace ${namespace}`;
  const [kind, ...flags] = role.split(" ");
  const only = name === undefined ? "" : ` --resource-name=${name}`;
  const command = ["kubectl create", kind, `${verb}-${resource}`, ...flags].join(" ");
  return (
    `\`${user.username}\` needs verb \`${verb}\` on ${resource}.countersign.dev${target}${where} ${purpose}; ` +
    `an administrator can give it with \`${command} --verb=${verb} --resource=${resource}.countersign.dev${only}\` and a binding`
  );
}

async function askInTime(
  { authorization, clock, log }: ValidateHandlerDeps,
  right: Right,
  user: AdmissionUser,
): Promise<Answer> {
  const { verb, resource, namespace, name } = right;
  const body: V1SubjectAccessReview = {
    apiVersion: "authorization.k8s.io/v1",
    kind: "SubjectAccessReview",
    spec: {
      user: user.username,
      groups: [...user.groups],
      ...(user.uid === undefined ? {} : { uid: user.uid }),
      extra: Object.fromEntries([...user.extra].map(([key, values]) => [key, [...values]])),
      resourceAttributes: {
        group: "countersign.dev",
        version: "v1alpha1",
        resource,
        verb,
        ...(namespace === undefined ? {} : { namespace }),
        ...(name === undefined ? {} : { name }),
      },
    },
  };
  const done = new AbortController();
  try {
    const late = clock.sleep(RIGHT_TIMEOUT_MS, done.signal).then(() => undefined);
    const review = await Promise.race([authorization.createSubjectAccessReview({ body }), late]);
    if (review === undefined) {
      log.warn("a right could not be checked in time", { verb, resource });
      return "unknown";
    }
    return review.status?.allowed === true && review.status.denied !== true ? "yes" : "no";
  } catch (error) {
    log.warn("a right could not be checked", { verb, resource, error: messageOf(error) });
    return "unknown";
  } finally {
    done.abort();
  }
}
