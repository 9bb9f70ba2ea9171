// One call of each kind to the application of `grpc-app.ts`.
import type { Client, ServiceError } from "@grpc/grpc-js";
import { METHODS } from "./grpc-app.ts";

/** What came of a call: its answer, or its status. */
export type Outcome = string | ServiceError;

export function get(client: Client, name: string, deadlineMs = 60_000): Promise<Outcome> {
  return new Promise((resolve) => {
    const { path, requestSerialize, responseDeserialize } = METHODS.get;
    const options = { deadline: Date.now() + deadlineMs };
    client.makeUnaryRequest(path, requestSerialize, responseDeserialize, name, options, (error, value) =>
      resolve(error ?? value ?? ""),
    );
  });
}

export function add(client: Client, names: readonly string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    const { path, requestSerialize, responseDeserialize } = METHODS.add;
    const call = client.makeClientStreamRequest(path, requestSerialize, responseDeserialize, (error, value) =>
      resolve(error ?? value ?? ""),
    );
    for (const name of names) call.write(name);
    call.end();
  });
}

/** Sends the messages one after the other, each when the one before was answered. */
export function chat(
  client: Client,
  names: readonly string[],
): Promise<{ got: string[]; error: ServiceError | undefined }> {
  const { path, requestSerialize, responseDeserialize } = METHODS.chat;
  const call = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
  const got: string[] = [];
  const left = [...names];
  const next = (): void => {
    const name = left.shift();
    if (name === undefined) call.end();
    else call.write(name);
  };
  next();
  return new Promise((resolve) => {
    call.on("data", (each: string) => {
      got.push(each);
      next();
    });
    call.on("error", (error: ServiceError) => resolve({ got, error }));
    call.on("end", () => resolve({ got, error: undefined }));
  });
}

export function list(client: Client, count: number): Promise<string[]> {
  const { path, requestSerialize, responseDeserialize } = METHODS.list;
  const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, String(count));
  const got: string[] = [];
  return new Promise((resolve, reject) => {
    call.on("data", (each: string) => got.push(each));
    call.on("error", reject);
    call.on("end", () => resolve(got));
  });
}

export function codeOf(outcome: Outcome | undefined): number {
  return typeof outcome === "object" ? outcome.code : 0;
}
