// Two sidecars and an application that is another HTTP implementation (node:http) and checks every request it gets:
// whatever bytes go in, only what the policy allows may come out, in a form that cannot be misread.
import { createServer, type Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import {
  ALLOW_READ,
  type ServiceSpec,
  type Sidecar,
  table,
  World,
} from "../../../integration/sidecar/world.ts";

export const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
export const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };

/** What `ALLOW_READ` means for the pack of the test world. */
const ALLOWED: readonly (readonly [method: RegExp, path: RegExp])[] = [
  [/^(?:GET|HEAD|POST)$/, /^\/things\/[^/?#]+(?:\?.*)?$/],
  [/^(?:GET|HEAD)$/, /^\/stream\/[^/?#]+(?:\?.*)?$/],
];
const NEVER =
  /^(?:workload-(?:identity|proof)-token|countersign-port|txn-token|x-forwarded-user|x-http-method(?:-override)?|proxy-(?:connection|authorization)|te|upgrade)$/;

export interface RecordedWorld {
  readonly world: World;
  readonly caller: Sidecar;
  readonly callee: Sidecar;
  /** Requests that reached the application. */
  readonly arrived: () => number;
  /** Throws what the application saw and should not have, and when the counts do not fit. */
  check(): void;
  close(): Promise<void>;
}

export async function startRecordedWorld(): Promise<RecordedWorld> {
  const world = await World.create();
  const findings: string[] = [];
  let requests = 0;
  const server: Server = createServer(
    { keepAliveTimeout: 0, requestTimeout: 0, maxHeaderSize: 32_768 },
    (request, response) => {
      requests++;
      const { method = "", url = "", rawHeaders } = request;
      if (!ALLOWED.some(([methods, path]) => methods.test(method) && path.test(url)))
        findings.push(`the application got ${method} ${url}`);
      const names = rawHeaders.filter((_, i) => i % 2 === 0).map((name) => name.toLowerCase());
      for (const name of names)
        if (NEVER.test(name.replace(/[_.]/g, "-"))) findings.push(`the application got the field ${name}`);
      if (names.filter((name) => name === "host").length !== 1) findings.push("not exactly one host");
      if (
        names.filter((name) => /^x.mesh.caller$/.test(name)).length !== 1 ||
        request.headers["x-mesh-caller"] !== "notebook/nb-1"
      )
        findings.push("the caller's name is not the verified one");
      request.resume();
      request.on("error", () => {});
      request.on("end", () => response.end("ok"));
    },
  );
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  server.on("clientError", (error: NodeJS.ErrnoException, socket) => {
    // A request that we broke off is cut, never malformed.
    if (error.code?.startsWith("HPE_") === true && error.code !== "HPE_INVALID_EOF_STATE")
      findings.push(`the application could not read us: ${error.code} ${error.message}`);
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const callee = await world.sidecar(THINGS, { appPort: (server.address() as AddressInfo).port });
  const caller = await world.sidecar(NOTEBOOK);
  const bundle = world.authority.bundle.json;
  callee.plane.setTable(table({ self: THINGS, policies: [ALLOW_READ], bundle }));
  caller.plane.setTable(
    table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle }),
  );
  return {
    world,
    caller,
    callee,
    arrived: () => requests,
    check: () => {
      const { metrics } = callee.plane;
      const attempts = metrics.forwarded.read(metrics.attempts);
      const decisions = metrics.forwarded.read(metrics.allowedAndForwarded);
      if (requests > attempts) findings.push(`${requests} requests arrived, ${attempts} were written`);
      if (attempts > decisions) findings.push(`${attempts} requests were written, ${decisions} were allowed`);
      if (findings.length > 0) throw new Error(findings.slice(0, 3).join("; "));
    },
    close: async () => {
      await world.close();
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

const HANG_MS = 10_000;
/** An end at once would be taken for an application that has gone away, and nothing would be forwarded. */
const LINGER_MS = 10;

/** Sends the pieces, ends, and resolves when the other side has closed; a connection that stays open is a finding. */
export function sendAll(socket: Socket, pieces: readonly Buffer[], what: () => string): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`a connection hangs after ${what()}`));
    }, HANG_MS);
    socket.on("error", () => {});
    socket.on("close", () => {
      clearTimeout(timer);
      resolve();
    });
    socket.resume();
    let next = 0;
    const more = (): void => {
      const piece = pieces[next++];
      if (socket.destroyed) return;
      if (piece === undefined) setTimeout(() => socket.end(), LINGER_MS);
      else socket.write(piece, () => setImmediate(more));
    };
    more();
  });
}
