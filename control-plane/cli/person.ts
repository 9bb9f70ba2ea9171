// What the verbs of a person at a gateway have in common: which gateway, which kept login, and how a refusal is said.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { type Fields, textOf } from "./answers.ts";
import { gatewayUrl } from "./gateway-client.ts";
import { type KeptLogin, loginsFile, readLogins } from "./kept-logins.ts";
import { openBrowser } from "./open-browser.ts";
import { EXIT, type ExitStatus, type Output, plain, printJson, timeText } from "./print.ts";

export interface LoginOptions {
  /** As typed; undefined: the gateway of the last login. */
  readonly gateway: string | undefined;
  readonly caFile: string | undefined;
  readonly json: boolean;
}

/** The world around these verbs; see `terminalSurroundings`. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly nowMs: () => number;
  /** Lines that a person types; undefined: nobody can. */
  readonly input: NodeJS.ReadableStream | undefined;
  readonly open: (url: string) => boolean;
  readonly timeoutMs: number;
}

export const terminalSurroundings = (): Surroundings => ({
  env: process.env,
  nowMs: Date.now,
  input: process.stdin.isTTY ? process.stdin : undefined,
  open: (url) => openBrowser(url, process.env),
  timeoutMs: 600_000,
});

/** @throws MeshError `bad_config` when no gateway is named and none is remembered. */
export function loginAt(
  file: string,
  { gateway: typed }: Pick<LoginOptions, "gateway">,
  { env }: Surroundings,
): { readonly gateway: string; readonly kept: KeptLogin | undefined } {
  const { current, logins } = readLogins(file);
  const named = typed ?? env["COUNTERSIGN_GATEWAY"] ?? current;
  if (named === undefined || named === "")
    throw new MeshError(
      "bad_config",
      "name the gateway, for example `countersign login https://lab.example.com`, or set `COUNTERSIGN_GATEWAY`",
    );
  const gateway = gatewayUrl(named);
  return { gateway, kept: logins.get(gateway) };
}

/** The kept login that is good now; otherwise says why there is none. */
export function goodLogin(
  options: LoginOptions,
  around: Surroundings,
  output: Output,
): KeptLogin | { readonly status: ExitStatus } {
  const { gateway, kept } = loginAt(loginsFile(around.env), options, around);
  if (kept === undefined) return { status: nobody(gateway, "you are not signed in", options, output) };
  if (kept.expiresMs > around.nowMs()) return kept;
  const why = `the login expired at ${timeText(kept.expiresMs)}`;
  return { status: nobody(gateway, why, options, output) };
}

export function nobody(gateway: string, why: string, { json }: LoginOptions, output: Output): ExitStatus {
  if (json) printJson(output, { gateway, signedIn: false, reason: why });
  else output.err(`countersign: ${why} at ${gateway}; run \`countersign login ${gateway}\`\n`);
  return EXIT.no;
}

/** What a gateway refused, in its words. */
export function refusedBy(gateway: string, status: number, fields: Fields): MeshError {
  const why = textOf(fields["error_description"]) || textOf(fields["detail"]);
  return why === ""
    ? new MeshError(
        "protocol_error",
        `\`${gateway}\` answered ${status}; is it the address of a Countersign gateway?`,
      )
    : new MeshError("bad_object", plain(why).slice(0, 300));
}
