// PURE. What a program asks for with a person's consent, as the page and the token endpoint get it.
import { timingSafeEqual } from "node:crypto";
import { CLIENT_ID, callbackPort, challengeOf } from "../../core/gateway/client-login.ts";
import type { Result } from "../../core/runtime/errors.ts";

/** A request for consent (RFC 6749 section 4.1.1, RFC 7636 section 4.3). */
export interface ClientRequest {
  /** On 127.0.0.1, where the program listens. */
  readonly port: number;
  readonly redirectUri: string;
  readonly challenge: string;
  /** The program's own, given back. */
  readonly state: string;
}

const CHALLENGE = /^[A-Za-z0-9_-]{43}$/;
const STATE = /^[A-Za-z0-9._~-]{16,256}$/;
const VERIFIER = /^[A-Za-z0-9._~-]{43,128}$/;

/** The only value of a parameter; undefined: there is none, or several (RFC 6749 section 3.1). */
export function only(parameters: URLSearchParams, name: string): string | undefined {
  const [value, second] = parameters.getAll(name);
  return second === undefined ? value : undefined;
}

/** @returns or what is wrong with it. Nothing is ever sent to an address that this refuses. */
export function parseClientRequest(parameters: URLSearchParams): Result<ClientRequest, string> {
  const refuse = (error: string) => ({ ok: false, error }) as const;
  if (only(parameters, "client_id") !== CLIENT_ID) return refuse("the program is not known");
  const redirectUri = only(parameters, "redirect_uri") ?? "";
  const port = callbackPort(redirectUri);
  if (port === undefined)
    return refuse("the answer would not go to a program on this computer (http://127.0.0.1:PORT/callback)");
  if (only(parameters, "response_type") !== "code") return refuse("`response_type` is not `code`");
  const challenge = only(parameters, "code_challenge") ?? "";
  if (!CHALLENGE.test(challenge) || only(parameters, "code_challenge_method") !== "S256")
    return refuse("a `code_challenge` with the method `S256` is expected");
  const state = only(parameters, "state") ?? "";
  if (!STATE.test(state)) return refuse("a `state` of 16 to 256 letters and digits is expected");
  return { ok: true, value: { port, redirectUri, challenge, state } };
}

/** The same request as query or form. */
export function clientParameters({ redirectUri, challenge, state }: ClientRequest): URLSearchParams {
  return new URLSearchParams({
    response_type: "code",
    client_id: CLIENT_ID,
    redirect_uri: redirectUri,
    code_challenge: challenge,
    code_challenge_method: "S256",
    state,
  });
}

/** Whether a verifier belongs to a challenge (RFC 7636 section 4.6). */
export function isVerifier(verifier: string, challenge: string): boolean {
  if (!VERIFIER.test(verifier)) return false;
  const [a, b] = [Buffer.from(challengeOf(verifier)), Buffer.from(challenge)];
  return a.length === b.length && timingSafeEqual(a, b);
}

/** The parameters of a form; undefined: it is none. */
export function formOf(contentType: string | undefined, body: Buffer): URLSearchParams | undefined {
  return /^application\/x-www-form-urlencoded *(?:;|$)/i.test(contentType ?? "")
    ? new URLSearchParams(body.toString("utf8"))
    : undefined;
}
