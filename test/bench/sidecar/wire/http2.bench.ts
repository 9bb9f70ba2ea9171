// Cost of the HTTP/2 codec itself, without sockets: one request with twelve repeated fields encoded and decoded, a
// small answer back, and bulk DATA. Run: `node test/bench/sidecar/wire/http2.bench.ts` (Node 24).
import process from "node:process";
import { pathToFileURL } from "node:url";
import { FieldCache } from "../../../../sidecar/wire/field-cache.ts";
import {
  Http2Connection,
  type Http2Handler,
  type Http2Stream,
} from "../../../../sidecar/wire/http2/connection.ts";

const BATCH = 20;
const FIELDS: readonly [string, string][] = [
  [":method", "GET"],
  [":scheme", "https"],
  [":authority", "serving.ml.example:8080"],
  ["accept", "application/json"],
  ["accept-encoding", "gzip, deflate"],
  ["user-agent", "python-requests/2.32.3"],
  ["content-type", "application/json"],
  ["x-mesh-hop", "1"],
  ["countersign-port", "8080"],
  ["workload-identity-token", "e".repeat(1100)],
  ["workload-proof-token", "f".repeat(1000)],
  ["x-client", "notebook"],
];

interface Pair {
  readonly client: Http2Connection<undefined>;
  readonly server: Http2Connection<undefined>;
  readonly toServer: Buffer[];
  readonly toClient: Buffer[];
  readonly serverStreams: Http2Stream<undefined>[];
}

function createPair(): Pair {
  const toServer: Buffer[] = [];
  const toClient: Buffer[] = [];
  const serverStreams: Http2Stream<undefined>[] = [];
  const nothing = (): void => undefined;
  const handler: Http2Handler<undefined> = {
    onHeaders: nothing,
    onInformational: nothing,
    onData: (stream, chunk) => pair.client.consumed(stream, chunk.length),
    onTrailers: nothing,
    onReset: nothing,
    onWritable: nothing,
    onGoaway: nothing,
    onClosed: (error) => {
      throw new Error(error?.message);
    },
  };
  const common = { cache: new FieldCache(), nowMs: () => performance.now(), requestFlush: nothing };
  const client = new Http2Connection<undefined>({
    ...common,
    role: "client",
    handler,
    write: (bytes) => void toServer.push(bytes),
  });
  const server = new Http2Connection<undefined>({
    ...common,
    role: "server",
    handler: {
      ...handler,
      onHeaders: (stream) => void serverStreams.push(stream),
      onData: (stream, chunk) => server.consumed(stream, chunk.length),
    },
    write: (bytes) => void toClient.push(bytes),
  });
  const pair = { client, server, toServer, toClient, serverStreams };
  for (let round = 0; round < 4; round++) exchange(pair);
  return pair;
}

function exchange(pair: Pair): void {
  pair.client.flush();
  pair.server.flush();
  for (const bytes of pair.toServer.splice(0)) pair.server.receive(bytes);
  for (const bytes of pair.toClient.splice(0)) pair.client.receive(bytes);
}

/** Phases of `requests` exchanges in batches; microseconds per request and phase. */
function measureRequests(requests: number): Record<string, number> {
  const pair = createPair();
  const { client, server, serverStreams } = pair;
  const cache = new FieldCache();
  const fields = FIELDS.map(([name, value]) => cache.get(name, value));
  const type = cache.get("content-type", "application/json");
  const body = Buffer.alloc(1024, "x");
  const spent = {
    "encode request": 0,
    "decode request": 0,
    "answer of 1 KB, encode": 0,
    "answer, decode": 0,
  };
  let path = 0;
  for (let done = 0; done < requests; done += BATCH) {
    const start = performance.now();
    for (let n = 0; n < BATCH; n++) {
      const stream = client.openStream(undefined);
      if (stream === undefined) throw new Error("no stream");
      client.beginHeaders(stream);
      client.putPair(":path", path++ % 2 === 0 ? "/v1/models/fraud" : "/v1/models/chat");
      for (const field of fields) client.putField(field);
      client.endHeaders(true);
    }
    client.flush();
    const encoded = performance.now();
    for (const bytes of pair.toServer.splice(0)) server.receive(bytes);
    const decoded = performance.now();
    for (const stream of serverStreams.splice(0)) {
      server.beginHeaders(stream);
      server.putStatus(200);
      server.putField(type);
      server.endHeaders(false);
      server.sendData(stream, body, true);
    }
    server.flush();
    const answered = performance.now();
    for (const bytes of pair.toClient.splice(0)) client.receive(bytes);
    const end = performance.now();
    spent["encode request"] += encoded - start;
    spent["decode request"] += decoded - encoded;
    spent["answer of 1 KB, encode"] += answered - decoded;
    spent["answer, decode"] += end - answered;
  }
  return Object.fromEntries(Object.entries(spent).map(([phase, ms]) => [phase, (ms * 1000) / requests]));
}

/** Megabytes per second of one upload through both ends. */
function measureBulk(megabytes: number): number {
  const pair = createPair();
  const { client } = pair;
  const stream = client.openStream(undefined);
  if (stream === undefined) throw new Error("no stream");
  client.beginHeaders(stream);
  for (const [name, value] of FIELDS.slice(0, 3)) client.putPair(name, value);
  client.putPair(":path", "/upload");
  client.endHeaders(false);
  const chunk = Buffer.alloc(65_536, "b");
  const start = performance.now();
  for (let sent = 0; sent < megabytes * 16; sent++) {
    client.sendData(stream, chunk, false);
    for (let round = 0; round < 100 && stream.queuedBytes > 0; round++) exchange(pair);
  }
  return (megabytes * 1.048_576) / ((performance.now() - start) / 1000);
}

/** Medians of five rounds after a warm-up. */
export function run(): { name: string; value: number; unit: string }[] {
  measureRequests(20_000);
  const rounds = Array.from({ length: 5 }, () => measureRequests(20_000));
  const rows = Object.keys(rounds[0] ?? {}).map((name) => {
    const values = rounds.map((round) => round[name] ?? 0).sort((a, b) => a - b);
    return { name, value: values[2] ?? 0, unit: "us" };
  });
  const bulk = Array.from({ length: 3 }, () => measureBulk(200)).sort((a, b) => a - b)[1] ?? 0;
  return [...rows, { name: "bulk upload through both ends", value: bulk, unit: "MB/s" }];
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  for (const row of run()) process.stdout.write(`${row.name}: ${row.value.toFixed(2)} ${row.unit}\n`);
}
