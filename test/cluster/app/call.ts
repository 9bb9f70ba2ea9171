// A client that knows nothing of a mesh, as curl would be: makes HTTP calls and prints each answer as one line of JSON.
//   call [-X METHOD] [-H 'name: value'] [-d BODY] [-n TIMES] [-i INTERVAL_MS] [-t TIMEOUT_MS] URL...
// Ends with 0 when every call was answered, whatever the status.
import http from "node:http";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    request: { type: "string", short: "X" },
    header: { type: "string", short: "H", multiple: true, default: [] },
    data: { type: "string", short: "d" },
    times: { type: "string", short: "n", default: "1" },
    interval: { type: "string", short: "i", default: "0" },
    timeout: { type: "string", short: "t", default: "10000" },
  },
});
const agent = new http.Agent({ keepAlive: true });

function call(url: string): Promise<boolean> {
  const startMs = performance.now();
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const say = (answer: object, answered: boolean) => {
    const ms = Math.round((performance.now() - startMs) * 10) / 10;
    process.stdout.write(`${JSON.stringify({ url, ...answer, ms })}\n`);
    resolve(answered);
  };
  const headers = Object.fromEntries(
    values.header.map((line) => [
      line.slice(0, line.indexOf(":")).trim(),
      line.slice(line.indexOf(":") + 1).trim(),
    ]),
  );
  const body = values.data;
  const request = http.request(
    url,
    {
      agent,
      method: values.request ?? (body === undefined ? "GET" : "POST"),
      headers:
        body === undefined
          ? headers
          : { "content-type": "application/json", "content-length": Buffer.byteLength(body), ...headers },
      timeout: Number(values.timeout),
    },
    (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        text += chunk;
      });
      response.on("end", () =>
        say({ status: response.statusCode, headers: response.headers, body: text }, true),
      );
      response.on("error", (error) => say({ error: error.message }, false));
    },
  );
  request.on("timeout", () => request.destroy(new Error("timed out")));
  request.on("error", (error: NodeJS.ErrnoException) =>
    say({ error: error.message, code: error.code }, false),
  );
  request.end(body);
  return promise;
}

let allAnswered = true;
for (let time = 0; time < Number(values.times); time++) {
  for (const url of positionals) allAnswered = (await call(url)) && allAnswered;
  if (Number(values.interval) > 0) await new Promise((done) => setTimeout(done, Number(values.interval)));
}
agent.destroy();
process.exitCode = allAnswered ? 0 : 1;
