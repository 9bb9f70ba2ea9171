// WebSockets with `ws` and Python's `websockets` on the two ends, both ways round: what RFC 6455 knows of messages,
// fragments, control frames and endings arrives as it was sent.
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import WebSocket from "ws";
import { get, until } from "../demo/mesh-processes.ts";
import { type RunningProcess, startNode } from "../demo/process.ts";
import { type Mesh, startMesh } from "./mesh.ts";
import { pythonEnvironment } from "./python.ts";

const python = await pythonEnvironment("WebSockets across the mesh");
const NODE_PORT = 8001;
const PYTHON_PORT = 8002;
const RULES = `  - name: sockets
    from: [{workload: {names: [friend]}}]
    operations: [{http: {paths: [/echo, /close, /refused, /seen]}}]`;

/** Codes and reasons that both sides end connections with. */
const CLOSES = [
  [1000, "done"],
  [1001, ""],
  [1008, "policy"],
  [1011, "ü"],
  [3000, "x".repeat(123)],
  [4999, "own"],
] as const;
const ABNORMAL = 1006;
const POLICY_VIOLATION = 1008;

(python ? describe : describe.skip)("WebSocket", () => {
  let mesh: Mesh;
  const servers: RunningProcess[] = [];

  beforeAll(async () => {
    if (!python) return;
    servers.push(
      startNode("ws-app", [fileURLToPath(new URL("servers/ws-app.ts", import.meta.url))]),
      python.serve("ws_server", []),
    );
    const [nodePort = 0, pythonPort = 0] = await Promise.all(
      servers.map(async (server) => Number(await server.nextLine())),
    );
    mesh = await startMesh({
      kind: "service",
      ports: [
        { port: NODE_PORT, protocol: "http", app: nodePort },
        { port: PYTHON_PORT, protocol: "http", app: pythonPort },
      ],
      rules: RULES,
    });
  });
  afterAll(async () => {
    await mesh?.close();
    await Promise.all(servers.map((server) => server.stop()));
  });

  test("a client of `websockets` and a server of `ws`", async () => {
    const result = await python?.run(
      "ws_client",
      [mesh.url("friend", NODE_PORT), mesh.url("stranger", NODE_PORT)].map((url) =>
        url.replace("http", "ws"),
      ),
    );
    expect(result).toEqual({
      subprotocol: "v2.echo",
      compressed: true,
      echoes: true,
      fragmented: true,
      fragments: [40, true],
      latency: true,
      ponged: "pong from-server",
      ordered: true,
      serverCloses: CLOSES.map(([code, reason]) => [code, reason.slice(0, 80)]),
      clientCloses: [...CLOSES, [ABNORMAL, ""]],
      terminated: ABNORMAL,
      refused: 401,
      stranger: 403,
    });
    await mesh.untilRecorded({ caller: "notebook/stranger", effect: "Deny", path: "/echo", status: 403 });
    await mesh.untilRecorded({ caller: "notebook/friend", effect: "Allow", path: "/echo", status: 101 });
    await mesh.untilRecorded({ caller: "notebook/friend", effect: "Allow", path: "/refused", status: 401 });
  });

  describe("a client of `ws` and a server of `websockets`", () => {
    const open = async (path: string, options: WebSocket.ClientOptions = {}): Promise<WebSocket> => {
      const url = mesh.url("friend", PYTHON_PORT).replace("http", "ws");
      const socket = new WebSocket(`${url}${path}`, ["v2.echo"], { maxPayload: 1 << 26, ...options });
      await once(socket, "open");
      return socket;
    };
    const answer = async (socket: WebSocket): Promise<Buffer> => {
      const [data] = (await once(socket, "message")) as [Buffer];
      return data;
    };
    const ending = async (socket: WebSocket): Promise<readonly [number, string]> => {
      socket.on("error", () => {}); // an abrupt end is one
      const [code, reason] = (await once(socket, "close")) as [number, Buffer];
      return [code, reason.toString()];
    };
    const seen = async (): Promise<{ code: number; reason: string }[]> =>
      JSON.parse((await get(mesh.port("friend", PYTHON_PORT), "/seen")).body) as {
        code: number;
        reason: string;
      }[];

    test("messages, fragments and control frames", async () => {
      const socket = await open("/echo", { perMessageDeflate: { threshold: 0 } });
      expect(socket.protocol).toBe("v2.echo");
      expect(socket.extensions).toContain("permessage-deflate");
      for (const message of [Buffer.alloc(0), Buffer.from("ü"), Buffer.alloc(5_000_000, "abcdefg")]) {
        socket.send(message);
        expect((await answer(socket)).equals(message)).toBe(true);
      }
      for (let n = 0; n < 50; n++) {
        socket.send(`piece ${n} `, { fin: n === 49, compress: false });
        if (n % 10 === 0) socket.ping(`inside ${n}`);
      }
      expect((await answer(socket)).toString()).toBe(
        Array.from({ length: 50 }, (_, n) => `piece ${n} `).join(""),
      );
      const pinged = once(socket, "ping");
      socket.send("fragments 40");
      expect((await answer(socket)).toString()).toBe(
        Array.from({ length: 40 }, (_, n) => `part-${n} `).join(""),
      );
      expect(String((await pinged)[0])).toBe("between");
      socket.send("ping from-server");
      expect((await answer(socket)).toString()).toBe("pong from-server");
      socket.close();
      await ending(socket);
    });

    test("endings by either side, and none", async () => {
      for (const [code, reason] of CLOSES) {
        const socket = await open("/close");
        socket.send(`close ${code} ${reason.slice(0, 80)}`);
        expect(await ending(socket)).toEqual([code, reason.slice(0, 80)]);
      }
      const before = (await seen()).length;
      for (const [code, reason] of CLOSES) {
        const socket = await open("/close");
        socket.close(code, reason);
        expect(await ending(socket)).toEqual([code, reason]);
      }
      const left = await open("/close");
      left.terminate();
      const endings = await until("the endings", async () => {
        const all = await seen();
        return all.length > before + CLOSES.length ? all.slice(before) : undefined;
      });
      expect(endings.map((one) => [one.code, one.reason])).toEqual([...CLOSES, [ABNORMAL, ""]]);
      const torn = await open("/close");
      torn.send("terminate");
      expect(await ending(torn)).toEqual([ABNORMAL, ""]);
    });

    test("is ended with a policy violation when policy takes it away", async () => {
      const socket = await open("/echo");
      const ended = ending(socket);
      try {
        await mesh.setRules(RULES.replace("friend", "nobody"));
        expect(await ended).toEqual([POLICY_VIOLATION, expect.any(String)]);
      } finally {
        await mesh.setRules(RULES);
      }
    });

    test("a server that wants something else first", async () => {
      const url = mesh.url("friend", PYTHON_PORT).replace("http", "ws");
      const socket = new WebSocket(`${url}/refused`);
      socket.on("error", () => {}); // the same, after the answer
      const [, response] = (await once(socket, "unexpected-response")) as [unknown, { statusCode: number }];
      expect(response.statusCode).toBe(401);
    });
  });
});
