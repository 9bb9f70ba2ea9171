// People in a whole mesh: signed in once at the gateway, known at the model, by code that knows nothing of them.
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { until } from "../../demo/mesh-processes.ts";
import { fieldOf, textOf } from "../../sidecar/gateway/login/browser.ts";
import { HOST, type PeopleMesh, startPeopleMesh } from "./people-mesh.ts";

describe("people in a mesh", () => {
  let mesh: PeopleMesh;
  beforeAll(async () => {
    mesh = await startPeopleMesh();
    mesh.op.claims.set("alice", { groups: ["fraud"] });
    mesh.op.claims.set("bob", { groups: ["other"] });
  });
  afterAll(() => mesh?.close());

  test("Alice signs in, opens her notebook, and the model's record names her, her path and one transaction", async () => {
    const { url, answer } = await mesh.browser("alice").go("/run");
    expect(url).toBe(`https://${HOST}/run`);
    expect(answer).toMatchObject({ status: 200, body: '{"score":0.1}' });
    const line = await until("the record", () =>
      mesh.recorded().find(({ decision }) => decision.effect === "Allow"),
    );
    expect(line).toMatchObject({
      actionName: "serving.invoke.predict",
      userIdentity: { id: "acme|alice", roles: ["fraud-ds"], email: "alice@acme.example" },
      identityMetadata: { caller: "notebook/nb", origin: "gateway/people", hops: 2 },
      decision: { reason: "ALLOWED", rule: "scientists" },
      txn: expect.stringMatching(/^[0-9a-f-]{36}$/),
    });
    expect(line.identityMetadata.chain.map(({ s }) => s)).toEqual(["gateway/people", "notebook/nb"]);
    expect(mesh.seen.headers).toMatchObject({
      "x-forwarded-user": "acme|alice",
      "x-forwarded-email": "alice@acme.example",
      "x-mesh-roles": "fraud-ds",
    });
    // No token enters an application.
    for (const name of ["txn-token", "workload-identity-token", "workload-proof-token", "cookie"])
      expect(mesh.seen.headers).not.toHaveProperty(name);
  });

  test("Bob, who lacks the role, opens the notebook and does not reach the model", async () => {
    const { answer } = await mesh.browser("bob").go("/run");
    expect(answer).toMatchObject({ status: 403 });
    expect(JSON.parse(textOf(answer))).toMatchObject({
      reason: "NO_MATCHING_ALLOW",
      target: "serving/scorer",
    });
    const line = await until("the record", () =>
      mesh.recorded().find(({ userIdentity }) => userIdentity?.id === "acme|bob"),
    );
    expect(line).toMatchObject({ decision: { effect: "Deny" }, userIdentity: { roles: [] } });
  });

  test("a call that nobody can be told to have made is nobody's", async () => {
    const before = mesh.recorded().length;
    const { answer } = await mesh.browser("alice").go("/untraced");
    expect(answer).toMatchObject({ status: 403 });
    const line = await until("the record", () => mesh.recorded()[before]);
    expect(line).toMatchObject({ userIdentity: null, decision: { effect: "Deny" } });
  });

  test("two people at once are never taken for each other", async () => {
    const [alice, bob] = [mesh.browser("alice"), mesh.browser("bob")];
    await Promise.all([alice.go("/run"), bob.go("/run")]);
    const answers = await Promise.all(
      Array.from(
        { length: 200 },
        async (_, i) => [i % 2, (await (i % 2 === 0 ? alice : bob).ask("/run")).status] as const,
      ),
    );
    for (const [who, status] of answers) expect([who, status]).toEqual([who, who === 0 ? 200 : 403]);
    for (const { userIdentity, decision } of mesh.recorded())
      if (userIdentity !== null)
        expect(decision.effect).toBe(userIdentity.id === "acme|alice" ? "Allow" : "Deny");
  });

  test("nobody is let in without a session, and a header makes nobody anybody", async () => {
    const answer = await mesh.browser().ask("/run", {
      fields: {
        accept: "application/json",
        "x-forwarded-user": "acme|alice",
        "txn-token": "x",
        "x-mesh-roles": "fraud-ds",
      },
    });
    expect(answer).toMatchObject({ status: 401 });
  });

  test("who signs out is signed out, and so are their tokens", async () => {
    const alice = mesh.browser("alice");
    await alice.go("/run");
    const out = await alice.ask("/.countersign/logout", {
      method: "POST",
      fields: { origin: `https://${HOST}` },
    });
    expect(fieldOf(out, "location")).toContain(mesh.op.issuer);
    expect(fieldOf(await alice.ask("/run"), "location")).toBe("/.countersign/login?rd=%2Frun");
  });
});
