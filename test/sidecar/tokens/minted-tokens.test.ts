import { describe, expect, test } from "@jest/globals";
import type { HeldTxn } from "../../../sidecar/core/identity/held-txn.ts";
import { MintedTokens } from "../../../sidecar/tokens/minted-tokens.ts";
import type { TokenResult } from "../../../sidecar/tokens/token-transport.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";

const START = Date.UTC(2026, 10, 21);

/** A token service that answers when it is told to. */
class Service {
  nowMs = START;
  asked = 0;
  answer: (result: TokenResult<HeldTxn>) => void = () => {};
  readonly #keys = new TestTokenService();
  readonly tokens = new MintedTokens({ nowMs: () => this.nowMs, random: () => 0 });

  readonly mint = (): Promise<TokenResult<HeldTxn>> => {
    this.asked++;
    return new Promise((resolve) => {
      this.answer = resolve;
    });
  };

  fresh(): HeldTxn {
    return this.#keys.held(txnClaims("alice", this.nowMs, { txn: `t${this.asked}` }));
  }

  get(): Promise<TokenResult<HeldTxn>> {
    return this.tokens.get("k", "", this.mint);
  }

  async grant(): Promise<HeldTxn> {
    const waiting = this.get();
    const held = this.fresh();
    this.answer({ ok: true, value: held });
    await waiting;
    return held;
  }
}

const refusal = (isTemporary: boolean): TokenResult<HeldTxn> => ({
  ok: false,
  error: { reason: isTemporary ? "UNAVAILABLE" : "REVOKED", detail: "", isTemporary },
});

describe("minted tokens", () => {
  test("many who wait for one token ask once, and the next ones need not ask", async () => {
    const service = new Service();
    const waiting = [service.get(), service.get(), service.get()];
    const held = service.fresh();
    service.answer({ ok: true, value: held });
    for (const one of waiting) expect(await one).toEqual({ ok: true, value: held });
    expect(service.tokens.peek("k")).toBe(held);
    expect(await service.get()).toEqual({ ok: true, value: held });
    expect(service.tokens.peek("other")).toBeUndefined();
    expect(service.asked).toBe(1);
  });

  test("each context of a subject has a token of its own, and forgetting the subject forgets all", async () => {
    const service = new Service();
    for (const context of ["", "10.0.0.1", "10.0.0.2"]) {
      const waiting = service.tokens.get("k", context, service.mint);
      service.answer({ ok: true, value: service.fresh() });
      await waiting;
    }
    expect(service.asked).toBe(3);
    expect(service.tokens.size).toBe(3);
    expect(service.tokens.peek("k", "10.0.0.1")).not.toBe(service.tokens.peek("k", "10.0.0.2"));
    expect(service.tokens.peek("k", "10.0.0.3")).toBeUndefined();
    service.tokens.drop("k");
    expect(service.tokens.size).toBe(0);
  });

  test("a token that is used is renewed at 60 % of its life, without anybody waiting", async () => {
    const service = new Service();
    const first = await service.grant();
    service.nowMs = START + 179_999;
    expect(service.tokens.peek("k")).toBe(first);
    expect(service.asked).toBe(1);
    service.nowMs = START + 180_000;
    expect(service.tokens.peek("k")).toBe(first);
    expect(service.tokens.peek("k")).toBe(first);
    expect(service.asked).toBe(2);
    const second = service.fresh();
    service.answer({ ok: true, value: second });
    await Promise.resolve();
    await Promise.resolve();
    expect(service.tokens.peek("k")).toBe(second);
  });

  test("one that nobody uses is not renewed, and not begun with at its end", async () => {
    const service = new Service();
    await service.grant();
    service.nowMs = START + 298_500;
    expect(service.asked).toBe(1);
    expect(service.tokens.peek("k")).toBeUndefined();
    expect(service.asked).toBe(2);
  });

  test("while the token service is away the token lasts until its end, and is asked for ever more slowly", async () => {
    const service = new Service();
    const first = await service.grant();
    for (service.nowMs = START + 180_000; service.nowMs < START + 298_000; service.nowMs += 100) {
      const before = service.asked;
      expect(service.tokens.peek("k")).toBe(first);
      if (service.asked === before) continue;
      service.answer(refusal(true));
      await Promise.resolve();
      await Promise.resolve();
    }
    expect(service.asked).toBeGreaterThan(8);
    expect(service.asked).toBeLessThan(30);
    service.nowMs = START + 300_000;
    expect(service.tokens.peek("k")).toBeUndefined();
  });

  test("a refusal for good ends what was held, and is not asked for again at once", async () => {
    const service = new Service();
    await service.grant();
    service.nowMs = START + 180_000;
    service.tokens.peek("k");
    service.answer(refusal(false));
    await Promise.resolve();
    await Promise.resolve();
    expect(service.tokens.peek("k")).toBeUndefined();
    expect(await service.get()).toMatchObject({ ok: false, error: { reason: "REVOKED" } });
    expect(service.tokens.refused("k")?.reason).toBe("REVOKED");
    expect(service.asked).toBe(2);
    service.nowMs += 10_000;
    expect(service.tokens.refused("k")).toBeUndefined();
    void service.get();
    expect(service.asked).toBe(3);
  });

  test("a context of the same subject is another token, and each subject has few of them", async () => {
    const service = new Service();
    for (let i = 0; i < 100; i++) {
      const waiting = service.tokens.get("k", `10.0.0.${i}`, service.mint);
      service.answer({ ok: true, value: service.fresh() });
      await waiting;
    }
    expect(service.asked).toBe(100);
    expect(service.tokens.size).toBe(16);
    expect(service.tokens.peek("k", "10.0.0.99")).toBeDefined();
    expect(service.tokens.peek("k", "10.0.0.83")).toBeUndefined();
    service.tokens.drop("k");
    expect(service.tokens.size).toBe(0);
  });

  test("the oldest of too many subjects is forgotten, and asked for again when it comes back", async () => {
    const service = new Service();
    const tokens = new MintedTokens(
      { nowMs: () => service.nowMs, random: () => 0 },
      { maxSubjects: 10, maxContexts: 2 },
    );
    for (let i = 0; i < 11; i++) {
      const waiting = tokens.get(`k${i}`, "c", service.mint);
      service.answer({ ok: true, value: service.fresh() });
      await waiting;
    }
    expect(tokens.size).toBe(10);
    expect(tokens.peek("k0", "c")).toBeUndefined();
    const again = tokens.get("k0", "c", service.mint);
    service.answer({ ok: true, value: service.fresh() });
    expect((await again).ok).toBe(true);
  });

  test("a token from the future, after a clock was set back, is neither used nor kept", async () => {
    const service = new Service();
    service.nowMs = START + 3_600_000;
    const future = await service.grant();
    service.nowMs -= 60_000;
    expect(service.tokens.peek("k")).toBe(future);
    service.nowMs -= 1_000;
    expect(service.tokens.peek("k")).toBeUndefined();
    service.nowMs = START;
    const now = await service.grant();
    expect(service.asked).toBe(2);
    expect(service.tokens.peek("k")).toBe(now);
    expect(service.tokens.size).toBe(1);
  });

  test("a refusal does not stand for the hour by which a clock was set back", async () => {
    const service = new Service();
    service.nowMs = START + 3_600_000;
    const waiting = service.get();
    service.answer(refusal(false));
    await waiting;
    expect(service.tokens.refused("k")?.reason).toBe("REVOKED");
    service.nowMs = START;
    expect(service.tokens.refused("k")).toBeUndefined();
    const held = await service.grant();
    expect(service.tokens.peek("k")).toBe(held);
  });

  test("forgets what is over", async () => {
    const service = new Service();
    for (let i = 0; i < 50; i++) {
      const waiting = service.tokens.get(`k${i}`, "", service.mint);
      service.answer({ ok: true, value: service.fresh() });
      await waiting;
    }
    expect(service.tokens.size).toBe(50);
    service.nowMs += 600_000;
    void service.get();
    expect(service.tokens.size).toBe(1);
  });

  test("asks for another token before its time when told to, and goes on with the one that is held", async () => {
    const service = new Service();
    service.tokens.renew("k");
    const first = await service.grant();
    service.tokens.renew("k");
    service.tokens.renew("k");
    expect(service.asked).toBe(2);
    expect(service.tokens.peek("k")).toBe(first);
    service.answer(refusal(true));
    await Promise.resolve();
    expect(service.tokens.peek("k")).toBe(first);
  });
});
