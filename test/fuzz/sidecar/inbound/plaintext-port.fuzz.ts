// The plaintext port of a permissive namespace: any mixture of good, bad and broken requests in pieces of any size. The
// application sees what was allowed and nothing else, each of its answers arrives, and nothing stays open.
import { connect } from "node:net";
import { setImmediate as turn } from "node:timers/promises";
import { ALLOW_READ, hello, type ServiceSpec, table, World } from "../../../integration/sidecar/world.ts";

const callee: ServiceSpec = { namespace: "ml", kind: "serving", name: "scorer", ports: [8080] };
const FRAGMENTS = [
  "GET /things/a HTTP/1.1\r\nhost: a\r\n\r\n",
  "GET /things/a HTTP/1.1\r\nhost: a\r\nx-mesh-caller: root\r\nX_Forwarded_User: root\r\n\r\n",
  "PUT /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nGET ",
  "PUT /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
  "PUT /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabcGET /things/a HTTP/1.1\r\n",
  "POST /things/a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx",
  "POST /chat HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
  "GET /things/a HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
  "GET /things/a HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: foo/1\r\n\r\n",
  "GET /things/a HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
  "HEAD /things/a HTTP/1.0\r\n\r\n",
  "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
  "GET http://b/things/a HTTP/1.1\r\nhost: a\r\n\r\n",
  "\r\n",
  " /things HTTP/1.1\r\n",
  "transfer-encoding: chunked\r\n",
  "0\r\n\r\n",
  "\0",
];
const LAST = "GET /things/last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/** A case is one connection. */
export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  let state = options.seed >>> 0 || 1;
  const next = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const world = await World.create();
  let cases = 0;
  try {
    const app = await world.app(hello);
    const { plane, captured } = await world.sidecar(callee, {
      app,
      config: { capture: true, auditFile: undefined },
      capture: {
        originalOf: () => ({ ok: true, value: { address: "10.1.1.1", port: 8080 } }),
        families: ["ipv4"],
        outboundPort: 0,
        inboundPort: 0,
        verifies: false,
      },
    });
    const denyWrites = { ...ALLOW_READ, action: "Deny" as const };
    const used = plane.setTable(
      table({
        self: callee,
        bundle: world.authority.bundle.json,
        settings: { mtls: "Permissive" },
        policies: [{ ...denyWrites, rules: [{ name: "writes", operations: [{ op: "thing.write" }] }] }],
      }),
    );
    if (!used.ok) throw new Error(used.error);
    while (performance.now() < end) {
      app.heads.length = 0;
      app.received.length = 0;
      let text = "";
      for (let count = next(7); count > 0; count--) text += FRAGMENTS[next(FRAGMENTS.length)] ?? "";
      if (next(4) === 0) text = text.slice(0, next(text.length + 1));
      text += LAST;
      const step = 1 + next(80);
      const answers = await exchange(captured?.inbound ?? 0, text, step);
      const what = `${JSON.stringify(text)} in pieces of ${step}`;
      const good = answers.match(/HTTP\/1\.1 200 /g)?.length ?? 0;
      if (app.heads.length !== good)
        throw new Error(`${app.heads.length} requests, ${good} answers: ${what}: ${answers}`);
      for (const head of app.heads)
        if (/^(?:POST \/things\/|CONNECT )/.test(head) || /root|h2c|websocket/i.test(head))
          throw new Error(`the application saw ${head}: ${what}`);
      if (plane.busy !== 0) throw new Error(`a request stays open: ${what}`);
      cases++;
    }
  } finally {
    await world.close();
  }
  return { cases };
}

/** Everything that was answered until the connection ended. */
async function exchange(port: number, text: string, step: number): Promise<string> {
  const socket = connect(port, "127.0.0.1").setNoDelay(true).setEncoding("latin1");
  let answers = "";
  socket.on("data", (chunk: string) => {
    answers += chunk;
  });
  socket.on("error", () => {});
  const { promise: closed, resolve } = Promise.withResolvers<boolean>();
  socket.once("close", () => resolve(true));
  for (let at = 0; at < text.length && !socket.writableEnded; at += step) {
    socket.write(text.slice(at, at + step), "latin1");
    await turn();
  }
  // A request that waits for more than came: the peer goes away.
  const timer = setTimeout(() => socket.end(), 50);
  const late = setTimeout(() => resolve(false), 5_000);
  if (!(await closed)) throw new Error(`the connection stays open: ${JSON.stringify(text)}`);
  clearTimeout(timer);
  clearTimeout(late);
  return answers;
}
