// Cookie fields from random and mutated pairs: a session is found only where the very pair stands there, once, and nothing
// that is ours goes on to an application.
import fc from "fast-check";
import { createSessionId, GatewayCookies } from "../../../../../sidecar/gateway/session/cookies.ts";

const NAME = "__Host-countersign";

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const cookies = new GatewayCookies("countersign");
  const ids = [createSessionId(), createSessionId()];
  const space = fc.constantFrom("", " ", "\t", "\u00a0", "\u0085", "\u000b", "\ufeff", "\u2000", "  ");
  const name = fc.oneof(
    fc.constantFrom(NAME, NAME.toLowerCase(), `${NAME}-login-x`, `${NAME}-tries`, `${NAME}ed`, "", "a", "="),
    fc.string({ maxLength: 6 }),
  );
  const value = fc.oneof(
    fc.constantFrom(...ids, "", `"${ids[0]}"`),
    fc.string({ unit: "binary", maxLength: 60 }),
  );
  const pair = fc
    .tuple(space, name, space, fc.constantFrom("=", "", "=="), space, value, space)
    .map((parts) => parts.join(""));
  const field = fc.array(pair, { maxLength: 12 }).map((pairs) => pairs.join(";"));
  let cases = 0;
  fc.assert(
    fc.property(fc.oneof(field, fc.string({ unit: "binary" })), (text) => {
      cases++;
      const { id, isOdd, own, forwarded } = cookies.read(text);
      const strict = text
        .split(";")
        .map((each) => each.replace(/^[ \t]+|[ \t]+$/g, "").replace(/[ \t]*=[ \t]*/, "="));
      if (id !== undefined) {
        if (isOdd || !strict.includes(`${NAME}=${id}`)) throw new Error(`found ${id}`);
        if (strict.some((each) => each.startsWith(`${NAME}=`) && each !== `${NAME}=${id}`))
          throw new Error("found one of two");
      }
      for (const each of (forwarded ?? "").split("; "))
        if (/^__host-countersign(?:-|=|$)/i.test(each)) throw new Error(`forwarded ${each}`);
      for (const [key, held] of own)
        if (held !== "" && !strict.includes(`${NAME}-${key}=${held}`)) throw new Error(`own ${key}`);
      cookies.isOurs(text);
    }),
    {
      seed: options.seed,
      interruptAfterTimeLimit: options.seconds * 1000,
      numRuns: 100_000_000,
      markInterruptAsFailure: false,
    },
  );
  return { cases };
}
