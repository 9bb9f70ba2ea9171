// Bodies of token requests from random text and fields: they are read or refused, nothing else is thrown.
import fc from "fast-check";
import { TokenRefusal } from "../../../../control-plane/tokens/refusal.ts";
import {
  checkFields,
  optionalObject,
  optionalText,
  parseTokenRequest,
  requiredText,
} from "../../../../control-plane/tokens/request-body.ts";
import { clientAddress } from "../../../../control-plane/tokens/sessions.ts";

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const name = fc.constantFrom("scope", "handle", "request_context", "__proto__", "constructor", "x");
  const json = fc.oneof(
    fc.dictionary(name, fc.jsonValue()).map((value) => JSON.stringify(value)),
    fc.json(),
    fc.string(),
  );
  const form = fc
    .array(fc.tuple(name, fc.oneof(fc.string(), fc.json())), { maxLength: 5 })
    .map((pairs) => new URLSearchParams(pairs).toString());
  const type = fc.constantFrom(
    "application/json",
    "application/x-www-form-urlencoded; charset=utf-8",
    "x",
    undefined,
  );
  let cases = 0;
  fc.assert(
    fc.property(type, fc.oneof(json, form), (contentType, text) => {
      cases++;
      try {
        const request = parseTokenRequest(contentType, Buffer.from(text));
        for (const read of [
          () => optionalText(request, "scope"),
          () => requiredText(request, "handle"),
          () => optionalObject(request, "request_context"),
          () => clientAddress(request, "request_context"),
          () => checkFields(request, ["scope"]),
        ])
          try {
            read();
          } catch (error) {
            if (!(error instanceof TokenRefusal)) throw error;
          }
      } catch (error) {
        if (!(error instanceof TokenRefusal)) throw error;
      }
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
