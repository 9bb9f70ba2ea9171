// Trailers behind a body that waits for window: they come after its last byte, and end the stream.
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { End, settle, type TestStream } from "./harness.ts";

const REQUEST = [
  [":method", "POST"],
  [":scheme", "http"],
  [":path", "/"],
  [":authority", "a.example"],
] as const;

describe("trailers of a body that is under flow control", () => {
  test("nothing of the body is lost, whatever its pieces", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 60_000 }), { minLength: 1, maxLength: 12 }),
        (sizes: number[]) => {
          const taken: TestStream[] = [];
          let unread = 0;
          const server: End = new End("server", {
            onHeaders: (stream) => {
              taken.push(stream);
            },
            onData: (_stream, chunk) => {
              unread += chunk.length;
            },
          });
          const client = new End("client");
          settle(client, server);
          const stream = client.request(REQUEST, false);
          for (const size of sizes) client.connection.sendData(stream, Buffer.alloc(size, 1), false);
          client.headers(stream, [["x-sum", "1"]], true);
          settle(client, server);
          const [far] = taken;
          if (far === undefined) throw new Error("no stream");
          for (let round = 0; round < 100 && unread > 0; round++) {
            const bytes = unread;
            unread = 0;
            server.connection.consumed(far, bytes);
            settle(client, server);
          }
          const total = sizes.reduce((sum, size) => sum + size, 0);
          const exchange = server.exchanges[0];
          expect(Buffer.concat(exchange?.body ?? []).length).toBe(total);
          expect(exchange?.trailers).toEqual([["x-sum", "1"]]);
          expect(stream.localClosed).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  });

  test("a reset while they wait drops them", () => {
    const server = new End("server", { onData: () => {} });
    const client = new End("client");
    settle(client, server);
    const stream = client.request(REQUEST, false);
    client.connection.sendData(stream, Buffer.alloc(200_000), false);
    client.headers(stream, [["x-sum", "1"]], true);
    settle(client, server);
    client.connection.resetStream(stream, 8);
    settle(client, server);
    expect(server.exchanges[0]?.reset).toBe(8);
    expect(server.exchanges[0]?.trailers).toBeUndefined();
    expect(client.connection.openStreams).toBe(0);
  });
});
