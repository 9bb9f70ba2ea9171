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

/** Listeners in the places of the two probes; undefined: a closed port. */
async function verify(
  answers: { probe: string | undefined | "closed"; appProbe: string | "closed" },
  ownCalls: "pass" | "captured",
  timeoutMs = 5_000,
) {
  const first = await listener(answers.probe);
  const second = await listener(answers.appProbe);
  if (answers.probe === "closed") first.close();
  if (answers.appProbe === "closed") second.close();
  try {
    await verifyCapture({
      families: ["ipv4"],
      token: "token",
      timeoutMs,
      ownCalls,
      target: (_family, which) => ({
        address: "127.0.0.1",
        port: which === "probe" ? first.port : second.port,
      }),
    });
  } finally {
    first.close();
    second.close();
  }
}

describe("verifyCapture", () => {
  test.each([
    { name: "the token", probe: "token", says: undefined },
    { name: "another token", probe: "tokem", says: "was answered by something else" },
    { name: "more than the token", probe: "token\n", says: "was answered by something else" },
    { name: "nothing", probe: "", says: "was answered by something else" },
    { name: "silence", probe: undefined, says: "was not answered in time" },
    { name: "a closed port", probe: "closed", says: "ECONNREFUSED" },
  ])("$name: $says", async ({ probe, says }) => {
    const result = verify({ probe, appProbe: "closed" }, "pass", probe === undefined ? 50 : 5_000);
    if (says === undefined) await result;
    else
      await expect(result).rejects.toMatchObject({
        code: "not_ready",
        message: expect.stringContaining(says),
      });
  });

  test("a sidecar whose own calls are captured does not start", async () => {
    await expect(verify({ probe: "token", appProbe: "token" }, "pass")).rejects.toThrow("own calls");
  });

  test("the init step sees that calls of other users are captured", async () => {
    await verify({ probe: "token", appProbe: "token" }, "captured");
    await expect(verify({ probe: "token", appProbe: "closed" }, "captured")).rejects.toThrow("other users");
  });
});

test.each([
  { address: "127.0.0.1", port: 16_079, is: true },
  { address: "::1", port: 16_079, is: true },
  { address: "127.0.0.1", port: 16_078, is: true },
  { address: "127.0.0.1", port: 16_077, is: false },
  { address: "10.0.0.1", port: 16_079, is: false },
])("isCaptureProbe $address $port: $is", ({ address, port, is }) => {
  expect(isCaptureProbe({ address, port })).toBe(is);
});
