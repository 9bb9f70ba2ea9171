// TLS that applications speak themselves to hosts outside the mesh, captured or behind CONNECT: decided on by the name it
// asks for, which is what is connected to, and passed on byte for byte. A real TLS server stands for the host.
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { get as httpsGet } from "node:https";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from "node:tls";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { Revocations } from "../../../sidecar/core/identity/revocations.ts";
import type { PolicyRule, ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import type { SidecarTable } from "../../../sidecar/discovery/table.ts";
import type { OriginalDestination } from "../../../sidecar/wire/original-destination.ts";
import { edgeCertificate } from "../../fakes/edge-certificate.ts";
import { canTest } from "../../left-out.ts";
import { withOutside } from "./outside.ts";
import { type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
/** Nobody has it (RFC 5737): whatever is reached was connected to by name. */
const NOWHERE = "203.0.113.80";

const policy = (
  more: Partial<PolicyRule> = {},
  action: ProgramPolicy["action"] = "Allow",
): ProgramPolicy => ({
  id: `lab/${action}`,
  name: action,
  cluster: false,
  source: "policy",
  action,
  enforcement: "Enforce",
  rules: [{ name: "all", from: [{ any: true }], operations: [{ any: true }], ...more }],
});

let world: World;
let host: Server;
let ca: string;
let port: number;
/** What the host's connections got to see of bytes. */
let arrived: number;
const hostSockets = new Set<Socket>();

beforeEach(async () => {
  world = await World.create();
  const material = await edgeCertificate(["localhost", "other.example"], Date.now());
  ca = material.ca;
  arrived = 0;
  // Says what it was asked for, then echoes.
  host = createTlsServer({ ...material, allowHalfOpen: true }, (socket) => {
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => {
      arrived += chunk.length;
      if (chunk.toString("latin1", 0, 4) === "GET ")
        socket.end("HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\noutside");
      else socket.write(chunk);
    });
    socket.on("end", () => socket.end());
  });
  host.on("connection", (socket: Socket) => {
    hostSockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => hostSockets.delete(socket));
  });
  await new Promise<void>((resolve) => host.listen(0, "127.0.0.1", resolve));
  port = (host.address() as AddressInfo).port;
});
afterEach(async () => {
  for (const socket of hostSockets) socket.destroy();
  await new Promise((resolve) => host.close(resolve));
  await world.close();
});

async function sidecarWith(options: {
  readonly policies?: readonly ProgramPolicy[];
  readonly settings?: Partial<SidecarTable["settings"]>;
  readonly to?: OriginalDestination;
  readonly opaquePorts?: readonly number[];
  /** Port of the ExternalService. */
  readonly declared?: number;
}): Promise<Sidecar> {
  const { policies = [policy()], settings = {}, opaquePorts = [] } = options;
  const capture = {
    originalOf: () => ({ ok: true, value: options.to ?? { address: NOWHERE, port } }) as const,
    families: ["ipv4"],
    outboundPort: 0,
    inboundPort: 0,
    verifies: false,
  } as const;
  const isCaptured = "to" in options;
  const sidecar = await world.sidecar(NOTEBOOK, {
    ...(isCaptured ? { capture } : {}),
    config: { capture: isCaptured, opaquePorts },
  });
  const base = table({ self: NOTEBOOK, bundle: world.authority.bundle.json, settings });
  const result = sidecar.plane.setTable(withOutside(base, options.declared ?? port, policies));
  if (!result.ok) throw new Error(result.error);
  return sidecar;
}

/** A client of TLS whose connection is captured. */
class Client {
  readonly raw: Socket;
  readonly tls: TLSSocket;
  text = "";
  error: NodeJS.ErrnoException | undefined;
  readonly closed: Promise<void>;

  constructor(raw: Socket, servername = "localhost") {
    this.raw = raw;
    this.tls = connectTls({
      socket: raw,
      ...(servername === "" ? {} : { servername }),
      ca,
      host: servername,
    });
    this.tls.on("data", (chunk: Buffer) => {
      this.text += chunk.toString("latin1");
    });
    for (const socket of [raw, this.tls])
      socket.on("error", (error) => {
        this.error ??= error;
      });
    this.closed = new Promise((resolve) => raw.once("close", () => resolve()));
  }

  static captured({ captured }: Sidecar, servername?: string): Client {
    return new Client(connect(captured?.outbound ?? 0, "127.0.0.1"), servername);
  }

  async secure(): Promise<this> {
    await Promise.race([once(this.tls, "secureConnect"), this.closed.then(() => Promise.reject(this.error))]);
    return this;
  }
}

async function until(done: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await done())) await new Promise((resolve) => setTimeout(resolve, 5));
}

const counted = ({ plane }: Sidecar) =>
  Object.fromEntries(
    (["external", "passed", "refused", "reset", "loop"] as const).map((result) => [
      result,
      plane.metrics.captured.read(plane.metrics.captured.series("outbound", result)),
    ]),
  );

/** The one audit event there is. */
async function recorded(sidecar: Sidecar): Promise<string> {
  let events: readonly Record<string, unknown>[] = [];
  await until(async () => {
    events = await sidecar.audit();
    return events.length > 0;
  });
  expect(events).toHaveLength(1);
  return JSON.stringify(events[0]);
}

function setPolicies(sidecar: Sidecar, policies: readonly ProgramPolicy[] | undefined): void {
  const before = sidecar.plane.table;
  if (before === undefined) throw new Error("no table");
  const { externals: _, ...rest } = before;
  expect(sidecar.plane.setTable(policies === undefined ? rest : withOutside(rest, port, policies)).ok).toBe(
    true,
  );
}

describe("captured TLS to a host outside the mesh", () => {
  test("goes to the host that its name means, byte for byte, and is recorded", async () => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port } });
    const client = await Client.captured(sidecar).secure();
    expect(client.tls.authorized).toBe(true);
    client.tls.write("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    await client.closed;
    expect(client.text).toContain("outside");
    expect(counted(sidecar)).toMatchObject({ external: 1, passed: 0, reset: 0 });
    const event = await recorded(sidecar);
    expect(event).toContain('"subject":"external/outside"');
    expect(event).toContain('"effect":"Allow"');
    expect(event).toContain('"method":"TCP"');
    expect(event).toContain(`localhost:${port}`);
    expect(event).toContain("notebook/nb-1");
  });

  test("carries a megabyte each way, and each direction ends on its own", async () => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port } });
    const client = await Client.captured(sidecar).secure();
    const bulk = randomBytes(1_048_576);
    client.tls.end(bulk);
    await client.closed;
    expect(Buffer.from(client.text, "latin1").equals(bulk)).toBe(true);
    const event = JSON.parse(await recorded(sidecar)) as { data: Record<string, { bytes?: number }> };
    expect(JSON.stringify(event)).toMatch(/"bytes":1[01]\d{5}/);
  });

  test.each([
    { name: "default deny", policies: [], reason: "DEFAULT_DENY" },
    {
      name: "rules for operations alone, which cannot be seen",
      policies: [policy({ operations: [{ op: "thing" }] })],
      reason: "NO_MATCHING_ALLOW",
    },
    {
      name: "a Deny of one operation beside an Allow of any",
      policies: [policy(), policy({ operations: [{ op: "thing.write" }] }, "Deny")],
      reason: "DENIED_BY_POLICY",
    },
    {
      name: "another kind of workload",
      policies: [policy({ from: [{ workload: { kinds: ["job"] } }] })],
      reason: "NO_MATCHING_ALLOW",
    },
    {
      name: "a user who is not there",
      policies: [policy({ from: [{ user: { presence: "Required" } }] })],
      reason: "NO_MATCHING_ALLOW",
    },
    {
      name: "a demand that cannot be met",
      policies: [policy({ with: { concurrency: 1 } })],
      reason: "UNSUPPORTED",
    },
  ])("is reset before the host is reached: $name, whatever `outbound` says", async ({ policies, reason }) => {
    for (const outbound of ["Deny", "Allow"] as const) {
      const sidecar = await sidecarWith({ to: { address: NOWHERE, port }, policies, settings: { outbound } });
      const client = Client.captured(sidecar);
      await client.closed;
      expect(client.error?.code).toBe("ECONNRESET");
      expect(counted(sidecar)).toMatchObject({ external: 1, passed: 0 });
      const event = await recorded(sidecar);
      expect(event).toContain('"effect":"Deny"');
      expect(event).toContain(`"reason":"${reason}"`);
      expect(event).toContain('"subject":"external/outside"');
    }
    expect(arrived + hostSockets.size).toBe(0);
  });

  test.each([
    { name: "of a host that nobody knows", servername: "other.example" },
    { name: "without a name", servername: "" },
  ])("$name is an unknown destination", async ({ servername }) => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port } });
    const client = Client.captured(sidecar, servername);
    await client.closed;
    expect(client.error?.code).toBe("ECONNRESET");
    expect(counted(sidecar)).toMatchObject({ external: 0, reset: 1 });
    const event = await recorded(sidecar);
    expect(event).toContain('"reason":"OUTBOUND_DENIED"');
    expect(event.includes("asks for `other.example`")).toBe(servername !== "");
  });

  test("to another port than the declared one is an unknown destination", async () => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port: port + 1 } });
    const client = Client.captured(sidecar);
    await client.closed;
    expect(counted(sidecar)).toMatchObject({ external: 0, reset: 1 });
    expect(hostSockets.size).toBe(0);
  });

  test("on an opaque port is not looked at", async () => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port }, opaquePorts: [port] });
    const client = Client.captured(sidecar);
    await client.closed;
    expect(counted(sidecar)).toMatchObject({ external: 0, reset: 1 });
  });

  test("whose hello hides its name is an unknown destination", async () => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port } });
    const raw = connect(sidecar.captured?.outbound ?? 0, "127.0.0.1");
    raw.on("error", () => {});
    raw.write(helloWithEch("localhost"));
    await new Promise((resolve) => raw.once("close", resolve));
    expect(counted(sidecar)).toMatchObject({ external: 0, reset: 1 });
    expect(hostSockets.size).toBe(0);
  });

  test("comes in pieces", async () => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port } });
    const pieces = createServer((socket) => {
      const out = connect({ port: sidecar.captured?.outbound ?? 0, host: "127.0.0.1", noDelay: true });
      for (const one of [socket, out]) one.on("error", () => {});
      out.pipe(socket);
      socket.on("data", (chunk: Buffer) => {
        for (let at = 0; at < chunk.length; at += 7) out.write(chunk.subarray(at, at + 7));
      });
      socket.on("close", () => out.destroy());
    });
    await new Promise<void>((resolve) => pieces.listen(0, "127.0.0.1", resolve));
    const client = await new Client(connect((pieces.address() as AddressInfo).port, "127.0.0.1")).secure();
    client.tls.write("hello");
    await until(() => client.text === "hello");
    client.raw.destroy();
    await new Promise((resolve) => pieces.close(resolve));
  });

  test("to a host that is not there is reset and recorded", async () => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port: 1 }, declared: 1 });
    const client = Client.captured(sidecar);
    await client.closed;
    expect(client.error?.code).toBe("ECONNRESET");
    expect(await recorded(sidecar)).toContain('"reason":"UPSTREAM_FAILED"');
  });

  test("to a host that resets is reset", async () => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port } });
    const client = await Client.captured(sidecar).secure();
    for (const socket of hostSockets) socket.resetAndDestroy();
    await client.closed;
    expect(client.error?.code).toBe("ECONNRESET");
    await until(() => sidecar.plane.outbound.busy === 0);
  });

  test("that is refused for want of an identity is not passed on", async () => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port } });
    const { spiffeId } = world.identity(NOTEBOOK);
    const before = sidecar.plane.table;
    if (before === undefined) throw new Error("no table");
    const revocations = new Revocations([{ spiffeId, pod: "", beforeMs: Date.now() + 3_000 }]);
    sidecar.plane.setTable({ ...before, revocations });
    const client = Client.captured(sidecar);
    await client.closed;
    expect(await recorded(sidecar)).toContain('"reason":"REVOKED"');
    expect(hostSockets.size).toBe(0);
  });

  test.each<{ name: string; change: (sidecar: Sidecar) => void; reason: string }>([
    { name: "no policy allows it", change: (sidecar) => setPolicies(sidecar, []), reason: "DEFAULT_DENY" },
    {
      name: "a Deny is about what it may carry",
      change: (sidecar) => setPolicies(sidecar, [policy(), policy({ operations: [{ op: "a" }] }, "Deny")]),
      reason: "DENIED_BY_POLICY",
    },
    {
      name: "the ExternalService is gone",
      change: (sidecar) => setPolicies(sidecar, undefined),
      reason: "UNKNOWN_DESTINATION",
    },
    {
      name: "the workload is revoked",
      change: (sidecar) => {
        const before = sidecar.plane.table;
        if (before === undefined) throw new Error("no table");
        const { spiffeId } = world.identity(NOTEBOOK);
        const revocations = new Revocations([{ spiffeId, pod: "", beforeMs: Date.now() + 3_000 }]);
        sidecar.plane.setTable({ ...before, revocations });
      },
      reason: "REVOKED",
    },
  ])("that stands is reset when $name, and not before", async ({ change, reason }) => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port } });
    const client = await Client.captured(sidecar).secure();
    client.tls.write("one");
    await until(() => client.text === "one");
    // Another policy that allows it too.
    setPolicies(sidecar, [{ ...policy(), id: "lab/other" }]);
    sidecar.plane.sweep(systemClock.monotonicMs());
    client.tls.write("two");
    await until(() => client.text === "onetwo");
    change(sidecar);
    sidecar.plane.sweep(systemClock.monotonicMs());
    await client.closed;
    expect(client.error?.code).toBe("ECONNRESET");
    const event = await recorded(sidecar);
    expect(event).toContain(`"reason":"${reason}"`);
    await until(() => hostSockets.size === 0);
  });

  test("that stands is reset when its time is over, though no table comes", async () => {
    const untilMs = Date.now() + 3_600_000;
    let nowMs = Date.now();
    const capture = {
      originalOf: () => ({ ok: true, value: { address: NOWHERE, port } }) as const,
      families: ["ipv4"],
      outboundPort: 0,
      inboundPort: 0,
      verifies: false,
    } as const;
    const sidecar = await world.sidecar(NOTEBOOK, {
      capture,
      config: { capture: true },
      meshNowMs: () => nowMs,
    });
    const base = table({ self: NOTEBOOK, bundle: world.authority.bundle.json });
    sidecar.plane.setTable(withOutside(base, port, [policy({ when: { notAfterMs: untilMs } })]));
    const client = await Client.captured(sidecar).secure();
    sidecar.plane.sweep(systemClock.monotonicMs() + 2_000);
    client.tls.write("one");
    await until(() => client.text === "one");
    nowMs = untilMs;
    sidecar.plane.sweep(systemClock.monotonicMs() + 4_000);
    await client.closed;
    expect(await recorded(sidecar)).toContain('"reason":"NO_MATCHING_ALLOW"');
  });

  test("that is silent for an hour is given up, and no sooner", async () => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port } });
    const client = await Client.captured(sidecar).secure();
    sidecar.plane.sweep(systemClock.monotonicMs() + 3_500_000);
    client.tls.write("one");
    await until(() => client.text === "one");
    sidecar.plane.sweep(systemClock.monotonicMs());
    sidecar.plane.sweep(systemClock.monotonicMs() + 3_700_000);
    await client.closed;
    expect(await recorded(sidecar)).toContain("idle for too long");
  });
});

const connectTo = (authority: string): string =>
  `CONNECT ${authority} HTTP/1.1\r\nhost: ${authority}\r\n\r\n`;

describe("CONNECT to a host outside the mesh", () => {
  /** A socket behind a CONNECT that was agreed to. */
  async function agreed(sidecar: Sidecar): Promise<Socket> {
    const socket = connect(sidecar.proxyPort, "127.0.0.1");
    socket.write(connectTo(`localhost:${port}`));
    const [chunk] = (await once(socket, "data")) as [Buffer];
    expect(chunk.toString()).toBe("HTTP/1.1 200 Connection established\r\n\r\n");
    return socket;
  }

  test("carries the client's own TLS, and is recorded", async () => {
    const sidecar = await sidecarWith({});
    const client = await new Client(await agreed(sidecar)).secure();
    client.tls.write("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    await client.closed;
    expect(client.text).toContain("outside");
    const event = await recorded(sidecar);
    expect(event).toContain('"subject":"external/outside"');
    expect(event).toContain('"effect":"Allow"');
  });

  test("takes a hello that is sent with it", async () => {
    const sidecar = await sidecarWith({});
    // What a client of TLS says first.
    const hello = await new Promise<Buffer>((resolve) => {
      const catcher = createServer((socket) => {
        socket.on("error", () => {});
        socket.once("data", (chunk: Buffer) => {
          resolve(chunk);
          socket.destroy();
          catcher.close();
        });
      }).listen(0, "127.0.0.1", () => {
        const { port: at } = catcher.address() as AddressInfo;
        connectTls({ port: at, host: "127.0.0.1", servername: "localhost" }).on("error", () => {});
      });
    });
    const socket = connect(sidecar.proxyPort, "127.0.0.1");
    const chunks: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    socket.write(Buffer.concat([Buffer.from(connectTo(`localhost:${port}`)), hello]));
    // The server's hello, a handshake record, follows our answer.
    await until(() => Buffer.concat(chunks).includes(Buffer.from([13, 10, 13, 10, 22, 3, 3])));
    socket.destroy();
  });

  test("that policy denies is answered with the reason", async () => {
    const sidecar = await sidecarWith({ policies: [policy({ operations: [{ op: "thing" }] })] });
    const answer = await send(sidecar.proxyPort, connectTo(`localhost:${port}`));
    expect([answer.status, JSON.parse(answer.body).reason]).toEqual([403, "NO_MATCHING_ALLOW"]);
    expect(await recorded(sidecar)).toContain('"subject":"external/outside"');
    expect(hostSockets.size).toBe(0);
  });

  test("that cannot be reached is answered", async () => {
    const sidecar = await sidecarWith({ declared: 1 });
    const answer = await send(sidecar.proxyPort, connectTo("localhost:1"));
    expect([answer.status, JSON.parse(answer.body).reason]).toEqual([502, "UPSTREAM_FAILED"]);
  });

  test("on another port than the declared one is refused", async () => {
    const sidecar = await sidecarWith({});
    const answer = await send(sidecar.proxyPort, connectTo(`localhost:${port + 1}`));
    expect([answer.status, JSON.parse(answer.body).reason]).toEqual([502, "UNKNOWN_DESTINATION"]);
  });

  test.each([
    { name: "TLS for another name", say: (socket: Socket) => void new Client(socket, "other.example") },
    { name: "TLS without a name", say: (socket: Socket) => void new Client(socket, "") },
    { name: "a hidden name", say: (socket: Socket) => void socket.write(helloWithEch("localhost")) },
    {
      name: "plaintext",
      say: (socket: Socket) => void socket.write("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    },
    { name: "an end", say: (socket: Socket) => void socket.end() },
  ])("with $name inside is reset, and the host sees none of it", async ({ say }) => {
    const sidecar = await sidecarWith({});
    const socket = await agreed(sidecar);
    socket.on("error", () => {});
    const closed = new Promise((resolve) => socket.once("close", resolve));
    say(socket);
    await closed;
    expect(arrived).toBe(0);
    expect(await recorded(sidecar)).toContain('"reason":"REQ_MALFORMED"');
  });

  test("whose hello never comes is given up", async () => {
    const sidecar = await sidecarWith({});
    const socket = await agreed(sidecar);
    const closed = new Promise((resolve) => socket.once("close", resolve));
    socket.on("error", () => {});
    sidecar.plane.sweep(systemClock.monotonicMs() + 3_000);
    expect(socket.destroyed).toBe(false);
    sidecar.plane.sweep(systemClock.monotonicMs() + 60_000);
    await closed;
  });
});

const CLIENTS = canTest("unmodified clients of TLS", {
  curl: "Debian's package curl",
  python3: "Debian's package python3",
});

describe("unmodified clients", () => {
  test("Node's https", async () => {
    const sidecar = await sidecarWith({ to: { address: NOWHERE, port } });
    const body = await new Promise<string>((resolve, reject) => {
      const createConnection = () => {
        const raw = connect(sidecar.captured?.outbound ?? 0, "127.0.0.1");
        return connectTls({ socket: raw, servername: "localhost", ca });
      };
      httpsGet({ host: "localhost", port, path: "/", createConnection }, (response) => {
        let text = "";
        response.on("data", (chunk: Buffer) => {
          text += chunk;
        });
        response.on("end", () => resolve(text));
      }).on("error", reject);
    });
    expect(body).toBe("outside");
  });

  (CLIENTS ? test : test.skip)("curl and Python, captured and behind a proxy", async () => {
    const captured = await sidecarWith({ to: { address: NOWHERE, port } });
    const proxied = await sidecarWith({});
    const file = join(world.dir, "outside-ca.pem");
    writeFileSync(file, ca);
    const run = promisify(execFile);
    const url = `https://localhost:${port}/`;
    const curl = ["--silent", "--show-error", "--cacert", file, "--max-time", "20", url];
    const at = `localhost:${port}:127.0.0.1:${captured.captured?.outbound}`;
    expect((await run("curl", ["--connect-to", at, ...curl])).stdout).toBe("outside");
    expect((await run("curl", ["--proxy", `http://127.0.0.1:${proxied.proxyPort}`, ...curl])).stdout).toBe(
      "outside",
    );
    const script = `
import ssl, sys, urllib.request
proxy = urllib.request.ProxyHandler({"https": "http://127.0.0.1:${proxied.proxyPort}"})
tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=sys.argv[1]))
sys.stdout.write(urllib.request.build_opener(proxy, tls).open("${url}", timeout=20).read().decode())
`;
    expect((await run("python3", ["-c", script, file])).stdout).toBe("outside");
  });
});

/** A ClientHello with the extension of Encrypted Client Hello (0xfe0d) beside an outer name. */
function helloWithEch(name: string): Buffer {
  const u16 = (value: number): Buffer => Buffer.from([value >> 8, value & 0xff]);
  const extension = (type: number, body: Buffer): Buffer =>
    Buffer.concat([u16(type), u16(body.length), body]);
  const entry = Buffer.concat([Buffer.from([0]), u16(name.length), Buffer.from(name)]);
  const extensions = Buffer.concat([
    extension(0, Buffer.concat([u16(entry.length), entry])),
    extension(0xfe0d, randomBytes(180)),
  ]);
  const body = Buffer.concat([
    u16(0x0303),
    randomBytes(32),
    Buffer.from([0]),
    u16(2),
    u16(0x1301),
    Buffer.from([1, 0]),
    u16(extensions.length),
    extensions,
  ]);
  const message = Buffer.concat([Buffer.from([1, 0]), u16(body.length), body]);
  return Buffer.concat([Buffer.from([22, 3, 1]), u16(message.length), message]);
}
