// A WebSocket server of the `ws` library that does what it is told to and remembers how connections ended. Prints its
// port. GET /seen gives the endings, oldest first; /refused is answered 401, as by an application that wants a login.
import http from "node:http";
import type { AddressInfo } from "node:net";
import { type WebSocket, WebSocketServer } from "ws";

const seen: { code: number; reason: string }[] = [];
const server = http.createServer((request, response) => {
  if (request.url !== "/seen") response.writeHead(404);
  response.end(JSON.stringify(seen));
});
const sockets = new WebSocketServer({
  noServer: true,
  perMessageDeflate: { threshold: 0 },
  maxPayload: 64 * 1024 * 1024,
  handleProtocols: (offered) => (offered.has("v2.echo") ? "v2.echo" : false),
});

/** `close CODE REASON`, `terminate`, `fragments N`, `ping TEXT`; anything else comes back as it was. */
function obey(socket: WebSocket, data: Buffer, isBinary: boolean): void {
  const [verb, first = "", ...rest] = isBinary || data.length > 100 ? [] : data.toString().split(" ");
  if (verb === "close") first === "" ? socket.close() : socket.close(Number(first), rest.join(" "));
  else if (verb === "terminate") socket.terminate();
  else if (verb === "fragments") {
    const count = Number(first);
    for (let n = 0; n < count; n++) {
      socket.send(`part-${n} `, { fin: n === count - 1, compress: false });
      if (n === 0) socket.ping("between");
    }
  } else if (verb === "ping") {
    socket.once("pong", (payload) => socket.send(`pong ${payload}`));
    socket.ping(first);
  } else socket.send(data, { binary: isBinary });
}

sockets.on("connection", (socket) => {
  socket.on("message", (data, isBinary) => obey(socket, data as Buffer, isBinary)); // binaryType is nodebuffer
  socket.on("error", () => {}); // told by the close that follows
  socket.on("close", (code, reason) => seen.push({ code, reason: reason.toString() }));
});
server.on("upgrade", (request, socket, head) => {
  if (request.url === "/refused") {
    socket.end("HTTP/1.1 401 Unauthorized\r\ncontent-length: 5\r\nwww-authenticate: Custom\r\n\r\nlogin");
    return;
  }
  sockets.handleUpgrade(request, socket, head, (open) => sockets.emit("connection", open, request));
});
server.listen(0, "127.0.0.1", () => console.log((server.address() as AddressInfo).port)); // listening: has an address
process.on("SIGTERM", () => process.exit(0));
