import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { ProofSource } from "../../sidecar/config.ts";
import {
  isRetiring,
  type WorkloadIdentity,
  withBundle,
} from "../../sidecar/core/identity/workload-identity.ts";
import { silentLogger } from "../../sidecar/core/runtime/log.ts";
import { Enrolment } from "../../sidecar/enrolment.ts";
import { createTestAuthority, issueTestIdentity, type TestAuthority, testId } from "../fakes/authority.ts";
import { FakeClock } from "../fakes/clock.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
let before: TestAuthority;
let after: TestAuthority;
let identity: WorkloadIdentity;
let dir: string;

beforeAll(async () => {
  before = await createTestAuthority(NOW);
  after = await createTestAuthority(NOW);
  identity = issueTestIdentity(before, testId("me"), NOW);
  dir = mkdtempSync(join(tmpdir(), "cs-enrol-"));
});
afterAll(async () => {
  await before.close();
  await after.close();
  rmSync(dir, { recursive: true, force: true });
});

function enrolment(held: WorkloadIdentity | undefined, file: string | undefined): Enrolment {
  const path = join(dir, "roots.pem");
  rmSync(path, { force: true });
  if (file !== undefined) writeFileSync(path, file);
  const proof: ProofSource = {
    kind: "service-account-token",
    file: join(dir, "token"),
    trustBundleFile: path,
    trustDomain: "lake.example",
  };
  return new Enrolment({
    config: { bootstrap: "127.0.0.1:1", proof },
    clock: new FakeClock(NOW),
    random: () => 0,
    log: silentLogger,
    held: () => held,
  });
}

describe("an identity", () => {
  test.each([
    { name: "its root is in the file", file: () => before.bundle.caPem, disowned: false },
    {
      name: "two roots are in the file",
      file: () => after.bundle.caPem + before.bundle.caPem,
      disowned: false,
    },
    { name: "the file has another root", file: () => after.bundle.caPem, disowned: true },
    { name: "there is no file", file: () => undefined, disowned: false },
    { name: "the file is damaged", file: () => "x", disowned: false },
  ])("when $name: disowned is $disowned", async ({ file, disowned }) => {
    expect(await enrolment(identity, file()).isDisowned()).toBe(disowned);
    // What the stream said of roots in between does not make the certificate another.
    const updated = withBundle(identity, after.bundle);
    expect(await enrolment(updated, file()).isDisowned()).toBe(disowned);
  });

  test("that is not there cannot be disowned", async () => {
    expect(await enrolment(undefined, after.bundle.caPem).isDisowned()).toBe(false);
  });

  test("whose root has left its own bundle is to be renewed", () => {
    expect(isRetiring(identity)).toBe(false);
    expect(isRetiring(withBundle(identity, after.bundle))).toBe(true);
  });
});

describe("the control plane", () => {
  test("is known by the roots of the identity and those of the file", async () => {
    const { caPem } = identity.bundle;
    expect(await enrolment(identity, after.bundle.caPem).roots()).toBe(caPem + after.bundle.caPem);
    expect(await enrolment(identity, undefined).roots()).toBe(caPem);
    expect(await enrolment(undefined, after.bundle.caPem).roots()).toBe(after.bundle.caPem);
  });
});

test.each([
  { name: "a token of 20 KiB", token: "x".repeat(20_000), code: "bad_config", says: /larger than 16 KiB/ },
  { name: "an empty token file", token: "\n", code: "not_ready", says: /is empty/ },
  { name: "no token file", token: undefined, code: "not_ready", says: /cannot read/ },
])("$name is `$code`", async ({ token, code, says }) => {
  const path = join(dir, "token");
  rmSync(path, { force: true });
  if (token !== undefined) writeFileSync(path, token);
  const asked = enrolment(undefined, before.bundle.caPem).attempt(new AbortController().signal);
  await expect(asked).rejects.toMatchObject({ code, message: expect.stringMatching(says) });
});
