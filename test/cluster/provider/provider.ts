// The OpenID Provider of the tests in a pod, with TLS of its own. What a client's secret is, changes by a POST to port 8081.
//   PROVIDER='{"client": …, "address": …, "claims": {"alice": {…}}}' node provider.ts
import { createServer } from "node:http";
import {
  type ProviderAddress,
  type ProviderClient,
  startOpenIdProvider,
} from "../../fakes/openid-provider.ts";

/** What the pod is told. */
export interface ProviderPod {
  readonly client: ProviderClient;
  readonly address: ProviderAddress;
  readonly claims: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

const { client, address, claims } = JSON.parse(process.env["PROVIDER"] ?? "{}") as ProviderPod;
const provider = await startOpenIdProvider(client, address);
for (const [user, more] of Object.entries(claims)) provider.claims.set(user, more);
createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on("data", (chunk: Buffer) => chunks.push(chunk));
  request.on("end", () => {
    void provider.setClientSecret(Buffer.concat(chunks).toString()).then(() => response.end());
  });
}).listen(8081);
