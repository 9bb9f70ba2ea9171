import { once } from "node:events";
import http, { type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { afterEach, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { askWhole, readBounded } from "../../../../sidecar/core/runtime/whole-answer.ts";

const servers: http.Server[] = [];

afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

/** A request to a server that answers so. */
async function requestTo(
  answer: (response: ServerResponse, body: string) => void,
): Promise<http.ClientRequest> {
  const server = http.createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8").on("data", (text: string) => {
      body += text;
    });
    request.on("end", () => answer(response, body));
  });
  servers.push(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return http.request({ host: "127.0.0.1", port, method: "POST", agent: false });
}

describe("a body that is read whole", () => {
  test("is what came, in any pieces, and nothing where it is larger", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 40 })),
        fc.nat(200),
        async (pieces, most) => {
          const stream = Readable.from(pieces.map((piece) => Buffer.from(piece)));
          const all = Buffer.concat(pieces);
          const read = await readBounded(stream, most);
          if (all.length <= most) expect(read?.equals(all)).toBe(true);
          else expect([read, stream.destroyed]).toEqual([undefined, true]);
        },
      ),
    );
  });
});

describe("a request whose answer is read whole", () => {
  test("brings status and body, and has sent its own", async () => {
    const request = await requestTo((response, body) => {
      response.statusCode = 418;
      response.end(`got ${body}`);
    });
    const { status, body } = await askWhole(request, "tea", 100);
    expect([status, body.toString()]).toEqual([418, "got tea"]);
  });

  test("fails where the answer is too large, and reads no more of it", async () => {
    const request = await requestTo((response) => {
      response.write(Buffer.alloc(1_000));
    });
    await expect(askWhole(request, undefined, 999)).rejects.toMatchObject({
      code: "protocol_error",
      message: "the answer is too large",
    });
    expect(request.destroyed).toBe(true);
  });

  test.each([
    { name: "before", begins: false },
    { name: "in the middle of", begins: true },
  ])("fails where it is cut off $name the answer", async ({ begins }) => {
    const request = await requestTo((response) => {
      if (begins) response.write("half");
      response.socket?.end();
      response.socket?.destroySoon();
    });
    await expect(askWhole(request, undefined, 100)).rejects.toThrow();
  });

  test("fails with the words of who gave it up, also when its answer has begun", async () => {
    const request = await requestTo((response) => {
      response.write("half");
    });
    request.once("response", (response) =>
      response.once("data", () => request.destroy(new Error("no answer within 10 s"))),
    );
    await expect(askWhole(request, undefined, 100)).rejects.toThrow("no answer within 10 s");
  });
});
