// The sidecar's resources: applies deltas whole or not at all, decodes them into a SidecarTable, and keeps the last
// good ones on disk so that a restarted sidecar serves without a control plane.
import { createHash } from "node:crypto";
import { mkdir, open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import type { Delta, Delta__Output } from "../../proto/gen/countersign/mesh/v1/Delta.ts";
import { messageCodec } from "../../proto/load.ts";
import { hashBody, resourceKey, tableDigest } from "../../proto/protocol.ts";
import { messageOf, type Result, systemCodeOf } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import { assembleTable, type DecodedResource, decodeResource } from "./decode.ts";
import type { SidecarTable } from "./table.ts";

export interface ResourceStoreOptions {
  /** Directory (0700) for the last good resources; undefined: nothing is kept. */
  readonly stateDir: string | undefined;
  /** Features of resources and policies that this build enforces. */
  readonly features: readonly string[];
  readonly log: Logger;
}

/** Why a delta cannot be used; becomes the NACK. */
export interface DeltaProblem {
  readonly reason: string;
  readonly type: string;
  readonly name: string;
}

interface StoredResource {
  readonly type: string;
  readonly name: string;
  readonly hash: string;
  readonly features: readonly string[];
  readonly body: Buffer;
  readonly decoded: DecodedResource;
}

/** A table that was checked and decoded, not yet in force. */
export interface Candidate {
  readonly table: SidecarTable;
  readonly resources: ReadonlyMap<string, StoredResource>;
}

interface Gathering {
  readonly nonce: number;
  readonly revision: number;
  readonly base: string;
  readonly upsert: Delta__Output["upsert"];
  readonly remove: Delta__Output["remove"];
  bytes: number;
}

/** All chunks of one delta together; a mesh of 100 000 endpoints stays far below. */
const MAX_DELTA_BYTES = 256 * 1024 * 1024;
const FILE_NAME = "table.bin";
const MAGIC = Buffer.from("countersign table 1\n");
const MAX_FILE_BYTES = 512 * 1024 * 1024;

const deltaCodec = messageCodec<Delta, Delta__Output>("countersign.mesh.v1.Delta");

function problem(
  reason: string,
  resource?: { readonly type: string; readonly name: string },
): Result<never, DeltaProblem> {
  return { ok: false, error: { reason, type: resource?.type ?? "", name: resource?.name ?? "" } };
}

/** Resources in force and the delta being gathered; one per process. */
export class ResourceStore {
  readonly #options: ResourceStoreOptions;
  #resources: ReadonlyMap<string, StoredResource> = new Map();
  #table: SidecarTable | undefined;
  #gathering: Gathering | undefined;
  #writing: Promise<void> | undefined;
  #writeAgain = false;

  constructor(options: ResourceStoreOptions) {
    this.#options = options;
  }

  /** The table in force; undefined before the first configuration. */
  get table(): SidecarTable | undefined {
    return this.#table;
  }

  /** Digest of the table in force, hex; empty before the first. */
  get digest(): string {
    return this.#table?.digest ?? "";
  }

  /** Forgets chunks of a delta that will never be finished; call it when a stream begins. */
  reset(): void {
    this.#gathering = undefined;
  }

  /**
   * Takes one chunk.
   *
   * @returns the candidate when the chunk was the last, undefined when more must come, or why the delta is refused
   *   (the table in force stays, and further chunks of that delta are refused too).
   */
  receive(chunk: Delta__Output, chunkBytes: number): Result<Candidate | undefined, DeltaProblem> {
    const base = chunk.baseDigest.toString("hex");
    this.#gathering ??= {
      nonce: chunk.nonce,
      revision: chunk.revision,
      base,
      upsert: [],
      remove: [],
      bytes: 0,
    };
    const gathering = this.#gathering;
    if (gathering.nonce !== chunk.nonce || gathering.base !== base || gathering.revision !== chunk.revision) {
      this.#gathering = undefined;
      return problem("chunks of two deltas are mixed");
    }
    gathering.bytes += chunkBytes;
    if (gathering.bytes > MAX_DELTA_BYTES) {
      this.#gathering = undefined;
      return problem(`delta is larger than ${MAX_DELTA_BYTES} bytes`);
    }
    for (const resource of chunk.upsert) gathering.upsert.push(resource);
    for (const name of chunk.remove) gathering.remove.push(name);
    if (!chunk.last) return { ok: true, value: undefined };
    this.#gathering = undefined;
    return this.#build(gathering, chunk.digest.toString("hex"));
  }

  /** Puts a candidate in force and saves it in the background. */
  commit(candidate: Candidate): void {
    this.#resources = candidate.resources;
    this.#table = candidate.table;
    if (this.#options.stateDir !== undefined) this.#save(this.#options.stateDir);
  }

  /** Resolves when what is in force is on disk. */
  async flush(): Promise<void> {
    while (this.#writing) await this.#writing;
  }

  #build(delta: Gathering, digest: string): Result<Candidate, DeltaProblem> {
    if (delta.base !== "" && delta.base !== this.digest)
      return problem("delta is for another table than the one in force");
    const resources = new Map(delta.base === "" ? [] : this.#resources);
    for (const { type, name } of delta.remove) {
      if (!resources.delete(resourceKey(type, name)))
        return problem("delta removes what is not there", { type, name });
    }
    const seen = new Set<string>();
    for (const resource of delta.upsert) {
      const key = resourceKey(resource.type, resource.name);
      if (seen.has(key)) return problem("resource stands twice in one delta", resource);
      seen.add(key);
      const stored = this.#decode(resource, key);
      if (!stored.ok) return problem(stored.error, resource);
      resources.set(key, stored.value);
    }
    const actual = tableDigest(resources.values());
    if (actual !== digest) return problem("digest of the table is not the announced one");
    const decoded: DecodedResource[] = [];
    for (const resource of resources.values()) decoded.push(resource.decoded);
    const table = assembleTable(decoded, delta.revision, digest);
    return table.ok ? { ok: true, value: { table: table.value, resources } } : problem(table.error);
  }

  #decode(resource: Delta__Output["upsert"][number], key: string): Result<StoredResource, string> {
    const { type, name, features } = resource;
    const lacking = features.find((feature) => !this.#options.features.includes(feature));
    if (lacking !== undefined)
      return { ok: false, error: `needs feature \`${lacking.slice(0, 64)}\`, which this build lacks` };
    const hash = hashBody(resource.body);
    if (hash !== resource.hash.toString("hex"))
      return { ok: false, error: "body does not have the announced hash" };
    // The same bytes decode to the same value: keep the object, so that whoever holds it need not compile it again.
    const known = this.#resources.get(key);
    if (known?.hash === hash) return { ok: true, value: { ...known, features } };
    const decoded = decodeResource(type, name, resource.body);
    if (!decoded.ok) return decoded;
    // Copied, because the body is a view into the whole received message.
    return {
      ok: true,
      value: { type, name, hash, features, body: Buffer.from(resource.body), decoded: decoded.value },
    };
  }

  #save(stateDir: string): void {
    if (this.#writing) {
      this.#writeAgain = true;
      return;
    }
    this.#writing = this.#write(stateDir)
      .catch((error: unknown) =>
        this.#options.log.warn("last good table not saved", { error: messageOf(error) }),
      )
      .then(() => {
        this.#writing = undefined;
        if (!this.#writeAgain) return;
        this.#writeAgain = false;
        this.#save(stateDir);
      });
  }

  async #write(stateDir: string): Promise<void> {
    const table = this.#table;
    if (!table) return;
    const upsert = [...this.#resources.values()].map(({ type, name, hash, features, body }) => ({
      type,
      name,
      hash: Buffer.from(hash, "hex"),
      body,
      features: [...features],
    }));
    const content = deltaCodec.encode({
      revision: table.revision,
      digest: Buffer.from(table.digest, "hex"),
      upsert,
      last: true,
    });
    const path = join(stateDir, FILE_NAME);
    const file = await open(`${path}.new`, "w", 0o600);
    try {
      await file.writev([MAGIC, createHash("sha256").update(content).digest(), content]);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(`${path}.new`, path);
  }

  /** Loads what was saved; see `openResourceStore`. */
  async load(): Promise<void> {
    const { stateDir, log } = this.#options;
    if (stateDir === undefined) return;
    await mkdir(stateDir, { recursive: true, mode: 0o700 });
    let bytes: Buffer;
    try {
      bytes = await readFile(join(stateDir, FILE_NAME));
    } catch (error) {
      if (systemCodeOf(error) !== "ENOENT") {
        log.warn("last good table not readable", { error: messageOf(error) });
      }
      return;
    }
    const loaded = this.#parseFile(bytes);
    if (!loaded.ok) {
      log.warn("last good table ignored", { reason: loaded.error });
      return;
    }
    this.#resources = loaded.value.resources;
    this.#table = loaded.value.table;
    log.info("last good table loaded", {
      revision: loaded.value.table.revision,
      digest: loaded.value.table.digest,
    });
  }

  #parseFile(bytes: Buffer): Result<Candidate, string> {
    if (bytes.length > MAX_FILE_BYTES) return { ok: false, error: "file is too large" };
    const start = MAGIC.length + 32;
    if (bytes.length < start || !bytes.subarray(0, MAGIC.length).equals(MAGIC))
      return { ok: false, error: "file has another format" };
    const content = bytes.subarray(start);
    const sum = createHash("sha256").update(content).digest();
    if (!sum.equals(bytes.subarray(MAGIC.length, start)))
      return { ok: false, error: "checksum does not match" };
    try {
      const delta = deltaCodec.decode(content);
      const built = this.#build(
        { nonce: 0, revision: delta.revision, base: "", upsert: delta.upsert, remove: [], bytes: 0 },
        delta.digest.toString("hex"),
      );
      return built.ok
        ? built
        : { ok: false, error: `${built.error.reason} (${built.error.type} ${built.error.name})` };
    } catch (error) {
      return { ok: false, error: messageOf(error) };
    }
  }
}

/** Opens the store and loads the last good resources; what is damaged is ignored with a log line. */
export async function openResourceStore(options: ResourceStoreOptions): Promise<ResourceStore> {
  const store = new ResourceStore(options);
  await store.load();
  return store;
}
