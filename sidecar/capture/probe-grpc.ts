// The health check of gRPC (grpc.health.v1), for probes of that kind. The two messages have one field each, so they are
// written and read here; the library of the discovery stream carries them.

const CHECK = "/grpc.health.v1.Health/Check";
const SERVICE_FIELD = 0x0a;
const STATUS_FIELD = 0x08;
const SERVING = 1;

/** HealthCheckRequest. @param service at most 127 bytes. */
export function healthRequest(service: string): Buffer {
  const name = Buffer.from(service, "latin1");
  return name.length === 0 ? name : Buffer.concat([Buffer.from([SERVICE_FIELD, name.length]), name]);
}

/** Whether a HealthCheckResponse says SERVING; anything that is not exactly that does not. */
export function isServing(response: Buffer): boolean {
  return response.length === 2 && response[0] === STATUS_FIELD && response[1] === SERVING;
}

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
        CHECK,
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
