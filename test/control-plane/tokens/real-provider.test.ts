// Logins at a real OpenID provider, verified by the token service, and tokens that a callee verifies: nothing here is forged.
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { GRANT_TYPE, Grants, SESSION_TOKEN } from "../../../control-plane/tokens/grants.ts";
import { Sessions } from "../../../control-plane/tokens/sessions.ts";
import { holdTxn } from "../../../sidecar/core/identity/held-txn.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { must } from "../../fakes/authority.ts";
import { type RealIdp, type SignedIn, startRealIdp } from "../../fakes/oidc-provider.ts";
import {
  createTestTokenService,
  IDP,
  identityProvider,
  PEOPLE,
  type TestTokenService,
} from "../../fakes/token-service.ts";

let real: RealIdp;
let service: TestTokenService;
let sessions: Sessions;
beforeAll(async () => {
  real = await startRealIdp({
    users: {
      alice: { email: "alice@acme.example", preferred_username: "alice", groups: ["ds"] },
      bob: { email: "bob@acme.example", preferred_username: "bob", groups: ["ds", "contractors"] },
    },
  });
  service = await createTestTokenService(systemClock);
  service.configured.set(IDP, identityProvider(real.issuer));
  sessions = new Sessions(service);
});
afterAll(async () => {
  await real.close();
  await service.close();
});

const open = ({ idToken, accessToken, nonce }: SignedIn, over: object = {}) =>
  sessions.open(
    PEOPLE,
    new Map(Object.entries({ idp: IDP, id_token: idToken, access_token: accessToken, nonce, ...over })),
    {},
  );

test("people sign in; what their ID tokens leave out comes from the provider itself", async () => {
  const answer = await open(await real.signIn("alice", { max_age: "3600" }));
  expect(answer.user).toMatchObject({
    ...{ id: "okta-main|alice", email: "alice@acme.example", username: "alice", roles: ["role-ds"] },
    authTime: expect.any(Number),
  });
  const minted = await new Grants(service).grant(
    PEOPLE,
    undefined,
    new Map<string, unknown>([
      ["grant_type", GRANT_TYPE],
      ["requested_token_type", "urn:ietf:params:oauth:token-type:txn_token"],
      ["subject_token_type", SESSION_TOKEN],
      ["subject_token", answer.handle],
    ]),
    {},
  );
  expect(must(holdTxn(minted.access_token)).claims).toMatchObject({
    ...{ sub: "okta-main|alice", rctx: { sid: answer.sid } },
    tctx: { roles: ["role-ds"], username: "alice", authTime: answer.user.authTime },
  });
});

test("the tokens of two people do not mix, nor do those of two logins", async () => {
  const [alice, bob] = [await real.signIn("alice"), await real.signIn("bob")];
  await expect(open({ ...bob, accessToken: alice.accessToken })).rejects.toMatchObject({
    reason: "TOKEN_INVALID",
    message: expect.stringContaining("of another user"),
  });
  const again = await real.signIn("bob");
  await expect(open({ ...again, nonce: alice.nonce })).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
  expect((await open(again)).user.roles).toEqual(["role-ds", "role-contractors"]);
  for (const used of [bob, again])
    await expect(open(used)).rejects.toMatchObject({ reason: "TOKEN_REPLAYED" });
});

test("an access token of the provider is no ID token, and the other way round", async () => {
  const { idToken, accessToken, nonce } = await real.signIn("alice");
  await expect(open({ idToken: accessToken, accessToken, nonce } as SignedIn)).rejects.toMatchObject({
    reason: "TOKEN_INVALID",
  });
  await expect(
    new Grants(service).grant(
      PEOPLE,
      undefined,
      new Map<string, unknown>([
        ["grant_type", GRANT_TYPE],
        ["requested_token_type", "urn:ietf:params:oauth:token-type:txn_token"],
        ["subject_token_type", "urn:ietf:params:oauth:token-type:access_token"],
        ["subject_token", idToken],
      ]),
      {},
    ),
  ).rejects.toMatchObject({ reason: "TOKEN_INVALID", message: expect.stringContaining("type") });
});
