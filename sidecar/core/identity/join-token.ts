// The text form of a one-time join token: `cs1.<id>.<secret>.<base64url SHA-256 of the root's public key>`. The last
// part lets the client tell the right control plane before it has any certificate.
import type { Result } from "../runtime/errors.ts";

export interface JoinTokenParts {
  /** Public handle, 16 characters. */
  readonly id: string;
  /** 32 random bytes; secret. */
  readonly secret: string;
  /** What the root of the control plane's certificate must hash to. */
  readonly rootSpkiSha256: string;
}

const FORM = /^cs1\.([A-Za-z0-9_-]{16})\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})$/;

/** Parses a join token as a person pasted it (surrounding white space is dropped). */
export function parseJoinToken(text: string): Result<JoinTokenParts, string> {
  const match = text.length <= 256 ? FORM.exec(text.trim()) : null;
  const [, id, secret, rootSpkiSha256] = match ?? [];
  if (id === undefined || secret === undefined || rootSpkiSha256 === undefined) {
    return {
      ok: false,
      error: "not a join token; it has the form `cs1.….….…` and is made by `countersign join-token create`",
    };
  }
  return { ok: true, value: { id, secret, rootSpkiSha256 } };
}

/** The text of a join token. */
export function formatJoinToken(parts: JoinTokenParts): string {
  return `cs1.${parts.id}.${parts.secret}.${parts.rootSpkiSha256}`;
}
