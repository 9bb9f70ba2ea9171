// The health check of gRPC (grpc.health.v1), for probes of that kind; the library of the discovery stream carries it.
import { GRPC_HEALTH_CHECK, healthRequest, isServing } from "../core/http/grpc-health.ts";

/** Asks a server on `port`. @returns whether it serves; rejects when it does not answer as gRPC. */
export async function askGrpc(
  host: string,
  port: number,
  service: string,
  timeoutMs: number,
): Promise<boolean> {
  const { Client, credentials } = await import("@grpc/grpc-js");
  const name = host.includes(":") ? `[${host}]` : host;
  const client = new Client(`${name}:${port}`, credentials.createInsecure(), { "grpc.enable_retries": 0 });
  try {
    return await new Promise((resolve, reject) => {
      client.makeUnaryRequest(
        GRPC_HEALTH_CHECK,
        (request: Buffer) => request,
        (response) => response,
        healthRequest(service),
        { deadline: Date.now() + timeoutMs },
        (error, response) => {
          if (error !== null) reject(error);
          else resolve(response !== undefined && isServing(response));
        },
      );
    });
  } finally {
    client.close();
  }
}
