// Ids of sessions. The first part names the session at the identity provider, when it said which: the provider's logout
// then ends all of ours that came from it, at once and without a list of sessions. PURE but for chance.
import { hash, randomBytes } from "node:crypto";

/** The first part: what a provider's logout by `sid` revokes. */
export function sessionGroup(idp: string, idpSid: string): string {
  return hash("sha256", `${idp}\n${idpSid}`, "base64url").slice(0, 16);
}

/** @param idpSid `sid` of the ID token, if it has one. */
export function newSessionId(idp: string, idpSid: string | undefined): string {
  const own = randomBytes(16).toString("base64url");
  return idpSid === undefined ? own : `${sessionGroup(idp, idpSid)}.${own}`;
}
