// Hostile deltas: whatever the bytes, the store answers with a value, and what is in force changes only to a table whose
// digest was announced and whose resources all decode.
import fc from "fast-check";
import { encodeDelta } from "../../../../control-plane/discovery/chunks.ts";
import { tableDelta } from "../../../../control-plane/discovery/delta.ts";
import { createResource, createTable } from "../../../../control-plane/resources/build.ts";
import type { ControlPlaneMessage__Output } from "../../../../proto/gen/countersign/mesh/v1/ControlPlaneMessage.ts";
import type { Delta__Output } from "../../../../proto/gen/countersign/mesh/v1/Delta.ts";
import { messageCodec } from "../../../../proto/load.ts";
import { RESOURCE_TYPES, tableDigest } from "../../../../proto/protocol.ts";
import { silentLogger } from "../../../../sidecar/core/runtime/log.ts";
import { decodeResource } from "../../../../sidecar/discovery/decode.ts";
import { ResourceStore } from "../../../../sidecar/discovery/store.ts";
import { sampleResources, sampleRoute } from "../../../fakes/resources.ts";

const codec = messageCodec<object, ControlPlaneMessage__Output>("countersign.mesh.v1.ControlPlaneMessage");
const types = [...RESOURCE_TYPES, "unknown", ""];

/** Valid messages, with bytes changed, cut, doubled or inserted. */
const mutation = fc.record({
  at: fc.nat(),
  kind: fc.constantFrom("flip", "cut", "insert", "double"),
  byte: fc.integer({ min: 0, max: 255 }),
});

function mutate(bytes: Buffer, changes: readonly { at: number; kind: string; byte: number }[]): Buffer {
  let result = Buffer.from(bytes);
  for (const { at, kind, byte } of changes) {
    const where = result.length === 0 ? 0 : at % result.length;
    if (kind === "flip" && result.length > 0) result[where] = byte;
    else if (kind === "cut") result = result.subarray(0, where);
    else if (kind === "insert")
      result = Buffer.concat([result.subarray(0, where), Buffer.from([byte]), result.subarray(where)]);
    else result = Buffer.concat([result, result.subarray(where)]);
  }
  return result;
}

function feed(store: ResourceStore, bytes: Buffer): void {
  let message: ControlPlaneMessage__Output;
  try {
    message = codec.decode(bytes);
  } catch {
    return; // gRPC would end the stream.
  }
  if (!message.delta) return;
  const announced = message.delta.digest.toString("hex");
  const received = store.receive(message.delta, bytes.length);
  if (!received.ok || !received.value) return;
  const { table, resources } = received.value;
  if (table.digest !== announced) throw new Error("a table has another digest than was announced");
  if (tableDigest(resources.values()) !== announced)
    throw new Error("resources do not have the table's digest");
  store.commit(received.value);
}

const deltaCodec = messageCodec<object, Delta__Output>("countersign.mesh.v1.Delta");

/** A built resource is a delta of one. */
function bodyOf(encoded: Buffer): Buffer {
  return deltaCodec.decode(encoded).upsert[0]?.body ?? Buffer.alloc(0);
}

const route = bodyOf(sampleRoute().encoded);
const base = createTable(sampleResources());
const more = createTable([...sampleResources(), ...sampleResources("other").slice(1, 3)]);
const head = { nonce: 1, revision: 1 };
const messages = [
  ...encodeDelta({ ...head, base: "", digest: base.digest }, tableDelta(undefined, base)),
  ...encodeDelta({ ...head, nonce: 2, base: base.digest, digest: more.digest }, tableDelta(base, more)),
  ...encodeDelta({ ...head, nonce: 3, base: "", digest: more.digest }, tableDelta(undefined, more), 1_700),
];

export async function run({ seconds, seed }: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const endMs = performance.now() + seconds * 1000;
  let cases = 0;
  const steps = fc.array(fc.tuple(fc.nat(messages.length - 1), fc.array(mutation, { maxLength: 3 })), {
    minLength: 1,
    maxLength: 6,
  });
  const bodies = fc.tuple(
    fc.constantFrom(...types),
    fc.uint8Array({ maxLength: 200 }),
    fc.array(mutation, { maxLength: 4 }),
    fc.nat(base.resources.size - 1),
  );
  const valid = sampleResources();
  for (let round = 0; performance.now() < endMs; round++) {
    fc.assert(
      fc.property(steps, (chosen) => {
        cases += 1;
        const store = new ResourceStore({ stateDir: undefined, features: [], log: silentLogger });
        for (const [at, changes] of chosen) feed(store, mutate(messages[at] ?? Buffer.alloc(0), changes));
      }),
      { seed: seed + round, numRuns: 100 },
    );
    fc.assert(
      fc.property(fc.array(mutation, { minLength: 1, maxLength: 6 }), (changes) => {
        cases += 1;
        decodeResource("route", "ns/svc", mutate(route, changes));
      }),
      { seed: seed + round, numRuns: 100 },
    );
    fc.assert(
      fc.property(bodies, ([type, random, changes, at]) => {
        cases += 1;
        decodeResource(type, "ns/x", Buffer.from(random));
        const resource = valid[at];
        // A table that holds a mutated body under its right hash: only decoding stands between it and the data path.
        if (!resource) return;
        const store = new ResourceStore({ stateDir: undefined, features: [], log: silentLogger });
        const spoilt = createResource(
          resource.type,
          resource.name,
          mutate(bodyOf(resource.encoded), changes),
        );
        const table = createTable([...valid.filter((one) => one !== resource), spoilt]);
        for (const bytes of encodeDelta(
          { ...head, base: "", digest: table.digest },
          tableDelta(undefined, table),
        ))
          feed(store, bytes);
      }),
      { seed: seed + round, numRuns: 100 },
    );
  }
  return { cases };
}
