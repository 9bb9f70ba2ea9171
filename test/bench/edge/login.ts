// How long a sign-in takes at our side: from the browser's callback to its answer with a session, in a whole mesh (gateway,
// token service, their TLS), less the time in which the identity provider worked on what it was asked meanwhile.
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import type { IncomingMessage, Server } from "node:http";
import type { AddressInfo } from "node:net";
import { HOST, NetBrowser, startPeopleMesh } from "../../integration/gateway/people-mesh.ts";
import type { Asked } from "../../sidecar/gateway/login/browser.ts";
import { atMost, type BenchRow, median, row } from "../measure.ts";

const LOGINS = 200;
/** Of these the first are not counted: code is compiled, documents are fetched. */
const WARM_UP = 5;

class TimedBrowser extends NetBrowser {
  readonly callbacksMs: number[] = [];

  override async ask(target: string, asked: Asked = {}): ReturnType<NetBrowser["ask"]> {
    const startedMs = performance.now();
    const answer = await super.ask(target, asked);
    if (target.startsWith("/.countersign/callback/")) this.callbacksMs.push(performance.now() - startedMs);
    return answer;
  }
}

export async function benchLogin({ say }: { readonly say: (text: string) => void }): Promise<BenchRow[]> {
  const mesh = await startPeopleMesh();
  const port = Number(new URL(mesh.op.issuer).port);
  const began = new WeakMap<IncomingMessage, number>();
  let providerMs = 0;
  // What Node tells of its HTTP servers in this process, of which the provider is one.
  const isBackChannel = ({ url = "" }: IncomingMessage): boolean =>
    /^\/(?:token|jwks|me|\.well-known)/.test(url);
  const onStart = (message: unknown): void => {
    const { request, server } = message as { readonly request: IncomingMessage; readonly server: Server };
    if ((server.address() as AddressInfo | null)?.port === port) began.set(request, performance.now());
  };
  const onFinish = (message: unknown): void => {
    const { request } = message as { readonly request: IncomingMessage };
    const startedMs = began.get(request);
    if (startedMs !== undefined && isBackChannel(request)) providerMs += performance.now() - startedMs;
  };
  subscribe("http.server.request.start", onStart);
  subscribe("http.server.response.finish", onFinish);
  const [own, whole]: [number[], number[]] = [[], []];
  try {
    for (let i = 0; i < WARM_UP + LOGINS; i++) {
      const browser = new TimedBrowser([mesh.gatewayPort], mesh.ca, `user-${i}`);
      mesh.op.claims.set(`user-${i}`, {
        groups: Array.from({ length: 45 }, (_, k) => `team-${i}-${k}-of-the-lake`),
      });
      providerMs = 0;
      await browser.go(`https://${HOST}/.countersign/login?rd=%2F.countersign%2Fwhoami`);
      const [callbackMs] = browser.callbacksMs;
      if (callbackMs === undefined) throw new Error("no callback: the sign-in failed");
      if (i < WARM_UP) continue;
      whole.push(callbackMs);
      own.push(callbackMs - providerMs);
    }
    say(`login: ${LOGINS} sign-ins`);
  } finally {
    unsubscribe("http.server.request.start", onStart);
    unsubscribe("http.server.response.finish", onFinish);
    await mesh.close();
  }
  const sorted = own.toSorted((a, b) => a - b);
  return [
    row(
      "login",
      "callback to session without the provider's time, median",
      median(own),
      "ms",
      { name: "with it", value: median(whole) },
      atMost("ours", 20, 10),
    ),
    row("login", `the slowest of ${LOGINS}`, sorted.at(-1) ?? Number.NaN, "ms"),
  ];
}
