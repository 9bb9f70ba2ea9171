// A management API (or admin socket) on a real Unix socket that answers what a test tells it to.
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface FakeApi {
  readonly stateDir: string;
  /** `METHOD /path body` of every request, in order. */
  readonly requests: readonly string[];
  close(): Promise<void>;
}

type Answer = { readonly status?: number; readonly body: unknown };

/** @param answers by `METHOD /path`; a function is asked each time; anything else is 404. */
export async function startFakeApi(
  answers: Readonly<Record<string, Answer | (() => Answer)>>,
  socket = "management.sock",
): Promise<FakeApi> {
  const stateDir = mkdtempSync(join(tmpdir(), "countersign-cli-"));
  const requests: string[] = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on("end", () => {
      requests.push(`${request.method} ${request.url} ${body}`.trim());
      const found = answers[`${request.method} ${request.url}`];
      const answer = typeof found === "function" ? found() : found;
      const { status = 200, body: value } = answer ?? {
        status: 404,
        body: { detail: "there is no such page" },
      };
      response.writeHead(status, { "content-type": "application/json" });
      response.end(typeof value === "string" ? value : JSON.stringify(value));
    });
  });
  await new Promise<void>((resolve) => server.listen(join(stateDir, socket), resolve));
  return {
    stateDir,
    requests,
    close: () =>
      new Promise((resolve) => {
        server.close(() => {
          rmSync(stateDir, { recursive: true, force: true });
          resolve();
        });
        server.closeAllConnections();
      }),
  };
}
