import { expect, test } from "@jest/globals";
import { PublishedKeys } from "../../../sidecar/gateway/published-keys.ts";

const DISCOVERY = "/.well-known/openid-configuration";
const JWKS = "/.well-known/jwks.json";

/** A token service with an issuer, which may be away. */
function served(issuer: string, keys: readonly object[] = [{ kid: "k1" }]) {
  const state = { isAway: false, asked: 0 };
  const published = new PublishedKeys({
    fetch: async (path) => {
      state.asked++;
      if (state.isAway) return { ok: false, error: { reason: "UNAVAILABLE", detail: "", isTemporary: true } };
      return { ok: true, value: path === JWKS ? { keys } : { issuer } };
    },
  });
  const sweep = async (nowMs: number): Promise<void> => {
    published.sweep(nowMs);
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { state, published, sweep };
}

test("the documents are at the issuer's host and path, whatever the port and the case", async () => {
  const { published, sweep } = served("https://mesh.example/tokens/");
  expect(published.answer("mesh.example", `/tokens${JWKS}`)).toBeUndefined();
  await sweep(0);
  for (const host of ["mesh.example", "Mesh.Example:8443"]) {
    expect(published.answer(host, `/tokens${JWKS}`)?.body).toBe('{"keys":[{"kid":"k1"}]}');
    expect(published.answer(host, `/tokens${DISCOVERY}`)).toMatchObject({ status: 200 });
    expect(published.answer(host, JWKS)).toBeUndefined();
  }
  expect(published.answer("other.example", `/tokens${JWKS}`)).toBeUndefined();
});

test("they are fetched each five minutes, whoever asks how often, and stay when the token service is away", async () => {
  const { state, published, sweep } = served("https://mesh.example");
  await sweep(0);
  expect(state.asked).toBe(2);
  for (let i = 0; i < 1_000; i++) published.answer("mesh.example", JWKS);
  await sweep(299_000);
  expect(state.asked).toBe(2);
  state.isAway = true;
  await sweep(300_000);
  expect(state.asked).toBe(4);
  expect(published.answer("mesh.example", JWKS)).toBeDefined();
  await sweep(305_000);
  expect(state.asked).toBe(4);
  await sweep(310_000);
  expect(state.asked).toBe(6);
});

test.each([
  ["plain HTTP", served("http://mesh.example")],
  ["no address", served("mesh")],
  ["no keys", served("https://mesh.example", [])],
  ["too much", served("https://mesh.example", [{ kid: "x".repeat(70_000) }])],
])("nothing is published for %s", async (_, { published, sweep }) => {
  await sweep(0);
  for (const path of [JWKS, DISCOVERY]) expect(published.answer("mesh.example", path)).toBeUndefined();
});
