// A gateway in front of a host outside the mesh that speaks HTTP/2: requests of browsers and gRPC of clients, with a real
// server behind TLS.
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createSecureServer, type Http2SecureServer, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  Client,
  credentials,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type sendUnaryData,
  status,
} from "@grpc/grpc-js";
import { afterEach, expect, test } from "@jest/globals";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { edgeCertificate } from "../../fakes/edge-certificate.ts";
import { METHODS, PACK } from "../sidecar/grpc-app.ts";
import { chat, codeOf, get } from "../sidecar/grpc-calls.ts";
import { OUTSIDE, withOutside } from "../sidecar/outside.ts";
import { hello } from "../sidecar/world.ts";
import { ALLOW_GATEWAYS, Edge, gatewayOf, route } from "./edge.ts";

let edge: Edge;
let dir: string;
const closers: (() => void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) close();
  await edge.close();
  rmSync(dir, { recursive: true });
});

/** @param serve with the certificate; gives the port. */
async function setUp(
  serve: (material: { cert: string; key: string }) => Promise<number>,
  policy: ProgramPolicy = ALLOW_GATEWAYS,
): Promise<void> {
  dir = mkdtempSync(join(tmpdir(), "countersign-outside-"));
  const { cert, key, ca } = await edgeCertificate(["localhost"], Date.now());
  const externalCaFile = join(dir, "ca.pem");
  writeFileSync(externalCaFile, ca);
  const port = await serve({ cert, key });
  const backend = { kind: "external", id: OUTSIDE } as const;
  edge = await Edge.create(hello, gatewayOf({ routes: [route({ backend })] }), undefined, { externalCaFile });
  const before = edge.front.plane.table;
  if (before === undefined) throw new Error("no table");
  const packs = new Map([["things", { name: "things", text: PACK }]]);
  const result = edge.front.plane.setTable(withOutside({ ...before, packs }, port, [policy]));
  if (!result.ok) throw new Error(result.error);
}

test("many requests of browsers share one connection to it", async () => {
  const sessions: ServerHttp2Session[] = [];
  const seen: string[] = [];
  await setUp(async ({ cert, key }) => {
    const host: Http2SecureServer = createSecureServer({ cert, key }, (request, response) => {
      seen.push(String(request.headers[":authority"]));
      response.end(`outside ${request.url}`);
    });
    host.on("session", (session) => sessions.push(session));
    closers.push(() => {
      for (const session of sessions) session.destroy();
      host.close();
    });
    host.listen(0, "127.0.0.1");
    await once(host, "listening");
    return (host.address() as AddressInfo).port;
  });
  const session = edge.session();
  const bodies = await Promise.all(
    Array.from({ length: 20 }, async (_, n) => {
      const stream = session.request({ ":authority": "app.example.com", ":path": `/things/t${n}` });
      let text = "";
      for await (const chunk of stream) text += String(chunk);
      return text;
    }),
  );
  expect(bodies).toEqual(Array.from({ length: 20 }, (_, n) => `outside /things/t${n}`));
  expect(sessions).toHaveLength(1);
  expect(new Set(seen).size).toBe(1);
  expect(seen[0]).toMatch(/^localhost:[0-9]+$/);
});

test("gRPC of a client outside is decided on at the gateway, by method and message", async () => {
  const asked: string[] = [];
  await setUp(
    async ({ cert, key }) => {
      const host = new Server();
      host.addService(METHODS, {
        get: (call: ServerUnaryCall<string, string>, done: sendUnaryData<string>) => {
          asked.push(call.request);
          done(null, `got ${call.request}`);
        },
        list: () => {},
        add: () => {},
        chat: (call: ServerDuplexStream<string, string>) => {
          call.on("data", (each: string) => call.write(`re ${each}`));
          call.on("end", () => call.end());
        },
      });
      closers.push(() => host.forceShutdown());
      const pair = { cert_chain: Buffer.from(cert), private_key: Buffer.from(key) };
      return await new Promise<number>((resolve, reject) =>
        host.bindAsync("127.0.0.1:0", ServerCredentials.createSsl(null, [pair]), (error, at) =>
          error === null ? resolve(at) : reject(error),
        ),
      );
    },
    { ...ALLOW_GATEWAYS, rules: [{ name: "good", operations: [{ op: "store", resources: ["good-*"] }] }] },
  );
  const client = new Client(`127.0.0.1:${edge.port}`, credentials.createSsl(Buffer.from(edge.material.ca)), {
    "grpc.ssl_target_name_override": "app.example.com",
    "grpc.default_authority": "app.example.com",
    "grpc.use_local_subchannel_pool": 1,
  });
  closers.push(() => client.close());
  expect(await get(client, "good-1")).toBe("got good-1");
  expect(await chat(client, ["good-1", "good-2"])).toEqual({
    got: ["re good-1", "re good-2"],
    error: undefined,
  });
  expect(codeOf(await get(client, "bad-1"))).toBe(status.PERMISSION_DENIED);
  expect(asked).toEqual(["good-1"]);
  const events = JSON.stringify(await edge.front.audit());
  for (const part of ["external/outside", "store.get", '"grpcStatus":0', '"grpcStatus":7'])
    expect(events).toContain(part);
});
