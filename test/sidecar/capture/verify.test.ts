import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { describe, expect, test } from "@jest/globals";
import { isCaptureProbe, verifyCapture } from "../../../sidecar/capture/verify.ts";

async function listener(answer: string | undefined) {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    if (answer !== undefined) socket.end(answer);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return { port: (server.address() as AddressInfo).port, close: () => server.close() };
}

describe("verifyCapture", () => {
  test.each([
    { name: "the token", answer: "token", says: undefined },
    { name: "another token", answer: "tokem", says: "was answered by something else" },
    { name: "more than the token", answer: "token\n", says: "was answered by something else" },
    { name: "nothing", answer: "", says: "was answered by something else" },
    { name: "silence", answer: undefined, says: "was not answered in time" },
  ])("$name: $says", async ({ answer, says }) => {
    const { port, close } = await listener(answer);
    const result = verifyCapture({
      families: ["ipv4"],
      token: "token",
      timeoutMs: answer === undefined ? 50 : 5_000,
      target: { ipv4: { address: "127.0.0.1", port } },
    });
    if (says === undefined) await result;
    else await expect(result).rejects.toThrow(says);
    close();
  });

  test("a closed port means that nothing redirects", async () => {
    const { port, close } = await listener("");
    close();
    await expect(
      verifyCapture({
        families: ["ipv4"],
        token: "token",
        timeoutMs: 5_000,
        target: { ipv4: { address: "127.0.0.1", port } },
      }),
    ).rejects.toMatchObject({ code: "not_ready", message: expect.stringContaining("ECONNREFUSED") });
  });
});

test.each([
  { address: "127.0.0.1", port: 16_079, is: true },
  { address: "::1", port: 16_079, is: true },
  { address: "127.0.0.1", port: 16_078, is: false },
  { address: "10.0.0.1", port: 16_079, is: false },
])("isCaptureProbe $address $port: $is", ({ address, port, is }) => {
  expect(isCaptureProbe({ address, port })).toBe(is);
});
