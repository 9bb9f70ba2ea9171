// Certificates from random and mutated bytes: parseSvid always answers, never throws, and never finds facts in bytes
// that OpenSSL reads otherwise (in production it has taken the certificate before us).
import { X509Certificate } from "node:crypto";
import fc from "fast-check";
import { parseSvid } from "../../../../../sidecar/core/identity/svid.ts";
import { createTestAuthority, issueTestIdentity, testId } from "../../../../fakes/authority.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");

function read(bytes: Buffer): X509Certificate | undefined {
  try {
    return new X509Certificate(bytes);
  } catch {
    return undefined;
  }
}

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const authority = await createTestAuthority(NOW);
  const good = new X509Certificate(issueTestIdentity(authority, testId("a"), NOW).certificateChainPem).raw;
  await authority.close();
  const mutated = fc
    .array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
    .map((changes) => {
      const bytes = Buffer.from(good);
      for (const [at, value] of changes) bytes[at] = value;
      return bytes;
    });
  const cut = fc
    .tuple(fc.nat(good.length), fc.uint8Array({ maxLength: 8 }))
    .map(([at, tail]) => Buffer.concat([good.subarray(0, at), tail]));
  const random = fc.uint8Array({ maxLength: 600 }).map((bytes) => Buffer.from(bytes));
  let cases = 0;
  fc.assert(
    fc.property(fc.oneof(mutated, cut, random), (bytes) => {
      cases++;
      const result = parseSvid(bytes);
      if (!result.ok) return;
      const certificate = read(bytes);
      if (certificate === undefined) return;
      if (certificate.raw.length !== bytes.length || certificate.ca)
        throw new Error("facts of what is no leaf");
      if (!certificate.subjectAltName?.includes(result.value.spiffeId))
        throw new Error("another name than OpenSSL reads");
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
