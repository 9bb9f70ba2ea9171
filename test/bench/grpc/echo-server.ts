// A process of its own: a gRPC server over plaintext HTTP/2 that answers every unary call with the message it got. Made of
// our codec, so that it costs little beside the proxies. Started as `node echo-server.ts PORT`.
import net from "node:net";
import { FieldCache } from "../../../sidecar/wire/field-cache.ts";
import { Http2Connection } from "../../../sidecar/wire/http2/connection.ts";
import { MeshSocket } from "../../../sidecar/wire/socket.ts";

const cache = new FieldCache();
const CONTENT_TYPE = cache.get("content-type", "application/grpc");
const STATUS_OK = cache.get("grpc-status", "0");

const server = net.createServer({ allowHalfOpen: true }, (raw) => {
  const socket = new MeshSocket(raw);
  const h2 = new Http2Connection<Buffer | undefined>({
    role: "server",
    cache,
    settings: { maxConcurrentStreams: 1000 },
    nowMs: () => performance.now(),
    write: (bytes) => socket.write(bytes),
    requestFlush: () =>
      setImmediate(() => {
        h2.flush();
        socket.flush();
      }),
    handler: {
      onHeaders: () => {},
      onInformational: () => {},
      onData: (stream, chunk, endStream) => {
        stream.context = stream.context === undefined ? chunk : Buffer.concat([stream.context, chunk]);
        h2.consumed(stream, chunk.length);
        if (!endStream) return;
        h2.beginHeaders(stream);
        h2.putStatus(200);
        h2.putField(CONTENT_TYPE);
        h2.endHeaders(false);
        h2.sendData(stream, stream.context, false);
        h2.beginHeaders(stream);
        h2.putField(STATUS_OK);
        h2.endHeaders(true);
      },
      onTrailers: () => {},
      onReset: () => {},
      onWritable: () => {},
      onGoaway: () => {},
      onClosed: () => socket.end(),
    },
  });
  socket.attach({
    onData: (chunk) => h2.receive(chunk),
    onEnd: () => {
      h2.eof();
      socket.end();
    },
    onDrain: () => {},
    onClose: () => {},
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1");
