// Decisions per second beside cedar (WebAssembly) and casbin on the same policies and calls; growth from 10 to 10 000
// policies; and the compiler. No verdicts are cached: calls are random, medians are of batches.
import { preparsePolicySet, statefulIsAuthorized } from "@cedar-policy/cedar-wasm/nodejs";
import { newEnforcer, newModelFromString } from "casbin";
import { decide } from "../../../sidecar/core/policy/decide.ts";
import { type BenchRow, median, row } from "../measure.ts";
import { benchCompile } from "./compile.ts";
import {
  type CallFacts,
  callsOf,
  type Layout,
  ownCalls,
  ownForms,
  ownPrograms,
  type PolicyFacts,
  policiesOf,
} from "./worlds.ts";

const SIZES = [10, 100, 1_000, 10_000];

/** One decision on call `index`. */
type Decider = (index: number) => boolean;

function ours(policies: readonly PolicyFacts[], calls: readonly CallFacts[]): Decider {
  const programs = ownPrograms(ownForms(policies));
  const prepared = ownCalls(calls).map(({ target, call }) => {
    const program = programs.get(target);
    if (program === undefined) throw new Error(`no program of ${target}`);
    return { program, call };
  });
  return (index) => {
    const one = prepared[index];
    return one !== undefined && decide(one.program, one.call).allowed;
  };
}

/** What the input costs without an engine: reads of a call, its caller and operation what every decision reads. */
function inputAlone(calls: readonly CallFacts[]): Decider {
  const prepared = ownCalls(calls).map(({ call }, index) => ({
    call,
    answer: calls[index]?.allowed === true,
  }));
  return (index) => {
    const one = prepared[index];
    if (one === undefined) return false;
    const { caller, operation, via, scope, user } = one.call;
    if (!caller.authenticated || !caller.local || via.length > 4 || scope !== undefined) return false;
    return operation.kind === "known" && operation.name.length > 0 && user === undefined && one.answer;
  };
}

function cedar(policies: readonly PolicyFacts[], calls: readonly CallFacts[], id: string): Decider {
  const text = policies
    .map(
      (policy) =>
        `permit(principal == Workload::"${policy.namespace}/${policy.caller}", action == Action::"${policy.operation}", resource == Target::"${policy.target}");`,
    )
    .join("\n");
  const parsed = preparsePolicySet(id, { staticPolicies: text });
  if (parsed.type !== "success") throw new Error(`cedar refuses the policies: ${JSON.stringify(parsed)}`);
  const prepared = calls.map((call) => ({
    principal: { type: "Workload", id: `${call.namespace}/${call.caller}` },
    action: { type: "Action", id: call.operation },
    resource: { type: "Target", id: call.target },
    context: {},
    entities: [],
    preparsedPolicySetId: id,
  }));
  return (index) => {
    const one = prepared[index];
    if (one === undefined) return false;
    const answer = statefulIsAuthorized(one);
    return answer.type === "success" && answer.response.decision === "allow";
  };
}

async function casbin(policies: readonly PolicyFacts[], calls: readonly CallFacts[]): Promise<Decider> {
  const enforcer = await newEnforcer(
    newModelFromString(`[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.sub == p.sub && r.obj == p.obj && r.act == p.act
`),
  );
  await enforcer.addPolicies(
    policies.map((policy) => [`${policy.namespace}/${policy.caller}`, policy.target, policy.operation]),
  );
  return (index) => {
    const one = calls[index];
    return (
      one !== undefined && enforcer.enforceSync(`${one.namespace}/${one.caller}`, one.target, one.operation)
    );
  };
}

/** Median nanoseconds of one decision over batches; checks every answer of one pass first. */
function measure(
  name: string,
  decider: Decider,
  calls: readonly CallFacts[],
  batch: number,
  batches: number,
): number {
  for (const [index, call] of calls.slice(0, batch).entries())
    if (decider(index) !== call.allowed) throw new Error(`${name} is wrong on ${JSON.stringify(call)}`);
  const times: number[] = [];
  let allowed = 0;
  for (let round = 0; round < batches; round++) {
    const first = (round * batch) % Math.max(1, calls.length - batch + 1);
    const started = process.hrtime.bigint();
    for (let index = first; index < first + batch; index++) if (decider(index)) allowed += 1;
    times.push(Number(process.hrtime.bigint() - started) / batch);
  }
  if (allowed === 0) throw new Error(`${name} allowed nothing`);
  return median(times);
}

/** One decider with its calls, and the microseconds of one decision that each round measured. */
interface Sampled {
  readonly name: string;
  readonly decider: Decider;
  readonly calls: readonly CallFacts[];
  readonly samples: number[];
}

/**
 * Measures all of them in turn, after all of them are warm: one after the other to its end, the first would be measured
 * on code that is still being optimised, and the growth from it would look smaller than it is.
 */
function measureInTurn(all: readonly Sampled[], rounds: number): void {
  for (const { name, decider, calls } of all) measure(`${name} (warm-up)`, decider, calls, 10_000, 20);
  for (let round = 0; round < rounds; round++)
    for (const { name, decider, calls, samples } of all)
      samples.push(measure(name, decider, calls, 1000, 60) / 1000);
}

/** Median milliseconds of building the programs of a layout; the first, cold, is what a starting sidecar waits for. */
function buildMs(policies: readonly PolicyFacts[], rounds: number): { first: number; median: number } {
  const forms = ownForms(policies);
  const times = Array.from({ length: rounds }, () => {
    const started = performance.now();
    ownPrograms(forms);
    return performance.now() - started;
  });
  return { first: times[0] ?? Number.NaN, median: median(times) };
}

const OWN_LAYOUTS = ["one target", "spread, in one sidecar", "spread, by sidecar", "spread"] as const;
type OwnLayout = (typeof OWN_LAYOUTS)[number];

interface OwnCase {
  readonly name: string;
  readonly layout: OwnLayout;
  readonly size: number;
  readonly built: { readonly first: number; readonly median: number };
  readonly input: Sampled;
  readonly own: Sampled;
}

/**
 * Growth from 10 to 10 000 policies, and what of it is not the engine. `spread, in one sidecar` is what runs where the
 * policies of a mesh are spread: a process has the program of its own target and decides on calls to that. `spread` mixes
 * the calls of a hundred targets in one process, which no sidecar sees; `spread, by sidecar` has those of a target together.
 */
function benchOwn(options: { readonly rounds: number; readonly say: (text: string) => void }): BenchRow[] {
  const rows: BenchRow[] = [];
  const measured = OWN_LAYOUTS.flatMap((layout) =>
    SIZES.map((size) => ownCase(layout, size, options.rounds)),
  );
  measureInTurn(
    measured.flatMap(({ input, own }) => [input, own]),
    // Rounds are cheap here, and a neighbour on the machine takes some of them.
    3 * options.rounds,
  );
  for (const { name, input, own, built } of measured) {
    const [time, alone] = [median(own.samples), median(input.samples)];
    rows.push(
      row("decisions", `${name}: decision p50 beside reading its input`, time, "µs", {
        name: "input alone",
        value: alone,
      }),
      row("decisions", `${name}: building the programs`, built.median, "ms", {
        name: "the first time",
        value: built.first,
      }),
    );
    options.say(
      `${name}: ${time.toFixed(3)} µs, of it input ${alone.toFixed(3)} µs; programs built in ${built.median.toFixed(1)} ms, first ${built.first.toFixed(1)} ms`,
    );
  }
  for (const layout of OWN_LAYOUTS) {
    const at = (size: number): number => {
      const one = measured.find((other) => other.layout === layout && other.size === size);
      return median(one?.own.samples ?? []);
    };
    rows.push(
      row("decisions", `${layout}: p50 at 10 000 policies beside 10`, at(10_000), "µs", {
        name: "countersign at 10 policies",
        value: at(10),
      }),
    );
    options.say(`${layout}: growth from 10 to 10 000 policies ${(at(10_000) / at(10)).toFixed(2)} times`);
  }
  return rows;
}

function ownCase(layout: OwnLayout, size: number, rounds: number): OwnCase {
  const name = `${size} policies, ${layout}`;
  const policies = policiesOf(size, layout === "one target" ? "one target" : "spread");
  const built = buildMs(policies, rounds);
  const known =
    layout === "spread, in one sidecar" ? policies.filter(({ target }) => target === "t0") : policies;
  const random = callsOf(known, 20_000);
  const calls =
    layout === "spread, by sidecar"
      ? [...Map.groupBy(random, (call) => call.target).values()].flat()
      : random;
  return {
    name,
    layout,
    size,
    built,
    input: { name: `${name}: the input alone`, decider: inputAlone(calls), calls, samples: [] },
    own: { name: `${name}: countersign`, decider: ours(known, calls), calls, samples: [] },
  };
}

export async function benchDecisions(options: {
  readonly rounds: number;
  readonly say: (text: string) => void;
}): Promise<BenchRow[]> {
  // Ours first: cedar and casbin leave a large heap behind.
  const rows: BenchRow[] = [...benchCompile(options), ...benchOwn(options)];
  for (const layout of ["one target", "spread"] satisfies Layout[]) {
    for (const size of SIZES) {
      const policies = policiesOf(size, layout);
      const calls = callsOf(policies, 20_000);
      const deciders: [string, Decider, number, number][] = [
        ["countersign", ours(policies, calls), 1000, 60],
        ["cedar", cedar(policies, calls, `${layout} ${size}`), size >= 10_000 ? 10 : 100, 6],
        ["casbin", await casbin(policies, calls), size >= 10_000 ? 4 : 40, 6],
      ];
      measure("countersign (warm-up)", ours(policies, calls), calls, 10_000, 20);
      const samples = new Map<string, number[]>(deciders.map(([name]) => [name, []]));
      for (let round = 0; round < options.rounds; round++)
        for (const [name, decider, batch, batches] of deciders)
          samples.get(name)?.push(measure(name, decider, calls, batch, batches));
      const of = (name: string) => median(samples.get(name) ?? []) / 1000;
      for (const peer of ["cedar", "casbin"])
        rows.push(
          row("decisions", `${size} policies, ${layout}: decision p50`, of("countersign"), "µs", {
            name: peer,
            value: of(peer),
          }),
        );
      options.say(
        `${layout}, ${size} policies: countersign ${of("countersign").toFixed(3)} µs, cedar ${of("cedar").toFixed(1)} µs, casbin ${of("casbin").toFixed(1)} µs`,
      );
    }
  }
  return rows;
}

// Ours alone, for a change of the engine: `node test/bench/decisions/decisions.ts`.
if (process.argv[1]?.endsWith("decisions.ts") === true)
  benchOwn({ rounds: 3, say: (text) => void process.stdout.write(`${text}\n`) });
