// The webhook `/inject`: reviews of pods that are created, and of ephemeral containers that join one. Which pods come here
// is the API server's choice (selectors of the webhook configuration), so a label that this replica has not seen yet counts.
import { type InjectContext, injectPod } from "./inject.ts";
import { PREFIX } from "./own-names.ts";
import { ephemeralProblems } from "./pod-rules.ts";
import { type PodView, readPod } from "./pod-view.ts";
import type { AdmissionAnswer, AdmissionHandler, AdmissionRequest } from "./review.ts";
import type { InjectSettings } from "./sidecar-containers.ts";

export interface InjectHandlerDeps {
  readonly settings: InjectSettings;
  /** `MeshConfig.spec.trustedSpawners` in force. */
  readonly trustedSpawners: () => readonly string[];
  /** As far as this replica knows them. */
  readonly namespaceLabels: (namespace: string) => ReadonlyMap<string, string> | undefined;
  /** Names of operation packs that exist. */
  readonly packs: () => ReadonlySet<string>;
}

const VERIFIED = `${PREFIX}verified-`;

/** @returns a handler without side effects: a forged review tells its author only what it says itself. */
export function createInjectHandler(deps: InjectHandlerDeps): AdmissionHandler {
  return async (request) => {
    const { resource, kind, operation, subResource } = request;
    if (resource.group !== "" || resource.resource !== "pods" || kind.kind !== "Pod") return notOurs(request);
    if (operation === "CREATE" && subResource === undefined) return onCreate(request, deps);
    if (operation === "UPDATE" && subResource === "ephemeralcontainers") return onEphemeral(request);
    if (operation === "UPDATE" && subResource === undefined) return onUpdate(request);
    return notOurs(request);
  };
}

function notOurs({ operation, resource, subResource }: AdmissionRequest): AdmissionAnswer {
  const what = subResource === undefined ? resource.resource : `${resource.resource}/${subResource}`;
  return refusal(
    400,
    `${operation} of ${what} is nothing for this webhook: its configuration \`countersign\` has a rule too many`,
  );
}

function refusal(code: number, message: string, warnings: readonly string[] = []): AdmissionAnswer {
  return { allowed: false, code, message, warnings };
}

function onCreate(request: AdmissionRequest, deps: InjectHandlerDeps): AdmissionAnswer {
  const { object, namespace, user } = request;
  if (object === undefined) return refusal(400, "the review has no pod");
  const context: InjectContext = {
    settings: deps.settings,
    trustedSpawners: deps.trustedSpawners(),
    username: user.username,
    namespaceLabels: namespace === undefined ? undefined : deps.namespaceLabels(namespace),
    packs: deps.packs(),
  };
  const outcome = injectPod(object, context);
  return outcome.kind === "refused"
    ? refusal(403, outcome.reason, outcome.warnings)
    : { allowed: true, patch: outcome.patch, warnings: outcome.warnings };
}

interface Versions {
  readonly after: PodView;
  readonly before: PodView | undefined;
}

function versionsOf({ object, oldObject }: AdmissionRequest): Versions | string {
  const after = object === undefined ? undefined : readPod(object);
  const before = oldObject === undefined ? undefined : readPod(oldObject);
  if (after === undefined) return "the review has no pod";
  if (!after.ok) return `the pod cannot be read: ${after.error}`;
  return { after: after.value, before: before?.ok ? before.value : undefined };
}

function onEphemeral(request: AdmissionRequest): AdmissionAnswer {
  const versions = versionsOf(request);
  if (typeof versions === "string") return refusal(400, versions);
  const problems = ephemeralProblems(versions.after, versions.before);
  return problems.length === 0
    ? { allowed: true }
    : refusal(403, `the container cannot join a meshed pod: ${problems.join("; ")}`);
}

/** The chart asks for no such reviews (a ValidatingAdmissionPolicy freezes the annotations); where one comes, so it stays. */
function onUpdate(request: AdmissionRequest): AdmissionAnswer {
  const versions = versionsOf(request);
  if (typeof versions === "string") return refusal(400, versions);
  const { after, before } = versions;
  const keys = [...after.annotations.keys(), ...(before?.annotations.keys() ?? [])];
  const changed = keys.find(
    (key) => key.startsWith(VERIFIED) && after.annotations.get(key) !== before?.annotations.get(key),
  );
  return changed === undefined
    ? { allowed: true }
    : refusal(
        403,
        `annotation \`${changed}\` is written by the mesh when the pod is created, and then never changes`,
      );
}
