// A process of its own: one side of a pair made of Node's `http` and `https`, as one would write it in an afternoon. It
// checks certificates and forwards, nothing else. Started as `node node-proxy.ts client|server PORT TARGET-PORT DIR`.
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { join } from "node:path";

const [role = "", port = "", target = "", dir = ""] = process.argv.slice(2);
const name = role === "client" ? "notebook" : "serving";
const tls = {
  key: readFileSync(join(dir, `${name}.key`)),
  cert: readFileSync(join(dir, `${name}.crt`)),
  ca: readFileSync(join(dir, "ca.crt")),
  minVersion: "TLSv1.3" as const,
};
const agent =
  role === "client"
    ? new https.Agent({ ...tls, keepAlive: true, servername: "serving" })
    : new http.Agent({ keepAlive: true });
const { request: send } = role === "client" ? https : http;

function forward(request: http.IncomingMessage, response: http.ServerResponse): void {
  const { method, url, headers } = request;
  const options = { agent, host: "127.0.0.1", port: Number(target), method, path: url, headers };
  const onward = send(options, (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.headers);
    answer.pipe(response);
  });
  onward.on("error", () => response.destroy());
  request.pipe(onward);
}

const server =
  role === "client"
    ? http.createServer(forward)
    : https.createServer({ ...tls, requestCert: true, rejectUnauthorized: true }, forward);
server.listen(Number(port), "127.0.0.1");
