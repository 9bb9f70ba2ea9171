// A notebook's server that knows nothing of users: `/run` calls the model with the trace that it was called with, as any
// OpenTelemetry library passes it on; any other path says which pod it is; every WebSocket is an echo.
//   notebook MODEL_URL
import http from "node:http";
import { WebSocketServer } from "ws";

const model = process.argv[2] ?? "";
const server = http.createServer((request, response) => {
  if (request.url !== "/run") {
    response.end(process.env["HOSTNAME"]);
    return;
  }
  const { traceparent } = request.headers;
  const outgoing = http.request(
    model,
    {
      method: "POST",
      agent: false,
      headers: { "content-type": "application/json", ...(traceparent === undefined ? {} : { traceparent }) },
    },
    (answer) => {
      response.writeHead(answer.statusCode ?? 502, { "content-type": answer.headers["content-type"] ?? "" });
      answer.pipe(response);
    },
  );
  outgoing.on("error", (error) => response.writeHead(502).end(error.message));
  outgoing.end('{"dataframe_records":[{"amount":5000}]}');
});
new WebSocketServer({ server }).on("connection", (socket) =>
  socket.on("message", (message) => socket.send(String(message))),
);
server.listen(8888);
