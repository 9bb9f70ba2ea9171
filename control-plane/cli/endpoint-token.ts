// `countersign token`: a person's login for a token that counts at one serving endpoint alone, for minutes (RFC 8693).
import { CLIENT_PATHS, TOKEN_EXCHANGE } from "../../sidecar/core/gateway/client-login.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { textOf } from "./answers.ts";
import { askGateway } from "./gateway-client.ts";
import { goodLogin, type LoginOptions, nobody, refusedBy, type Surroundings } from "./person.ts";
import { EXIT, type ExitStatus, type Output, printJson } from "./print.ts";

export interface TokenOptions extends LoginOptions {
  /** `namespace/name` or SPIFFE ID of a serving endpoint. */
  readonly audience: string;
  /** Operations, separated by spaces; undefined: all that policies allow there. */
  readonly scope: string | undefined;
}

/** A JWT in three parts; nothing else is printed as a token. */
const TOKEN = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/;

/** Prints the token alone. Exit status 1: nobody is signed in. @throws MeshError `bad_object` when the gateway refuses. */
export async function endpointToken(
  options: TokenOptions,
  around: Surroundings,
  output: Output,
): Promise<ExitStatus> {
  const kept = goodLogin(options, around, output);
  if ("status" in kept) return kept.status;
  const { gateway } = kept;
  const { audience, scope } = options;
  const { status, fields } = await askGateway({
    ...{ gateway, path: CLIENT_PATHS.token, caFile: options.caFile ?? kept.caFile },
    form: {
      ...{ grant_type: TOKEN_EXCHANGE.grantType, audience, ...(scope === undefined ? {} : { scope }) },
      ...{ subject_token: kept.token, subject_token_type: TOKEN_EXCHANGE.accessToken },
    },
  });
  if (fields["error"] === "invalid_grant")
    return nobody(gateway, "the session has ended (signed out, revoked or idle)", options, output);
  if (status !== 200) throw refusedBy(gateway, status, fields);
  const token = textOf(fields["access_token"]);
  const seconds = fields["expires_in"];
  if (!TOKEN.test(token) || typeof seconds !== "number" || !(seconds > 0))
    throw new MeshError("protocol_error", `\`${gateway}\` answered with something else than a token`);
  if (!options.json) output.out(`${token}\n`);
  else {
    const expiresAt = new Date(around.nowMs() + seconds * 1_000).toISOString();
    printJson(output, { gateway, audience, token, scope: textOf(fields["scope"]), expiresAt });
  }
  return EXIT.ok;
}
