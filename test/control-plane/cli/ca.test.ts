import { afterEach, describe, expect, test } from "@jest/globals";
import { runVerb } from "../../../control-plane/cli/verbs.ts";
import { type FakeApi, startFakeApi } from "../../fakes/management-api.ts";

const QUIET = {
  trustDomain: "lake.example",
  bundleSequence: 4,
  roots: [{ fingerprint256: "AB:CD", notAfter: "2036-11-18T10:00:00.000Z", signs: true }],
  issuingNotAfter: "2027-02-18T10:00:00.000Z",
  rotation: null,
};
const ROTATING = {
  ...QUIET,
  bundleSequence: 6,
  roots: [
    { fingerprint256: "EF:01", notAfter: "2036-11-19T10:00:00.000Z", signs: true },
    { ...QUIET.roots[0], signs: false },
  ],
  rotation: {
    stage: "sign",
    aborting: false,
    stageSince: "2026-11-20T10:00:00.000Z",
    overdue: true,
    waiting: 3,
    waitingFor: ["ml/a\u001b[2J on node-1", "ml/b"],
    givenUp: 1,
  },
};

let api: FakeApi | undefined;
afterEach(async () => {
  await api?.close();
  api = undefined;
});

async function run(
  answers: Parameters<typeof startFakeApi>[0],
  ...args: string[]
): Promise<{ status: number; text: string; errors: string }> {
  api = await startFakeApi(answers);
  let [text, errors] = ["", ""];
  const output = {
    out: (more: string) => {
      text += more;
    },
    err: (more: string) => {
      errors += more;
    },
  };
  const status = await runVerb(["ca", ...args, "--state-dir", api.stateDir], output);
  return { status, text, errors };
}

describe("countersign ca", () => {
  test("status says what there is and that nothing moves", async () => {
    const { status, text } = await run({ "GET /v1/ca": { body: QUIET } }, "status");
    expect(status).toBe(0);
    expect(text).toContain("trust domain lake.example, trust bundle 4");
    expect(text).toMatch(/AB:CD +2036-11-18 10:00:00Z +signs/);
    expect(text).toContain("no root rotation is under way");
  });

  test("status of a rotation names stage, who is waited for and what to do, without control characters", async () => {
    const { text } = await run({ "GET /v1/ca": { body: ROTATING } }, "status");
    expect(text).toMatch(/AB:CD +2036-11-18 10:00:00Z +trusted/);
    expect(text).toContain("root rotation: stage 2 of 3, sign");
    expect(text).toContain("waiting for 3 sidecars:\n  ml/a [2J on node-1\n  ml/b\n  and 1 more\n");
    expect(text).toContain("1 sidecar given up by force");
    expect(text).not.toContain("does not lead");
    await api?.close();
    const other = await run({ "GET /v1/ca": { body: { ...ROTATING, leads: false } } }, "status");
    expect(other.text).toContain("does not lead");
    expect(text).toMatch(/overdue: .*`countersign ca force`.*`countersign ca abort`/);
  });

  test("rotate and abort ask for it and show what came of it", async () => {
    const rotated = await run({ "POST /v1/ca/rotate": { body: ROTATING } }, "rotate");
    expect([rotated.status, api?.requests]).toEqual([0, ["POST /v1/ca/rotate {}"]]);
    expect(rotated.text).toContain("root rotation started");
    await api?.close();
    const back = { ...ROTATING, rotation: { ...ROTATING.rotation, aborting: true, overdue: false } };
    const aborted = await run({ "POST /v1/ca/abort": { body: back } }, "abort");
    expect(aborted.text).toContain("going back to the old root: stage 2 of 3");
  });

  test("force names those who were given up", async () => {
    const answer = { ...ROTATING, givenUp: ["ml/a", "ml/b"] };
    const { text } = await run({ "POST /v1/ca/force": { body: answer } }, "force");
    expect(text).toContain("given up: 2 sidecars");
    expect(text).toContain("  ml/a\n  ml/b\n");
    await api?.close();
    expect((await run({ "POST /v1/ca/force": { body: QUIET } }, "force")).text).toContain(
      "nobody was waited for",
    );
  });

  test("a refusal is the control plane's own words and exit status 1", async () => {
    const detail = "a root rotation is under way; see `countersign ca status`";
    const { status, errors } = await run(
      { "POST /v1/ca/rotate": { status: 409, body: { detail } } },
      "rotate",
    );
    expect([status, errors]).toEqual([1, `countersign: ${detail}\n`]);
  });

  test("--json prints the answer as it is", async () => {
    const { text } = await run({ "GET /v1/ca": { body: ROTATING } }, "status", "--json");
    expect(JSON.parse(text)).toEqual(ROTATING);
  });
});
