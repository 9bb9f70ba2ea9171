// HTTP/1.1 on the mesh port: callers with an SVID that do not speak HTTP/2 are checked, decided on and recorded like all
// others, by their certificate alone or by the proofs that their requests carry as fields.
import { once } from "node:events";
import { connect, type TLSSocket } from "node:tls";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { clientTlsOptions } from "../../../sidecar/certs/tls-contexts.ts";
import { signEs256 } from "../../../sidecar/core/identity/ecdsa.ts";
import { tokenHash } from "../../../sidecar/core/identity/token.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";
import {
  ALLOW_READ,
  type App,
  complete,
  hello,
  idOf,
  parseAnswer,
  type RawAnswer,
  type ServiceSpec,
  type Sidecar,
  table,
  World,
} from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const JOB: ServiceSpec = { namespace: "lab", kind: "job", name: "train", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080, 9090] };
const HOST = "host: things.ml\r\ncountersign-port: 8080\r\n";
const GET = `GET /things/a HTTP/1.1\r\n${HOST}\r\n`;

let world: World;
let app: App;
let callee: Sidecar;
let identity: WorkloadIdentity;
let revision = 0;

const calleeTable = (more: Partial<Parameters<typeof table>[0]> = {}) =>
  table({
    self: THINGS,
    policies: [ALLOW_READ],
    bundle: world.authority.bundle.json,
    revision: ++revision,
    ...more,
  });

beforeAll(async () => {
  world = await World.create();
  app = await world.app(hello);
  callee = await world.sidecar(THINGS, { app });
  identity = world.identity(NOTEBOOK);
});
beforeEach(() => expect(callee.plane.setTable(calleeTable())).toMatchObject({ ok: true }));
afterAll(() => world.close());

/** One connection: answers come in the order of the requests. */
class Client {
  readonly socket: TLSSocket;
  text = "";
  closed = false;

  constructor(socket: TLSSocket) {
    this.socket = socket;
    socket.setEncoding("latin1");
    socket.on("data", (chunk: string) => {
      this.text += chunk;
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.closed = true;
    });
  }

  /** @param alpn empty: none is offered. */
  static async connect(alpn: readonly string[] = ["http/1.1"], who = identity): Promise<Client> {
    const options = clientTlsOptions(who, idOf("ml", "serving", "things"), Date.now, alpn);
    const socket = connect({ ...options, host: "127.0.0.1", port: callee.meshPort });
    await once(socket, "secureConnect");
    return new Client(socket);
  }

  /** Waits for what is sent to be answered, or for the end. */
  async ask(bytes: string): Promise<RawAnswer> {
    this.text = "";
    this.socket.write(bytes, "latin1");
    await this.until(() => complete(this.text));
    return parseAnswer(this.text);
  }

  async until(holds: () => boolean): Promise<void> {
    while (!holds() && !this.closed) await new Promise((resolve) => setImmediate(resolve));
  }
}

async function once1(bytes: string, alpn?: readonly string[], who?: WorkloadIdentity): Promise<RawAnswer> {
  const client = await Client.connect(alpn, who);
  const answer = await client.ask(bytes);
  client.socket.destroy();
  return answer;
}

const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

/** Proof fields for one call of thing.read. */
function proofFields(hop: Record<string, unknown> = {}): string {
  const packs = callee.plane.enforcement?.ports.get(8080)?.packsDigest ?? "";
  const iat = Math.floor(Date.now() / 1000);
  const signed = `${part({ alg: "ES256", typ: "wpt+jwt" })}.${part({
    aud: idOf("ml", "serving", "things"),
    iat,
    exp: iat + 60,
    jti: `j-${Math.random()}`,
    wth: tokenHash(identity.wit),
    cnf: { "x5t#S256": identity.leafThumbprint },
    "countersign.dev/hop": { op: "thing.read", packs, n: 1, via: [], ...hop },
  })}`;
  const signature = signEs256(Buffer.from(signed), identity.tokenKey).toString("base64url");
  return `workload-identity-token: ${identity.wit}\r\nworkload-proof-token: ${signed}.${signature}\r\n`;
}

describe("a caller with an SVID that speaks HTTP/1.1", () => {
  test.each([
    { name: "says so in ALPN", alpn: ["http/1.1"] },
    { name: "offers no ALPN", alpn: [] },
    { name: "offers others too", alpn: ["spdy/3", "http/1.1"] },
  ])("is served when it $name", async ({ alpn }) => {
    expect(await once1(GET, alpn)).toMatchObject({ status: 200, body: "hello" });
    expect(app.heads.at(-1)).toContain("\r\nx-mesh-caller: notebook/nb-1\r\n");
    expect(app.heads.at(-1)).not.toContain("countersign-port");
  });

  test("is decided on by its proof, whose tokens end here", async () => {
    expect(callee.plane.setTable(calleeTable({ settings: { proofs: "Required" } }))).toMatchObject({
      ok: true,
    });
    const bare = await once1(GET);
    expect([bare.status, JSON.parse(bare.body).reason]).toEqual([400, "AUTHN_PROOF_INVALID"]);
    const shown = await once1(`GET /things/a HTTP/1.1\r\n${HOST}${proofFields()}\r\n`);
    expect(shown).toMatchObject({ status: 200, body: "hello" });
    expect(app.heads.at(-1)).not.toContain("workload-");
  });

  test("is refused where its proof names another operation", async () => {
    const seen = app.heads.length;
    const answer = await once1(`GET /things/a HTTP/1.1\r\n${HOST}${proofFields({ op: "thing.write" })}\r\n`);
    expect(JSON.parse(answer.body).reason).toBe("AUTHN_PROOF_MISMATCH");
    expect(app.heads).toHaveLength(seen);
  });

  test("is denied by policy, and the denial is recorded with its name", async () => {
    const seen = app.heads.length;
    const answer = await once1(`POST /health HTTP/1.1\r\n${HOST}content-length: 2\r\n\r\n{}`);
    expect(answer.status).toBe(403);
    const job = await once1(GET, undefined, world.identity(JOB));
    expect([job.status, JSON.parse(job.body).caller]).toEqual([403, "job/train"]);
    expect(app.heads).toHaveLength(seen);
    const events = JSON.stringify((await callee.audit()).slice(-2));
    expect(events).toContain('"caller":"notebook/nb-1"');
    expect(events).toContain('"caller":"job/train"');
  });

  test("chooses the port, and must where there are several", async () => {
    expect((await once1("GET /things/a HTTP/1.1\r\nhost: things.ml\r\n\r\n")).status).toBe(400);
    expect((await once1(GET.replace("8080", "16008"))).status).toBe(400);
    expect((await once1(GET.replace("8080", "9090"))).status).toBe(200);
  });

  test("must name an authority, in HTTP/1.0 too", async () => {
    const answer = await once1("GET /things/a HTTP/1.0\r\ncountersign-port: 8080\r\n\r\n");
    expect(answer.status).toBe(400);
  });

  test("cannot say who else it is", async () => {
    await once1(
      `GET /things/a HTTP/1.1\r\n${HOST}x-mesh-caller: forged\r\nx-forwarded-client-cert: forged\r\n\r\n`,
    );
    expect(app.heads.at(-1)).not.toContain("forged");
  });
});

describe("an HTTP/1.1 connection of the mesh", () => {
  test("carries one request after the other, bodies in both directions", async () => {
    const client = await Client.connect();
    for (let i = 0; i < 3; i++) expect((await client.ask(GET)).status).toBe(200);
    const put = `POST /things/a HTTP/1.1\r\n${HOST}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`;
    expect(await client.ask(put)).toMatchObject({ status: 200, body: "hello" });
    expect(client.closed).toBe(false);
    client.socket.destroy();
  });

  test("holds what is pipelined until the answer before is out", async () => {
    const client = await Client.connect();
    const seen = app.heads.length;
    client.socket.write(GET + GET.replace("/a", "/b") + GET.replace("/a", "/c"));
    await client.until(() => client.text.split("hello").length === 4);
    expect(app.heads.slice(seen).map((head) => head.slice(0, 13))).toEqual([
      "GET /things/a",
      "GET /things/b",
      "GET /things/c",
    ]);
    client.socket.destroy();
  });

  test("ends after ten requests with a bad identity", async () => {
    const client = await Client.connect();
    const bad = `GET /things/a HTTP/1.1\r\n${HOST}workload-proof-token: x\r\n\r\n`;
    for (let i = 0; i < 9; i++) {
      expect((await client.ask(bad)).status).toBe(400);
      expect(client.closed).toBe(false);
    }
    expect((await client.ask(bad)).status).toBe(400);
    await client.until(() => false);
    expect(client.closed).toBe(true);
  });

  test("ends at once after what is ambiguous, without a word to the application", async () => {
    const client = await Client.connect();
    const seen = app.received.length;
    const answer = await client.ask(
      `POST /things/a HTTP/1.1\r\n${HOST}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n${GET}`,
    );
    expect(answer.status).toBe(400);
    await client.until(() => false);
    expect(client.text.match(/HTTP\/1\.1 /g)).toHaveLength(1);
    expect(app.received).toHaveLength(seen);
    expect(exposition(callee.plane.metrics).body).toMatch(
      /countersign_protocol_errors_total\{side="mesh",code="both_length_and_chunked"\} 1/,
    );
  });

  test("cannot be spoken to in HTTP/2 without ALPN", async () => {
    const answer = await once1("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []);
    expect(answer.status).toBeGreaterThanOrEqual(400);
  });

  test("is ended when it is idle, and when its head takes too long", async () => {
    const client = await Client.connect();
    const slow = await Client.connect();
    expect((await client.ask(GET)).status).toBe(200);
    slow.socket.write("GET /thi");
    await slow.until(() => callee.plane.inbound.connections.size === 2);
    const now = performance.now();
    callee.plane.inbound.sweep(now + 20_000);
    await slow.until(() => false);
    expect([slow.closed, client.closed]).toEqual([true, false]);
    callee.plane.inbound.sweep(now + 301_000);
    await client.until(() => false);
    expect(client.closed).toBe(true);
  });

  test("ends when a root is withdrawn, after the answer under way", async () => {
    const busy = await Client.connect();
    const idle = await Client.connect();
    await idle.ask(GET);
    busy.socket.write(`POST /things/a HTTP/1.1\r\n${HOST}content-length: 2\r\n\r\na`);
    await busy.until(() => callee.plane.inbound.openExchanges === 1);
    const now = performance.now();
    callee.plane.inbound.expelAll(now);
    callee.plane.inbound.sweep(now + 1);
    await idle.until(() => false);
    expect(busy.closed).toBe(false);
    const answer = await busy.ask("b");
    expect(answer.status).toBe(200);
    expect(answer.head).toContain("connection: close\r\n");
    await busy.until(() => false);
    expect(busy.closed).toBe(true);
  });
});

test("a client without a certificate gets no word in", async () => {
  const plain = connect({ host: "127.0.0.1", port: callee.meshPort, rejectUnauthorized: false });
  let received = "";
  plain.on("data", (chunk) => {
    received += chunk.toString("latin1");
  });
  const refused = new Promise<Error>((resolve) => plain.once("error", resolve));
  plain.write(GET);
  expect(String(await refused)).toContain("certificate required");
  expect([received, callee.plane.inbound.openExchanges]).toEqual(["", 0]);
});
