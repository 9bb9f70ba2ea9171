// The port that the API server asks: injection of pods, validation of our kinds, and its certificate.
import type { AuthorizationV1Api } from "@kubernetes/client-node";
import { MeshError } from "../sidecar/core/runtime/errors.ts";
import { createInjectHandler } from "./admission/inject-handler.ts";
import { injectSettings } from "./admission/inject-settings.ts";
import type { AdmissionHandler } from "./admission/review.ts";
import { createAdmissionServer } from "./admission/server.ts";
import { createValidateHandler } from "./admission/validate-handler.ts";
import {
  createWebhookCertificate,
  runWebhookCertificate,
  webhookNames,
} from "./admission/webhook-certificate.ts";
import type { ClusterConfig } from "./config.ts";
import type { Closer, Deps, Parts } from "./mode.ts";
import { createAdmitter } from "./policy/admit.ts";
import { createLinter } from "./policy/lint.ts";
import { loadBuiltInPacks } from "./policy/packs.ts";
import { createObjectParser } from "./policy/typed-object.ts";
import { loadSchemas } from "./sources/schema.ts";
import { SOFTWARE_VERSION } from "./version.ts";

interface WebhookInput {
  readonly parts: Parts;
  readonly config: ClusterConfig;
  readonly authorization: Pick<AuthorizationV1Api, "createSubjectAccessReview">;
  readonly deps: Deps;
}

/** @throws MeshError `bad_config` (sidecar image or defaults), `io_failed` (port). */
export async function serveWebhooks(input: WebhookInput, signal: AbortSignal): Promise<Closer> {
  const { parts, config, deps } = input;
  const { ca, metrics } = parts;
  const names = webhookNames(config.namespace);
  const initial = await createWebhookCertificate(ca, names, deps.clock.nowMs());
  const server = await createAdmissionServer({
    host: parts.config.listen,
    port: config.webhookPort,
    certificate: initial,
    handlers: { "/validate": validation(input), ...injection(input) },
    observe: (path, outcome, seconds) => metrics.reviewed(path, outcome, seconds),
    ...deps,
  });
  const renewing = runWebhookCertificate(
    { ca, names, random: Math.random, onCertificate: (next) => server.rotate(next), initial, ...deps },
    signal,
  );
  return async () => {
    await server.close();
    await renewing;
  };
}

function validation({ parts, authorization, deps }: WebhookInput): AdmissionHandler {
  const packs = loadBuiltInPacks();
  return createValidateHandler({
    state: () => parts.publisher.live,
    schemas: loadSchemas(),
    admitter: createAdmitter(packs, { mode: "kubernetes" }),
    parse: createObjectParser(),
    linter: createLinter(packs),
    trustDomain: parts.ca.trustDomain,
    authorization,
    onAdmitted: ({ kind, name, typed, username }) =>
      parts.actors.admitted({ kind, name, value: typed?.value, actor: username }, deps.clock.monotonicMs()),
    ...deps,
  });
}

/** Nothing is injected without an image: whoever installs without the webhook has none. */
function injection({ parts, config }: WebhookInput): Readonly<Record<string, AdmissionHandler>> {
  const { publisher, ca } = parts;
  if (config.sidecarImage === undefined) return {};
  const settings = injectSettings({
    image: config.sidecarImage,
    defaults: config.sidecarDefaults,
    trustDomain: ca.trustDomain,
    namespace: config.namespace,
    version: SOFTWARE_VERSION,
  });
  if (!settings.ok) throw new MeshError("bad_config", settings.error);
  const builtIn = [...loadBuiltInPacks().keys()];
  return {
    "/inject": createInjectHandler({
      settings: settings.value,
      trustedSpawners: () => publisher.live.config.trustedSpawners,
      namespaceLabels: (namespace) => publisher.live.namespaces.get(namespace),
      packs: () =>
        new Set([
          ...builtIn,
          ...[...publisher.live.catalogs.values()].flatMap((catalog) =>
            catalog.packs.map((pack) => pack.name),
          ),
        ]),
    }),
  };
}
