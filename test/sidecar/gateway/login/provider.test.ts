// An identity provider that does not behave: each answer is bounded in time and size, and goes nowhere else.
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, test } from "@jest/globals";
import { createAttempt } from "../../../../sidecar/gateway/login/attempt.ts";
import { Provider } from "../../../../sidecar/gateway/login/provider.ts";
import { idpOf } from "./world.ts";

let server: Server;
let provider: Provider;
let sent = 0;

async function against(answer: (issuer: string) => RequestListener): Promise<unknown> {
  server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  server.on("request", answer(issuer));
  provider = new Provider({ idp: idpOf("acme", issuer), secret: async () => "s", nowMs: Date.now });
  const attempt = createAttempt({ idp: "acme", host: "nb.acme.example", returnTo: "/" });
  return provider.authorizationUrl(attempt, "https://nb.acme.example/cb").then(
    (url) => url.href,
    (error: unknown) => error,
  );
}

afterEach(async () => {
  await provider.close();
  server.closeAllConnections();
  server.close();
});

describe("a provider is down for whoever signs in with it", () => {
  test.each<readonly [string, (issuer: string) => RequestListener]>([
    ["garbage", () => (_request, response) => response.end("<html>")],
    ["an error", () => (_request, response) => response.writeHead(500).end("no")],
    [
      "another issuer's document",
      () => (_request, response) =>
        response.setHeader("content-type", "application/json").end('{"issuer":"https://evil.example"}'),
    ],
    [
      "a redirect to elsewhere",
      () => (_request, response) => response.writeHead(302, { location: "http://127.0.0.1:1/" }).end(),
    ],
    [
      "half an answer",
      () => (_request, response) =>
        void response.writeHead(200, { "content-length": "1000" }).write("{", () => response.destroy()),
    ],
  ])("that answers %s", async (_what, answer) => {
    expect(await against(answer)).toMatchObject({ code: "provider_down" });
  });

  test("that answers a gigabyte: a part of it is read", async () => {
    const chunk = Buffer.alloc(65_536, " ");
    const found = await against(() => (_request, response) => {
      response.writeHead(200, { "content-type": "application/json" });
      const more = (): void => {
        while (!response.destroyed && sent < 1 << 30) {
          sent += chunk.length;
          if (!response.write(chunk)) return void response.once("drain", more);
        }
      };
      more();
    });
    expect(found).toMatchObject({ code: "provider_down" });
    expect(sent).toBeLessThan(64 << 20);
  });

  test("that never answers", async () => {
    const began = performance.now();
    expect(await against(() => () => {})).toMatchObject({ code: "provider_down" });
    // The limit is 5 s; this only tells it from none.
    expect(performance.now() - began).toBeLessThan(30_000);
  });
});
