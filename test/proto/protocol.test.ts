// Bytes on the wire, recorded once: a change that alters them breaks sidecars of the version before.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "@jest/globals";
import { controlPlaneId } from "../../control-plane/ca/server-identity.ts";
import { encodeDelta } from "../../control-plane/discovery/chunks.ts";
import { tableDelta } from "../../control-plane/discovery/delta.ts";
import { createTable } from "../../control-plane/resources/build.ts";
import { messageCodec, protoFiles, serviceDefinition } from "../../proto/load.ts";
import { controlPlaneSpiffeId, RESOURCE_TYPES, tableDigest } from "../../proto/protocol.ts";
import { sampleResources } from "../fakes/resources.ts";

const FILE = join(import.meta.dirname, "..", "fixtures", "proto", "messages.json");
const bytes = (text: string): Buffer => Buffer.from(text);

const MESSAGES: Record<string, [type: string, value: object]> = {
  hello: [
    "SidecarMessage",
    {
      hello: {
        protocolVersion: 1,
        softwareVersion: "0.1.0",
        features: ["cel"],
        node: "n",
        meshPort: 16008,
        tableDigest: bytes("d"),
        tableRevision: 1042,
        instance: "i",
      },
    },
  ],
  subscribe: [
    "SidecarMessage",
    { subscribe: { add: [{ type: "service", name: "ns/a" }], remove: [{ type: "service", name: "ns/b" }] } },
  ],
  ack: ["SidecarMessage", { ack: { nonce: 7, digest: bytes("d"), revision: 1042, prepared: true } }],
  nack: [
    "SidecarMessage",
    { nack: { nonce: 7, reason: "r", resourceType: "t", resourceName: "n", digest: bytes("d") } },
  ],
  certificateRequest: [
    "SidecarMessage",
    { certificateRequest: { csrDer: bytes("c"), tokenJwk: "{}", tokenKeyProof: bytes("p"), id: 3 } },
  ],
  resolve: ["SidecarMessage", { resolve: { id: 1, host: "scorer.serving", port: 8080 } }],
  welcome: [
    "ControlPlaneMessage",
    {
      welcome: {
        protocolVersion: 1,
        softwareVersion: "0.1.0",
        serverTimeUnixMs: 1790000000000,
        heartbeatIntervalMs: 5000,
        revision: 1042,
      },
    },
  ],
  delta: [
    "ControlPlaneMessage",
    {
      delta: {
        nonce: 1,
        revision: 2,
        baseDigest: bytes("b"),
        digest: bytes("d"),
        upsert: [{ type: "service", name: "ns/a", hash: bytes("h"), body: bytes("x"), features: ["f"] }],
        remove: [{ type: "route", name: "r" }],
        last: true,
      },
    },
  ],
  prepare: ["ControlPlaneMessage", { prepare: { nonce: 9 } }],
  commit: ["ControlPlaneMessage", { commit: { nonce: 9, commit: true } }],
  identity: [
    "ControlPlaneMessage",
    {
      identity: {
        certificateChainDer: [bytes("l"), bytes("i")],
        workloadIdentityToken: "wit",
        trustBundle: "{}",
        notBeforeUnixMs: 1,
        notAfterUnixMs: 1790000000000,
        spiffeId: "spiffe://t/x",
        serverTimeUnixMs: 2,
        id: 3,
        error: "e",
      },
    },
  ],
  heartbeat: ["ControlPlaneMessage", { heartbeat: { serverTimeUnixMs: 1790000000000, revision: 1042 } }],
  resolved: [
    "ControlPlaneMessage",
    { resolved: { id: 1, service: "ns/a", reason: "DEFAULT_DENY", ttlMs: 5000 } },
  ],
  refused: ["ControlPlaneMessage", { refused: { code: "version", message: "m" } }],
  joinRequest: [
    "JoinRequest",
    {
      joinToken: "cs1.a.b.c",
      request: { csrDer: bytes("c"), tokenJwk: "{}", tokenKeyProof: bytes("p"), id: 0 },
    },
  ],
};

describe("protocol", () => {
  test("messages have the recorded bytes, and recorded bytes are read back", () => {
    const now = Object.fromEntries(
      Object.entries(MESSAGES).map(([name, [type, value]]) => [
        name,
        messageCodec(`countersign.mesh.v1.${type}`).encode(value).toString("hex"),
      ]),
    );
    if (!existsSync(FILE)) writeFileSync(FILE, `${JSON.stringify(now, null, 2)}\n`);
    const recorded: Record<string, string> = JSON.parse(readFileSync(FILE, "utf8"));
    expect(now).toEqual(recorded);
    for (const [name, [type, value]] of Object.entries(MESSAGES)) {
      expect(
        messageCodec(`countersign.mesh.v1.${type}`).decode(Buffer.from(recorded[name]!, "hex")),
      ).toMatchObject(value);
    }
  });

  test("fields of a later version are skipped", () => {
    const heartbeat = Buffer.from(JSON.parse(readFileSync(FILE, "utf8")).heartbeat, "hex");
    const later = Buffer.concat([heartbeat, Buffer.from("fa0703616263", "hex")]);
    expect(messageCodec("countersign.mesh.v1.ControlPlaneMessage").decode(later)).toMatchObject({
      heartbeat: { revision: 1042 },
    });
  });

  test("joined chunks equal what protobuf itself would encode", () => {
    const table = createTable(sampleResources());
    const [chunk] = encodeDelta(
      { nonce: 1, revision: 2, base: "", digest: table.digest },
      tableDelta(undefined, table),
    );
    const codec = messageCodec<object, object>("countersign.mesh.v1.ControlPlaneMessage");
    expect(codec.decode(codec.encode(codec.decode(chunk!)))).toEqual(codec.decode(chunk!));
  });

  test("the table digest is what the contract says", () => {
    const one = { type: "service", name: "ns/a", hash: "aa" };
    const two = { type: "endpoints", name: "ns/a", hash: "bb" };
    expect(tableDigest([one, two])).toBe(tableDigest([two, one]));
    expect(tableDigest([])).toBe("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    expect(tableDigest([one])).not.toBe(tableDigest([{ ...one, hash: "ab" }]));
    expect(RESOURCE_TYPES.every((type) => !type.includes("/"))).toBe(true);
  });

  test("both sides name the control plane alike", () => {
    expect(controlPlaneSpiffeId("test.example")).toBe(controlPlaneId("test.example"));
  });

  test("services and every .proto file load; an unknown name is an error", () => {
    expect(protoFiles()).toEqual(
      expect.arrayContaining([
        "mesh/v1/discovery.proto",
        "mesh/v1/identity.proto",
        "mesh/v1/resources.proto",
      ]),
    );
    expect(Object.keys(serviceDefinition("countersign.mesh.v1.Bootstrap"))).toEqual(["Join"]);
    expect(() => messageCodec("countersign.mesh.v1.Nothing").encode({})).toThrow(/Nothing/);
    expect(() => serviceDefinition("countersign.mesh.v1.Hello")).toThrow(/Hello/);
  });

  test("generated types are those of the .proto files", () => {
    execFileSync(
      process.execPath,
      [join(import.meta.dirname, "..", "..", "proto", "generate.ts"), "--check"],
      { stdio: "pipe", timeout: 15_000 },
    );
  });
});
