// A client that knows nothing of a mesh, for what `call` cannot do; prints what happened as one line of JSON.
//   talk rpc HOST:PORT · talk socket|held-socket URL · talk events URL · talk greeter HOST PORT · talk tls HOST PORT NAME
import http from "node:http";
import net from "node:net";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import tls from "node:tls";
import { Client, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { WebSocket } from "ws";
import { METHODS } from "./item.ts";

const GIVE_UP_MS = 10_000;
const [verb, ...rest] = process.argv.slice(2);
const [first = "", second = "", third = ""] = rest;

/** One call of each kind; of a stream each message waits for the answer to the one before it. */
async function rpc(target: string): Promise<object> {
  const client = new Client(target, credentials.createInsecure());
  const deadline = Date.now() + GIVE_UP_MS;
  const unary = (name: "get" | "remove", item: string): Promise<string | object> =>
    new Promise((resolve) => {
      const { path, requestSerialize, responseDeserialize } = METHODS[name];
      client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        item,
        new Metadata(),
        { deadline },
        (error, answer) => resolve(error === null ? (answer ?? "") : refusal(error)),
      );
    });
  const chat = (...items: readonly string[]): Promise<object> =>
    new Promise((resolve) => {
      const { path, requestSerialize, responseDeserialize } = METHODS.chat;
      const call = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, { deadline });
      const heard: string[] = [];
      const say = (): void => {
        const item = items[heard.length];
        if (item === undefined) call.end();
        else call.write(item);
      };
      call.on("data", (answer: string) => {
        heard.push(answer);
        say();
      });
      call.on("error", (error: ServiceError) => resolve({ heard, ...refusal(error) }));
      call.on("end", () => resolve({ heard }));
      say();
    });
  const said = {
    get: await unary("get", "open-1"),
    remove: await unary("remove", "open-1"),
    chat: await chat("open-1", "open-2", "open-3"),
    secret: await chat("open-1", "secret"),
  };
  client.close();
  return said;
}

/** What a refused call says, and which texts its google.rpc.Status has. */
function refusal({ code, details, metadata }: ServiceError): object {
  const status = metadata.get("grpc-status-details-bin").join("");
  const found = /google\.rpc\.ErrorInfo|[A-Z]+_[A-Z_]{3,}/g;
  return { code, details, info: [...new Set(status.match(found) ?? [])].sort() };
}

/** Says two things, each when the one before it came back. @param isHeld whether it stays open then. */
function socket(url: string, isHeld: boolean): Promise<object> {
  return new Promise((resolve) => {
    const channel = new WebSocket(url, { handshakeTimeout: GIVE_UP_MS });
    const echoes: string[] = [];
    channel.on("open", () => channel.send("one"));
    channel.on("message", (data) => {
      echoes.push(String(data));
      // Whoever reads this knows that the stream is open.
      process.stdout.write(`${JSON.stringify({ echoes })}\n`);
      if (echoes.length < 2) channel.send("two");
      else if (!isHeld) channel.close(1000, "enough");
    });
    channel.on("unexpected-response", (_request, response) =>
      text(response).then((body) => resolve({ status: response.statusCode, body })),
    );
    channel.on("close", (code, reason) => resolve({ echoes, code, reason: reason.toString() }));
    channel.on("error", (error) => resolve({ error: error.message }));
  });
}

/** Asks for each event when it has the one before it: what a buffer on the way holds back never comes. */
function events(url: string): Promise<object> {
  const agent = new http.Agent({ keepAlive: true });
  const id = String(process.pid);
  const seen: string[] = [];
  return new Promise((resolve) => {
    const request = http.get(`${url}/events?id=${id}`, { agent, timeout: GIVE_UP_MS }, (response) => {
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        seen.push(chunk.trim());
        http.get(`${url}/next?id=${id}&n=${seen.length}`, { agent }, (done) => done.resume());
      });
      response.on("end", () => resolve({ status: response.statusCode, seen }));
    });
    request.on("timeout", () => request.destroy(new Error("nothing came")));
    request.on("error", (error) => resolve({ error: error.message, seen }));
  }).finally(() => agent.destroy()) as Promise<object>;
}

/** Waits for the greeting, says something, ends its own half, and takes what comes until the other half ends. */
async function greeter(host: string, port: number): Promise<object> {
  const connection = net.connect({ host, port, allowHalfOpen: true });
  connection.setTimeout(GIVE_UP_MS, () => connection.destroy(new Error("nothing came")));
  const lines: string[] = [];
  try {
    for await (const line of createInterface({ input: connection })) {
      lines.push(line);
      if (lines.length === 1) connection.write("quit\n");
      if (lines.length === 2) connection.end();
    }
  } catch (error) {
    return { lines, error: String(error) };
  }
  connection.destroy();
  return { lines };
}

function overTls(host: string, port: number, servername: string): Promise<object> {
  return new Promise((resolve) => {
    // Whose certificate it is does not matter here: that its owner is reached does.
    const connection = tls.connect({ host, port, servername, rejectUnauthorized: false });
    connection.setTimeout(GIVE_UP_MS, () => connection.destroy(new Error("nothing came")));
    connection.on("error", (error: NodeJS.ErrnoException) => resolve({ error: error.code ?? error.message }));
    connection.on("secureConnect", () => {
      const peer = connection.getPeerCertificate().subject.CN;
      text(connection).then(
        (said) => resolve({ said, peer }),
        () => {}, // told by `error`
      );
    });
  });
}

const verbs: Readonly<Record<string, () => Promise<object>>> = {
  rpc: () => rpc(first),
  socket: () => socket(first, false),
  "held-socket": () => socket(first, true),
  events: () => events(first),
  greeter: () => greeter(first, Number(second)),
  tls: () => overTls(first, Number(second), third),
};
const said = await verbs[verb ?? ""]?.();
process.stdout.write(`${JSON.stringify(said ?? { error: "no such verb" })}\n`);
process.exit();
