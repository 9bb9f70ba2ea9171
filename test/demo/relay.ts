// An application in the middle, such as a notebook, a job or an agent: makes the calls that it is asked for, through its
// sidecar's proxy, with the trace that it was called with, as any OpenTelemetry library does. It knows nothing of users.
import http from "node:http";
import type { AddressInfo } from "node:net";

/** One call; `onward`: what the application that it reaches, a relay too, is to call. */
export interface RelayedCall {
  readonly method: string;
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly onward?: readonly RelayedCall[];
}

export interface RelayedAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
}

/** What a relay answers a POST of `{calls}` with. */
export interface Relayed {
  readonly answers: readonly RelayedAnswer[];
  /** Fields that it was called with, all of them: for those who look what an application gets to see. */
  readonly saw: Readonly<Record<string, string | string[] | undefined>>;
}

export interface Relay {
  readonly port: number;
  close(): void;
}

const MAX_WAIT_MS = 60_000;

/** @param proxyPort of the sidecar. */
export async function startRelay(proxyPort: number): Promise<Relay> {
  const agent = new http.Agent({ keepAlive: true });
  const server = http.createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8").on("data", (text: string) => {
      body += text;
    });
    request.on("end", () => {
      const { calls = [] } = body === "" ? {} : (JSON.parse(body) as { calls?: readonly RelayedCall[] });
      const { traceparent } = request.headers;
      const trace = typeof traceparent === "string" ? { traceparent } : {};
      void Promise.all(calls.map((call) => relay(agent, proxyPort, call, trace))).then(
        (answers) => {
          response.writeHead(200, { "content-type": "application/json" });
          response.end(JSON.stringify({ answers, saw: request.headers } satisfies Relayed));
        },
        (error: unknown) => response.writeHead(502).end(String(error)),
      );
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo; // a TCP socket that listens
  return {
    port,
    close: () => {
      agent.destroy();
      server.closeAllConnections();
      server.close();
    },
  };
}

function relay(
  agent: http.Agent,
  proxyPort: number,
  { method, url, headers, body, onward }: RelayedCall,
  trace: Readonly<Record<string, string>>,
): Promise<RelayedAnswer> {
  const payload = onward === undefined ? body : { calls: onward };
  const text = payload === undefined ? undefined : JSON.stringify(payload);
  return new Promise((resolve, reject) => {
    const outgoing = http.request(
      {
        ...{ agent, host: "127.0.0.1", port: proxyPort, method, path: url, timeout: MAX_WAIT_MS },
        headers: {
          host: url.split("/")[2] ?? "",
          ...(text === undefined
            ? {}
            : { "content-type": "application/json", "content-length": Buffer.byteLength(text) }),
          ...headers,
          ...trace,
        },
      },
      (answer) => {
        let got = "";
        answer.setEncoding("utf8").on("data", (chunk: string) => {
          got += chunk;
        });
        answer.on("end", () =>
          resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: got }),
        );
        answer.on("error", reject);
      },
    );
    outgoing.on("timeout", () => outgoing.destroy(new Error("no answer from the sidecar")));
    outgoing.on("error", reject);
    outgoing.end(text);
  });
}
