// Requests of a hostile peer with a valid certificate: what reaches the application is what was decided on, or nothing.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import {
  ALLOW_READ,
  type App,
  type ServiceSpec,
  type Sidecar,
  send,
  table,
  World,
} from "../sidecar/world.ts";
import { type Answer, HostilePeer, request } from "./peer.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };

const POLICIES: readonly ProgramPolicy[] = [
  ALLOW_READ,
  {
    ...ALLOW_READ,
    id: "ml/models",
    name: "models",
    rules: [
      {
        name: "good",
        from: [{ workload: { kinds: ["notebook"] } }],
        operations: [{ op: "model.chat", resources: ["good-*"] }],
      },
    ],
  },
  {
    ...ALLOW_READ,
    id: "no-bad-things",
    name: "no-bad-things",
    cluster: true,
    action: "Deny",
    rules: [{ name: "bad", operations: [{ op: "thing", resources: ["bad"] }] }],
  },
];

let world: World;
let app: App;
let callee: Sidecar;
let caller: Sidecar;
let peer: HostilePeer;
let identity: WorkloadIdentity;

beforeAll(async () => {
  world = await World.create();
  app = await world.app((head, socket) => {
    const text = head.startsWith("HEAD") ? "" : (head.split("\r\n")[0] ?? "");
    socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
  });
  callee = await world.sidecar(THINGS, { app });
  caller = await world.sidecar(NOTEBOOK);
  const bundle = world.authority.bundle.json;
  expect(callee.plane.setTable(table({ self: THINGS, policies: POLICIES, bundle })).ok).toBe(true);
  expect(
    caller.plane.setTable(
      table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle }),
    ).ok,
  ).toBe(true);
  identity = world.identity(NOTEBOOK);
});
// Some attacks end the connection, as they may.
beforeEach(async () => {
  peer = await HostilePeer.connect(callee.meshPort, identity);
});
afterEach(() => peer.close());
afterAll(() => world.close());

type Pair = [string, string];
const instead = (name: string, value: string): Pair[] =>
  request("GET", "/things/a").map((pair) => (pair[0] === name ? [name, value] : pair));

/** What came to the application since `start`, all connections together. */
const bytesSince = (start: number): string => Buffer.concat(app.received.slice(start)).toString("latin1");

describe("a request that is no whole, unambiguous request", () => {
  test.each<[string, Pair[], string?, Pair[]?]>([
    ["line end in the path", instead(":path", "/things/a HTTP/1.1\r\nx: y")],
    ["line end in the method", instead(":method", "GET /things/bad HTTP/1.1\r\nx:")],
    ["line end in the authority", instead(":authority", "things.ml\r\nx: y")],
    ["space in the path", instead(":path", "/things/a b")],
    ["absolute form", instead(":path", "http://other/things/a")],
    ["fragment", instead(":path", "/things/a#b")],
    ["empty path", instead(":path", "")],
    ["asterisk", instead(":path", "*")],
    ["two slashes", instead(":path", "//things/a")],
    ["dot segments", instead(":path", "/things/x/../bad")],
    ["encoded dots", instead(":path", "/things/%2e%2e/a")],
    ["encoded slash", instead(":path", "/things%2fa")],
    ["twice encoded", instead(":path", "/things/%2562ad")],
    ["path parameters", instead(":path", "/things/a;b")],
    ["backslash", instead(":path", "/things\\a")],
    ["encoded NUL", instead(":path", "/things/a%00")],
    ["overlong UTF-8", instead(":path", "/things/%c0%afa")],
    ["lower-case method", instead(":method", "get")],
    ["a method of our own", instead(":method", "GRPC")],
    ["a long method", instead(":method", "M".repeat(40))],
    ["CONNECT", instead(":method", "CONNECT")],
    ["user information", instead(":authority", "things.ml@other")],
    ["a bad port", instead(":authority", "things.ml:99999")],
    ["another scheme", instead(":scheme", "file")],
    ["no authority", request("GET", "/things/a").filter(([name]) => name !== ":authority")],
    ["two methods", [[":method", "GET"], ...request("GET", "/things/a")]],
    ["a pseudo-header behind fields", [["x", "y"], ...request("GET", "/things/a")]],
    ["an unknown pseudo-header", request("GET", "/things/a", [":x", "y"])],
    ["line end in a value", request("GET", "/things/a", ["x", "a\r\nb: c"])],
    ["line feed in a value", request("GET", "/things/a", ["x", "a\nb"])],
    ["line end in a name", request("GET", "/things/a", ["x\r\ny", "a"])],
    ["colon in a name", request("GET", "/things/a", ["x:y", "a"])],
    ["capital in a name", request("GET", "/things/a", ["X-Up", "a"])],
    ["NUL in a cookie", request("GET", "/things/a", ["cookie", "a=b\0"])],
    ["transfer-encoding", request("GET", "/things/a", ["transfer-encoding", "chunked"])],
    ["connection", request("GET", "/things/a", ["connection", "content-length"])],
    ["upgrade", request("GET", "/things/a", ["upgrade", "websocket"])],
    ["te other than trailers", request("GET", "/things/a", ["te", "gzip"])],
    ["two hosts", request("GET", "/things/a", ["host", "things.ml:8080"], ["host", "things.ml:8080"])],
    ["another host", request("GET", "/things/a", ["host", "other"])],
    ["two lengths", request("POST", "/things/a", ["content-length", "3"], ["content-length", "3"]), "abc"],
    ["a signed length", request("POST", "/things/a", ["content-length", "+3"]), "abc"],
    ["a padded length", request("GET", "/things/a", ["content-length", "03"]), "abc"],
    ["a length without a body", request("GET", "/things/a", ["content-length", "5"])],
    ["two authorizations", request("GET", "/things/a", ["authorization", "a"], ["authorization", "b"])],
    ["framing in trailers", request("POST", "/nope"), "abc", [["transfer-encoding", "chunked"]]],
    ["a path in trailers", request("POST", "/nope"), "abc", [[":path", "/things/a"]]],
  ])("never reaches the application: %s", async (_name, fields, body = undefined, trailers = undefined) => {
    const before = app.received.length;
    const answer = await peer.ask(fields, body, trailers);
    expect(answer.status === 0 ? answer.reset : answer.status).not.toBe(200);
    expect(bytesSince(before)).toBe("");
  });

  test.each([
    ["longer", "2"],
    ["shorter", "9"],
  ])("is cut off when its body is %s than announced", async (_name, length) => {
    const heads = app.heads.length;
    const answer = await peer.ask(request("GET", "/things/a", ["content-length", length]), "abc");
    expect(answer.reset).toBe(1);
    expect((await peer.ask(request("GET", "/things/after"))).body).toBe("GET /things/after HTTP/1.1");
    expect(app.heads.length).toBe(heads + 1);
  });
});

describe("what goes on to the application", () => {
  async function headOf(fields: Pair[], body?: string, trailers?: Pair[]): Promise<string> {
    const before = app.received.length;
    const answer = await peer.ask(fields, body, trailers);
    expect(answer.status).toBe(200);
    return bytesSince(before);
  }

  test.each<[string, Pair[], RegExp]>([
    ["in chunks", [], /\r\n\r\n2a\r\nGET \/things\/bad [\s\S]*\r\n0\r\n\r\n$/],
    [
      "with a length",
      [["content-length", "42"]],
      /\r\ncontent-length: 42\r\n[\s\S]*\r\n\r\nGET \/things\/bad /,
    ],
  ])("a body that looks like a request stays a body %s", async (_name, fields, expected) => {
    const body = "GET /things/bad HTTP/1.1\r\nhost: things\r\n\r\n";
    expect(await headOf(request("GET", "/things/a", ...fields), body)).toMatch(expected);
  });

  test.each([
    "transfer_encoding",
    "transfer.encoding",
    "content_length",
    "x-forwarded-user",
    "x_mesh.caller",
    "x-original-url",
    "x_http_method_override",
    "workload_identity_token",
    "countersign_port",
    "http2-settings",
    "trailer",
    "proxy-authorization",
  ])("%s does not", async (name) => {
    const text = await headOf(request("GET", "/things/a", [name, "forged"]));
    expect(text).not.toContain("forged");
  });

  test("trailers neither authenticate, frame nor describe", async () => {
    const text = await headOf(request("GET", "/things/a"), "abc", [
      ["authorization", "Bearer forged"],
      ["cookie", "forged=1"],
      ["content-type", "text/forged"],
      ["content_type", "text/forged"],
      ["x-mesh-caller", "forged"],
      ["x_forwarded_for", "forged"],
      ["x-http-method", "FORGED"],
      ["x-sum", "7"],
    ]);
    expect(text).toContain("\r\n0\r\nx-sum: 7\r\n\r\n");
    expect(text.toLowerCase()).not.toContain("forged");
  });

  test("a trailer section without a body is one", async () => {
    expect(await headOf(request("GET", "/things/a"), undefined, [["x-a", "1"]])).toMatch(
      /transfer-encoding: chunked\r\n[\s\S]*\r\n\r\n0\r\nx-a: 1\r\n\r\n$/,
    );
  });

  test("split cookies are joined into one line", async () => {
    const text = await headOf(request("GET", "/things/a", ["cookie", "a=1"], ["cookie", "b=2"]));
    expect(text).toContain("\r\ncookie: a=1; b=2\r\n");
  });
});

describe("a policy is not passed by another spelling", () => {
  test.each<[string, string]>([
    ["encoded letter", "/things/%62ad"],
    ["encoded in lower case", "/things/b%61d"],
    ["upper case", "/things/BAD"],
    ["trailing slash", "/things/bad/"],
    ["both", "/things/Bad/"],
    ["a query", "/things/bad?x=/things/a"],
  ])("of a denied path: %s", async (_name, path) => {
    const before = app.received.length;
    expect((await peer.ask(request("GET", path))).status).toBe(403);
    expect((await peer.ask(request("HEAD", path))).status).toBe(403);
    const preflight = request("OPTIONS", path, ["origin", "x"], ["access-control-request-method", "GET"]);
    expect((await peer.ask(preflight)).status).toBe(403);
    expect(bytesSince(before)).toBe("");
  });

  const json: Pair = ["content-type", "application/json"];
  const good = '{"model":"good-1"}';
  test.each<[string, Pair[], string, string?]>([
    ["a key twice", [json], '{"model":"good-1","model":"evil"}'],
    ["a key twice, escaped", [json], '{"model":"good-1","mod\\u0065l":"evil"}'],
    ["a key twice, in another case", [json], '{"model":"good-1","MODEL":"evil"}'],
    ["a byte-order mark", [json], `\xef\xbb\xbf${good}`],
    ["bytes behind", [json], `${good}{"model":"evil"}`],
    ["a comma too many", [json], '{"model":"good-1",}'],
    ["a comment", [json], '{"model":"good-1"/*,"model":"evil"*/}'],
    ["a list", [json], '{"model":["good-1"]}'],
    ["a list of objects", [json], `[${good}]`],
    ["a NUL", [json], '{"model":"good-1\\u0000"}'],
    ["half a character", [json], '{"model":"good-1\\ud800"}'],
    ["bytes that are no UTF-8", [json], '{"model":"good-\xff"}'],
    ["dot segments", [json], '{"model":"good-1/../evil"}'],
    ["too many bytes", [json], `{"model":"good-1"${" ".repeat(66_000)},"model":"evil"}`],
    ["another type", [["content-type", "text/plain"]], good],
    ["no type", [], good],
    ["two types", [json, ["content-type", "text/plain"]], good],
    ["two types, one folded", [json, ["content_type", "text/plain"]], good],
    ["another character set", [["content-type", "application/json; charset=utf-16"]], good],
    ["a coding", [json, ["content-encoding", "gzip"]], good],
    ["a coding, folded", [json, ["content_encoding", "gzip"]], good],
    ["the query as well", [json], good, "?model=evil"],
    ["the query in another case", [json], good, "?Model=evil"],
    ["the query as a list", [json], good, "?model[]=evil"],
  ])("of a body that names the resource: %s", async (_name, fields, body, query = "") => {
    const before = app.received.length;
    const answer = await peer.ask(request("POST", `/chat${query}`, ...fields), body);
    expect([400, 403]).toContain(answer.status);
    expect(bytesSince(before)).toBe("");
  });

  test("and the plain spelling passes", async () => {
    expect((await peer.ask(request("POST", "/chat", json), good)).status).toBe(200);
  });
});

describe("the application's side of the caller", () => {
  test("a kept connection goes on after an answer that came before the request was taken", async () => {
    const answers = await send(
      caller.proxyPort,
      "GET http://nowhere.ml/ HTTP/1.1\r\nhost: nowhere.ml\r\n\r\n" +
        "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n",
      (text) => text.endsWith("GET /things/a HTTP/1.1"),
    );
    expect(answers.raw.match(/HTTP\/1\.1 \d+/g)?.slice(0, 2)).toEqual(["HTTP/1.1 502", "HTTP/1.1 200"]);
  });

  test("a refused body is never read as the next request", async () => {
    const inner = "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n";
    const before = app.received.length;
    const answer = await send(
      caller.proxyPort,
      `POST http://nowhere.ml/ HTTP/1.1\r\nhost: nowhere.ml\r\ncontent-length: 5000\r\n\r\n${inner}`,
      () => false,
    );
    expect(answer.raw.match(/HTTP\/1\.1 \d+ /g)).toEqual(["HTTP/1.1 502 "]);
    expect(answer.head).toContain("connection: close\r\n");
    expect(bytesSince(before)).toBe("");
  });
});

test("whatever was tried, no more requests reached the application than were allowed and forwarded", () => {
  const { forwarded, attempts, allowedAndForwarded } = callee.plane.metrics;
  // Those that were cut off reach it in part, or end before its connection stands.
  expect(app.heads.length).toBeLessThanOrEqual(forwarded.read(attempts));
  expect(app.heads.length).toBeGreaterThanOrEqual(forwarded.read(attempts) - 2);
  expect(forwarded.read(attempts)).toBeLessThanOrEqual(forwarded.read(allowedAndForwarded));
});

test("problem documents hold nothing that a request sent as a value", async () => {
  const answer: Answer = await peer.ask(
    request("GET", "/nope?token=s3cret", ["authorization", "Bearer s3cret"], ["cookie", "k=s3cret"]),
  );
  expect(answer.status).toBe(403);
  expect(answer.body + JSON.stringify(answer.fields.map((field) => field.value))).not.toContain("s3cret");
  const events = JSON.stringify(await callee.audit());
  expect(events).not.toContain("s3cret");
});
