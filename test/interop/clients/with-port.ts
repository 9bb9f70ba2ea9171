// Stands between the conformance runner and a program under test: every message that goes through (protobuf, each behind
// four bytes of length) gets one more field, a port. The last value of a field wins, so the other end connects there.
//   with-port.ts stdin|stdout FIELD PORT PROGRAM [ARGUMENT…]
import { spawn } from "node:child_process";

const [side, field = "", port = "", program = "", ...args] = process.argv.slice(2);

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 0x7f; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80);
  bytes.push(rest);
  return bytes;
}

const addition = Buffer.from([...varint(Number(field) << 3), ...varint(Number(port))]);

async function copy(from: NodeJS.ReadableStream, to: NodeJS.WritableStream): Promise<void> {
  let held = Buffer.alloc(0);
  for await (const chunk of from) {
    held = Buffer.concat([held, chunk as Buffer]); // no encoding is set
    while (held.length >= 4 && held.length >= 4 + held.readUInt32BE(0)) {
      const end = 4 + held.readUInt32BE(0);
      const head = Buffer.alloc(4);
      head.writeUInt32BE(end - 4 + addition.length);
      to.write(Buffer.concat([head, held.subarray(4, end), addition]));
      held = held.subarray(end);
    }
  }
  to.end();
}

const child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
process.on("SIGTERM", () => child.kill("SIGTERM"));
child.on("exit", (code) => process.exit(code ?? 1));
if (side === "stdin") {
  child.stdout.pipe(process.stdout);
  await copy(process.stdin, child.stdin);
} else {
  process.stdin.pipe(child.stdin);
  await copy(child.stdout, process.stdout);
}
