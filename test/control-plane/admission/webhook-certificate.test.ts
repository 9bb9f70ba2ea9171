import { X509Certificate } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import {
  createWebhookCertificate,
  runWebhookCertificate,
  type WebhookCertificate,
  webhookNames,
} from "../../../control-plane/admission/webhook-certificate.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { createTestAuthority, type TestAuthority } from "../../fakes/authority.ts";
import { FakeClock } from "../../fakes/clock.ts";

const NOW = Date.UTC(2026, 10, 21);
const HOUR = 3_600_000;
const log = createLogger("silent");
let authority: TestAuthority;
beforeAll(async () => {
  authority = await createTestAuthority(NOW);
});
afterAll(() => authority.close());

describe("the webhook's certificate", () => {
  test("names the Service, is for a server, leads to the mesh's root and is nobody in the mesh", async () => {
    const { ca } = authority;
    const made = await createWebhookCertificate(ca, webhookNames("mesh"), NOW);
    const [leaf = "", issuing = ""] =
      made.certificateChainPem.match(/-----BEGIN[\s\S]*?END CERTIFICATE-----/g) ?? [];
    const certificate = new X509Certificate(leaf);
    expect(certificate.subjectAltName).toBe(
      "DNS:countersign.mesh.svc, DNS:countersign.mesh.svc.cluster.local",
    );
    expect(certificate.ca).toBe(false);
    expect(certificate.keyUsage).toEqual(["1.3.6.1.5.5.7.3.1"]);
    const issuer = new X509Certificate(issuing);
    expect(certificate.checkIssued(issuer)).toBe(true);
    expect(certificate.verify(issuer.publicKey)).toBe(true);
    expect(issuer.checkIssued(ca.serverRoot)).toBe(true);
    expect(made.notAfterMs - NOW).toBe(24 * HOUR);
    expect(made.notBeforeMs).toBeLessThan(NOW);
  });

  test("never outlives what issued it", async () => {
    const serverIssuing = { ...authority.ca.serverIssuing, notAfterMs: NOW + HOUR };
    const made = await createWebhookCertificate({ serverIssuing }, ["a.b.svc"], NOW);
    expect(made.notAfterMs).toBe(NOW + HOUR);
  });

  test("is made anew at half of its life, and when the authority changes", async () => {
    const clock = new FakeClock(NOW);
    const stop = new AbortController();
    const { ca } = authority;
    const initial = await createWebhookCertificate(ca, ["a.b.svc"], NOW);
    const seen: WebhookCertificate[] = [];
    let next = Promise.withResolvers<WebhookCertificate>();
    const running = runWebhookCertificate(
      {
        ca,
        names: ["a.b.svc"],
        clock,
        random: () => 0.5,
        log,
        initial,
        onCertificate: (certificate) => {
          seen.push(certificate);
          next.resolve(certificate);
        },
      },
      stop.signal,
    );
    clock.advance(11 * HOUR);
    expect(seen).toEqual([]);
    clock.advance(2 * HOUR);
    expect((await next.promise).notAfterMs).toBe(NOW + 37 * HOUR);
    next = Promise.withResolvers();
    // A rotation begins: the roots of the bundle change, and with them, later, what signs.
    await ca.startRotation();
    expect((await next.promise).notAfterMs).toBe(NOW + 37 * HOUR);
    expect(seen).toHaveLength(2);
    stop.abort();
    await running;
  });
});
