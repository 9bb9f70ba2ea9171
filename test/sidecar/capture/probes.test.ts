import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { relayProbe } from "../../../sidecar/capture/probe-relay.ts";
import { parseProbes } from "../../../sidecar/capture/probes.ts";

describe("parseProbes", () => {
  test("takes the fields of Kubernetes probes", () => {
    const parsed = parseProbes(
      JSON.stringify({
        "app/readiness": {
          httpGet: {
            path: "ready?full=1",
            port: 8080,
            scheme: "HTTPS",
            httpHeaders: [{ name: "X-A", value: "b" }],
          },
          timeoutSeconds: 3,
          periodSeconds: 10,
        },
        "app/liveness": { tcpSocket: { port: 6379 } },
        "model/startup": { grpc: { port: 9000, service: "triton" } },
      }),
    );
    expect(parsed.ok && [...parsed.value]).toEqual([
      [
        "app/readiness",
        {
          action: { kind: "http", port: 8080, path: "/ready?full=1", https: true, headers: [["X-A", "b"]] },
          timeoutMs: 3_000,
        },
      ],
      ["app/liveness", { action: { kind: "tcp", port: 6379 }, timeoutMs: 1_000 }],
      ["model/startup", { action: { kind: "grpc", port: 9000, service: "triton" }, timeoutMs: 1_000 }],
    ]);
  });

  test.each([
    { text: "nothing", says: "is not JSON" },
    { text: "[]", says: "is not an object" },
    { text: '{"app": {}}', says: "not a container and one of" },
    { text: '{"../x/liveness": {}}', says: "not a container and one of" },
    { text: '{"app/liveness": {"exec": {"command": ["a"]}}}', says: "without httpGet, tcpSocket or grpc" },
    {
      text: '{"app/liveness": {"grpc": {"port": 1, "service": "a b"}}}',
      says: "whose service is not a name",
    },
    { text: '{"app/liveness": {"httpGet": {"port": "http"}}}', says: "whose port is not a number" },
    { text: '{"app/liveness": {"tcpSocket": {"port": 70000}}}', says: "whose port is not a number" },
    { text: '{"app/liveness": {"httpGet": {"port": 1, "path": "/a b"}}}', says: "whose path cannot be sent" },
    {
      text: '{"app/liveness": {"httpGet": {"port": 1, "path": "/a\\r\\nx: y"}}}',
      says: "whose path cannot be sent",
    },
    {
      text: '{"app/liveness": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a", "value": "b\\r\\nc: d"}]}}}',
      says: "a header that cannot be sent",
    },
    { text: '{"app/liveness": {"httpGet": {"port": 1}, "timeoutSeconds": 0}}', says: "timeoutSeconds" },
  ])("refuses $text", ({ text, says }) => {
    const parsed = parseProbes(text);
    expect(parsed.ok ? "accepted" : parsed.error).toContain(says);
  });

  test("answers anything without throwing", () => {
    fc.assert(fc.property(fc.json(), (text) => typeof parseProbes(text).ok === "boolean"));
  });
});

describe("relayProbe", () => {
  async function app(answer: string | undefined) {
    const heads: string[] = [];
    const server = createServer((socket) => {
      socket.on("error", () => {});
      socket.on("data", (chunk) => {
        heads.push(chunk.toString());
        if (answer !== undefined) socket.end(answer);
      });
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    return { heads, port: (server.address() as AddressInfo).port, close: () => server.close() };
  }

  const relay = async (probe: object) => {
    const probes = parseProbes(JSON.stringify({ "app/liveness": probe }));
    if (!probes.ok) throw new Error(probes.error);
    return await relayProbe(probes.value, "127.0.0.1", "/probe/app/liveness");
  };

  test.each([
    { answer: "HTTP/1.1 204 No Content\r\n\r\n", status: 204 },
    { answer: "HTTP/1.1 503 Unwell\r\ncontent-length: 0\r\n\r\n", status: 503 },
    { answer: "HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\n\r\n", status: 200 },
    { answer: "no http\r\n\r\n", status: 503 },
  ])("an answer $answer is relayed as $status", async ({ answer, status }) => {
    const { heads, port, close } = await app(answer);
    const page = await relay({ httpGet: { port, path: "/x", httpHeaders: [{ name: "Host", value: "me" }] } });
    expect(page?.status).toBe(status);
    expect(page?.body).not.toContain("elsewhere");
    expect(heads[0]).toMatch(/^GET \/x HTTP\/1\.1\r\n/);
    expect(heads[0]).toMatch(/\r\nhost: me\r\n/);
    close();
  });

  test("silence is no answer", async () => {
    const { port, close } = await app(undefined);
    const page = await relay({ httpGet: { port }, timeoutSeconds: 1 });
    expect(page).toMatchObject({ status: 503, body: "the application did not answer in time\n" });
    close();
  });

  test.each([
    { name: "SERVING", answer: Buffer.from([0x08, 1]), service: "", status: 200 },
    { name: "NOT_SERVING", answer: Buffer.from([0x08, 2]), service: "triton", status: 503 },
    { name: "no status", answer: Buffer.alloc(0), service: "", status: 503 },
  ])("a gRPC health check that says $name is relayed as $status", async ({ answer, service, status }) => {
    const asked: Buffer[] = [];
    const server = new Server();
    const bytes = (value: Buffer) => value;
    const path = "/grpc.health.v1.Health/Check";
    server.register(
      path,
      (call: { request: Buffer }, callback: (error: null, value: Buffer) => void) => {
        asked.push(call.request);
        callback(null, answer);
      },
      bytes,
      bytes,
      "unary",
    );
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
        error === null ? resolve(bound) : reject(error),
      );
    });
    expect((await relay({ grpc: { port, service }, timeoutSeconds: 5 }))?.status).toBe(status);
    expect(asked[0]?.subarray(service === "" ? 0 : 2).toString()).toBe(service);
    server.forceShutdown();
  });

  test("a server that does not speak gRPC is not well", async () => {
    const { port, close } = await app("HTTP/1.1 200 OK\r\n\r\n");
    expect((await relay({ grpc: { port } }))?.status).toBe(503);
    close();
  });

  test("what was not declared is not relayed", () => {
    expect(relayProbe(new Map(), "127.0.0.1", "/probe/app/liveness")).toBeUndefined();
    expect(relayProbe(new Map(), "127.0.0.1", "/metrics")).toBeUndefined();
  });
});
