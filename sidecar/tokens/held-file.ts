// Transaction tokens that outlive a restart of the sidecar, in its state directory (0600; tmpfs in pods): those that the
// application got, with the chains they came by, and the own user's. Written behind, at most once a second.
import { readFileSync } from "node:fs";
import { rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type HeldTxn, holdTxn } from "../core/identity/held-txn.ts";
import { parseSpiffeId } from "../core/identity/spiffe-id.ts";
import { messageOf, systemCodeOf } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import { type CallChain, chainOf } from "../telemetry/correlation.ts";
import type { HeldChains } from "../telemetry/held-chains.ts";

const FILE = "held-txns.json";
const VERSION = 1;
const MAX_FILE_BYTES = 64 * 1024 * 1024;
const SAVE_MS = 1_000;

type Json = Readonly<Record<string, unknown>>;
const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export interface HeldFileDeps {
  readonly stateDir: string;
  readonly held: HeldChains;
  /** The own user's token now. */
  readonly own: () => HeldTxn | undefined;
  readonly log: Logger;
}

/** What a file holds; what of it cannot be read is left out. */
function parseFile(text: string): {
  readonly chains: readonly CallChain[];
  readonly own: HeldTxn | undefined;
} {
  const value: unknown = JSON.parse(text);
  if (!isObject(value) || value["version"] !== VERSION || !Array.isArray(value["chains"]))
    return { chains: [], own: undefined };
  const chains: CallChain[] = [];
  for (const entry of value["chains"] as readonly unknown[]) {
    const chain = isObject(entry) ? parseChain(entry) : undefined;
    if (chain !== undefined) chains.push(chain);
  }
  const own = value["own"];
  const held = typeof own === "string" ? holdTxn(own) : undefined;
  return { chains, own: held?.ok === true ? held.value : undefined };
}

function parseChain({ token, via, caveat }: Json): CallChain | undefined {
  const held = typeof token === "string" ? holdTxn(token) : undefined;
  if (held?.ok !== true || !Array.isArray(via)) return undefined;
  const hops: { s: string; o: string }[] = [];
  for (const hop of via as readonly unknown[]) {
    if (!isObject(hop)) return undefined;
    const { s, o } = hop;
    if (typeof s !== "string" || typeof o !== "string" || !parseSpiffeId(s).ok) return undefined;
    hops.push({ s, o });
  }
  if (caveat === undefined) return chainOf(hops, undefined, held.value);
  // A restriction that cannot be read must not be dropped: that would widen the call.
  if (!isObject(caveat)) return undefined;
  const { scope, exp } = caveat;
  if ((scope !== undefined && typeof scope !== "string") || (exp !== undefined && typeof exp !== "number"))
    return undefined;
  return chainOf(
    hops,
    { ...(scope === undefined ? {} : { scope }), ...(exp === undefined ? {} : { exp }) },
    held.value,
  );
}

export class HeldFile {
  readonly #deps: HeldFileDeps;
  readonly #path: string;
  #saved = "";
  #saving: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;

  constructor(deps: HeldFileDeps) {
    this.#deps = deps;
    this.#path = join(deps.stateDir, FILE);
  }

  /**
   * Takes in what the process before held, and goes on saving.
   *
   * @returns the own user's token, if there was one that is not over.
   */
  start(nowMs: number): HeldTxn | undefined {
    const { held, log } = this.#deps;
    let own: HeldTxn | undefined;
    try {
      const text = readFileSync(this.#path, "utf8");
      if (text.length > MAX_FILE_BYTES) throw new Error("the file is too large");
      const found = parseFile(text);
      for (const chain of found.chains) if (nowMs < (chain.txn?.claims.exp ?? 0) * 1_000) held.deliver(chain);
      own = found.own;
    } catch (error) {
      if (systemCodeOf(error) !== "ENOENT") log.warn("kept tokens not used", { reason: messageOf(error) });
    }
    this.#saved = this.#stamp();
    this.#timer = setInterval(() => void this.save(), SAVE_MS).unref();
    return own !== undefined && nowMs < own.claims.exp * 1_000 ? own : undefined;
  }

  /** Writes what has changed since the last time. Never rejects. */
  save(): Promise<void> {
    const stamp = this.#stamp();
    if (stamp === this.#saved) return this.#saving;
    this.#saved = stamp;
    this.#saving = this.#saving.then(() => this.#write());
    return this.#saving;
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.save();
  }

  #stamp(): string {
    return `${this.#deps.held.version} ${this.#deps.own()?.tth ?? ""}`;
  }

  async #write(): Promise<void> {
    const { held, own, log } = this.#deps;
    const chains = [...held.chains()].map(({ txn, via, caveat }) => ({ token: txn?.token, via, caveat }));
    const temporary = `${this.#path}.tmp`;
    try {
      await writeFile(temporary, JSON.stringify({ version: VERSION, chains, own: own()?.token }), {
        mode: 0o600,
      });
      await rename(temporary, this.#path);
    } catch (error) {
      await rm(temporary, { force: true });
      log.warn("held tokens cannot be kept", { reason: messageOf(error) });
    }
  }
}
