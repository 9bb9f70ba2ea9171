// A callee's sidecar in a process of its own, so that its memory and CPU can be told, with what a hostile or foreign peer
// needs to reach it: an SVID of a notebook in PEM files. Prints one line of JSON; ends with its standard input.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { WorkloadIdentity } from "../../sidecar/core/identity/workload-identity.ts";
import type { ProgramPolicy } from "../../sidecar/core/policy/rule.ts";
import { ALLOW_READ, type ServiceSpec, table, World } from "../integration/sidecar/world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const BIG = "x".repeat(60_000);
const CHAT: ProgramPolicy = {
  ...ALLOW_READ,
  id: "ml/chat",
  name: "chat",
  rules: [
    {
      name: "good",
      from: [{ workload: { kinds: ["notebook"] } }],
      operations: [{ op: "model.chat", resources: ["good-*"] }],
    },
  ],
};

/** What `edge-callee.ts` prints. */
export interface EdgeCallee {
  readonly pid: number;
  readonly meshPort: number;
  readonly plaintextPort: number;
  /** Folder with svid.pem, key.pem and ca.pem of the caller, and, in `callee`, of the callee. */
  readonly directory: string;
}

export function writePem(directory: string, identity: WorkloadIdentity): void {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "svid.pem"), identity.certificateChainPem);
  writeFileSync(join(directory, "ca.pem"), [identity.bundle.caPem].flat().join("\n"));
  const key = identity.tlsKey.export({ type: "pkcs8", format: "pem" });
  writeFileSync(join(directory, "key.pem"), key, { mode: 0o600 });
}

if (import.meta.main) {
  const world = await World.create();
  const app = await world.app((head, socket) => {
    if (head.includes("/things/stalled ")) {
      socket.pause();
      return;
    }
    const body = head.includes("/things/big ") ? BIG : "hello";
    const shown = head.startsWith("HEAD ") ? "" : body;
    socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\n\r\n${shown}`);
  });
  // What the application notes of its requests is of no use here, and would be memory.
  app.received.push = () => 0;
  app.heads.push = () => 0;
  const capture = {
    originalOf: () => ({ ok: true, value: { address: "10.1.1.1", port: 8080 } }) as const,
    families: ["ipv4"],
    outboundPort: 0,
    inboundPort: 0,
    verifies: false,
  } as const;
  const callee = await world.sidecar(THINGS, { app, capture, config: { capture: true } });
  const bundle = world.authority.bundle.json;
  const settings = { mtls: "Permissive" } as const;
  const made = callee.plane.setTable(table({ self: THINGS, policies: [ALLOW_READ, CHAT], bundle, settings }));
  if (!made.ok) throw new Error(made.error);
  writePem(world.dir, world.identity(NOTEBOOK));
  writePem(join(world.dir, "callee"), world.identity(THINGS));
  const line: EdgeCallee = {
    pid: process.pid,
    meshPort: callee.meshPort,
    plaintextPort: callee.captured?.inbound ?? 0,
    directory: world.dir,
  };
  process.stdout.write(`${JSON.stringify(line)}\n`);
  // What is garbage is not held: a line on standard input has it collected, and is answered with one.
  process.stdin.on("data", () => {
    globalThis.gc?.();
    process.stdout.write("collected\n");
  });
  process.stdin.on("end", () => void world.close().then(() => process.exit(0)));
}
