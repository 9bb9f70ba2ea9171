// Asks a token service over mutual TLS, as a sidecar or a gateway would.
import { request } from "node:https";
import type { WorkloadIdentity } from "../../sidecar/core/identity/workload-identity.ts";

export interface TokenReply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Readonly<Record<string, unknown>>;
}

export interface TokenQuestion {
  readonly method?: "GET" | "POST";
  readonly path: string;
  /** An object is sent as JSON, a text as it is. */
  readonly body?: object | string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** @param identity undefined: without a certificate. */
export function askTokenService(
  port: number,
  identity: WorkloadIdentity | undefined,
  { method = "POST", path, body, headers = {} }: TokenQuestion,
): Promise<TokenReply> {
  return new Promise((resolve, reject) => {
    const call = request(
      {
        ...{ host: "127.0.0.1", port, method, path, agent: false, rejectUnauthorized: false },
        ...(identity === undefined
          ? {}
          : {
              key: identity.tlsKey.export({ type: "pkcs8", format: "pem" }),
              cert: identity.certificateChainPem,
              ca: identity.bundle.caPem,
            }),
        headers: { "content-type": "application/json", ...headers },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("end", () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: JSON.parse(Buffer.concat(chunks).toString()),
          }),
        );
      },
    );
    call.on("error", reject);
    call.end(typeof body === "object" ? JSON.stringify(body) : body);
  });
}
