// What the stand-ins share: an HTTP server (on loopback unless HOST says otherwise) that tells, in response fields, whom it
// saw call, and for whom.
import http from "node:http";

export type Handler = (request: http.IncomingMessage, body: string, response: http.ServerResponse) => void;

/**
 * Serves until SIGTERM. Prints `{"port": N}` on standard output once it listens.
 *
 * The identity of the caller arrives as `x-mesh-caller`, the person's as `x-forwarded-user`, set by the sidecar from
 * verified data only; an application needs no library to know who calls.
 */
export function serve(handler: Handler): void {
  const server = http.createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8");
    request.on("data", (chunk: string) => {
      body += chunk;
    });
    request.on("end", () => {
      response.setHeader("x-demo-saw", String(request.headers["x-mesh-caller"] ?? "nobody"));
      const user = request.headers["x-forwarded-user"];
      if (user !== undefined) response.setHeader("x-demo-user", String(user));
      handler(request, body, response);
    });
  });
  server.listen(Number(process.env["PORT"] ?? 0), process.env["HOST"] ?? "127.0.0.1", () => {
    const address = server.address();
    if (address !== null && typeof address === "object")
      process.stdout.write(`${JSON.stringify({ port: address.port })}\n`);
  });
  process.on("SIGTERM", () => {
    server.close();
    server.closeAllConnections();
  });
}

/** Answers with JSON. */
export function answerJson(response: http.ServerResponse, value: unknown, status = 200): void {
  const text = JSON.stringify(value);
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(text),
  });
  response.end(text);
}
