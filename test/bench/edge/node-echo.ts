// The least that Node does for a request: a server with TLS 1.3 and one without, that answer every request with the same
// kilobyte and look no closer. What a gateway costs beyond the first is its own. Ends with its standard input.
import { readFileSync } from "node:fs";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { createServer as createTlsServer } from "node:tls";

/** What it prints. */
export interface EchoPorts {
  readonly pid: number;
  readonly tls: number;
  readonly plain: number;
}

if (import.meta.main) {
  const dir = process.argv[2] ?? "";
  const body = "x".repeat(1_024);
  const answer = Buffer.from(
    `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  );
  const serve = (socket: Socket): void => {
    socket.setNoDelay(true);
    socket.on("error", () => {});
    socket.on("data", () => socket.write(answer));
  };
  const listen = async (server: Server): Promise<number> => {
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return (server.address() as AddressInfo).port;
  };
  const cert = readFileSync(join(dir, "edge-tls", "tls.crt"));
  const key = readFileSync(join(dir, "edge-tls", "tls.key"));
  const tls = await listen(createTlsServer({ cert, key, minVersion: "TLSv1.3" }, serve));
  const ports: EchoPorts = { pid: process.pid, tls, plain: await listen(createServer(serve)) };
  process.stdout.write(`${JSON.stringify(ports)}\n`);
  process.stdin.resume().on("end", () => process.exit(0));
}
