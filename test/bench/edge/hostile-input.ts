// What hostile bytes cost a sidecar, beside valid requests of the same size and pace: memory held per connection while it
// stands, and CPU per byte. A sidecar of its own process, plaintext and mutual TLS, HTTP/1.1 and HTTP/2.
import { connect, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type RunningProcess, startNode } from "../../demo/process.ts";
import type { EdgeCallee } from "../../interop/edge-callee.ts";
import { atMost, type BenchRow, cpuMicroseconds, privateBytes, row } from "../measure.ts";

const CONNECTIONS = 400;
const HOST = "host: things\r\n";
const VALID = `GET /things/a HTTP/1.1\r\n${HOST}accept: */*\r\nuser-agent: bench\r\n\r\n`;
/** Steps of the clock in /proc are 10 ms: less CPU than this is not told apart. */
const LEAST_CPU_US = 200_000;

interface Attack {
  readonly name: string;
  /** Pieces in turn, each a segment of its own, on each connection. */
  readonly pieces: readonly string[];
  /** How often all pieces are sent on a connection. */
  readonly times: number;
}

const drip = (text: string): string[] => [...text];
const ATTACKS: readonly Attack[] = [
  {
    name: "a head byte by byte",
    pieces: ["GET /things/a HTTP/1.1\r\n", ...drip(`x: ${"y".repeat(400)}`)],
    times: 1,
  },
  {
    name: "fields without end",
    pieces: ["GET /things/a HTTP/1.1\r\n", ...new Array<string>(90).fill(`x-a: ${"b".repeat(100)}\r\n`)],
    times: 1,
  },
  {
    name: "one large unfinished head",
    pieces: [`GET /things/a HTTP/1.1\r\nx: ${"y".repeat(16_000)}`],
    times: 1,
  },
  {
    name: "chunks of one byte",
    pieces: [
      `POST /things/a HTTP/1.1\r\n${HOST}transfer-encoding: chunked\r\n\r\n`,
      ...new Array<string>(50).fill("1\r\nx\r\n".repeat(100)),
    ],
    times: 1,
  },
  {
    name: "chunk extensions",
    pieces: [
      `POST /things/a HTTP/1.1\r\n${HOST}transfer-encoding: chunked\r\n\r\n`,
      `1;${"a".repeat(4_000)}\r\nx\r\n`,
    ],
    times: 1,
  },
  {
    name: "a body that the decision waits for, byte by byte",
    pieces: [
      `POST /chat HTTP/1.1\r\n${HOST}content-type: application/json\r\ncontent-length: 60000\r\n\r\n`,
      ...drip("x".repeat(400)),
    ],
    times: 1,
  },
  {
    name: "pipelined requests behind one that waits",
    pieces: [
      `POST /chat HTTP/1.1\r\n${HOST}content-type: application/json\r\ncontent-length: 9\r\n\r\n`,
      ...drip("12345678"),
    ],
    times: 1,
  },
  {
    name: "malformed requests",
    pieces: [`GET /things/a HTTP/1.1\r\n${HOST}content-length: 5\r\ncontent-length: 6\r\n\r\n`],
    times: 1,
  },
  {
    name: "unknown methods and long targets",
    pieces: [`X /things/${"v".repeat(8_000)} HTTP/1.1\r\n${HOST}\r\n`],
    times: 1,
  },
];

async function openAll(port: number): Promise<Socket[]> {
  const sockets: Socket[] = [];
  for (let at = 0; at < CONNECTIONS; at += 50)
    sockets.push(
      ...(await Promise.all(
        Array.from(
          { length: 50 },
          () =>
            new Promise<Socket>((resolve) => {
              const socket = connect(port, "127.0.0.1", () => resolve(socket));
              socket.setNoDelay(true);
              socket.on("error", () => {});
              socket.resume();
            }),
        ),
      )),
    );
  return sockets;
}

/** Sends the pieces on all connections, a turn of the loop between two of one connection. */
async function sendAll(sockets: readonly Socket[], { pieces, times }: Attack): Promise<number> {
  let sent = 0;
  for (let time = 0; time < times; time++)
    for (const piece of pieces) {
      for (const socket of sockets)
        if (socket.writable) {
          socket.write(piece, "latin1");
          sent += piece.length;
        }
      await delay(2);
    }
  return sent;
}

interface Cost {
  readonly heldPerConnection: number;
  readonly perConnectionSent: number;
  readonly cpuPerByte: number;
}

/** Bytes that are held: garbage is collected first. */
async function heldBytes({ pid }: EdgeCallee, sidecar: RunningProcess): Promise<number> {
  sidecar.writeLine("");
  await sidecar.nextLine();
  return privateBytes(pid);
}

async function cost(callee: EdgeCallee, sidecar: RunningProcess, attack: Attack): Promise<Cost> {
  let cpu = 0;
  let bytes = 0;
  let held = 0;
  let perConnection = 0;
  for (let round = 0; round < 20 && cpu < LEAST_CPU_US; round++) {
    const before = await heldBytes(callee, sidecar);
    const sockets = await openAll(callee.plaintextPort);
    const opened = cpuMicroseconds(callee.pid);
    const sent = await sendAll(sockets, attack);
    await delay(300);
    cpu += cpuMicroseconds(callee.pid) - opened;
    bytes += sent;
    held = Math.max(held, ((await heldBytes(callee, sidecar)) - before) / CONNECTIONS);
    perConnection = sent / CONNECTIONS;
    for (const socket of sockets) socket.destroy();
    await delay(300);
  }
  return { heldPerConnection: held, perConnectionSent: perConnection, cpuPerByte: cpu / bytes };
}

export async function benchHostileInput(say: (text: string) => void): Promise<BenchRow[]> {
  const script = fileURLToPath(new URL("../../interop/edge-callee.ts", import.meta.url));
  const sidecar = startNode("callee", ["--expose-gc", script]);
  try {
    const callee = JSON.parse(await sidecar.nextLine()) as EdgeCallee;
    const rows: BenchRow[] = [];
    const valid = { name: "valid", pieces: [VALID], times: 20 };
    await cost(callee, sidecar, valid);
    const whole = await cost(callee, sidecar, valid);
    // Byte by byte each costs a system call of both ends, whoever sends it: compared with valid requests sent like that.
    const dripped = await cost(callee, sidecar, {
      name: "valid, byte by byte",
      pieces: drip(VALID),
      times: 2,
    });
    for (const attack of ATTACKS) {
      const one = await cost(callee, sidecar, attack);
      const isDripped = attack.pieces.filter((piece) => piece.length === 1).length > 10;
      const base = isDripped ? dripped : whole;
      const allowed = 10 * one.perConnectionSent + 65_536;
      say(
        `${attack.name}: ${one.perConnectionSent.toFixed(0)} bytes sent, ${one.heldPerConnection.toFixed(0)} held per connection, ${one.cpuPerByte.toFixed(3)} µs a byte (valid ${base.cpuPerByte.toFixed(3)})`,
      );
      rows.push(
        row(
          "edge",
          `${attack.name}: memory per connection`,
          one.heldPerConnection / 1024,
          "KiB",
          { name: "10 x received + 64 KiB", value: allowed / 1024 },
          atMost("ratio", 1, 0.5),
        ),
        row(
          "edge",
          `${attack.name}: CPU per byte`,
          one.cpuPerByte,
          "µs",
          { name: isDripped ? "valid requests byte by byte" : "valid requests", value: base.cpuPerByte },
          atMost("ratio", 10, 5),
        ),
      );
    }
    return rows;
  } finally {
    await sidecar.stop();
  }
}
