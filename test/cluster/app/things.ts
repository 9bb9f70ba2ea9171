// One application that speaks everything, each protocol on a port of its own and on one whose Service does not say what it
// is: gRPC, HTTP with a WebSocket and events, a protocol whose server speaks first, and TLS (TLS_KEY, TLS_CERT).
import http, { type ServerResponse } from "node:http";
import net from "node:net";
import tls from "node:tls";
import { Server, ServerCredentials, type ServerDuplexStream } from "@grpc/grpc-js";
import { WebSocketServer } from "ws";
import { METHODS } from "./item.ts";

const rpc = new Server();
rpc.addService(METHODS, {
  get: (call: { request: string }, answer: (error: null, name: string) => void) =>
    answer(null, `got ${call.request}`),
  remove: (_call: unknown, answer: (error: null, name: string) => void) => answer(null, "removed"),
  chat: (call: ServerDuplexStream<string, string>) => {
    call.on("data", (name: string) => call.write(`heard ${name}`));
    call.on("end", () => call.end());
    call.on("error", () => call.end());
  },
});
for (const port of [9000, 9100])
  rpc.bindAsync(`0.0.0.0:${port}`, ServerCredentials.createInsecure(), (error) => {
    if (error !== null) throw error;
  });

/** Open streams of events, by what their clients call themselves; each gets its next event when it asks for it. */
const events = new Map<string, ServerResponse>();

const web = http.createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url ?? "/", "http://things");
  const stream = searchParams.get("id") ?? "";
  if (pathname === "/events") {
    response.writeHead(200, { "content-type": "text/event-stream" });
    events.set(stream, response);
    response.write("data: 0\n\n");
  } else if (pathname === "/next") {
    const n = Number(searchParams.get("n"));
    if (n < 5) events.get(stream)?.write(`data: ${n}\n\n`);
    else events.get(stream)?.end();
    response.end();
  } else response.end("things");
});
const sockets = new WebSocketServer({ server: web, path: "/channel" });
sockets.on("connection", (socket) => {
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  socket.on("error", () => {}); // told by the close that follows
});
web.listen(8888);
http.createServer((_request, response) => response.end("page")).listen(8081);

/** Greets, shouts back what it is told, and says goodbye when the other side has said all. */
const greeter = net.createServer({ allowHalfOpen: true }, (socket) => {
  socket.write("220 things\n");
  socket.on("data", (chunk) => socket.write(chunk.toString().toUpperCase()));
  socket.on("end", () => socket.end("221 bye\n"));
  socket.on("error", () => socket.destroy());
});
greeter.listen(7000);
net.createServer((socket) => greeter.emit("connection", socket)).listen(7100);

tls
  .createServer({ key: process.env["TLS_KEY"], cert: process.env["TLS_CERT"] }, (socket) => {
    socket.on("error", () => socket.destroy());
    socket.end("hello over TLS\n");
  })
  .listen(8443);
