import { describe, expect, test } from "@jest/globals";
import type { HeldTxn } from "../../../sidecar/core/identity/held-txn.ts";
import { Revocations } from "../../../sidecar/core/identity/revocations.ts";
import { OwnUser } from "../../../sidecar/tokens/own-user.ts";
import type { TokenClient } from "../../../sidecar/tokens/token-client.ts";
import type { TokenResult } from "../../../sidecar/tokens/token-transport.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";

const NOW = Date.UTC(2026, 10, 21);
const keys = new TestTokenService();
const token = (txn: string, iatMs = NOW) => keys.held(txnClaims("alice", iatMs, { txn }));
/** As a workload gets it for a user of whom no login is known. */
const unknown = (txn: string) => keys.held(txnClaims("alice", NOW, { txn, rctx: {} }));

/** A client whose token service answers as told. */
class Client {
  held: HeldTxn | undefined;
  next: TokenResult<HeldTxn> = { ok: true, value: token("a") };
  asked = 0;
  renewed = 0;
  isOwnRefused = false;
  heldOwn(): HeldTxn | undefined {
    return this.held;
  }
  lookOwn(): HeldTxn | undefined {
    return this.held;
  }
  renewOwn(): void {
    this.renewed++;
  }
  dropOwn(): void {
    this.held = undefined;
  }
  mintOwn(): Promise<TokenResult<HeldTxn>> {
    this.asked++;
    if (this.next.ok) this.held = this.next.value;
    return Promise.resolve(this.next);
  }
}

function scene(options: { bound?: boolean; client?: Client | undefined } = {}) {
  const client = "client" in options ? options.client : new Client();
  const state = { revocations: Revocations.none };
  const user = new OwnUser({
    // What a token client is to the user of a workload.
    client: () => client as unknown as TokenClient | undefined,
    isBound: () => options.bound ?? true,
    revocations: () => state.revocations,
  });
  return { client: client ?? new Client(), state, user };
}
const AWAY = { ok: false, error: { reason: "UNAVAILABLE", detail: "", isTemporary: true } } as const;

describe("the one user of a workload", () => {
  test("waits for the first token, then has the same chain as long as the token", async () => {
    const { client, user } = scene();
    expect(user.chain(NOW)).toBe("waiting");
    const chain = await user.wait();
    expect(chain).toMatchObject({ via: [], txn: client.held });
    expect(user.chain(NOW)).toBe(chain);
    client.held = token("b");
    expect(user.chain(NOW)).toMatchObject({ txn: { claims: { txn: "b" } } });
  });

  test("is nobody where the workload acts for nobody, and unavailable without a token service", () => {
    expect(scene({ bound: false }).user.chain(NOW)).toBeUndefined();
    expect(scene({ client: undefined }).user.chain(NOW)).toBe("unavailable");
  });

  test("once the token service did not answer, no call waits for it, and one asks", async () => {
    const { client, user } = scene();
    client.next = AWAY;
    expect(await user.wait()).toBeUndefined();
    expect(user.chain(NOW)).toBe("unavailable");
    expect(client.asked).toBe(2);
    client.isOwnRefused = true;
    expect(user.chain(NOW)).toBe("unavailable");
    expect(client.asked).toBe(2);
    client.isOwnRefused = false;
    client.next = { ok: true, value: token("c") };
    expect(user.chain(NOW)).toBe("unavailable");
    await Promise.resolve();
    expect(user.chain(NOW)).toMatchObject({ txn: { claims: { txn: "c" } } });
  });

  test("asks anew when its token is revoked, once a second at most", async () => {
    const { client, state, user } = scene();
    await user.wait();
    const entry = { spiffeId: "", pod: "", user: "okta-main|alice", beforeMs: NOW + 5_000 };
    state.revocations = new Revocations([entry]);
    expect(user.chain(NOW + 500)).toMatchObject({ txn: { claims: { txn: "a" } } });
    expect(user.chain(NOW + 5_000)).toBe("waiting");
    client.next = { ok: true, value: token("d", NOW + 6_000) };
    await user.wait();
    expect(user.chain(NOW + 60_000)).toMatchObject({ txn: { claims: { txn: "d" } } });
  });

  test("asks for its user's login as soon as a call that rests on it is served, not only when its token is renewed", async () => {
    const { client, user } = scene();
    const bob = keys.held(txnClaims("bob", NOW));
    user.notice(token("of the gateway"), NOW);
    expect(client.renewed).toBe(0); // no own token yet: the first one will be asked for with the first call
    client.next = { ok: true, value: unknown("own") };
    await user.wait();
    for (const other of [bob, unknown("of a job")]) user.notice(other, NOW);
    expect(client.renewed).toBe(0);
    user.notice(token("of the gateway"), NOW);
    user.notice(token("of the gateway"), NOW + 100);
    expect(client.renewed).toBe(1);
    // The token service may hear of the login late.
    user.notice(token("of the gateway"), NOW + 5_000);
    expect(client.renewed).toBe(2);
    client.held = token("own, with the login");
    user.notice(token("of the gateway"), NOW + 60_000);
    expect(client.renewed).toBe(2);
  });
});
