// A notebook kernel or a job, as far as the mesh is concerned: a process that makes plain HTTP calls through
// `HTTP_PROXY`, as requests, httpx or curl would. Reads one call per line on standard input, answers one per line.
import http from "node:http";
import { createInterface } from "node:readline";

interface CallLine {
  readonly id: number;
  readonly method: string;
  readonly url: string;
  readonly headers?: Record<string, string>;
  readonly body?: unknown;
}

const proxy = new URL(process.env["HTTP_PROXY"] ?? "http://127.0.0.1:16001");
const agent = new http.Agent({ keepAlive: true });

function call(line: CallLine): Promise<unknown> {
  return new Promise((resolve) => {
    const payload = line.body === undefined ? undefined : JSON.stringify(line.body);
    const startedMs = performance.now();
    const request = http.request(
      {
        agent,
        host: proxy.hostname,
        port: proxy.port,
        method: line.method,
        path: line.url,
        headers: {
          host: line.url.split("/")[2] ?? "",
          ...(payload === undefined
            ? {}
            : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) }),
          ...line.headers,
        },
      },
      (response) => {
        let text = "";
        let firstByteMs: number | undefined;
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          firstByteMs ??= performance.now() - startedMs;
          text += chunk;
        });
        response.on("end", () =>
          resolve({
            id: line.id,
            status: response.statusCode,
            headers: response.headers,
            body: text,
            firstByteMs,
            lastByteMs: performance.now() - startedMs,
          }),
        );
        response.on("error", (error) => resolve({ id: line.id, error: error.message }));
      },
    );
    request.on("error", (error) => resolve({ id: line.id, error: error.message }));
    request.end(payload);
  });
}

const lines = createInterface({ input: process.stdin });
lines.on("line", (text) => {
  void call(JSON.parse(text) as CallLine).then((answer) =>
    process.stdout.write(`${JSON.stringify(answer)}\n`),
  );
});
lines.on("close", () => agent.destroy());
