// The side of a sidecar that applications speak HTTP/2 to, for h2spec: a pair in this process, a local port that means one
// service, and a policy that allows everything.
import type { ProgramPolicy } from "../../sidecar/core/policy/rule.ts";
import { type Answer, type ServiceSpec, table, World } from "../integration/sidecar/world.ts";

const CALLER: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const CALLEE: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const EVERYTHING: ProgramPolicy = {
  id: "ml/everything",
  name: "everything",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [{ name: "all", from: [{ any: true }], operations: [{ any: true }] }],
};
/** h2spec needs a body that it can hold back by its window. */
const ANSWER: Answer = (_head, socket) =>
  socket.write(
    `HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n${"x".repeat(1024)}`,
  );

export interface AppSidePort {
  readonly port: number;
  close(): Promise<void>;
}

export async function startAppSide(): Promise<AppSidePort> {
  const world = await World.create();
  const app = await world.app(ANSWER);
  const callee = await world.sidecar(CALLEE, { app });
  const caller = await world.sidecar(CALLER, {
    config: {
      localServices: [
        { listen: { kind: "tcp", host: "127.0.0.1", port: 0 }, service: "ml/things", port: 8080 },
      ],
    },
  });
  const bundle = world.authority.bundle.json;
  callee.plane.setTable(table({ self: CALLEE, policies: [EVERYTHING], bundle }));
  const services = [{ service: { ...CALLEE, protocol: "h2c" as const }, meshPort: callee.meshPort }];
  caller.plane.setTable(table({ self: CALLER, services, bundle }));
  return { port: caller.localPorts[0] ?? 0, close: () => world.close() };
}
