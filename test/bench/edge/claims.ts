// Sessions as a sign-in leaves them, with so many bytes of claims: groups by their ids, as directories with many groups send
// them. What a token service sealed and what a provider signed are bytes that nothing compresses.
import { randomBytes, randomUUID } from "node:crypto";
import type { Session } from "../../../sidecar/gateway/session/session.ts";

/** Characters that one group takes in an array of JSON: 36, two quotes and a comma. */
const GROUP_CHARS = 39;
const SIGNATURE_BYTES = 64;
/** What the token service seals besides the claims: who, which gateway, since when. */
const SEALED_BESIDES_BYTES = 400;

/** @param bytes of claims. @param sealedShare what is left of them in the handle. */
export function sessionOfSize(number: number, bytes: number, sealedShare = 1): Session {
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
  const sealedBytes = SEALED_BESIDES_BYTES + Math.round(payload.length * sealedShare);
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
