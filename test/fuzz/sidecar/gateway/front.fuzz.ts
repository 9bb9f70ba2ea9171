// The gateway's TLS port over HTTP/1.1 and HTTP/2: any mixture of good, bad and broken requests, hosts, cookies and fields. The
// application sees what a route and a host lead to it and nothing that names anybody, and nothing stays open.
import { once } from "node:events";
import { setImmediate as turn } from "node:timers/promises";
import { Edge, gatewayOf, route } from "../../../integration/gateway/edge.ts";
import { hello } from "../../../integration/sidecar/world.ts";
import { createRandom } from "../../random.ts";

const HOSTS = [
  ...["app.example.com", "APP.example.com", "app.example.com:8443", "app.example.com.", "x.nb.example.com"],
  ...[
    "evil.example",
    "app.example.com@evil.example",
    "app.example.com, evil.example",
    "",
    "127.0.0.1",
    "a\tb",
  ],
];
const PATHS = [
  ...[
    "/things/a",
    "/things/a?x=1",
    "/admin/x",
    "/%61dmin",
    "/things/../admin",
    "//evil.example",
    "/.countersign/login",
  ],
  ...[
    "/%2ecountersign/login",
    "/things%2f..%2fadmin",
    "/things;a/b",
    "*",
    "https://evil.example/",
    "/\u0000",
    "things",
  ],
];
const FIELDS = [
  ...[
    "X-Forwarded-User: root",
    "x_forwarded_email: root",
    "x.mesh.roles: root",
    "Txn-Token: root",
    "Remote-User: root",
  ],
  ...[
    "x-forwarded-for: 6.6.6.6",
    "traceparent: 00-root-root-01",
    "cookie: __Host-session=root; a=1",
    "cookie: a",
  ],
  ...[
    "cookie: \u00a0__Host-session=secret",
    "content-length: 4",
    "transfer-encoding: chunked",
    "host: evil.example",
  ],
  ...[
    "connection: close, x-mesh-roles",
    "upgrade: websocket",
    "expect: 100-continue",
    "x: \u0001",
    " x: folded",
  ],
  ...[
    "x-http-method-override: DELETE",
    "origin: null",
    "authorization: Bearer mine",
    "te: trailers",
    "bad field: x",
  ],
];
const METHODS = ["GET", "HEAD", "POST", "OPTIONS", "CONNECT", "TRACE", "get", "G(T"];

/** A case is one connection, or one stream. */
export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1_000;
  const random = createRandom(options.seed);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T; // none is empty
  const edge = await Edge.create(
    hello,
    gatewayOf({
      routes: [
        route({ name: "admin", path: { kind: "prefix", value: "/admin" }, access: "Login" }),
        route({ name: "app", access: "LoginOrBearer" }),
        route({ name: "things", path: { kind: "prefix", value: "/things" } }),
      ].reverse(),
    }),
  );
  let cases = 0;
  try {
    let session = edge.session();
    while (performance.now() < end) {
      edge.app.heads.length = 0;
      edge.app.received.length = 0;
      const what = random() < 0.5 ? await overHttp1() : await overHttp2();
      for (const head of edge.app.heads) {
        if (!/^(?:GET|HEAD|POST|OPTIONS|get) \/(?:things|%61dmin)?/.test(head) || /^\S+ \/admin/.test(head))
          throw new Error(`the application saw ${head}: ${what}`);
        if (/root|6\.6\.6\.6|x-http-method/i.test(head))
          throw new Error(`somebody is named in ${head}: ${what}`);
        const hosts = head.match(/\r\nhost: [^\r]*/gi) ?? [];
        if (
          hosts.length !== 1 ||
          !/\r\nhost: (?:app|x\.nb)\.example\.com\.?(?::8443)?$/i.test(hosts[0] ?? "")
        )
          throw new Error(`another host in ${head}: ${what}`);
      }
      cases++;
    }

    async function overHttp1(): Promise<string> {
      const lines = [
        `${pick(METHODS)} ${pick(PATHS)} HTTP/1.${random() < 0.9 ? 1 : 0}`,
        `host: ${pick(HOSTS)}`,
      ];
      while (random() < 0.6) lines.splice(1 + Math.floor(random() * lines.length), 0, pick(FIELDS));
      let text = `${lines.join("\r\n")}\r\n\r\n`;
      if (random() < 0.3)
        text += pick(["abcd", "4\r\nabcd\r\n0\r\n\r\n", "zz\r\n", "GET /things/b HTTP/1.1\r\n\r\n"]);
      if (random() < 0.2) text = text.slice(0, Math.floor(random() * text.length));
      const socket = await edge.socket(random() < 0.9 ? "app.example.com" : "x.nb.example.com");
      socket.on("error", () => {}).resume();
      const closed = once(socket, "close");
      const half = Math.floor(random() * text.length);
      socket.write(text.slice(0, half), "latin1");
      await turn();
      socket.write(text.slice(half), "latin1");
      const timer = setTimeout(() => socket.end(), 30);
      const late = setTimeout(() => socket.destroy(new Error("late")), 20_000);
      await closed;
      clearTimeout(timer);
      clearTimeout(late);
      if (socket.errored?.message === "late")
        throw new Error(`the connection stays open: ${JSON.stringify(text)}`);
      return JSON.stringify(text);
    }

    async function overHttp2(): Promise<string> {
      if (session.destroyed || session.closed) session = edge.session();
      const headers: Record<string, string> = {
        ...{ ":method": pick(METHODS), ":path": pick(PATHS), ":authority": pick(HOSTS) },
      };
      while (random() < 0.6) {
        const [name = "", ...value] = pick(FIELDS).toLowerCase().split(": ");
        headers[name] = value.join(": ");
      }
      const what = JSON.stringify(headers);
      try {
        const stream = session.request(headers, { endStream: random() < 0.8 });
        stream.on("error", () => {}).resume();
        const closed = new Promise<void>((resolve) => stream.once("close", () => resolve()));
        const timer = setTimeout(() => stream.close(8), 30);
        await closed;
        clearTimeout(timer);
      } catch {
        // Node's own client does not send it.
      }
      return what;
    }
  } finally {
    await edge.close();
  }
  return { cases };
}
