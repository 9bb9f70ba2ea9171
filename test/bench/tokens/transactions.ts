// What a call on somebody's behalf costs in the callee's sidecar, beside one on nobody's: the whole inbound stage without
// sockets (verification, revocation, chain, decision, audit line, correlation), the same calls with and without token.
import type { HeldTxn } from "../../../sidecar/core/identity/held-txn.ts";
import { ProofSigner } from "../../../sidecar/core/identity/proofs.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { createField, type Field } from "../../../sidecar/wire/field.ts";
import { createTestAuthority, issueTestIdentity, type TestAuthority } from "../../fakes/authority.ts";
import { InboundStage } from "../../fakes/inbound-stage.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";
import { idOf, type ServiceSpec, table } from "../../integration/sidecar/world.ts";
import { atMost, type BenchRow, median, row } from "../measure.ts";

const MODEL: ServiceSpec = { namespace: "ml", kind: "serving", name: "model", ports: [8080] };
const PEOPLE = 100;
const BATCH_MS = 25;

const ALLOW: ProgramPolicy = {
  id: "ml/all",
  name: "all",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [{ name: "all", from: [{ any: true }], operations: [{ any: true }] }],
};

type Head = readonly Field[];

/** Calls of one notebook: of each person, and as many of nobody. */
class Calls {
  readonly #authority: TestAuthority;
  readonly #service = new TestTokenService();
  readonly #nowMs: number;
  readonly #caller;
  readonly stage: InboundStage;
  #made = 0;

  constructor(authority: TestAuthority, nowMs: number) {
    this.#authority = authority;
    this.#nowMs = nowMs;
    this.#caller = issueTestIdentity(authority, idOf("lab", "notebook", "nb"), nowMs);
    const bundle = this.#service.bundle(this.#authority.bundle);
    this.stage = new InboundStage({
      table: table({ self: MODEL, policies: [ALLOW], bundle: bundle.json }),
      ...{ bundle, caller: this.#caller, nowMs },
    });
  }

  /** A head that was not seen before. @param person undefined: on nobody's behalf. */
  head(person: string | undefined): Head {
    const number = this.#made++;
    const txn = person === undefined ? undefined : this.#tokenOf(person, number);
    const signer = new ProofSigner({
      identity: () => this.#caller,
      nowMs: () => this.#nowMs,
      randomId: () => `j-${number}`,
    });
    const { wit, wpt } = signer.proof({
      audience: idOf("ml", "serving", "model"),
      operation: "thing.read",
      packsDigest: this.stage.enforcement.onlyPort?.packsDigest ?? "",
      via: [],
      tth: txn?.tth,
    });
    const trace = number.toString(16).padStart(32, "0").replace(/^0/, "1");
    return [
      createField(":method", "GET"),
      createField(":scheme", "http"),
      createField(":path", "/things/a"),
      createField(":authority", "model.ml:8080"),
      createField("traceparent", `00-${trace}-00f067aa0ba902b7-01`),
      createField("workload-identity-token", wit),
      createField("workload-proof-token", wpt),
      ...(txn === undefined ? [] : [createField("txn-token", txn.token)]),
    ];
  }

  #tokenOf(person: string, number: number): HeldTxn {
    const reqWl = idOf("lab", "notebook", "nb");
    return this.#service.held(txnClaims(person, this.#nowMs, { reqWl, txn: `txn-${number}` }));
  }
}

/** Calls over and over for a while. @returns microseconds per call. */
function repeat({ stage }: Calls, heads: readonly Head[]): number {
  const before = stage.forwarded;
  const startedMs = performance.now();
  let count = 0;
  let tookMs = 0;
  do {
    for (const head of heads) stage.call(head, undefined);
    count += heads.length;
    tookMs = performance.now() - startedMs;
  } while (tookMs < BATCH_MS);
  if (stage.forwarded - before !== count) throw new Error("a call was not allowed");
  return (tookMs * 1_000) / count;
}

/** Each head once. @returns microseconds per call. */
function once({ stage }: Calls, heads: readonly Head[]): number {
  const startedMs = performance.now();
  for (const head of heads) stage.call(head, undefined);
  return ((performance.now() - startedMs) * 1_000) / heads.length;
}

const people = Array.from({ length: PEOPLE }, (_, index) => `person-${index}`);

export async function benchTransactions(options: {
  rounds: number;
  seconds: number;
  say: (text: string) => void;
}): Promise<BenchRow[]> {
  const nowMs = Date.now();
  const authority = await createTestAuthority(nowMs);
  try {
    const calls = new Calls(authority, nowMs);
    const named = people.map((person) => calls.head(person));
    const unnamed = people.map(() => calls.head(undefined));
    const seen: Record<"named" | "unnamed", number[]> = { named: [], unnamed: [] };
    const fresh: typeof seen = { named: [], unnamed: [] };
    for (let warm = 0; warm < 20; warm++) for (const heads of [named, unnamed]) repeat(calls, heads);
    const pairs = Math.max(10, Math.floor((options.seconds * 1_000) / (2 * BATCH_MS)));
    for (let round = 0; round < options.rounds; round++) {
      for (let pair = 0; pair < pairs; pair++) {
        seen.named.push(repeat(calls, named));
        seen.unnamed.push(repeat(calls, unnamed));
      }
      fresh.named.push(
        once(
          calls,
          people.map((person) => calls.head(person)),
        ),
      );
      fresh.unnamed.push(
        once(
          calls,
          people.map(() => calls.head(undefined)),
        ),
      );
      options.say(
        `round ${round + 1}: ${median(seen.named).toFixed(2)} µs with a token, ${median(seen.unnamed).toFixed(2)} µs without`,
      );
    }
    const differences = seen.named.map((one, index) => one - (seen.unnamed[index] ?? 0));
    const peer = (values: readonly number[]) => ({ name: "without Txn-Token", value: median(values) });
    return [
      row("transactions", "inbound call, token seen before", median(seen.named), "µs", peer(seen.unnamed)),
      row(
        "transactions",
        "what the token adds to it",
        median(differences),
        "µs",
        undefined,
        atMost("ours", 3, 1),
      ),
      row(
        "transactions",
        "inbound call, token and proof for the first time",
        median(fresh.named),
        "µs",
        peer(fresh.unnamed),
      ),
    ];
  } finally {
    await authority.close();
  }
}
