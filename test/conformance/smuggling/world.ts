// A real pair with three doors for a hostile HTTP/1.1 client (the application's side of the caller, the plaintext port and
// the mesh port of the callee), and a recorder behind it. Everything that is well-formed is allowed: what is shown is framing.
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { clientTlsOptions } from "../../../sidecar/certs/tls-contexts.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import {
  ALLOW_READ,
  idOf,
  type ServiceSpec,
  type Sidecar,
  table,
  World,
} from "../../integration/sidecar/world.ts";
import { Recorder } from "./recorder.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const ANYTHING: ProgramPolicy = {
  ...ALLOW_READ,
  rules: [
    {
      name: "anything",
      from: [{ workload: { kinds: ["notebook"] } }],
      operations: [{ any: true }],
      with: { identity: { forward: ["caller"] } },
    },
  ],
};

export const DOORS = ["application", "plaintext", "mesh"] as const;
export type Door = (typeof DOORS)[number];

export interface SmugglingWorld {
  readonly recorder: Recorder;
  readonly callee: Sidecar;
  readonly identity: WorkloadIdentity;
  open(door: Door): Promise<Socket>;
  /** Requests that were written to the application, and decisions that allowed and forwarded one. */
  counts(): { readonly attempts: number; readonly decisions: number };
  close(): Promise<void>;
}

export async function startSmugglingWorld(): Promise<SmugglingWorld> {
  const world = await World.create();
  const recorder = new Recorder();
  const appPort = await recorder.listen();
  const capture = {
    originalOf: () => ({ ok: true, value: { address: "10.1.1.1", port: 8080 } }) as const,
    families: ["ipv4"],
    outboundPort: 0,
    inboundPort: 0,
    verifies: false,
  } as const;
  const callee = await world.sidecar(THINGS, { appPort, capture, config: { capture: true } });
  const caller = await world.sidecar(NOTEBOOK, {
    config: {
      localServices: [
        { listen: { kind: "tcp", host: "127.0.0.1", port: 0 }, service: "ml/things", port: 8080 },
      ],
    },
  });
  const bundle = world.authority.bundle.json;
  const settings = { mtls: "Permissive" } as const;
  const own = table({ self: THINGS, policies: [ANYTHING], bundle, settings });
  const services = [{ service: THINGS, meshPort: callee.meshPort }];
  for (const result of [
    callee.plane.setTable(own),
    caller.plane.setTable(table({ self: NOTEBOOK, services, bundle })),
  ])
    if (!result.ok) throw new Error(result.error);
  const identity = world.identity(NOTEBOOK);
  const ports = { application: caller.localPorts[0] ?? 0, plaintext: callee.captured?.inbound ?? 0 };
  return {
    recorder,
    callee,
    identity,
    open: async (door) => {
      if (door === "mesh") {
        const options = clientTlsOptions(identity, idOf("ml", "serving", "things"), Date.now, ["http/1.1"]);
        const secure = connectTls({ ...options, host: "127.0.0.1", port: callee.meshPort });
        await once(secure, "secureConnect");
        return secure;
      }
      const socket = connect(ports[door], "127.0.0.1");
      socket.setNoDelay(true);
      await once(socket, "connect");
      return socket;
    },
    counts: () => {
      const { forwarded, attempts, allowedAndForwarded } = callee.plane.metrics;
      return { attempts: forwarded.read(attempts), decisions: forwarded.read(allowedAndForwarded) };
    },
    close: async () => {
      await world.close();
      recorder.close();
    },
  };
}
