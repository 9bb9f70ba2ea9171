// The health check of gRPC (grpc.health.v1). PURE. The two messages have one field each, so they are written and read here.

export const GRPC_HEALTH_CHECK = "/grpc.health.v1.Health/Check";
const SERVICE_FIELD = 0x0a;
const STATUS_FIELD = 0x08;
const SERVING = 1;
const PREFIX_BYTES = 5;

/** HealthCheckRequest. @param service at most 127 bytes. */
export function healthRequest(service: string): Buffer {
  const name = Buffer.from(service, "latin1");
  return name.length === 0 ? name : Buffer.concat([Buffer.from([SERVICE_FIELD, name.length]), name]);
}

/** Whether a HealthCheckResponse says SERVING; anything that is not exactly that does not. */
export function isServing(response: Buffer): boolean {
  return response.length === 2 && response[0] === STATUS_FIELD && response[1] === SERVING;
}

/** A message with the length prefix of gRPC over HTTP/2, not compressed. */
export function framed(message: Buffer): Buffer {
  const prefix = Buffer.alloc(PREFIX_BYTES);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

/** Whether `body` is exactly one message that says SERVING. */
export function isServingBody(body: Buffer): boolean {
  if (body.length < PREFIX_BYTES || body[0] !== 0) return false;
  const message = body.subarray(PREFIX_BYTES);
  return body.readUInt32BE(1) === message.length && isServing(message);
}
