// Peers that break the rules on every port of the control plane: each is told what is wrong, nothing crashes, and a
// sidecar that keeps to the rules notices nothing.

import { createPublicKey } from "node:crypto";
import { request } from "node:http";
import { createSecureContext } from "node:tls";
import { credentials, makeGenericClientConstructor } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { BootstrapClient } from "../../../proto/gen/countersign/mesh/v1/Bootstrap.ts";
import { serviceDefinition } from "../../../proto/load.ts";
import { createCertificateRequest, createKeys } from "../../../sidecar/certs/key-and-csr.ts";
import { signKeyProof } from "../../../sidecar/core/identity/key-proof.ts";
import { parseSvid } from "../../../sidecar/core/identity/svid.ts";
import { join as joinMesh } from "../../../sidecar/discovery/bootstrap.ts";
import { eventually, MESH_YAML, policyYaml, TestMesh, type TestSidecar } from "../../fakes/mesh.ts";
import { exchangeBytes, type PeerMaterial, RawPeer } from "../../fakes/raw-peer.ts";

let mesh: TestMesh;
let witness: TestSidecar;
let edits = 0;
beforeAll(async () => {
  mesh = new TestMesh();
  mesh.write("mesh.yaml", MESH_YAML);
  mesh.write("notebooks.yaml", policyYaml("notebooks", "scorer", "notebook"));
  await mesh.start();
  witness = await mesh.sidecar("serving/scorer");
  await witness.until(({ tables }) => tables.length === 1);
});
afterAll(() => mesh.close());

async function material(workload = "serving/scorer", ttlSeconds = 600): Promise<PeerMaterial> {
  const { body } = await mesh.api("POST", "/v1/identity-export", { workload, ttlSeconds });
  return {
    caPem: String(body["caPem"]),
    keyPem: String(body["keyPem"]),
    certificatePem: String(body["certificatePem"]),
  };
}

/** The witness never lost its stream, and still learns of an edit. */
async function allIsWell(): Promise<void> {
  const name = `edit-${edits++}`;
  mesh.write("edit.yaml", policyYaml(name, "scorer", "job"));
  await witness.until(
    ({ tables }) => tables.at(-1)?.program.policies.some((one) => one.name === name) === true,
  );
}

async function peer(): Promise<RawPeer> {
  return new RawPeer(mesh.handle.ports.discovery, await material());
}

const ackOf = (one: RawPeer, over: object = {}): object => {
  const last = one.messages.findLast((message) => message.delta?.last)?.delta;
  return { ack: { nonce: last?.nonce ?? 0, digest: last?.digest ?? Buffer.alloc(0), revision: 1, ...over } };
};
const deltas = (one: RawPeer): number => one.messages.filter((message) => message.delta?.last).length;

describe("discovery", () => {
  test.each<{ name: string; act: (one: RawPeer) => void | Promise<void>; says: RegExp }>([
    {
      name: "truncated protobuf",
      act: (one) => one.bytes(Buffer.from("0aff01", "hex")),
      says: /deserializing|INTERNAL|index out of range/i,
    },
    {
      name: "noise",
      act: (one) => one.bytes(Buffer.alloc(2_000, 0xff)),
      says: /deserializing|INTERNAL|invalid/i,
    },
    {
      name: "a message of 10 MB",
      act: (one) => one.bytes(Buffer.alloc(10_000_000)),
      says: /RESOURCE_EXHAUSTED.*larger than max/,
    },
    {
      name: "an empty message first",
      act: (one) => one.bytes(Buffer.alloc(0)),
      says: /^protocol: .*first message must be a hello/,
    },
    {
      name: "a case of the oneof that nobody knows, first",
      act: (one) => one.bytes(Buffer.from("7200", "hex")),
      says: /^protocol: /,
    },
    {
      name: "another protocol version",
      act: (one) => one.hello({ protocolVersion: 99 }),
      says: /^version: protocol version 99 is not served, use 1/,
    },
    {
      name: "a hello out of bounds",
      act: (one) => one.hello({ node: "x".repeat(300) }),
      says: /^protocol: hello is out of bounds/,
    },
    {
      name: "two hellos",
      act: (one) => {
        one.hello();
        one.hello();
      },
      says: /^protocol: a second hello/,
    },
    {
      name: "an acknowledgement of nothing",
      act: async (one) => {
        one.hello();
        await one.until((peer) => deltas(peer) === 1);
        one.send({ ack: { nonce: 4711, digest: Buffer.alloc(32) } });
      },
      says: /^protocol: acknowledgement of a delta that is not under way/,
    },
    {
      name: "an acknowledgement said twice",
      act: async (one) => {
        one.hello();
        await one.until((peer) => deltas(peer) === 1);
        one.send(ackOf(one));
        one.send(ackOf(one));
      },
      says: /^protocol: acknowledgement of a delta that is not under way/,
    },
    {
      name: "an acknowledgement with a wrong digest, and again after the whole table",
      act: async (one) => {
        one.hello();
        await one.until((peer) => deltas(peer) === 1);
        one.send(ackOf(one, { digest: Buffer.alloc(32, 1) }));
      },
      says: /^protocol: the acknowledged digest is not the one that was sent/,
    },
    {
      name: "a flood",
      act: (one) => {
        one.hello();
        for (let i = 0; i < 5_000; i++) one.send({ resolve: { id: i, host: "a.b", port: 1 } });
      },
      says: /^overload: too many messages/,
    },
  ])("$name ends that stream with a reason", async ({ act, says }) => {
    const one = await peer();
    try {
      await act(one);
      await one.until(({ ended }) => ended !== undefined);
      expect(one.ended).toMatch(says);
    } finally {
      one.close();
    }
    await allIsWell();
  });

  test("a case of the oneof that nobody knows is skipped after the hello", async () => {
    const one = await peer();
    one.hello();
    await one.until((each) => deltas(each) === 1);
    one.bytes(Buffer.from("7200", "hex"));
    one.send(ackOf(one));
    one.send({ resolve: { id: 7, host: "nowhere", port: 1 } });
    await one.until(({ messages }) => messages.some((message) => message.resolved?.id === 7));
    expect(one.ended).toBeUndefined();
    one.close();
  });

  test("a request that names another workload gets the identity of its own stream", async () => {
    // Joined, not exported: only such a one is renewed.
    const { certificateChainPem, tlsKey: heldKey, bundle } = await mesh.identity("serving/scorer");
    const one = new RawPeer(mesh.handle.ports.discovery, {
      caPem: bundle.caPem,
      keyPem: heldKey.export({ type: "pkcs8", format: "pem" }).toString(),
      certificatePem: certificateChainPem,
    });
    one.hello();
    const { tlsKey, tokenKey } = createKeys();
    await import("reflect-metadata");
    const x509 = await import("@peculiar/x509");
    const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
    const pair = {
      privateKey: tlsKey.toCryptoKey(algorithm, true, ["sign"]),
      publicKey: createPublicKey(tlsKey).toCryptoKey(algorithm, true, ["verify"]),
    };
    const csr = await x509.Pkcs10CertificateRequestGenerator.create({
      name: "CN=spiffe://test.example/ns/lab/sa/notebook/notebook/notebook",
      keys: pair,
      signingAlgorithm: algorithm,
      extensions: [
        new x509.SubjectAlternativeNameExtension([
          { type: "url", value: "spiffe://test.example/ns/lab/sa/notebook/notebook/notebook" },
        ]),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
      ],
    });
    const csrDer = Buffer.from(csr.rawData);
    const { tokenJwk } = createCertificateRequest({ tlsKey, tokenKey });
    one.send({
      certificateRequest: { id: 1, csrDer, tokenJwk, tokenKeyProof: signKeyProof(csrDer, tokenKey) },
    });
    await one.until(({ messages }) => messages.some((message) => message.identity));
    const identity = one.messages.find((message) => message.identity)?.identity;
    expect(identity?.error).toBe("");
    const svid = parseSvid(identity?.certificateChainDer[0] ?? Buffer.alloc(0));
    expect(svid).toMatchObject({ ok: true, value: { spiffeId: witness.identity.spiffeId } });
    for (let i = 2; i < 12; i++)
      one.send({ certificateRequest: { id: i, csrDer, tokenJwk, tokenKeyProof: Buffer.alloc(9) } });
    await one.until(({ messages }) => messages.filter((message) => message.identity).length === 11);
    expect(
      one.messages.filter((message) => /too many certificate requests/.test(message.identity?.error ?? ""))
        .length,
    ).toBeGreaterThan(3);
    one.close();
  });

  test("an exported identity opens a stream, and is not renewed on it", async () => {
    const one = await peer();
    one.hello();
    one.send({ certificateRequest: { id: 1, ...createCertificateRequest(createKeys()) } });
    await one.until(({ messages }) => messages.some((message) => message.identity));
    expect(one.messages.find((message) => message.identity)?.identity?.error).toMatch(
      /exported identity is not renewed/,
    );
    one.close();
  });

  test("a stream ends with its certificate", async () => {
    const one = new RawPeer(mesh.handle.ports.discovery, await material("serving/scorer", 6));
    one.hello();
    await one.until(({ ended }) => ended !== undefined);
    expect(one.ended).toMatch(/^identity: the certificate of this connection has expired/);
    one.close();
    await allIsWell();
  });
});

describe("bootstrap", () => {
  test("guessing join tokens is slowed down, and a wrong secret looks like an unknown token", async () => {
    const { body } = await mesh.api("POST", "/v1/join-tokens", { workload: "lab/notebook", ttlSeconds: 600 });
    const token = String(body["token"]);
    const [, id = "", secret = "", pin = ""] = token.split(".");
    const input = {
      address: `127.0.0.1:${mesh.handle.ports.bootstrap}`,
      request: createCertificateRequest(createKeys()),
      timeoutMs: 60_000,
    };
    const guess = (token: string): Promise<string> =>
      joinMesh({ ...input, proof: { kind: "join-token", token } }).then(
        () => "in",
        (error: Error) => error.message,
      );
    const wrongSecret = await guess(`cs1.${id}.${"A".repeat(secret.length)}.${pin}`);
    const unknown = await guess(`cs1.${"A".repeat(id.length)}.${secret}.${pin}`);
    expect(wrongSecret).toBe(unknown);
    // All on one connection: a handshake for each takes a busy machine longer than the bucket takes to fill.
    const Bootstrap = makeGenericClientConstructor(
      serviceDefinition("countersign.mesh.v1.Bootstrap") as never,
      "Bootstrap",
    );
    const trusting = createSecureContext({ ca: witness.identity.bundle.caPem });
    // Made by the package's own definition of the service.
    const client = new Bootstrap(
      input.address.replace("127.0.0.1", "localhost"),
      credentials.createFromSecureContext(trusting, { checkServerIdentity: () => undefined }),
    ) as unknown as BootstrapClient;
    const wrong = { joinToken: `cs1.${id}.${"B".repeat(secret.length)}.${pin}`, request: input.request };
    const guessAgain = (): Promise<string> =>
      new Promise((resolve) => client.join(wrong, (error) => resolve(error?.details ?? "in")));
    const answers: string[] = [];
    // The bucket fills again, by ten a second, while a busy machine makes its connections.
    while (answers.filter((answer) => /too many/.test(answer)).length <= 10) {
      answers.push(...(await Promise.all(Array.from({ length: 90 }, guessAgain))));
    }
    client.close();
    expect(answers).not.toContain("in");
    // The right one still works when the bucket has filled up again.
    await eventually(
      () => guess(token),
      (answer) => answer === "in",
    );
    await allIsWell();
  });
});

describe("the HTTP ports", () => {
  const places = () => [{ port: mesh.handle.ports.metrics }, { path: mesh.handle.managementSocket }];

  test.each([
    {
      name: "an unfinished head",
      bytes: "GET /metrics HTTP/1.1\r\nhost: a\r\nx: ",
      says: /^HTTP\/1\.1 408 /,
    },
    {
      name: "a head without end",
      bytes: `GET / HTTP/1.1\r\nx: ${"a".repeat(40_000)}`,
      says: /^HTTP\/1\.1 431 /,
    },
    { name: "no HTTP", bytes: "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", says: /^HTTP\/1\.1 400 / },
    {
      name: "two lengths",
      bytes: "POST /v1/rollback HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
      says: /^HTTP\/1\.1 400 /,
    },
    {
      name: "length and chunks",
      bytes:
        "POST /v1/rollback HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
      says: /^HTTP\/1\.1 400 /,
    },
  ])("$name is answered and closed", async ({ bytes, says }) => {
    const answers = await Promise.all(places().map((place) => exchangeBytes(place, bytes, 100_000)));
    for (const { text, closed } of answers) {
      expect(text).toMatch(says);
      expect(closed).toBe(true);
    }
  });

  test("a hundred slow peers are closed in time, and the next scrape works", async () => {
    const slow = Array.from({ length: 100 }, () =>
      exchangeBytes({ port: mesh.handle.ports.metrics }, "GET /", 100_000),
    );
    for (const { closed } of await Promise.all(slow)) expect(closed).toBe(true);
    const answer = await fetch(`http://127.0.0.1:${mesh.handle.ports.metrics}/metrics`);
    expect(answer.status).toBe(200);
    await allIsWell();
  });

  test.each([
    { name: "a body that is no object", body: "[1]", says: "must be a JSON object" },
    { name: "a body that is no JSON", body: '{"revision": 1', says: "not JSON" },
    { name: "a deep body", body: "[".repeat(60_000), says: "not JSON" },
    { name: "a prototype", body: '{"__proto__": {"revision": 1}}', says: "unknown field `__proto__`" },
    { name: "a fraction", body: '{"revision": 1.5}', says: "must be a whole number" },
    {
      name: "a large body",
      body: `{"revision": "${"1".repeat(70_000)}"}`,
      says: "larger than 65536 bytes",
      status: 413,
    },
  ])("management answers $name with what is wrong", async ({ body, says, status = 400 }) => {
    const answer = await new Promise<string>((resolve, reject) => {
      const call = request(
        { socketPath: mesh.handle.managementSocket, method: "POST", path: "/v1/rollback" },
        (response) => {
          const chunks: Buffer[] = [];
          response.on("data", (chunk: Buffer) => chunks.push(chunk));
          response.on("end", () => resolve(`${response.statusCode} ${Buffer.concat(chunks).toString()}`));
        },
      );
      call.on("error", reject);
      call.end(body);
    });
    expect(answer.slice(0, 4)).toBe(`${status} `);
    expect(JSON.parse(answer.slice(4)).detail).toContain(says);
  });
});
