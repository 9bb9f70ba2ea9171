// Puts the token service together with the rest of the control plane: state, authority, revocations, roles.
import { join } from "node:path";
import { parseTrustBundle, type TrustBundle } from "../sidecar/core/identity/trust-bundle.ts";
import { fileDocumentStore } from "../sidecar/core/idp/file-document-store.ts";
import { MeshError, messageOf } from "../sidecar/core/runtime/errors.ts";
import { trustBundleJson } from "./ca/jwks.ts";
import type { CertificateAuthority } from "./ca/root.ts";
import type { ControlPlaneConfig } from "./config.ts";
import type { ControlPlaneMetrics } from "./metrics.ts";
import type { Deps, Mode } from "./mode.ts";
import { type Compiled, knownOperations } from "./policy/compile.ts";
import { spiffeIdOf } from "./resources/build.ts";
import { workloadOfSvid } from "./resources/workload-of-svid.ts";
import { createRevocation } from "./revocations/revocation.ts";
import type { RevocationList, RevocationStore } from "./revocations/store.ts";
import type { ServerCredentials } from "./server-credentials.ts";
import type { ClusterState } from "./sources/store.ts";
import { Callers } from "./tokens/caller.ts";
import type { ChangeActors } from "./tokens/change-actors.ts";
import { endpointOperations } from "./tokens/endpoint-operations.ts";
import { FoundRoles } from "./tokens/found-roles.ts";
import { HeldRoles } from "./tokens/held-roles.ts";
import { LiveLogins } from "./tokens/live-logins.ts";
import { type ObjectChange, objectChanges } from "./tokens/object-changes.ts";
import { createTokenServer, type TokenServer } from "./tokens/server.ts";
import { type Person, SessionHandles } from "./tokens/session-handle.ts";
import { Verifiers } from "./tokens/verifiers.ts";

export interface TokenPortParts {
  readonly config: ControlPlaneConfig;
  readonly mode: Mode;
  readonly ca: CertificateAuthority;
  readonly credentials: ServerCredentials;
  /** The state in force: a pinned revision counts. */
  readonly state: () => ClusterState;
  /** What policies came to in it. */
  readonly compiled: () => Pick<Compiled, "programs">;
  /** Who asked for changes; nobody is known in a directory. */
  readonly actors: Pick<ChangeActors, "of">;
  /** Calls the listener after another state is in force. */
  readonly onState: (listener: () => void) => void;
  readonly packs: ReadonlyMap<string, string>;
  readonly revoked: RevocationList;
  readonly revocations: RevocationStore;
  readonly metrics: Pick<ControlPlaneMetrics, "tokenAsked" | "signedIn">;
}

/** Opens port 16013. @throws MeshError `bad_config` when it is taken. */
export async function openTokenPort(parts: TokenPortParts, { clock, log }: Deps): Promise<TokenServer> {
  const { config, mode, ca, credentials, state, revoked, revocations, metrics } = parts;
  const { trustDomain } = ca;
  const handles = new SessionHandles(() => ca.handleKeys);
  const found = new FoundRoles();
  const rolesOf = (person: Person): readonly string[] => found.of(person, state());
  const held = new HeldRoles();
  const callers = new Callers({
    ...{ trustDomain, state, bundle: bundleOf(ca), nowMs: clock.nowMs },
    workloadOf: (svid) => workloadOfSvid(state(), trustDomain, svid),
    isRevoked: (svid) => revoked.covers(svid),
  });
  const audit = await mode.openTokenAudit();
  const server = await createTokenServer({
    host: config.listen,
    port: config.ports.tokens,
    material: credentials.material,
    audit: audit.record,
    observe: (what, outcome, seconds) => metrics.tokenAsked(what, outcome, seconds),
    observeLogin: (idp, outcome) => metrics.signedIn(idp, outcome),
    service: {
      ...{ trustDomain, ca, state, callers, clock, log },
      issuer: config.tokenIssuer ?? `https://${trustDomain}`,
      spiffeIdOf: (workload) => spiffeIdOf(workload, trustDomain),
      handles,
      logins: new LiveLogins({ handles, records: mode.loginRecords, monotonicMs: clock.monotonicMs, log }),
      verifiers: new Verifiers({
        providers: () => state().identityProviders,
        store: (name) => fileDocumentStore(join(config.stateDir, "identity-providers"), name),
        ...{ clock, log },
      }),
      uses: mode.oneTimeUses,
      rolesOf: (person) => {
        const roles = rolesOf(person);
        held.minted(person, roles, clock.nowMs() + state().config.txnTtlMs);
        return roles;
      },
      knowsOperation: operationsOf(state, parts.packs),
      operationsOf: endpointOperations({ ...parts, nowMs: clock.nowMs }),
      revocations: revoked,
      revoke: async (subject, reason, untilMs) => {
        const about = subject.kind === "user" ? { user: subject.user } : { session: subject.session };
        await revocations.add(
          createRevocation({ ...about, reason, untilMs }, state(), trustDomain, clock.nowMs()),
        );
      },
    },
  });
  const tell: TellChange = (action, detail, more = {}): void => {
    const time = new Date(clock.nowMs()).toISOString();
    const record = { time, action, caller: "", address: "", outcome: "granted" as const, reason: "", detail };
    audit.record({ ...record, ...more }).catch((error: unknown) => {
      log.error("audit event lost", { action, error: messageOf(error) });
    });
  };
  parts.onState(
    revokeLosses({
      ...{ held, rolesOf, state, log, tell },
      nowMs: () => clock.nowMs(),
      actorOf: ({ kind, name, value }) => parts.actors.of(kind, name, value, clock.monotonicMs()),
      revoke: async (user, reason) =>
        revocations.add(createRevocation({ user, reason }, state(), trustDomain, clock.nowMs())),
    }),
  );
  credentials.onRenewed((material) => server.rotate(material));
  return {
    port: server.port,
    rotate: (material) => server.rotate(material),
    async close() {
      await server.close();
      await audit.close();
    },
  };
}

/** Users that are signed out for one change at most: each is a record that every sidecar gets. */
const MAX_SIGNED_OUT = 500;
/** Events of one change: a thousand bindings that came with one commit are one. */
const MAX_CHANGES = 100;

/** Writes an event. */
type TellChange = (
  action: string,
  detail: string,
  more?: { readonly user?: string; readonly actor?: string },
) => void;

/** After bindings changed, signs out who lost a role: a token says what somebody could do when it was minted. */
function revokeLosses(parts: {
  readonly held: HeldRoles;
  readonly rolesOf: (person: Person) => readonly string[];
  readonly state: () => ClusterState;
  readonly nowMs: () => number;
  readonly revoke: (user: string, reason: string) => Promise<void>;
  readonly log: Deps["log"];
  readonly tell: TellChange;
  readonly actorOf: (change: ObjectChange) => string | undefined;
}): () => void {
  const { held, rolesOf, state, nowMs, revoke, log, tell, actorOf } = parts;
  let seen = state();
  return () => {
    const now = state();
    const isSame =
      seen.bindings === now.bindings &&
      seen.roles === now.roles &&
      seen.identityProviders === now.identityProviders;
    tellChanges(objectChanges(seen, now), tell, actorOf);
    seen = now;
    if (isSame || held.size === 0) return;
    const losses = held.losses(rolesOf, nowMs());
    for (const { user, lost } of losses.slice(0, MAX_SIGNED_OUT)) {
      const reason = `holds no more: ${lost.join(", ")}`.slice(0, 256);
      revoke(user, reason).then(
        () => {
          log.info("user signed out who lost roles", { user });
          tell("roles.loss", reason, { user });
        },
        (error: unknown) =>
          log.error("user keeps lost roles until tokens end", { user, error: messageOf(error) }),
      );
    }
    if (losses.length > MAX_SIGNED_OUT)
      log.warn("users keep lost roles until their tokens end", { count: losses.length - MAX_SIGNED_OUT });
  };
}

function tellChanges(
  changes: readonly ObjectChange[],
  tell: TellChange,
  actorOf: (change: ObjectChange) => string | undefined,
): void {
  for (const change of changes.slice(0, MAX_CHANGES)) {
    const actor = actorOf(change);
    const detail = `${change.kind} \`${change.name}\` ${change.what}`;
    tell(change.action, detail, actor === undefined ? {} : { actor });
  }
  const left = changes.slice(MAX_CHANGES);
  for (const action of new Set(left.map((change) => change.action)))
    tell(action, `and ${left.filter((change) => change.action === action).length} more`);
}

/** The own bundle, read again when it changed. */
function bundleOf(ca: CertificateAuthority): () => TrustBundle {
  let known: { readonly sequence: number; readonly bundle: TrustBundle } | undefined;
  return () => {
    if (known?.sequence === ca.sequence) return known.bundle;
    const bundle = parseTrustBundle(trustBundleJson(ca), ca.trustDomain);
    if (!bundle.ok) throw new MeshError("not_ready", `the trust bundle cannot be read: ${bundle.error}`);
    known = { sequence: ca.sequence, bundle: bundle.value };
    return bundle.value;
  };
}

/** Whether some operation has a name, or lies below it; kept until catalogs change. */
function operationsOf(
  state: () => ClusterState,
  packs: ReadonlyMap<string, string>,
): (pattern: string) => boolean {
  let known: { readonly catalogs: ClusterState["catalogs"]; readonly names: ReadonlySet<string> } | undefined;
  return (pattern) => {
    const { catalogs } = state();
    if (known?.catalogs !== catalogs) {
      const names = new Set<string>();
      // `serving.invoke.predict` is below `serving.invoke` and `serving`.
      for (const name of knownOperations({ catalogs }, packs).names)
        for (let end = name.length; end > 0; end = name.lastIndexOf(".", end - 1))
          names.add(name.slice(0, end));
      known = { catalogs, names };
    }
    return known.names.has(pattern);
  };
}
