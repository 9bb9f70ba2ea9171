// The authority in a Secret of the control plane's namespace, for any number of replicas: read, made and replaced by
// name, each write against the resource version that it was made from. Needs `get`, `create` and `update`, never `list`.
import type { CoreV1Api, V1Secret } from "@kubernetes/client-node";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { statusOf } from "../kubernetes/client.ts";
import { type AuthorityStore, isAuthorityFile, type StoredFiles, writeConflict } from "./authority-store.ts";

export interface SecretStoreDeps {
  readonly core: Pick<
    CoreV1Api,
    "readNamespacedSecret" | "createNamespacedSecret" | "replaceNamespacedSecret"
  >;
  /** The control plane's own. */
  readonly namespace: string;
  readonly name?: string | undefined;
}

export const AUTHORITY_SECRET = "countersign-ca";

const LABELS = { "app.kubernetes.io/name": "countersign", "app.kubernetes.io/managed-by": "countersign" };
const FIELD_MANAGER = "countersign";
const ANSWER_WITHIN_MS = 10_000;

/** The typed calls have no time limit of their own; what a late one still does, the version of the next one notices. */
function answered<T>(call: Promise<T>): Promise<T> {
  const limit = AbortSignal.timeout(ANSWER_WITHIN_MS);
  const late = new Promise<never>((_, reject) => {
    const error = new Error(`no answer within ${ANSWER_WITHIN_MS / 1000} s`);
    limit.addEventListener("abort", () => reject(error), { once: true });
  });
  return Promise.race([call, late]);
}

export class SecretAuthorityStore implements AuthorityStore {
  readonly place: string;
  readonly another = "use another namespace, or remove the Secret to begin a new mesh";
  readonly shared = true;
  readonly #core: SecretStoreDeps["core"];
  readonly #namespace: string;
  readonly #name: string;
  /** As last read: labels and annotations of others stay. */
  #metadata: V1Secret["metadata"];

  constructor(deps: SecretStoreDeps) {
    this.#core = deps.core;
    this.#namespace = deps.namespace;
    this.#name = deps.name ?? AUTHORITY_SECRET;
    this.place = `secret \`${this.#namespace}/${this.#name}\``;
  }

  async load(): Promise<StoredFiles> {
    let secret: V1Secret;
    try {
      const which = { name: this.#name, namespace: this.#namespace };
      secret = await answered(this.#core.readNamespacedSecret(which));
    } catch (error) {
      if (statusOf(error) === 404) return { files: new Map(), version: undefined };
      throw this.#failed("read", "get", error);
    }
    this.#metadata = secret.metadata;
    const files = new Map<string, string>();
    for (const [name, base64] of Object.entries(secret.data ?? {}))
      if (isAuthorityFile(name)) files.set(name, Buffer.from(base64, "base64").toString("utf8"));
    return { files, version: secret.metadata?.resourceVersion };
  }

  async save(files: ReadonlyMap<string, string>, expectedVersion: string | undefined): Promise<string> {
    const data = Object.fromEntries(
      [...files].map(([name, text]) => [name, Buffer.from(text, "utf8").toString("base64")]),
    );
    const { labels, annotations } = this.#metadata ?? {};
    const body: V1Secret = {
      apiVersion: "v1",
      kind: "Secret",
      type: "Opaque",
      metadata: {
        name: this.#name,
        namespace: this.#namespace,
        labels: { ...labels, ...LABELS },
        ...(annotations === undefined ? {} : { annotations }),
        ...(expectedVersion === undefined ? {} : { resourceVersion: expectedVersion }),
      },
      data,
    };
    let saved: V1Secret;
    try {
      const where = { namespace: this.#namespace, body, fieldManager: FIELD_MANAGER };
      saved = await answered(
        expectedVersion === undefined
          ? this.#core.createNamespacedSecret(where)
          : this.#core.replaceNamespacedSecret({ ...where, name: this.#name }),
      );
    } catch (error) {
      const status = statusOf(error);
      // 404: it was removed since it was read.
      if (status === 409 || (status === 404 && expectedVersion !== undefined))
        throw writeConflict(this.place, error);
      throw this.#failed("write", expectedVersion === undefined ? "create" : "update", error);
    }
    this.#metadata = saved.metadata;
    const version = saved.metadata?.resourceVersion;
    if (version === undefined)
      throw new MeshError("io_failed", `the API server gave ${this.place} no version`);
    return version;
  }

  #failed(what: "read" | "write", verb: string, cause: unknown): MeshError {
    const status = statusOf(cause);
    if (status === 403)
      return new MeshError(
        "io_failed",
        `may not ${what} ${this.place}; grant \`${verb}\` on it to the control plane's ServiceAccount`,
        { cause },
      );
    // The library's message repeats the whole answer, and that may be a Secret.
    const why =
      status === undefined ? messageOf(cause).split("\n", 1)[0] : `the API server answered ${status}`;
    return new MeshError("io_failed", `cannot ${what} ${this.place}: ${why}`, { cause });
  }
}
