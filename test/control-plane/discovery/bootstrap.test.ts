// The bootstrap port as a stranger meets it: what it takes, what it tells, and how often it may be asked.
import { createSecureContext } from "node:tls";
import { Client, credentials, Metadata, makeGenericClientConstructor, status } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { type JoinProof, JoinRefusal } from "../../../control-plane/attestation/refusal.ts";
import { createServerIdentity } from "../../../control-plane/ca/server-identity.ts";
import {
  type BootstrapServer,
  type BootstrapServerOptions,
  createBootstrapServer,
} from "../../../control-plane/discovery/bootstrap.ts";
import { LiveCredentials } from "../../../control-plane/discovery/credentials.ts";
import type { BootstrapClient } from "../../../proto/gen/countersign/mesh/v1/Bootstrap.ts";
import type { JoinRequest } from "../../../proto/gen/countersign/mesh/v1/JoinRequest.ts";
import { serviceDefinition } from "../../../proto/load.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { CHANNEL_OPTIONS } from "../../../sidecar/discovery/stream.ts";
import { createTestAuthority, type TestAuthority } from "../../fakes/authority.ts";
import { FakeClock } from "../../fakes/clock.ts";

const NOW = Date.now();
const REQUEST = { csrDer: Buffer.from("csr"), tokenJwk: "{}", tokenKeyProof: Buffer.from("p") };
let authority: TestAuthority;
let server: BootstrapServer;
let client: BootstrapClient;
let join: BootstrapServerOptions["join"];
const clock = new FakeClock(0);
const log: string[] = [];

beforeAll(async () => {
  authority = await createTestAuthority(NOW);
  const identity = createServerIdentity(authority.ca, NOW);
  server = await createBootstrapServer({
    host: "127.0.0.1",
    port: 0,
    credentials: new LiveCredentials({ ...identity, rootsPem: identity.caPem }, false),
    join: (proof, request) => join(proof, request),
    clock,
    log: createLogger("debug", {}, (line) => log.push(line)),
  });
  const Bootstrap = makeGenericClientConstructor(
    serviceDefinition("countersign.mesh.v1.Bootstrap") as never,
    "Bootstrap",
  );
  client = new Bootstrap(
    `127.0.0.1:${server.port}`,
    credentials.createFromSecureContext(createSecureContext({ ca: authority.bundle.caPem }), {
      checkServerIdentity: () => undefined,
    }),
    CHANNEL_OPTIONS,
  ) as unknown as BootstrapClient;
});
afterAll(async () => {
  client.close();
  const closed = server.close(0);
  clock.advance(1);
  await closed;
  await authority.close();
});

function ask(request: JoinRequest): Promise<{ readonly code: number; readonly text: string }> {
  return new Promise((resolve) => {
    client.join(request, new Metadata(), { deadline: Date.now() + 60_000 }, (error, value) =>
      resolve(error ? { code: error.code, text: error.details } : { code: 0, text: String(value?.spiffeId) }),
    );
  });
}

const refusing = (code: JoinRefusal["code"]): BootstrapServerOptions["join"] => {
  // Holds for every code a JoinRefusal can be made with.
  const known = code as ConstructorParameters<typeof JoinRefusal>[0];
  return async () => ({ ok: false, error: new JoinRefusal(known, "only for the log", "for the caller") });
};

describe("the bootstrap port", () => {
  test.each([
    { name: "a join token", asked: { joinToken: "j" }, kind: "join-token", token: "j" },
    {
      name: "a ServiceAccount token",
      asked: { serviceAccountToken: "a.b.c" },
      kind: "service-account-token",
      token: "a.b.c",
    },
  ])("hands on $name and answers with the identity", async ({ asked, kind, token }) => {
    const seen: unknown[] = [];
    join = async (proof) => {
      seen.push(proof);
      return { ok: true, value: { spiffeId: "spiffe://lake.example/x" } };
    };
    expect(await ask({ ...asked, request: REQUEST })).toEqual({ code: 0, text: "spiffe://lake.example/x" });
    expect(seen).toEqual([{ kind, token }]);
  });

  test.each([
    { name: "no proof", asked: { request: REQUEST } },
    { name: "no request", asked: { joinToken: "j" } },
    { name: "an endless join token", asked: { joinToken: "j".repeat(257), request: REQUEST } },
    {
      name: "an endless ServiceAccount token",
      asked: { serviceAccountToken: "a".repeat(16_385), request: REQUEST },
    },
  ])("refuses $name without looking at it", async ({ asked }) => {
    clock.advance(10_000);
    join = async () => {
      throw new Error("looked at");
    };
    expect(await ask(asked)).toMatchObject({ code: status.INVALID_ARGUMENT });
  });

  test.each([
    { code: "csr_rejected", answers: status.INVALID_ARGUMENT },
    { code: "join_rejected", answers: status.UNAUTHENTICATED },
    { code: "unsupported", answers: status.UNIMPLEMENTED },
    { code: "not_ready", answers: status.UNAVAILABLE },
    { code: "io_failed", answers: status.UNAVAILABLE },
  ] as const)(
    "tells the caller of `$code` what it may know, and the log the rest",
    async ({ code, answers }) => {
      clock.advance(10_000);
      log.length = 0;
      join = refusing(code);
      expect(await ask({ serviceAccountToken: "a.b.c", request: REQUEST })).toEqual({
        code: answers,
        text: "for the caller",
      });
      expect(log.join("")).toContain("only for the log");
      expect(log.join("")).not.toContain("a.b.c");
    },
  );

  test("tells nothing of its own failures", async () => {
    clock.advance(10_000);
    join = async () => {
      throw new Error("disk /var is full");
    };
    expect(await ask({ joinToken: "j", request: REQUEST })).toEqual({
      code: status.UNAVAILABLE,
      text: "the control plane failed, try again",
    });
  });

  test("survives any bytes, and hands on nothing that has no proof in it", async () => {
    const raw = new Client(
      `127.0.0.1:${server.port}`,
      credentials.createFromSecureContext(createSecureContext({ ca: authority.bundle.caPem }), {
        checkServerIdentity: () => undefined,
      }),
      CHANNEL_OPTIONS,
    );
    const proofs: JoinProof[] = [];
    join = async (proof) => {
      proofs.push(proof);
      return { ok: false, error: new JoinRefusal("join_rejected", "no") };
    };
    const send = (bytes: Uint8Array): Promise<number> =>
      new Promise((resolve) => {
        raw.makeUnaryRequest(
          "/countersign.mesh.v1.Bootstrap/Join",
          (value: Uint8Array) => Buffer.from(value),
          (value) => value,
          bytes,
          new Metadata(),
          { deadline: Date.now() + 60_000 },
          (error) => resolve(error?.code ?? 0),
        );
      });
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.uint8Array({ maxLength: 200 }),
          // Fields of the message with noise in them.
          fc
            .tuple(fc.constantFrom(0x0a, 0x12, 0x1a), fc.uint8Array({ maxLength: 100 }))
            .map(([tag, noise]) => Uint8Array.of(tag, noise.length, ...noise)),
        ),
        async (bytes) => {
          clock.advance(1_000);
          expect([status.INVALID_ARGUMENT, status.UNAUTHENTICATED, status.INTERNAL]).toContain(
            await send(bytes),
          );
        },
      ),
      { numRuns: 200 },
    );
    raw.close();
    for (const { kind, token } of proofs) {
      expect(["join-token", "service-account-token"]).toContain(kind);
      expect(token).not.toBe("");
    }
    clock.advance(60_000);
    expect(await ask({ joinToken: "j", request: REQUEST })).toMatchObject({ code: status.UNAUTHENTICATED });
  });

  test("lets one address ask 50 times at once and 10 times a second", async () => {
    clock.advance(60_000);
    join = refusing("join_rejected");
    const burst = await Promise.all(
      Array.from({ length: 60 }, () => ask({ serviceAccountToken: "a.b.c", request: REQUEST })),
    );
    expect(burst.filter(({ code }) => code === status.RESOURCE_EXHAUSTED)).toHaveLength(10);
    clock.advance(1_000);
    const later = await Promise.all(
      Array.from({ length: 20 }, () => ask({ serviceAccountToken: "a.b.c", request: REQUEST })),
    );
    expect(later.filter(({ code }) => code === status.RESOURCE_EXHAUSTED)).toHaveLength(10);
  });
});
