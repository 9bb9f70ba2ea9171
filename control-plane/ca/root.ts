// The certificate authority of one trust domain: a name-constrained root, an issuing certificate of 90 days below it, and
// the keys that sign WITs and Txn-Tokens. Its files lie in a store (a directory, or a Secret that replicas share); `maintain` renews what
// is due, `refresh` takes up what another replica wrote, and the root changes by the stages of rotation.ts.
import { createHash, type X509Certificate } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { isTrustDomain } from "../../sidecar/core/identity/spiffe-id.ts";
import { spkiSha256 } from "../../sidecar/core/identity/trust-bundle.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { assertNever, MeshError } from "../../sidecar/core/runtime/errors.ts";
import {
  type AuthorityContent,
  decodeAuthority,
  encodeAuthority,
  type IssuingAuthority,
  type RootAuthority,
  type RotationContent,
  unusable,
  WIT_FILE,
  type WitSigner,
  witSigner,
} from "./authority-content.ts";
import { createRootAuthority, issuerId, renewIssuers, renewTokenKeys } from "./authority-renewal.ts";
import {
  type AuthorityStore,
  FileAuthorityStore,
  type StoredFiles,
  writeConflict,
} from "./authority-store.ts";
import { generateKey } from "./certificates.ts";
import { MountedSource } from "./mounted-issuer.ts";
import type { RotationRecord } from "./rotation.ts";
import {
  type HandleKey,
  inUse,
  NO_TOKEN_SERVICE_KEYS,
  renewTokenServiceKeys,
  type TxnSigner,
} from "./token-service-keys.ts";

export interface AuthorityDeps {
  readonly trustDomain: string;
  readonly clock: Pick<Clock, "nowMs">;
  /** Where its files lie. */
  readonly store?: AuthorityStore | undefined;
  /** Instead of `store`: directory of a control plane that runs alone; made with mode 0700 when missing. */
  readonly stateDir?: string | undefined;
  /** Directory with `tls.crt`, `tls.key` and `ca.crt`: root and issuing certificate come from there. */
  readonly issuerDir?: string | undefined;
}

/** What another replica, maintenance or a rotation changed. */
export interface AuthorityChange {
  /** The trust bundle: to be published. */
  readonly bundle: boolean;
  /** A certificate that signs: what was issued for ourselves is to be issued anew. */
  readonly issuing: boolean;
}

/** What a rotation does with the stored authority. */
export type RotationChange =
  | { readonly kind: "record"; readonly record: RotationRecord }
  /** Old and new change places. */
  | { readonly kind: "reverse"; readonly record: RotationRecord }
  /** The new root is the only one. */
  | { readonly kind: "finish" }
  /** The old root is the only one. */
  | { readonly kind: "cancel" };

/** An open authority. Holds keys: never log it. */
export class CertificateAuthority {
  readonly trustDomain: string;
  readonly #store: AuthorityStore;
  readonly #mounted: MountedSource | undefined;
  readonly #clock: Pick<Clock, "nowMs">;
  readonly #listeners = new Set<(change: AuthorityChange) => void>();
  #content: AuthorityContent;
  #version: string | undefined;
  /** The stored authority lacks keys that are in use here: an earlier build wrote it. */
  #lacksKeys = false;
  #turn: Promise<unknown> = Promise.resolve();

  /** Made by `openCertificateAuthority` only. */
  constructor(parts: {
    readonly store: AuthorityStore;
    readonly clock: Pick<Clock, "nowMs">;
    readonly content: AuthorityContent;
    readonly version: string | undefined;
    readonly mounted: MountedSource | undefined;
  }) {
    this.trustDomain = parts.content.trustDomain;
    this.#store = parts.store;
    this.#clock = parts.clock;
    this.#content = parts.content;
    this.#version = parts.version;
    this.#mounted = parts.mounted;
  }

  /** What the trust bundle publishes, the one that signs first. */
  get roots(): readonly X509Certificate[] {
    if (this.#mounted !== undefined) return this.#mounted.roots;
    const { own, rotation } = this.#content;
    const from = this.#certificate(own);
    if (rotation === undefined) return [from];
    const to = rotation.to.root.certificate;
    switch (rotation.record.stage) {
      case "distribute":
        return [from, to];
      case "sign":
        return [to, from];
      case "retire":
        return [to];
      default:
        return assertNever(rotation.record.stage);
    }
  }

  /** Those of `roots` that are about to leave: who has a certificate below one renews it soon. */
  get retiringRoots(): readonly X509Certificate[] {
    const { own, rotation } = this.#content;
    return rotation?.record.stage === "sign" ? [this.#certificate(own)] : [];
  }

  /** base64url SHA-256 of the public key of the root that the control plane's own certificate is below: for join tokens. */
  get rootSpkiSha256(): string {
    return spkiSha256(this.serverRoot);
  }

  /** The root that `serverIssuing` is below. */
  get serverRoot(): X509Certificate {
    return this.#mounted?.current.root ?? this.#certificate(this.#serverRoot());
  }

  /** `spiffe_sequence` of the trust bundle: grows with each change of it. */
  get sequence(): number {
    return this.#content.sequence;
  }

  /** Whether others change it too (replicas, mounted files), so that `refresh` is to be called every few seconds. */
  get polled(): boolean {
    return this.#store.shared || this.#mounted !== undefined;
  }

  /** All published keys, in order of their use: those that sign, will sign, or signed what has not expired yet. */
  get witSigners(): readonly WitSigner[] {
    return this.#content.witSigners;
  }

  /** The key that signs now. */
  get wit(): WitSigner {
    const nowMs = this.#clock.nowMs();
    const signer = inUse(this.#content.witSigners, nowMs);
    if (signer === undefined) throw new MeshError("bad_config", "the certificate authority has no token key");
    return signer;
  }

  /** Published keys of the token service, as `witSigners`; none until the leader has made them. */
  get txnSigners(): readonly TxnSigner[] {
    return this.#content.tokenService.signers;
  }

  /** The key that signs Txn-Tokens now. @throws MeshError `not_ready` until the leader has made one. */
  get txn(): TxnSigner {
    const signer = inUse(this.txnSigners, this.#clock.nowMs());
    if (signer === undefined) throw new MeshError("not_ready", "the token service has no key yet");
    return signer;
  }

  /** Secrets that open session handles; the first is the one that seals them. */
  get handleKeys(): readonly HandleKey[] {
    const { handleKeys } = this.#content.tokenService;
    const sealing = inUse(handleKeys, this.#clock.nowMs());
    return sealing === undefined ? [] : [sealing, ...handleKeys.filter((one) => one !== sealing)];
  }

  /** Signs the leaves of workloads. */
  get issuing(): IssuingAuthority {
    if (this.#mounted !== undefined) return this.#mounted.current.issuing;
    const { own, rotation } = this.#content;
    const isNew = rotation !== undefined && rotation.record.stage !== "distribute";
    return this.#own(isNew ? rotation.to : own).issuing;
  }

  /** Signs the control plane's own certificates: below the root that sidecars know longest, so that none is shut out. */
  get serverIssuing(): IssuingAuthority {
    return this.#mounted?.current.issuing ?? this.#own(this.#serverRoot()).issuing;
  }

  get rotation(): RotationContent | undefined {
    return this.#content.rotation;
  }

  /** Whether what it issues is limited to the trust domain by a certificate too; a mounted issuer's may not be. */
  get isConstrained(): boolean {
    return this.#mounted?.current.isConstrained ?? true;
  }

  /** Calls back after each change, from wherever it came. @returns how to end it. */
  subscribe(listener: (change: AuthorityChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * To be called now and then (hourly) by the one replica that leads: renews the issuing certificate when less than 30 days
   * are left; publishes the next key of WITs and of the token service a day before it signs, and drops a key when the
   * longest token of it has expired.
   *
   * @returns whether anything changed; the bundle did when `sequence` grew.
   * @throws MeshError `io_failed`, `conflict`; what was in use stays in use.
   */
  maintain(): Promise<boolean> {
    return this.#inTurn(async () => {
      const before = this.#content;
      const nowMs = this.#clock.nowMs();
      const next = this.#withMountedRoots(renewTokenKeys(await renewIssuers(before, nowMs), nowMs));
      if (next === before && !this.#lacksKeys) return false;
      await this.#write(next);
      return true;
    });
  }

  /**
   * Takes up what another replica wrote, and mounted files that changed.
   *
   * @throws MeshError `io_failed`, `bad_config` (what is stored or mounted cannot be used), `not_found` (it is gone); what
   *   was in use stays in use.
   */
  refresh(): Promise<AuthorityChange> {
    return this.#inTurn(async () => {
      const before = this.#inUse();
      if (this.#store.shared) await this.#reload();
      await this.#mounted?.refresh(this.#clock.nowMs());
      return this.#tell(before);
    });
  }

  /** Puts back a stored authority that somebody removed. @throws MeshError `conflict` when there is one, `io_failed`. */
  restore(): Promise<void> {
    return this.#inTurn(async () => {
      this.#version = await this.#store.save(encodeAuthority(this.#content), undefined);
    });
  }

  /**
   * Makes the root that is to take over, and publishes it beside the one there is.
   *
   * @throws MeshError `bad_config` for a mounted issuer, `conflict` when one is under way or another replica wrote, `io_failed`.
   */
  startRotation(): Promise<void> {
    return this.#inTurn(async () => {
      const { own, rotation } = this.#content;
      if (own === undefined)
        throw new MeshError(
          "bad_config",
          "the root comes from mounted files; rotate it where it is made, and keep both roots in `ca.crt` until every workload has renewed",
        );
      if (rotation !== undefined)
        throw new MeshError("conflict", "a root rotation is under way; see `countersign ca status`");
      const nowMs = this.#clock.nowMs();
      const to = await createRootAuthority(this.trustDomain, nowMs, true);
      const record: RotationRecord = {
        stage: "distribute",
        aborting: false,
        startedAtMs: nowMs,
        stageSinceMs: nowMs,
        forced: [],
      };
      await this.#writeRotation({ record, to, issuerIds: [issuerId(to)] });
    });
  }

  /**
   * Writes what the rotation does next.
   *
   * @param decidedOn the record that the decision was made on: by now another replica may have written.
   * @throws MeshError `not_found` when there is no rotation, `conflict`, `io_failed`.
   */
  changeRotation(change: RotationChange, decidedOn: RotationRecord): Promise<void> {
    return this.#inTurn(async () => {
      const { own, rotation } = this.#content;
      if (rotation === undefined || own === undefined)
        throw new MeshError("not_found", "no root rotation is under way");
      if (!isDeepStrictEqual(rotation.record, decidedOn)) throw writeConflict(this.#store.place);
      switch (change.kind) {
        case "record": {
          const next = { ...rotation, record: change.record };
          // The bundle follows the stage; what else is noted is not for sidecars.
          if (change.record.stage === rotation.record.stage)
            return await this.#write({ ...this.#content, rotation: next });
          return await this.#writeRotation(next);
        }
        case "reverse":
          return await this.#writeRotation(
            { record: change.record, to: own, issuerIds: [issuerId(own)] },
            rotation.to,
          );
        case "finish":
          return await this.#writeRotation(undefined, rotation.to);
        case "cancel":
          return await this.#writeRotation(undefined);
        default:
          return assertNever(change);
      }
    });
  }

  /** Each change of stage is one of the bundle. */
  async #writeRotation(rotation: RotationContent | undefined, own = this.#content.own): Promise<void> {
    await this.#write({ ...this.#content, own, rotation, sequence: this.#content.sequence + 1 });
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#turn.then(work);
    this.#turn = run.catch(() => {});
    return run;
  }

  async #write(next: AuthorityContent): Promise<void> {
    const before = this.#inUse();
    try {
      this.#version = await this.#store.save(encodeAuthority(next), this.#version);
      this.#content = next;
      this.#lacksKeys = false;
    } catch (error) {
      // What the other one wrote counts; the caller decides again on that.
      if (error instanceof MeshError && error.code === "conflict") await this.#reload();
      throw error;
    } finally {
      this.#tell(before);
    }
  }

  async #reload(): Promise<void> {
    const { files, version } = await this.#store.load();
    if (files.size === 0)
      throw new MeshError("not_found", `the certificate authority is gone from ${this.#store.place}`);
    if (version === this.#version) return;
    const { trustDomain } = this;
    const origin = this.#store;
    const read = decodeAuthority(files, { trustDomain, origin, nowMs: this.#clock.nowMs() });
    if (!isContinued(this.#content, read))
      throw new MeshError(
        "bad_config",
        `${origin.place} holds another certificate authority now, which no workload knows; put back the one before, or start every control plane and sidecar again to begin with it`,
      );
    // A replica of an earlier build leaves out what it does not know: tokens and sessions must not end with it.
    const { tokenService } = this.#content;
    this.#lacksKeys = read.tokenService.signers.length === 0 && tokenService.signers.length > 0;
    this.#content = this.#lacksKeys ? { ...read, tokenService } : read;
    this.#version = version;
  }

  /** Tells listeners what is different from before. */
  #tell(before: readonly string[]): AuthorityChange {
    const now = this.#inUse();
    const change = { bundle: now[0] !== before[0], issuing: now[1] !== before[1] };
    if (change.bundle || change.issuing) for (const listener of [...this.#listeners]) listener(change);
    return change;
  }

  /** Bundle and signers, as texts to compare. */
  #inUse(): readonly [string, string] {
    const prints = (list: readonly X509Certificate[]): string => list.map((one) => one.fingerprint256).join();
    const kids = [...this.witSigners, ...this.txnSigners].map(({ kid }) => kid).join();
    return [
      [this.sequence, prints(this.roots), prints(this.retiringRoots), kids].join(" "),
      this.issuing.certificatePem + this.serverIssuing.certificatePem,
    ];
  }

  #own(one: RootAuthority | undefined): RootAuthority {
    if (one === undefined)
      throw new MeshError("bad_config", "the certificate authority has no root of its own");
    return one;
  }

  #certificate(one: RootAuthority | undefined): X509Certificate {
    return this.#own(one).root.certificate;
  }

  /**
   * Who missed the new root (it was not connected) still trusts the old one and comes back with it, so the control plane
   * stays below that one until it leaves; on the way back, below the one that stays.
   */
  #serverRoot(): RootAuthority | undefined {
    const { own, rotation } = this.#content;
    if (rotation === undefined) return own;
    const { stage, aborting } = rotation.record;
    return stage === "retire" || (stage === "sign" && aborting) ? rotation.to : own;
  }

  /** The sequence of the bundle follows mounted roots; several replicas see them at about the same time, one writes. */
  #withMountedRoots(content: AuthorityContent): AuthorityContent {
    if (this.#mounted === undefined) return content;
    const mountedRoots = fingerprintsOf(this.roots);
    if (mountedRoots === content.mountedRoots) return content;
    return { ...content, mountedRoots, sequence: content.sequence + 1 };
  }
}

/** Root and token keys never change at once: without one in common it is not the same mesh. */
function isContinued(before: AuthorityContent, after: AuthorityContent): boolean {
  const names = ({ own, rotation, witSigners }: AuthorityContent): readonly string[] => [
    ...[own, rotation?.to].flatMap((one) => (one === undefined ? [] : [one.root.certificate.fingerprint256])),
    ...witSigners.map(({ kid }) => kid),
  ];
  const known = new Set(names(before));
  return names(after).some((name) => known.has(name));
}

function fingerprintsOf(roots: readonly X509Certificate[]): string {
  const prints = roots.map(({ fingerprint256 }) => fingerprint256).sort();
  return createHash("sha256").update(prints.join("\n")).digest("base64url");
}

/** Makes an authority in an empty store. When another replica is faster, its authority counts. */
async function createStored(
  store: AuthorityStore,
  deps: AuthorityDeps,
  mounted: MountedSource | undefined,
  version: string | undefined,
): Promise<StoredFiles> {
  const { trustDomain } = deps;
  const nowMs = deps.clock.nowMs();
  const content: AuthorityContent = {
    trustDomain,
    sequence: 1,
    own: mounted === undefined ? await createRootAuthority(trustDomain, nowMs, false) : undefined,
    mountedRoots: mounted === undefined ? undefined : fingerprintsOf(mounted.roots),
    witSigners: [witSigner(generateKey(), { file: WIT_FILE, signsFromMs: nowMs })],
    tokenService: renewTokenServiceKeys(NO_TOKEN_SERVICE_KEYS, nowMs),
    rotation: undefined,
  };
  const files = encodeAuthority(content);
  try {
    return { files, version: await store.save(files, version) };
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== "conflict") throw error;
    return await store.load();
  }
}

/**
 * Opens the authority of a store, making it when there is none (root 10 years, issuing certificate 90 days). One that
 * is not shared renews what is due.
 *
 * @throws MeshError `bad_config` for a bad trust domain, and for an authority that is incomplete, damaged, readable by
 *   others, of another trust domain, or mounted where it was its own (or the other way round); `io_failed`.
 */
export async function openCertificateAuthority(deps: AuthorityDeps): Promise<CertificateAuthority> {
  const { trustDomain, clock, issuerDir } = deps;
  if (!isTrustDomain(trustDomain))
    throw new MeshError(
      "bad_config",
      `\`${trustDomain}\` is not a trust domain; use lower-case letters, digits, \`.\`, \`-\` and \`_\``,
    );
  const store =
    deps.store ?? (deps.stateDir === undefined ? undefined : new FileAuthorityStore(deps.stateDir));
  if (store === undefined) throw new MeshError("bad_config", "the certificate authority has no store");
  const nowMs = clock.nowMs();
  const mounted =
    issuerDir === undefined ? undefined : await MountedSource.open(issuerDir, trustDomain, nowMs);
  let stored = await store.load();
  if (stored.files.size === 0) stored = await createStored(store, deps, mounted, stored.version);
  const content = decodeAuthority(stored.files, { trustDomain, origin: store, nowMs });
  if ((content.own === undefined) !== (mounted !== undefined)) {
    throw mounted === undefined
      ? unusable(store.place, "its root came from mounted files; give `--issuer-dir` again")
      : unusable(
          store.place,
          "it has a root of its own, which mounted files cannot replace under running workloads; leave `--issuer-dir` out",
        );
  }
  const { version } = stored;
  const authority = new CertificateAuthority({ store, clock, content, version, mounted });
  if (!store.shared) await authority.maintain();
  return authority;
}
