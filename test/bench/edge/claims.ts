// Sessions as a sign-in leaves them, with so many bytes of claims: groups by their ids, as directories with many groups send
// them. What a token service sealed and what a provider signed are bytes that nothing compresses.
import { randomBytes, randomUUID } from "node:crypto";
import type { Session } from "../../../sidecar/gateway/session/session.ts";

/** Characters that one group takes in an array of JSON: 36, two quotes and a comma. */
const GROUP_CHARS = 39;
const SIGNATURE_BYTES = 64;
/** What a token service seals of claims without deflating them: those, and who, which gateway, since when. */
const sealedWhole = (claimBytes: number): number => claimBytes + 400;

/** @param bytes of claims. @param sealedBytes of the session within the handle. */
export function sessionOfSize(number: number, bytes: number, sealedBytes = sealedWhole(bytes)): Session {
  const nowMs = Date.now();
  const claims = {
    iss: "https://idp.acme.example",
    aud: "gateway",
    sub: randomUUID(),
    nonce: randomBytes(16).toString("base64url"),
    email: `user-${number}@acme.example`,
    preferred_username: `user-${number}`,
    iat: Math.floor(nowMs / 1_000),
    exp: Math.floor(nowMs / 1_000) + 3_600,
    groups: [] as string[],
  };
  const besides = JSON.stringify(claims).length;
  for (let at = besides; at + GROUP_CHARS <= bytes; at += GROUP_CHARS) claims.groups.push(randomUUID());
  const payload = JSON.stringify(claims);
  const header = { alg: "ES256", kid: "op-1", typ: "JWT" };
  return {
    sid: randomUUID(),
    idp: "acme",
    idpSid: randomUUID(),
    user: {
      id: `acme|${claims.sub}`,
      email: claims.email,
      username: claims.preferred_username,
      roles: ["fraud-ds", "notebook-user"],
      acr: "2",
      amr: ["pwd", "mfa"],
      authTimeMs: nowMs,
    },
    handle: [
      base64url(JSON.stringify({ alg: "dir", enc: "A256GCM", typ: "countersign-session", kid: "tts-1" })),
      "",
      randomBytes(12).toString("base64url"),
      randomBytes(sealedBytes).toString("base64url"),
      randomBytes(16).toString("base64url"),
    ].join("."),
    refreshToken: randomBytes(32).toString("base64url"),
    idToken: `${base64url(JSON.stringify(header))}.${base64url(payload)}.${randomBytes(SIGNATURE_BYTES).toString("base64url")}`,
    createdMs: nowMs,
    endsMs: nowMs + 12 * 3_600_000,
    refreshAtMs: nowMs + 3_000_000,
  };
}

const base64url = (text: string): string => Buffer.from(text).toString("base64url");
