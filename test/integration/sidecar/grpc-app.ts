// A gRPC application made with grpc-js, and a client of it: one method of each kind, whose messages are `Item` with the
// name in field 1. Also what a test needs to look into a google.rpc.Status.
import {
  type ChannelOptions,
  Client,
  credentials,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";

/** Sends strings; on the wire `Item { string name = 1; }`. */
function encode(name: string): Buffer {
  const text = Buffer.from(name);
  const length: number[] = [];
  for (let rest = text.length; ; rest >>>= 7) {
    length.push(rest < 128 ? rest : (rest & 127) | 128);
    if (rest < 128) break;
  }
  return Buffer.concat([Buffer.from([0x0a, ...length]), text]);
}

function decode(bytes: Buffer): string {
  let at = 1;
  let length = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++] ?? 0;
    length += (byte & 127) * 2 ** shift;
    if (byte < 128) break;
  }
  return bytes.toString("utf8", at, at + length);
}

function method(
  name: string,
  requestStream: boolean,
  responseStream: boolean,
): MethodDefinition<string, string> {
  return {
    path: `/things.Store/${name}`,
    requestStream,
    responseStream,
    requestSerialize: encode,
    requestDeserialize: decode,
    responseSerialize: encode,
    responseDeserialize: decode,
  };
}

export const METHODS = {
  get: method("Get", false, false),
  list: method("List", false, true),
  add: method("Add", true, false),
  chat: method("Chat", true, true),
} as const;

export const PACK = `
# operation         method  template                       resource            access  level
store.get           GRPC    /things.Store/Get              item<pb:1           read    -
store.list          GRPC    /things.Store/List             -                   read    -
store.add           GRPC    /things.Store/Add              item<pb-each:1      write   -
store.chat          GRPC    /things.Store/Chat             item<pb-each:1      write   -
thing.read          GET     /things/{thing}                thing<path:thing    read    -
thing.write         POST    /things/{thing}                thing<path:thing    write   -
`;

export interface GrpcApp {
  readonly port: number;
  readonly server: Server;
  close(): void;
}

/** Serves on loopback. */
export async function startGrpcApp(handlers: UntypedServiceImplementation, port = 0): Promise<GrpcApp> {
  const server = new Server();
  const service: ServiceDefinition = METHODS;
  server.addService(service, handlers);
  const bound = await new Promise<number>((resolve, reject) =>
    server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, at) =>
      error === null ? resolve(at) : reject(error),
    ),
  );
  return { port: bound, server, close: () => server.forceShutdown() };
}

/** A client of `things.ml:8080` through a sidecar's local port. */
export function grpcClient(port: number, options: ChannelOptions = {}): Client {
  return new Client(`127.0.0.1:${port}`, credentials.createInsecure(), {
    "grpc.default_authority": "things.ml:8080",
    "grpc.use_local_subchannel_pool": 1,
    ...options,
  });
}
