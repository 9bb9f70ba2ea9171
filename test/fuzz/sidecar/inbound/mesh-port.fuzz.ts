// Broken HTTP/2 on the mesh port by a peer whose certificate is good. Findings as for the pair.

import { once } from "node:events";
import { connect } from "node:tls";
import { clientTlsOptions } from "../../../../sidecar/certs/tls-contexts.ts";
import { FieldCache } from "../../../../sidecar/wire/field-cache.ts";
import { Http2Connection } from "../../../../sidecar/wire/http2/connection.ts";
import { idOf } from "../../../integration/sidecar/world.ts";
import { mulberry32 } from "../core/policy/random.ts";
import { NOTEBOOK, type RecordedWorld, sendAll, startRecordedWorld } from "./recorded-world.ts";

const PREFACE_BYTES = 24;
/** A busy machine may end its time before any case came through: it goes on this far, so that it has tested something. */
const MAX_EXTRA_BATCHES = 100;
const METHODS = ["GET", "HEAD", "POST", "DELETE", "get", "CONNECT"];
const TARGETS = [
  "/things/a",
  "/things/b?x=1",
  "/stream/s",
  "/admin",
  "/things/../admin",
  "//things/a",
  "*",
  "/things/%2e%2e/x",
];
const EXTRAS: readonly (readonly [string, string])[] = [
  ["x-mesh-caller", "gateway/admin"],
  ["x_mesh_caller", "gateway/admin"],
  ["countersign-port", "8080"],
  ["countersign-port", "22"],
  ["workload-proof-token", "a.b.c"],
  ["x-http-method-override", "DELETE"],
  ["host", "secret.ml"],
  ["content-length", "5"],
  ["te", "trailers"],
  ["cookie", "a=1"],
  ["cookie", "b=2"],
  ["x-long", "v".repeat(9_000)],
];

/** Bytes of a client that opens a few streams; well-formed as far as our encoder goes. */
function session(random: () => number): Buffer {
  const parts: Buffer[] = [];
  const quiet = (): void => {};
  const connection = new Http2Connection<undefined>({
    role: "client",
    cache: new FieldCache(),
    write: (bytes) => parts.push(Buffer.from(bytes)),
    requestFlush: quiet,
    nowMs: () => 0,
    handler: {
      onHeaders: quiet,
      onInformational: quiet,
      onData: quiet,
      onTrailers: quiet,
      onReset: quiet,
      onWritable: quiet,
      onGoaway: quiet,
      onClosed: quiet,
    },
  });
  const pick = <T>(from: readonly T[], fallback: T): T =>
    from[Math.floor(random() * from.length)] ?? fallback;
  for (let n = 1 + Math.floor(random() * 4); n > 0; n--) {
    const stream = connection.openStream(undefined);
    if (stream === undefined) break;
    const method = random() < 0.6 ? "GET" : pick(METHODS, "GET");
    connection.beginHeaders(stream);
    connection.putPair(":method", method);
    connection.putPair(":scheme", "http");
    connection.putPair(":path", random() < 0.6 ? "/things/a" : pick(TARGETS, "/"));
    connection.putPair(":authority", "things.ml:8080");
    for (let k = Math.floor(random() * 3); k > 0; k--) connection.putPair(...pick(EXTRAS, ["x", "y"]));
    const body = random() < 0.4;
    connection.endHeaders(!body);
    if (body) connection.sendData(stream, Buffer.from("hello"), random() < 0.8);
    if (random() < 0.1) connection.resetStream(stream, 8);
  }
  connection.flush();
  return Buffer.concat(parts);
}

async function oneCase({ world, callee }: RecordedWorld, random: () => number): Promise<void> {
  const bytes = session(random);
  if (random() < 0.7) {
    for (let n = 1 + Math.floor(random() * 6); n > 0; n--) {
      const at = PREFACE_BYTES + Math.floor(random() * (bytes.length - PREFACE_BYTES));
      bytes[at] =
        random() < 0.5 ? Math.floor(random() * 256) : (bytes[at] ?? 0) ^ (1 << Math.floor(random() * 8));
    }
  }
  const socket = connect({
    ...clientTlsOptions(world.identity(NOTEBOOK), idOf("ml", "serving", "things"), () => Date.now(), ["h2"]),
    host: "127.0.0.1",
    port: callee.meshPort,
  });
  await once(socket, "secureConnect");
  const cut = random() < 0.5 ? bytes.length : Math.floor(random() * bytes.length);
  await sendAll(socket, [bytes.subarray(0, cut), bytes.subarray(cut)], () => bytes.toString("hex"));
}

/** @param seconds how long, and until a request got through. @param seed of the first batch, counted up for each further one. */
export async function run({ seconds, seed }: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const until = performance.now() + seconds * 1000;
  const recorded = await startRecordedWorld();
  const nothingYet = (batch: number): boolean => recorded.arrived() === 0 && batch < seed + MAX_EXTRA_BATCHES;
  let cases = 0;
  try {
    for (let batch = seed; performance.now() < until || nothingYet(batch); batch++) {
      const random = mulberry32(batch);
      await Promise.all(Array.from({ length: 4 }, () => oneCase(recorded, random)));
      recorded.check();
      cases += 4;
    }
    if (recorded.arrived() === 0) throw new Error("nothing got through: the target tests nothing");
    return { cases };
  } finally {
    await recorded.close();
  }
}
