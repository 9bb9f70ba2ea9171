// People with a real browser and a real identity provider: signed in once at Keycloak, known all the way to the model, and
// out when anybody who may says so.
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { Browser } from "playwright-core";
import { until } from "../demo/mesh-processes.ts";
import { freePorts, repositoryRoot } from "../demo/process.ts";
import { edgeCertificate } from "../fakes/edge-certificate.ts";
import { findChromium, launchChromium } from "./chromium.ts";
import { installedKeycloak, Keycloak } from "./keycloak.ts";
import { type Lab, startLab } from "./lab.ts";
import { Person } from "./person.ts";
import { API_AUDIENCE, CLIENT_ID, realm, userId } from "./realm.ts";
import { addLevels } from "./step-up-flow.ts";

const WHAT = "signing in at Keycloak with Chromium";
const HOST = "nb.acme.example";
const SECRET = "a secret of the client, thirty-two bytes";
const STAFF = "Acme staff";
const PARTNERS = "Acme partners";
const ALICE = { username: "alice", password: "correct horse" };
const BOB = { username: "bob", password: "battery staple" };
const CAROL = { username: "carol", password: "open sesame" };
const DAVE = { username: "dave", password: "tr0ub4dor" };
const WAIT_MS = 100_000;
/** The last one waits for a minute to be over. */
const STORY_MS = 400_000;
const MAX_DISTURBED = 3;
const POLICY_VIOLATION = 1008;

const keycloakThere = await installedKeycloak(WHAT);
const program = findChromium(WHAT);

function identities(keycloak: Keycloak): string {
  const provider = (name: string, displayName: string): string => `apiVersion: countersign.dev/v1alpha1
kind: IdentityProvider
metadata: {name: ${name}}
spec:
  type: oidc
  displayName: ${displayName}
  issuer: ${keycloak.issuer(name)}
  clientID: ${CLIENT_ID}
  clientSecretRef: {name: oidc}
  audiences: [${API_AUDIENCE}]
  allowInsecureIssuer: true
---
`;
  return `${provider("staff", STAFF)}${provider("partners", PARTNERS)}apiVersion: countersign.dev/v1alpha1
kind: MeshRoleBinding
metadata: {name: fraud}
spec: {roles: [fraud-ds], subjects: [{idp: staff, group: fraud}, {idp: partners, group: fraud}]}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshRole
metadata: {name: fraud-ds}
spec: {}
`;
}

(keycloakThere && program ? describe : describe.skip)("people with Keycloak and Chromium", () => {
  let keycloak: Keycloak;
  let lab: Lab;
  let browser: Browser;
  let gatewayPort = 0;
  /** Signed in first, for what takes a minute. */
  let carol: Person | undefined;
  const people: Person[] = [];
  const joins = async (username: string): Promise<void> => {
    const groups = (await keycloak.admin("GET", "/staff/groups?search=fraud")) as { id: string }[];
    await keycloak.admin("PUT", `/staff/users/${userId(username)}/groups/${groups[0]?.id}`);
  };
  const somebody = async (): Promise<Person> => {
    const person = await Person.create(browser, HOST);
    people.push(person);
    return person;
  };

  beforeAll(async () => {
    if (!keycloakThere || program === undefined) return;
    const certificate = await edgeCertificate([HOST], Date.now());
    [gatewayPort = 0] = await freePorts(1);
    keycloak = await Keycloak.start(keycloakThere, { ca: certificate.ca, hosts: [HOST] });
    const base = { clientSecret: SECRET, host: HOST, gatewayPort };
    const staff = [
      { ...ALICE, groups: ["fraud"] },
      { ...BOB, groups: ["research"] },
      { ...CAROL, groups: ["research"] },
    ];
    const partners = [{ ...DAVE, groups: ["fraud"] }];
    for (const [name, displayName, accounts] of [
      ["staff", STAFF, staff],
      ["partners", PARTNERS, partners],
    ] as const) {
      const asksConsent = name === "partners";
      await keycloak.admin(
        "POST",
        "",
        realm({ ...base, name, displayName, idp: name, asksConsent, accounts }),
      );
    }
    await addLevels(keycloak, "staff");
    lab = await startLab({
      ...{ host: HOST, certificate, gatewayPort, identities: identities(keycloak) },
      providers: ["staff", "partners"],
      routes: [
        `{name: models, hosts: [${HOST}], path: {prefix: /models}, backend: {service: scorer, namespace: ml-serving}, access: LoginOrBearer, rewrite: {prefix: /}}`,
        `{name: strong, hosts: [${HOST}], path: {prefix: /strong}, backend: {service: nb, namespace: ml-dev}, stepUp: {acr: gold}}`,
      ],
      secrets: { oidc: { "client-secret": SECRET } },
    });
    browser = await launchChromium({
      ...{ program, hosts: HOST, port: gatewayPort, certificate: certificate.cert },
    });
  }, 400_000);
  /** A test of people; again where they were disturbed. */
  const story = (name: string, tell: () => Promise<void>): void =>
    test(
      name,
      async () => {
        for (let again = MAX_DISTURBED; ; again--) {
          const failure = await tell().then(
            () => undefined,
            (error: unknown) => error,
          );
          const there = people.splice(0);
          const complaints = there.flatMap((person) => person.complaints);
          const wasDisturbed = there.some((person) => person.wasDisturbed);
          await Promise.all(there.map((person) => person.close()));
          if ((failure !== undefined || complaints.length > 0) && wasDisturbed && again > 0) continue;
          if (failure !== undefined) throw failure;
          expect(complaints).toEqual([]);
          return;
        }
      },
      STORY_MS,
    );
  afterAll(async () => {
    await browser?.close();
    await Promise.all([lab?.close(), keycloak?.close()]);
  });

  story("Carol, who is in no group, opens the notebook and does not reach the model", async () => {
    const person = await somebody();
    await person.signIn(STAFF, CAROL);
    expect(await person.shown("score", /./)).toMatch(/^403/);
    await joins("carol");
    // She keeps her window open to the last story.
    carol = people.pop();
  });

  story(
    "Alice chooses her provider, signs in, opens the notebook, and the model's record names her, her path and one transaction",
    async () => {
      const alice = await somebody();
      const before = lab.recorded().length;
      await alice.open("/");
      expect(await alice.heading()).toBe("Sign in");
      await alice.choose(STAFF);
      await alice.fill({ ...ALICE, password: "wrong" });
      // Keycloak keeps whoever does not know the password.
      await alice.page.getByText("Invalid username or password").waitFor();
      await alice.fill(ALICE);
      await alice.arrives("/");
      expect(await alice.heading()).toBe("Notebook");
      expect(await alice.shown("score", /./)).toBe('200 {"score":0.1}');
      expect(await alice.shown("kernel", /./)).toBe("idle");
      const line = await until("the record", () => lab.recorded()[before], WAIT_MS);
      expect(line).toMatchObject({
        actionName: "serving.invoke.predict",
        userIdentity: { id: `staff|${userId("alice")}`, roles: ["fraud-ds"], email: "alice@acme.example" },
        identityMetadata: { caller: "notebook/nb", origin: "gateway/people", hops: 2 },
        decision: { effect: "Allow", reason: "ALLOWED", rule: "scientists" },
        txn: expect.stringMatching(/^[0-9a-f-]{36}$/),
      });
      expect(line.identityMetadata.chain.map(({ s }) => s)).toEqual(["gateway/people", "notebook/nb"]);

      // Nothing of Keycloak is in the browser's cookies of the gateway, and no script reads them.
      const cookies = (await alice.context.cookies()).filter(({ domain }) => domain === HOST);
      for (const { name, value, httpOnly, secure, sameSite } of cookies) {
        expect(name).toMatch(/^__Host-/);
        expect({ httpOnly, secure, sameSite }).toEqual({ httpOnly: true, secure: true, sameSite: "Lax" });
        expect(value.length).toBeLessThan(64);
      }
      expect(await alice.page.evaluate("document.cookie")).toBe("");

      const visits = alice.visited.length;
      await alice.page.reload();
      expect(await alice.shown("score", /./)).toBe('200 {"score":0.1}');
      expect(alice.visited.slice(visits)).toEqual([`https://${HOST}/`]);
    },
  );

  story("two people in one browser's windows are never taken for each other", async () => {
    const [alice, bob] = [await somebody(), await somebody()];
    await alice.signIn(STAFF, ALICE);
    await bob.signIn(STAFF, BOB);
    const before = lab.recorded().length;
    const calls = Array.from({ length: 20 }, async (_, i) => {
      const { status } = await (i % 2 === 0 ? alice : bob).script("/run", "POST");
      return [i % 2, status];
    });
    for (const [who, status] of await Promise.all(calls))
      expect([who, status]).toEqual([who, who === 0 ? 200 : 403]);
    const lines = await until(
      "the records",
      () => (lab.recorded().length >= before + calls.length ? lab.recorded().slice(before) : undefined),
      WAIT_MS,
    );
    for (const { userIdentity, decision } of lines)
      expect(decision.effect).toBe(userIdentity?.id === `staff|${userId("alice")}` ? "Allow" : "Deny");
  });

  story("who may not open something reads why, and a script gets it as data", async () => {
    const bob = await somebody();
    await bob.signIn(STAFF, BOB);
    expect(await bob.script("/models/ping")).toMatchObject({
      status: 403,
      body: { reason: "NO_MATCHING_ALLOW", target: "serving/scorer" },
    });
    await bob.open("/models/ping");
    expect(await bob.heading()).toBe("You may not open this");
    expect(await bob.page.locator("footer code").textContent()).toMatch(/^d-[0-9a-f]{16}$/);
  });

  story("a partner who declines at the other provider is told so, and comes in when he agrees", async () => {
    const dave = await somebody();
    await dave.open("/");
    await dave.choose(PARTNERS);
    await dave.fill(DAVE);
    await dave.consent("no");
    await dave.arrives(new RegExp(`^https://${HOST}/.countersign/callback/partners`));
    expect(await dave.heading()).toBe("You were not signed in");
    await dave.page.getByRole("link", { name: "Try again" }).click();
    await dave.choose(PARTNERS);
    await dave.page.locator("#username, #kc-cancel").first().waitFor();
    if ((await dave.page.locator("#username").count()) > 0) await dave.fill(DAVE);
    await dave.consent("yes");
    await dave.arrives("/");
    expect(await dave.shown("score", /./)).toBe('200 {"score":0.1}');
    const { body } = await dave.script("/.countersign/whoami");
    expect(body).toMatchObject({ user: `partners|${userId("dave")}`, idp: "partners", roles: ["fraud-ds"] });
  });

  story("signing out at the gateway signs out at Keycloak", async () => {
    const alice = await somebody();
    await alice.signIn(STAFF, ALICE);
    await alice.open("/.countersign/logout");
    expect(await alice.heading()).toBe("Sign out?");
    await alice.page.getByRole("button", { name: "Sign out" }).click();
    await alice.arrives("/.countersign/signed-out");
    expect(await alice.heading()).toBe("You are signed out");
    await alice.page.getByRole("link", { name: "Sign in again" }).click();
    await alice.choose(STAFF);
    // No session there: Keycloak asks again.
    await alice.page.locator("#password").waitFor();
    const sessions = await keycloak.admin("GET", `/staff/users/${userId("alice")}/sessions`);
    expect(Array.isArray(sessions)).toBe(true);
  });

  story("an administrator's logout at Keycloak closes what is open here, by back-channel", async () => {
    const alice = await somebody();
    await alice.signIn(STAFF, ALICE);
    expect(await alice.shown("kernel", /./)).toBe("idle");
    await keycloak.admin("POST", `/staff/users/${userId("alice")}/logout`);
    expect(await alice.shown("kernel", /closed/)).toBe(
      `closed ${POLICY_VIOLATION} the session ended, sign in again`,
    );
    // A script cannot follow a sign-in: it is told where there is one.
    expect(await alice.script("/run", "POST")).toMatchObject({
      status: 401,
      body: { reason: "LOGIN_REQUIRED", login: `https://${HOST}/.countersign/login` },
    });
    await alice.open("/");
    expect(await alice.heading()).toBe("Sign in");
    await alice.choose(STAFF);
    await alice.page.locator("#password").waitFor();
  });

  story("a group that Keycloak gives makes a role with the next sign-in", async () => {
    const bob = await somebody();
    await bob.signIn(STAFF, BOB);
    expect(await bob.shown("score", /./)).toMatch(/^403/);
    await joins("bob");
    // Keycloak knows him still, and asks nothing.
    await bob.open("/.countersign/login?idp=staff");
    await bob.arrives("/");
    expect(await bob.shown("score", /./)).toBe('200 {"score":0.1}');
  });

  story("an access token of Keycloak's (RFC 9068) calls the model by its person", async () => {
    const alice = await somebody();
    const form = { client_id: CLIENT_ID, client_secret: SECRET, ...ALICE, scope: "openid" };
    const token = await keycloak.token("staff", form);
    const before = lab.recorded().length;
    const answer = await alice.context.request.post(`https://127.0.0.1:${gatewayPort}/models/invocations`, {
      headers: { host: HOST, authorization: `Bearer ${token}`, "content-type": "application/json" },
      data: "{}",
      ignoreHTTPSErrors: true,
    });
    expect([answer.status(), await answer.text()]).toEqual([200, '{"score":0.1}']);
    const line = await until("the record", () => lab.recorded()[before], WAIT_MS);
    expect(line).toMatchObject({ userIdentity: { id: `staff|${userId("alice")}`, roles: ["fraud-ds"] } });
  });

  story(
    "a route that asks for more has the person prove it again, and goes on where it was asked for",
    async () => {
      const alice = await somebody();
      await alice.signIn(STAFF, ALICE);
      const login = expect.stringMatching(/\/\.countersign\/login\?idp=staff&acr=gold$/);
      expect(await alice.script("/strong")).toMatchObject({
        ...{ status: 401, body: { reason: "STEP_UP_REQUIRED", login } },
      });
      await alice.open("/strong/page?x=1");
      await alice.page.locator("#password").fill(ALICE.password);
      await alice.page.locator("#kc-login").click();
      await alice.arrives("/strong/page?x=1");
      expect(await alice.heading()).toBe("Notebook");
      // As strong as that it stays.
      await alice.open("/strong");
      expect(await alice.heading()).toBe("Notebook");
    },
  );

  story("a key that Keycloak signs with from now on is found with the first sign-in", async () => {
    const before = await keycloak.keys("staff");
    await keycloak.admin("POST", "/staff/components", {
      ...{ name: "rsa-new", providerId: "rsa-generated", providerType: "org.keycloak.keys.KeyProvider" },
      config: { priority: [String(1_000 + before.length)], enabled: ["true"], active: ["true"] },
    });
    expect((await keycloak.keys("staff")).length).toBeGreaterThan(before.length);
    const bob = await somebody();
    await bob.signIn(STAFF, BOB);
    expect(await bob.heading()).toBe("Notebook");
  });

  story("a browser that signs in again and again is told so, and may begin afresh", async () => {
    const alice = await somebody();
    await alice.signIn(STAFF, ALICE);
    for (let i = 0; i < 5; i++) await alice.open("/.countersign/login?idp=staff");
    expect(await alice.heading()).toBe("Signing in goes round in circles");
    await alice.page.getByRole("link", { name: "Start over" }).click();
    await alice.choose(STAFF);
    await alice.arrives("/");
  });

  story("`countersign revoke --user` closes what the user has open", async () => {
    const [alice, bob] = [await somebody(), await somebody()];
    await alice.signIn(STAFF, ALICE);
    await bob.signIn(STAFF, BOB);
    await Promise.all([alice, bob].map((person) => person.shown("kernel", /idle/)));
    await promisify(execFile)(process.execPath, [
      ...[
        join(repositoryRoot, "dist/control-plane/cli/main.js"),
        "revoke",
        "--user",
        `staff|${userId("alice")}`,
      ],
      ...["--reason", "lost laptop", "--state-dir", lab.stateDir],
    ]);
    expect(await alice.shown("kernel", /closed/)).toMatch(/^closed 1008/);
    expect(await alice.script("/run", "POST")).toMatchObject({ status: 401 });
    expect(await bob.shown("kernel", /./)).toBe("idle");
    expect(await bob.script("/.countersign/whoami")).toMatchObject({ body: { signedIn: true } });
    // Keycloak knows her still and sends her back at once, within the seconds that a revocation reaches ahead.
    await alice.open("/");
    await alice.choose(STAFF);
    await alice.arrives("/");
    expect(await alice.shown("score", /./)).toBe('200 {"score":0.1}');
  });

  story(
    "Carol is asked for at Keycloak now and then while she works, and has the roles of today",
    async () => {
      if (carol === undefined) throw new Error("Carol did not sign in");
      const window = carol;
      const visits = window.visited.length;
      const session = async (): Promise<unknown> =>
        (await window.script("/.countersign/whoami").catch(() => undefined))?.body["session"];
      const before = await until("who she is", session, WAIT_MS);
      // Asked after a minute: her access token is over by then, and her refresh token good once.
      const run = async (): Promise<true | undefined> =>
        (await window.script("/run", "POST").catch(() => undefined))?.status === 200 ? true : undefined;
      await until("the role of her new group", run, 2 * WAIT_MS);
      const events = await keycloak.admin("GET", `/staff/events?type=REFRESH_TOKEN&user=${userId("carol")}`);
      expect(events).not.toHaveLength(0);
      expect(await until("who she is", session, WAIT_MS)).toBe(before);
      expect(window.visited).toHaveLength(visits);
      expect(window.complaints).toEqual([]);
      await window.close();
    },
  );
});
