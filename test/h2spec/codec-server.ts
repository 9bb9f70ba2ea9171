// A minimal h2c server made from our codec alone, for h2spec and for interoperation tests: answers each request with
// 200 and a small body, or echoes the request's body.
import net from "node:net";
import { FieldCache } from "../../sidecar/wire/field-cache.ts";
import { Http2Connection, type Http2Stream } from "../../sidecar/wire/http2/connection.ts";

const BODY = Buffer.from("hello from the codec\n");

/** Serves until closed. */
export async function createCodecServer(): Promise<{ port: number; close: () => Promise<void> }> {
  const cache = new FieldCache();
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    serve(socket, cache);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  const close = (): Promise<void> => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(() => resolve()));
  };
  return { port, close };
}

function serve(socket: net.Socket, cache: FieldCache): void {
  const connection: Http2Connection<undefined> = new Http2Connection<undefined>({
    role: "server",
    cache,
    nowMs: () => performance.now(),
    write: (bytes) => void (socket.writable && socket.write(bytes)),
    requestFlush: () => void setImmediate(() => connection.flush()),
    handler: {
      onHeaders: (stream, _fields, endStream) => {
        if (endStream) answer(stream);
      },
      onInformational: () => undefined,
      onData: (stream, chunk, endStream) => {
        connection.consumed(stream, chunk.length);
        if (endStream) answer(stream);
      },
      onTrailers: (stream) => answer(stream),
      onReset: () => undefined,
      onWritable: () => undefined,
      onGoaway: () => undefined,
      onClosed: () => void socket.end(),
    },
  });
  const answer = (stream: Http2Stream<undefined>): void => {
    connection.beginHeaders(stream);
    connection.putStatus(200);
    connection.putField(cache.get("content-length", String(BODY.length)));
    connection.endHeaders(false);
    connection.sendData(stream, BODY, true);
  };
  socket.setNoDelay(true);
  socket.on("data", (chunk) => connection.receive(chunk));
  socket.on("end", () => connection.eof());
  socket.on("error", () => connection.eof());
}
