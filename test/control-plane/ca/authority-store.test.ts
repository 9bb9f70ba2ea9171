// What stores promise: nothing is half written, nobody overwrites what they have not read.
import { chmod, mkdir, mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { FileAuthorityStore } from "../../../control-plane/ca/authority-store.ts";
import { SecretAuthorityStore, type SecretStoreDeps } from "../../../control-plane/ca/secret-store.ts";

const FILES = new Map([
  ["authority.json", "{}"],
  ["root.pem", "root"],
  ["issuing.pem", "issuing"],
  ["wit.pem", "wit"],
]);

class ApiError extends Error {
  readonly code: number;
  constructor(code: number) {
    super(`HTTP ${code}\nBody: {"data":"SECRET"}`);
    this.code = code;
  }
}

type Secret = NonNullable<Awaited<ReturnType<SecretStoreDeps["core"]["readNamespacedSecret"]>>>;

/** One Secret, with the API server's rules on versions. */
class FakeSecrets {
  secret: Secret | undefined;
  fail: Error | undefined;
  #version = 0;

  readonly core = {
    readNamespacedSecret: async () => {
      this.#check();
      if (this.secret === undefined) throw new ApiError(404);
      return this.secret;
    },
    createNamespacedSecret: async ({ body }: { body: Secret }) => {
      this.#check();
      if (this.secret !== undefined) throw new ApiError(409);
      return this.#put(body);
    },
    replaceNamespacedSecret: async ({ body }: { body: Secret }) => {
      this.#check();
      if (this.secret === undefined) throw new ApiError(404);
      if (body.metadata?.resourceVersion !== this.secret.metadata?.resourceVersion) throw new ApiError(409);
      return this.#put(body);
    },
  } as unknown as SecretStoreDeps["core"];

  #check(): void {
    if (this.fail !== undefined) throw this.fail;
  }

  #put(body: Secret): Secret {
    this.#version += 1;
    this.secret = { ...body, metadata: { ...body.metadata, resourceVersion: String(this.#version) } };
    return this.secret;
  }
}

let dir: string;
let secrets: FakeSecrets;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "countersign-store-"));
  secrets = new FakeSecrets();
});
afterEach(() => rm(dir, { recursive: true, force: true }));

describe.each([
  { name: "FileAuthorityStore", open: () => new FileAuthorityStore(dir) },
  {
    name: "SecretAuthorityStore",
    open: () => new SecretAuthorityStore({ core: secrets.core, namespace: "mesh-system" }),
  },
])("$name", ({ open }) => {
  test("gives back what was saved, and a version for each state", async () => {
    const store = open();
    expect(await store.load()).toEqual({ files: new Map(), version: undefined });
    const first = await store.save(FILES, undefined);
    expect(await open().load()).toEqual({ files: FILES, version: first });
    const smaller = new Map([...FILES].filter(([name]) => name !== "wit.pem")).set("wit-0a.pem", "next");
    const second = await store.save(smaller, first);
    expect(second).not.toBe(first);
    expect((await open().load()).files).toEqual(smaller);
  });

  test("refuses to write over what somebody else wrote", async () => {
    const [one, other] = [open(), open()];
    const first = await one.save(FILES, undefined);
    await expect(other.save(FILES, undefined)).rejects.toMatchObject({ code: "conflict" });
    await other.save(new Map(FILES).set("authority.json", '{"a":1}'), first);
    await expect(one.save(FILES, first)).rejects.toMatchObject({ code: "conflict" });
    expect((await one.load()).files.get("authority.json")).toBe('{"a":1}');
  });
});

describe("FileAuthorityStore", () => {
  test("keeps files to itself, leaves others' alone and nothing temporary behind", async () => {
    const store = new FileAuthorityStore(dir);
    const first = await store.save(FILES, undefined);
    await writeFile(join(dir, "ca", "NOTES.txt"), "mine");
    await store.save(new Map([...FILES].slice(0, 2)), first);
    expect((await readdir(join(dir, "ca"))).sort()).toEqual(["NOTES.txt", "authority.json", "root.pem"]);
    expect(await readdir(dir)).toEqual(["ca"]);
    expect((await stat(join(dir, "ca"))).mode & 0o777).toBe(0o700);
    expect((await stat(join(dir, "ca", "root.pem"))).mode & 0o777).toBe(0o600);
  });

  test("a write that breaks off leaves the manifest of before, with all that it names", async () => {
    const store = new FileAuthorityStore(dir);
    const first = await store.save(FILES, undefined);
    const next = new Map(FILES).set("authority.json", "new").set("root-0a.pem", "x").set("no/such.pem", "y");
    await expect(store.save(next, first)).rejects.toMatchObject({ code: "io_failed" });
    const left = await store.load();
    expect([...left.files]).toEqual(expect.arrayContaining([...FILES]));
    // What came too early is not named, and the next write clears it away.
    expect(left.files.has("root-0a.pem")).toBe(true);
    await store.save(FILES, left.version);
    expect((await store.load()).files).toEqual(FILES);
  });

  test("takes an empty directory for none, and refuses one that others may read", async () => {
    await mkdir(join(dir, "ca"));
    const store = new FileAuthorityStore(dir);
    expect((await store.load()).version).toBeUndefined();
    await store.save(FILES, undefined);
    await chmod(join(dir, "ca", "wit.pem"), 0o640);
    await expect(store.load()).rejects.toMatchObject({ code: "bad_config" });
  });
});

describe("SecretAuthorityStore", () => {
  const open = (): SecretAuthorityStore =>
    new SecretAuthorityStore({ core: secrets.core, namespace: "mesh-system" });

  test("keeps labels and annotations of others, and reads no data that is not an authority's", async () => {
    secrets.secret = {
      metadata: {
        name: "countersign-ca",
        resourceVersion: "7",
        labels: { team: "ml" },
        annotations: { note: "x" },
      },
      data: { "tls.key": Buffer.from("other").toString("base64") },
    };
    const store = open();
    expect(await store.load()).toEqual({ files: new Map(), version: "7" });
    await store.save(FILES, "7");
    expect(secrets.secret).toMatchObject({
      type: "Opaque",
      metadata: { namespace: "mesh-system", labels: { team: "ml" }, annotations: { note: "x" } },
    });
  });

  test.each([
    { name: "a right that is missing", error: new ApiError(403), message: /grant `get` on it/ },
    { name: "an API server that fails", error: new ApiError(500), message: /the API server answered 500/ },
    { name: "an API server that is away", error: new Error("connect ECONNREFUSED"), message: /ECONNREFUSED/ },
  ])("says what is wrong and never what is in it: $name", async ({ error, message }) => {
    secrets.fail = error;
    const failed: unknown = await open()
      .load()
      .catch((thrown: unknown) => thrown);
    expect(failed).toMatchObject({ code: "io_failed", message: expect.stringMatching(message) });
    expect(String(failed)).not.toContain("SECRET");
  });

  test("a Secret that was removed in between is a conflict", async () => {
    const store = open();
    const version = await store.save(FILES, undefined);
    secrets.secret = undefined;
    await expect(store.save(FILES, version)).rejects.toMatchObject({ code: "conflict" });
  });
});
