// How the process comes to an identity without having one: once by join token, or as often as needed by the pod's
// ServiceAccount token. Both files are read at each attempt, since the kubelet replaces them.
import { readFile, stat } from "node:fs/promises";
import { createCertificateRequest, createKeys, type WorkloadKeys } from "./certs/key-and-csr.ts";
import { readTrustBundleFile, type TrustedRoots } from "./certs/trust-bundle-file.ts";
import type { ProofSource, SidecarConfig } from "./config.ts";
import { parseSvid } from "./core/identity/svid.ts";
import { parseTrustBundle } from "./core/identity/trust-bundle.ts";
import { createWorkloadIdentity, isBelow, type WorkloadIdentity } from "./core/identity/workload-identity.ts";
import { backoffMs } from "./core/runtime/backoff.ts";
import type { Clock } from "./core/runtime/clock.ts";
import { MeshError, messageOf, systemCodeOf } from "./core/runtime/errors.ts";
import type { Logger } from "./core/runtime/log.ts";
import type { JoinProof } from "./discovery/bootstrap.ts";
import type { IdentityMessage } from "./discovery/identity-message.ts";

export interface EnrolmentDeps {
  readonly config: Pick<SidecarConfig, "bootstrap" | "proof">;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
  /** The identity in use: its roots count beside those of the file, which comes up to a minute late. */
  readonly held: () => WorkloadIdentity | undefined;
}

const BACKOFF = { firstMs: 200, maxMs: 5_000 };
/** The control plane answered, and said no: what has to change takes longer. */
const REJECTED_BACKOFF = { firstMs: 1_000, maxMs: 15_000 };
const TIMEOUT_MS = 10_000;
const MAX_TOKEN_BYTES = 16_384;

/** Puts keys and the answer to their request together. @throws MeshError `bad_token` when they do not fit. */
export function identityOf(message: IdentityMessage, keys: WorkloadKeys, nowMs: number): WorkloadIdentity {
  // Roots from elsewhere (a mounted issuer's) need not name the trust domain; the certificate always does.
  const leaf = parseSvid(message.certificateChainDer[0] ?? Buffer.alloc(0));
  const bundle = parseTrustBundle(message.trustBundle, leaf.ok ? leaf.value.trustDomain : undefined);
  if (!bundle.ok) throw new MeshError("bad_token", `the identity cannot be used: ${bundle.error}`);
  const identity = createWorkloadIdentity({
    chainDer: message.certificateChainDer,
    ...keys,
    wit: message.workloadIdentityToken,
    bundle: bundle.value,
    nowMs: message.serverTimeMs > 0 ? message.serverTimeMs : nowMs,
  });
  if (!identity.ok) throw new MeshError("bad_token", `the identity cannot be used: ${identity.error}`);
  return identity.value;
}

export class Enrolment {
  readonly #deps: EnrolmentDeps;

  constructor(deps: EnrolmentDeps) {
    this.#deps = deps;
  }

  /** Whether an identity can be asked for again: a join token counts once. */
  get isRepeatable(): boolean {
    const { bootstrap, proof } = this.#deps.config;
    return bootstrap !== undefined && proof?.kind === "service-account-token";
  }

  /**
   * Roots by which the control plane is known: of the held identity, and of the file when there is one that can be read.
   */
  async roots(): Promise<string> {
    const { config, held, log } = this.#deps;
    const { proof } = config;
    const kept = held()?.bundle.caPem ?? "";
    if (proof?.kind !== "service-account-token") return kept;
    try {
      return kept + (await this.#fileRoots(proof)).pem;
    } catch (error) {
      log.warn("trust bundle file not used, the roots of the identity are", { reason: messageOf(error) });
      return kept;
    }
  }

  /** Whether the file says that the held certificate is of a CA that is no more. False where that cannot be told. */
  async isDisowned(): Promise<boolean> {
    const { config, held } = this.#deps;
    const identity = held();
    if (config.proof?.kind !== "service-account-token" || identity === undefined) return false;
    try {
      return !isBelow(identity, (await this.#fileRoots(config.proof)).roots);
    } catch {
      return false;
    }
  }

  /**
   * Asks once.
   *
   * @throws MeshError `bad_config` (no way to ask is configured, or the join token cannot be read), `not_ready` (a file is
   *   not there yet), and those of `join`.
   */
  async attempt(signal: AbortSignal): Promise<WorkloadIdentity> {
    const { bootstrap, proof } = this.#deps.config;
    if (bootstrap === undefined || proof === undefined)
      throw new MeshError(
        "bad_config",
        "there is no identity in --state-dir; give --bootstrap and --join-token-file (in a pod --service-account-token-file) to get one",
      );
    const given = await this.#read(proof);
    const { join } = await import("./discovery/bootstrap.ts");
    const keys = createKeys();
    const message = await join(
      {
        address: bootstrap,
        proof: given,
        request: createCertificateRequest(keys),
        timeoutMs: TIMEOUT_MS,
      },
      signal,
    );
    return identityOf(message, keys, this.#deps.clock.nowMs());
  }

  /**
   * Asks until there is an identity.
   *
   * @throws MeshError: with a join token what the control plane refuses, with either `bad_config`; `not_ready` when the
   *   signal aborted first.
   */
  async run(signal: AbortSignal): Promise<WorkloadIdentity> {
    const { clock, log, random } = this.#deps;
    for (let attempt = 0; !signal.aborted; attempt++) {
      try {
        return await this.attempt(signal);
      } catch (error) {
        if (signal.aborted) break;
        if (!this.#isWorthTrying(error)) throw error;
        const isRejected = error instanceof MeshError && error.code === "join_rejected";
        const delayMs = backoffMs(attempt, isRejected ? REJECTED_BACKOFF : BACKOFF, random());
        log.warn("cannot join yet", { reason: messageOf(error), retryInMs: Math.round(delayMs) });
        await clock.sleep(delayMs, signal);
      }
    }
    throw new MeshError("not_ready", "ended before there was an identity");
  }

  /** A pod goes on whatever the answer: labels, the watch and the bundle may still change. */
  #isWorthTrying(error: unknown): boolean {
    if (!(error instanceof MeshError)) return false;
    if (this.isRepeatable) return error.code !== "bad_config";
    return error.code === "io_failed" || error.code === "timeout";
  }

  async #read(proof: ProofSource): Promise<JoinProof> {
    if (proof.kind === "join-token")
      return { kind: "join-token", token: await readToken("--join-token-file", proof.file, "bad_config") };
    const fromFile = await this.#fileRoots(proof);
    const token = await readToken("--service-account-token-file", proof.file, "not_ready");
    const pem = fromFile.pem + (this.#deps.held()?.bundle.caPem ?? "");
    return { kind: "service-account-token", token, roots: { pem, trustDomain: fromFile.trustDomain } };
  }

  #fileRoots(proof: ProofSource & { readonly kind: "service-account-token" }): Promise<TrustedRoots> {
    return readTrustBundleFile(proof.trustBundleFile, proof.trustDomain);
  }
}

async function readToken(flag: string, file: string, missing: "bad_config" | "not_ready"): Promise<string> {
  try {
    if ((await stat(file)).size > MAX_TOKEN_BYTES)
      throw new MeshError("bad_config", `${flag}: \`${file}\` is larger than 16 KiB, so it is no token`);
    const token = (await readFile(file, "utf8")).trim();
    if (token === "") throw new MeshError(missing, `${flag}: \`${file}\` is empty`);
    return token;
  } catch (cause) {
    if (cause instanceof MeshError) throw cause;
    const code = systemCodeOf(cause) === "ENOENT" ? missing : "bad_config";
    throw new MeshError(code, `${flag}: cannot read \`${file}\`: ${messageOf(cause)}`, { cause });
  }
}
