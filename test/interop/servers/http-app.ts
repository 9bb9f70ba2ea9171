// An application of plain HTTP/1.1 as clients find it anywhere: files with ranges and validators, uploads, trailers, and
// answers to `Expect`. Prints its port. Every answer says what the application saw of `Upgrade` and `Connection`.
import { createHash } from "node:crypto";
import http from "node:http";
import type { AddressInfo } from "node:net";

const CHUNK_BYTES = 65_536;
const MOST_BYTES = 256 * 1024 * 1024;

/** Byte `i` of every file is `i * 31 % 251`: not periodic in powers of two, so that a wrong offset shows. */
function* content(start: number, end: number): Generator<Buffer> {
  for (let at = start; at < end; at += CHUNK_BYTES) {
    const chunk = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, end - at));
    for (let i = 0; i < chunk.length; i++) chunk[i] = ((at + i) * 31) % 251;
    yield chunk;
  }
}

async function send(response: http.ServerResponse, start: number, end: number): Promise<void> {
  for (const chunk of content(start, end)) {
    if (!response.write(chunk)) await new Promise((resolve) => response.once("drain", resolve));
    if (response.destroyed) return;
  }
  response.end();
}

function serveFile(request: http.IncomingMessage, response: http.ServerResponse, size: number): void {
  const etag = `"size-${size}"`;
  response.setHeader("etag", etag);
  response.setHeader("last-modified", "Sat, 01 Aug 2026 00:00:00 GMT");
  response.setHeader("accept-ranges", "bytes");
  response.setHeader("content-type", "application/octet-stream");
  if (request.headers["if-none-match"] === etag) {
    response.writeHead(304).end();
    return;
  }
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
  const start = range ? Number(range[1]) : 0;
  const end = range?.[2] ? Math.min(Number(range[2]) + 1, size) : size;
  if (range && start >= size) {
    response.writeHead(416, { "content-range": `bytes */${size}` }).end();
    return;
  }
  const ranged = range ? { "content-range": `bytes ${start}-${end - 1}/${size}` } : {};
  response.writeHead(range ? 206 : 200, { ...ranged, "content-length": end - start });
  if (request.method === "HEAD") response.end();
  else void send(response, start, end);
}

function digestBody(request: http.IncomingMessage, response: http.ServerResponse): void {
  const hash = createHash("sha256");
  let bytes = 0;
  request.on("data", (chunk: Buffer) => {
    hash.update(chunk);
    bytes += chunk.length;
  });
  request.on("end", () => {
    const told = { bytes, sha256: hash.digest("hex"), trailers: request.trailers };
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(told));
  });
}

function handle(request: http.IncomingMessage, response: http.ServerResponse): void {
  const path = new URL(request.url ?? "/", "http://app").pathname;
  response.setHeader(
    "x-saw",
    `${request.headers.upgrade ?? "-"};${request.headers["http2-settings"] ?? "-"}`,
  );
  const size = /^\/files\/(\d+)$/.exec(path)?.[1];
  if (size !== undefined && Number(size) <= MOST_BYTES) serveFile(request, response, Number(size));
  else if (path === "/upload") digestBody(request, response);
  else if (path === "/trailers") {
    response.writeHead(200, { trailer: "x-digest", "content-type": "text/plain" });
    response.write("body ");
    response.addTrailers({ "x-digest": "of-the-body" });
    response.end("whole");
  } else {
    request.resume();
    response.writeHead(path === "/empty" ? 204 : 404).end();
  }
}

const server = http.createServer(handle);
server.on("checkContinue", (request: http.IncomingMessage, response: http.ServerResponse) => {
  if (request.headers["x-refuse"] !== undefined) {
    response.writeHead(413, { connection: "close" }).end("not this one");
    return;
  }
  response.writeContinue();
  handle(request, response);
});
server.listen(0, "127.0.0.1", () => console.log((server.address() as AddressInfo).port)); // listening: has an address
process.on("SIGTERM", () => process.exit(0));
