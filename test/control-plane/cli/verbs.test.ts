import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "@jest/globals";
import { rollback } from "../../../control-plane/cli/history.ts";
import { withMesh } from "../../../control-plane/cli/mesh.ts";
import type { Output } from "../../../control-plane/cli/print.ts";
import { runVerb } from "../../../control-plane/cli/verbs.ts";
import { type FakeApi, startFakeApi } from "../../fakes/management-api.ts";

let api: FakeApi | undefined;
let folder: string | undefined;
afterEach(async () => {
  await api?.close();
  api = undefined;
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  folder = undefined;
});

function capture(): Output & { text: string; errors: string } {
  const written = {
    text: "",
    errors: "",
    out: (text: string) => {
      written.text += text;
    },
    err: (text: string) => {
      written.errors += text;
    },
  };
  return written;
}

async function run(...args: string[]): Promise<{ status: number; text: string; errors: string }> {
  const output = capture();
  const status = await runVerb(args, output);
  return { status, text: output.text, errors: output.errors };
}

const SIDECAR = {
  workload: "ml/scorer",
  instance: "i",
  node: "",
  softwareVersion: "0.1.0",
  state: "synced",
  digest: "aaaaaaaa11",
  expectedDigest: "aaaaaaaa11",
  sinceMs: 1_790_000_000_000,
};
const STATUS = {
  revision: 7,
  pinned: 3,
  proxies: { total: 2, synced: 1, stale: 1, disconnected: 0, nacked: 1 },
  policies: { total: 1, accepted: 1 },
  workloads: 2,
  problems: ["a.yaml:4: AccessPolicy ml/b: spec.action: wrong"],
  sidecars: [
    SIDECAR,
    { ...SIDECAR, workload: "ml/chat", state: "stale", digest: "bbbbbbbb", nack: "unknown\nfeature" },
  ],
};
const POLICY = {
  object: "AccessPolicy/ml/b",
  action: "Allow",
  enforcement: "Enforce",
  status: {
    conditions: [
      { type: "Accepted", status: "True", reason: "Accepted" },
      { type: "Programmed", status: "False", reason: "Propagating", message: "1/2 proxies" },
    ],
    targets: { workloads: 2, externals: 0 },
    proxies: { total: 2, programmed: 1, nacked: 1, revision: 7, lagging: ["ml/chat"] },
  },
};
const HISTORY = {
  pinned: null,
  revision: 2,
  revisions: [
    {
      sequence: 2,
      timeMs: 1_790_000_000_000,
      reason: "edit",
      applied: true,
      changes: [{ object: "AccessPolicy/ml/b", change: "changed" }],
      changeCount: 5,
    },
    { sequence: 1, timeMs: 1_789_999_000_000, reason: "start", applied: true, changes: [], changeCount: 0 },
  ],
};

describe("status", () => {
  test("shows the pin, policies, sidecars and problems", async () => {
    api = await startFakeApi({
      "GET /v1/status": { body: STATUS },
      "GET /v1/policies": { body: { policies: [POLICY] } },
    });
    const { status, text } = await run("status", "--state-dir", api.stateDir);
    expect(status).toBe(0);
    expect(
      text,
    ).toBe(`revision 7, PINNED to revision 3 until \`countersign rollback --release\`; 2 workloads, 1/2 connected sidecars up to date

policy             action  mode     targets  sidecars  accepted  programmed
-----------------  ------  -------  -------  --------  --------  -------------------
AccessPolicy ml/b  Allow   Enforce  2        1/2       True      False (Propagating)

workload   state   since                 version  table                      last refusal
---------  ------  --------------------  -------  -------------------------  ---------------
ml/chat    stale   2026-09-21 14:13:20Z  0.1.0    bbbbbbbb (wants aaaaaaaa)  unknown feature
ml/scorer  synced  2026-09-21 14:13:20Z  0.1.0    aaaaaaaa

worth a look:
  AccessPolicy ml/b: waiting for ml/chat

1 problem in the configuration (what was accepted before stays in force):
  a.yaml:4: AccessPolicy ml/b: spec.action: wrong
`);
  });

  test("survives an answer of another version, and prints JSON", async () => {
    api = await startFakeApi({ "GET /v1/status": { body: [] }, "GET /v1/policies": { body: {} } });
    expect((await run("status", "--state-dir", api.stateDir)).status).toBe(0);
    expect((await run("status", "--json", "--state-dir", api.stateDir)).text).toBe(
      '{"sidecars":[],"policyStatus":[]}\n',
    );
  });
});

describe("history and rollback", () => {
  test("prints revisions with what they changed", async () => {
    api = await startFakeApi({ "GET /v1/history": { body: HISTORY } });
    const { text } = await run("history", "--state-dir", api.stateDir);
    expect(text).toBe(
      `not pinned: the newest revision is in force

revision  time                  why    state     changes
--------  --------------------  -----  --------  --------------------------------
2         2026-09-21 14:13:20Z  edit   in force  ~ AccessPolicy ml/b and 4 more
1         2026-09-21 13:56:40Z  start            none
`.replace("--------------------------------", "-".repeat(30)),
    );
  });

  test("compares with the newest revision when no second one is named", async () => {
    api = await startFakeApi({
      "GET /v1/history": { body: HISTORY },
      "GET /v1/diff?from=1&to=2": {
        body: {
          from: 1,
          to: 2,
          objects: [
            {
              object: "AccessPolicy/ml/b",
              change: "changed",
              fields: [
                { path: "action", from: "Allow", to: "Deny" },
                { path: "new", to: 1 },
              ],
            },
          ],
        },
      },
    });
    const { text } = await run("diff", "1", "--state-dir", api.stateDir);
    expect(text).toContain(
      '~ AccessPolicy ml/b changed\n    action: "Allow" -> "Deny"\n    new: unset -> 1\n',
    );
  });

  test("says after five seconds which sidecars have not acknowledged", async () => {
    api = await startFakeApi({
      "POST /v1/rollback": { body: { sequence: 8, changes: [], changeCount: 0 } },
      "GET /v1/status": { body: STATUS },
    });
    let nowMs = 0;
    const clock = {
      nowMs: () => nowMs,
      monotonicMs: () => nowMs,
      sleep: async () => {
        nowMs += 2_500;
      },
    };
    const output = capture();
    expect(
      await withMesh({ stateDir: api.stateDir }, (mesh) => rollback(mesh, 3, false, output, clock)),
    ).toBe(0);
    expect(output.text).toContain(
      "acknowledged by 1/2 connected sidecars\n  waiting for ml/chat: refused: unknown feature\n",
    );
    expect(api.requests).toEqual([
      'POST /v1/rollback {"revision":3}',
      "GET /v1/status",
      "GET /v1/status",
      "GET /v1/status",
    ]);
  });

  test("releases", async () => {
    api = await startFakeApi({
      "POST /v1/rollback/release": { body: { sequence: 9 } },
      "GET /v1/status": { body: { sidecars: [SIDECAR] } },
    });
    const { status, text } = await run("rollback", "--release", "--state-dir", api.stateDir);
    expect(status).toBe(0);
    expect(text).toContain("released: revision 9");
    expect(text).toContain("acknowledged by 1/1 connected sidecars");
  });
});

describe("identity", () => {
  test("writes the key for its owner only and never prints it", async () => {
    api = await startFakeApi({
      "POST /v1/identity-export": {
        body: { spiffeId: "spiffe://d/x", certificatePem: "CERT", keyPem: "KEY", caPem: "CA", notAfter: "T" },
      },
      "GET /v1/state": {
        body: {
          workloads: {
            "ml/scorer": { addresses: ["127.0.0.1"], meshPort: 16108, ports: [{ port: 1 }, { port: 2 }] },
          },
        },
      },
    });
    const out = join(api.stateDir, "i d");
    const { status, text, errors } = await run(
      "identity",
      "export",
      "ml/nb",
      "--out",
      out,
      "--state-dir",
      api.stateDir,
    );
    expect(status).toBe(0);
    expect(readFileSync(join(out, "key.pem"), "utf8")).toBe("KEY");
    expect(statSync(join(out, "key.pem")).mode & 0o777).toBe(0o600);
    expect(statSync(out).mode & 0o777).toBe(0o700);
    expect(text + errors).not.toContain("KEY");
    expect(text).toContain(
      `--cert '${out}/svid.pem' --key '${out}/key.pem' --header 'countersign-port: 1' https://127.0.0.1:16108/`,
    );
  });

  test("prints the token alone on standard output", async () => {
    api = await startFakeApi({ "POST /v1/join-tokens": { body: { token: "cs1.a.b.c", expiresAt: "T" } } });
    const { text } = await run("identity", "join-token", "ml/nb", "--state-dir", api.stateDir);
    expect(text).toBe("cs1.a.b.c\n");
    expect(api.requests).toEqual(['POST /v1/join-tokens {"workload":"ml/nb","ttlSeconds":600}']);
  });
});

describe("explain of a decision id", () => {
  test("shows what the sidecar answers, without its control characters", async () => {
    api = await startFakeApi(
      {
        "GET /v1/decisions/d-1": {
          body: {
            reason: "NO_MATCHING_ALLOW",
            timeMs: 1_790_000_000_000,
            call: {
              caller: { authenticated: true, spiffeId: "spiffe://d/x" },
              request: { method: "GET", path: "/\u001b[2J" },
              operation: { kind: "unknown" },
            },
            revision: 4,
            explanation: {
              allowed: false,
              reason: "NO_MATCHING_ALLOW",
              policies: [
                {
                  policy: "ml/b",
                  action: "Allow",
                  enforcement: "Enforce",
                  source: "policy",
                  rules: [{ rule: "r", outcome: "failed", why: "because" }],
                },
              ],
            },
          },
        },
      },
      "admin.sock",
    );
    const { status, text } = await run("explain", "d-1", "--sidecar", api.stateDir);
    expect(status).toBe(1);
    expect(text).toContain("DENIED NO_MATCHING_ALLOW\n");
    expect(text).toContain("  Allow ml/b\n    r: no match: because\n");
    expect(text).not.toContain("\u001b");
  });
});

describe("exit status", () => {
  test.each<{ name: string; args: string[]; status: number; says: string }>([
    { name: "help is a success", args: ["status", "--help"], status: 0, says: "Example" },
    { name: "an unknown verb is wrong usage", args: ["statu"], status: 2, says: "Did you mean status" },
    {
      name: "a mesh is on this machine or in a cluster",
      args: ["status", "--state-dir", "/none", "--context", "x"],
      status: 2,
      says: "not both",
    },
    {
      name: "a kubeconfig that is not there is wrong usage",
      args: ["status", "--kubeconfig", "/none/config"],
      status: 2,
      says: "`--kubeconfig /none/config` does not exist",
    },
    {
      name: "a word for a number is wrong usage",
      args: ["diff", "x", "--state-dir", "/none"],
      status: 2,
      says: "whole number",
    },
    {
      name: "rollback wants a revision or --release",
      args: ["rollback", "--state-dir", "/none"],
      status: 2,
      says: "countersign history",
    },
    { name: "a decision id wants its sidecar", args: ["explain", "d-1"], status: 2, says: "--sidecar" },
    {
      name: "a described call wants its parts",
      args: ["explain", "--config-dir", "."],
      status: 2,
      says: "--from",
    },
    {
      name: "no control plane is unreachable",
      args: ["status", "--state-dir", "/none"],
      status: 3,
      says: "is it running",
    },
    {
      name: "no sidecar is unreachable",
      args: ["explain", "d-1", "--sidecar", "/none"],
      status: 3,
      says: "no sidecar",
    },
    {
      name: "a missing directory is unreachable",
      args: ["check", "/none"],
      status: 3,
      says: "does not exist",
    },
    {
      name: "a missing table is unreachable",
      args: ["policy", "test", "/none"],
      status: 3,
      says: "does not exist",
    },
    {
      name: "a workload without namespace is wrong usage",
      args: ["identity", "join-token", "nb", "--state-dir", "/none"],
      status: 2,
      says: "namespace/name",
    },
  ])("$name", async ({ args, status, says }) => {
    const result = await run(...args);
    expect(result.status).toBe(status);
    expect(result.text + result.errors).toContain(says);
  });

  test.each([
    { answer: { status: 404, body: { detail: "revision `9` is not kept" } }, status: 1, says: "is not kept" },
    { answer: { status: 500, body: { detail: "disk full" } }, status: 3, says: "disk full" },
    { answer: { status: 200, body: "<html>" }, status: 3, says: "not JSON" },
  ])("a control plane that answers $answer.status gives $status", async ({ answer, status, says }) => {
    api = await startFakeApi({ "POST /v1/rollback": answer });
    const result = await run("rollback", "9", "--state-dir", api.stateDir);
    expect(result.status).toBe(status);
    expect(result.errors).toContain(says);
  });
});

describe("policy test", () => {
  const TABLE = `
world:
  now: "2026-09-15T10:00:00+02:00"
  workloads: {job/a: {ns: lab}, serving/b: {ns: ml, packs: [openai]}}
policies:
- kind: AccessPolicy
  metadata: {name: p, namespace: ml}
  spec: {action: Allow, rules: [{name: r, from: [{workload: {kinds: [job]}}], operations: [{op: serving.invoke.chat}]}]}
vectors:
- {id: v1, from: job/a, to: serving/b, req: POST /v1/chat/completions, want: Allow, by: p/r}
- {id: v2, from: job/a, to: serving/b, req: POST /v1/embeddings, want: Deny, reason: NO_MATCHING_ALLOW}
`;
  test.each([
    { name: "passes", from: "", to: "", status: 0, says: "2 vectors, all as they say" },
    {
      name: "names the condition of a vector that differs",
      from: "want: Deny, reason: NO_MATCHING_ALLOW",
      to: "want: Allow, by: p/r",
      status: 1,
      says: "because  ml/p/r: no match: operations[0].op: call is `serving.invoke.embed`, rule wants `serving.invoke.chat`\n2 vectors, 1 differ: v2",
    },
    {
      name: "says the line of an unknown field",
      from: "id: v2, from",
      to: "id: v2, form",
      status: 1,
      says: ":11: vector `v2`: unknown field `form`",
    },
    {
      name: "says the line of a wrong policy",
      from: "action: Allow",
      to: "action: Alow",
      status: 1,
      says: ":8: policies[0].spec.action: ",
    },
    {
      name: "refuses a vector that is there twice",
      from: "id: v2",
      to: "id: v1",
      status: 1,
      says: ":11: vector `v1` is there twice",
    },
    {
      name: "counts a policy that is not in force as an error",
      from: "op: serving.invoke.chat",
      to: "op: serving.invok",
      status: 1,
      says: "UnknownOperation",
    },
  ])("$name", async ({ from, to, status, says }) => {
    folder = mkdtempSync(join(tmpdir(), "countersign-cli-"));
    const file = join(folder, "t.yaml");
    writeFileSync(file, TABLE.trimStart().replace(from, to).replace(/^/, "# table\n"));
    const result = await run("policy", "test", file);
    expect(result.text).toContain(says);
    expect(result.status).toBe(status);
  });
});
