// Connections and commands in pods, over a library that does what a test tells it to. On a real API server: e2e/cli.test.ts.
import { EventEmitter } from "node:events";
import type { Readable, Writable } from "node:stream";
import { describe, expect, test } from "@jest/globals";
import { type Executor, execInPod } from "../../../control-plane/kubernetes/exec.ts";
import { type Forwarder, forwardPort } from "../../../control-plane/kubernetes/port-forward.ts";

class FakeSocket extends EventEmitter {
  closed = 0;
  close(): void {
    this.closed++;
    this.emit("close");
  }
}

const TARGET = { namespace: "ml", pod: "scorer", port: 16_080 };

function fakeForwarder(open: (socket: FakeSocket, problems: Writable) => void = () => {}) {
  const socket = new FakeSocket();
  const streams: { output?: Writable; input?: Readable } = {};
  const forwarder: Forwarder = {
    portForward: async (_namespace, _pod, _ports, output, problems, input) => {
      Object.assign(streams, { output, input });
      open(socket, problems);
      return socket;
    },
  };
  return { forwarder, socket, streams };
}

describe("a forwarded port", () => {
  test("carries bytes both ways and ends with its connection", async () => {
    const { forwarder, socket, streams } = fakeForwarder();
    const connection = await forwardPort(forwarder, TARGET);
    const sent: string[] = [];
    streams.input?.on("data", (chunk: Buffer) => sent.push(chunk.toString()));
    const received = new Promise((resolve) => connection.once("data", resolve));
    connection.write("hello");
    streams.output?.write("world");
    expect(String(await received)).toBe("world");
    await new Promise((next) => setImmediate(next));
    expect(sent).toEqual(["hello"]);
    const closed = new Promise((resolve) => connection.once("close", resolve));
    socket.close();
    await closed;
    expect(connection.destroyed).toBe(true);
  });

  test("a problem that comes before anybody listens is thrown, and the socket is closed", async () => {
    const { forwarder } = fakeForwarder((_socket, problems) =>
      problems.write(Buffer.from("error forwarding port: dial tcp: connect: connection refused\n")),
    );
    await expect(forwardPort(forwarder, TARGET)).rejects.toThrow(
      "port 16080 of pod `ml/scorer` cannot be reached: nothing listens there",
    );
  });

  test("a problem that comes later ends the connection with its words", async () => {
    let problems: Writable | undefined;
    const { forwarder, socket } = fakeForwarder((_socket, stream) => {
      problems = stream;
    });
    const connection = await forwardPort(forwarder, TARGET);
    const failed = new Promise<Error>((resolve) => connection.once("error", resolve));
    problems?.write(Buffer.from("lost connection to pod"));
    expect((await failed).message).toContain("lost connection to pod");
    expect(socket.closed).toBe(1);
  });

  test.each([
    { message: "Unexpected server response: 403", says: "--verb=create --resource=pods/portforward" },
    { message: "Unexpected server response: 404", says: "there is no pod `scorer` any more" },
    { message: "Unexpected server response: 500", says: "the API server answers 500" },
    { message: "connect ECONNREFUSED", says: "connect ECONNREFUSED" },
  ])("$message is said in words", async ({ message, says }) => {
    const forwarder: Forwarder = { portForward: () => Promise.reject({ message }) };
    await expect(forwardPort(forwarder, TARGET)).rejects.toThrow(says);
  });
});

describe("a command in a pod", () => {
  const COMMAND = {
    namespace: "ml",
    pod: "scorer",
    container: "countersign-proxy",
    command: ["countersign", "x"],
  };
  const executor = (
    act: (out: Writable, err: Writable, status: Parameters<Executor["exec"]>[8], socket: FakeSocket) => void,
  ): Executor => ({
    exec: async (_namespace, _pod, _container, command, out, err, _stdin, _tty, onStatus) => {
      expect(command).toEqual(["countersign", "x"]);
      const socket = new FakeSocket();
      setImmediate(() => act(out, err, onStatus, socket));
      return socket;
    },
  });

  test("gives what it wrote and how it ended", async () => {
    const done = await execInPod(
      executor((out, err, onStatus) => {
        out.write("a");
        err.write("b");
        onStatus({ status: "Failure", message: "exit code 1" });
      }),
      COMMAND,
    );
    expect(done).toEqual({ stdout: "a", stderr: "b", problem: "exit code 1" });
  });

  test("a connection that breaks is a problem, and no more than 4 MiB are kept", async () => {
    const done = await execInPod(
      executor((out, _err, _onStatus, socket) => {
        for (let index = 0; index < 12; index++) out.write("x".repeat(1024 * 1024));
        socket.close();
      }),
      COMMAND,
    );
    expect(done.problem).toBe("the connection was closed");
    expect(done.stdout.length).toBeLessThan(6 * 1024 * 1024);
  });

  test.each([
    { message: "Unexpected server response: 403", says: "--resource=pods/exec" },
    { message: "Unexpected server response: 404", says: "there is no such pod" },
    { message: "Unexpected server response: 400", says: "is it meshed?" },
  ])("$message is said in words", async ({ message, says }) => {
    await expect(execInPod({ exec: () => Promise.reject({ message }) }, COMMAND)).rejects.toThrow(says);
  });
});
