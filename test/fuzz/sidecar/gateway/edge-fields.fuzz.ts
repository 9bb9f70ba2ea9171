// Fields and forwarding chains from outside: what goes on names nobody, and no address counts that a trusted hop did not see.
import fc from "fast-check";
import { foldFieldName, IDENTITY_FIELDS } from "../../../../sidecar/core/http/headers.ts";
import { parseIp } from "../../../../sidecar/core/policy/cidr.ts";
import { anomalyOf, EdgeFieldNames, forwardedFields } from "../../../../sidecar/gateway/edge-fields.ts";
import { clientOf, TrustedHops } from "../../../../sidecar/gateway/source-address.ts";
import { createField } from "../../../../sidecar/wire/field.ts";

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const names = new EdgeFieldNames();
  const hops = new TrustedHops(["10.0.0.0/8", "fd00::/8"]);
  const known = fc.constantFrom(
    ...IDENTITY_FIELDS,
    "x-forwarded-for",
    "forwarded",
    "traceparent",
    "cookie",
    "accept",
  );
  const folded = fc
    .tuple(known, fc.constantFrom("_", ".", "-"))
    .map(([name, by]) => name.replaceAll("-", by));
  const name = fc.oneof(folded, fc.stringMatching(/^[a-z0-9_.!#$%&'*+^`|~-]{1,20}$/));
  const address = fc.oneof(
    fc.ipV4(),
    fc.ipV6(),
    fc.constantFrom("10.0.0.7", "fd00::7", "unknown", "[::1]:80", "1.2.3.4:5", "::ffff:10.0.0.7", ""),
    fc.string({ maxLength: 8 }),
  );
  let cases = 0;
  fc.assert(
    fc.property(
      fc.array(fc.tuple(name, fc.string({ maxLength: 10 })), { maxLength: 10 }),
      fc.array(address, { maxLength: 40 }),
      fc.boolean(),
      (pairs, addresses, isTrustedHop) => {
        cases++;
        const kept = forwardedFields({
          ...{ fields: pairs.map(([each, value]) => createField(each, value)), isTrustedHop, names },
          ...{ dropsAuthorization: true, onAnomaly: () => {} },
        });
        for (const { name: each } of kept)
          if (IDENTITY_FIELDS.has(foldFieldName(each)) || anomalyOf(each) !== undefined || each === "cookie")
            throw new Error(`${each} goes on`);
        const client = hops.client("10.0.0.1", addresses.join(","));
        if (parseIp(client) === undefined) throw new Error(`${client} is no address`);
        // What stands left of the first one that is no trusted hop, from the right, is anybody's word.
        const right = addresses
          .join(",")
          .split(",")
          .map((each) => each.trim())
          .reverse();
        const last = right.find((each) => parseIp(each) === undefined || !hops.isTrusted(each));
        if (last !== undefined && parseIp(last) !== undefined && addresses.length <= 32 && client !== last)
          throw new Error(`${client} is not ${last}`);
        clientOf(client);
      },
    ),
    {
      seed: options.seed,
      interruptAfterTimeLimit: options.seconds * 1000,
      numRuns: 100_000_000,
      markInterruptAsFailure: false,
    },
  );
  return { cases };
}
