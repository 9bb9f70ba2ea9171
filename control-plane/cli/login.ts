// `countersign login`, `logout` and `whoami`: a person at a terminal or in a notebook gets a token for an hour at most,
// by the browser's sign-in at the gateway (RFC 8252). Renewed by nothing but another login, which the session answers.
import { randomBytes } from "node:crypto";
import { createInterface } from "node:readline";
import {
  CLIENT_ID,
  CLIENT_PATHS,
  challengeOf,
  checkOf,
  isClientToken,
} from "../../sidecar/core/gateway/client-login.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { type Fields, textOf, textsOf } from "./answers.ts";
import { type CodeAnswer, codeIn, listenForCode } from "./code-listener.ts";
import { askGateway, gatewayUrl } from "./gateway-client.ts";
import { forgetLogin, type KeptLogin, keepLogin, loginsFile, readLogins } from "./kept-logins.ts";
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

/** A kept token with less left is replaced. */
const LEAST_LEFT_MS = 60_000;

/** Signs in, unless a token is kept that is still good. @throws MeshError `bad_config`, `io_failed`, `bad_object`. */
export async function login(
  options: LoginOptions & { readonly print: boolean; readonly browser: boolean; readonly renew: boolean },
  around: Surroundings,
  output: Output,
): Promise<ExitStatus> {
  const file = loginsFile(around.env);
  const { gateway, kept } = which(file, options, around);
  const isGood = kept !== undefined && kept.expiresMs - around.nowMs() > LEAST_LEFT_MS;
  const login =
    isGood && !options.renew
      ? kept
      : await signIn(gateway, options.caFile ?? kept?.caFile, options.browser, around, output);
  if (login !== kept) keepLogin(file, login);
  if (options.print) output.out(`${login.token}\n`);
  else if (options.json) printJson(output, shown(login));
  else
    output.out(
      `signed in at ${login.gateway} as ${plain(login.user)} until ${timeText(login.expiresMs)}\n\ntry it:\n  curl -H "Authorization: Bearer $(countersign login --print)" ${login.gateway}/\n`,
    );
  return EXIT.ok;
}

const shown = ({ gateway, user, expiresMs }: KeptLogin) => ({
  gateway,
  user,
  expiresAt: new Date(expiresMs).toISOString(),
});

/** @throws MeshError `bad_config` when no gateway is named and none is remembered. */
function which(
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

async function signIn(
  gateway: string,
  caFile: string | undefined,
  mayOpen: boolean,
  around: Surroundings,
  output: Output,
): Promise<KeptLogin> {
  const verifier = randomBytes(32).toString("base64url");
  const state = randomBytes(24).toString("base64url");
  const challenge = challengeOf(verifier);
  const listener = await listenForCode(state);
  try {
    const query = new URLSearchParams({
      response_type: "code",
      client_id: CLIENT_ID,
      redirect_uri: listener.redirectUri,
      code_challenge: challenge,
      code_challenge_method: "S256",
      state,
    });
    const url = `${gateway}${CLIENT_PATHS.authorize}?${query}`;
    const isOpen = mayOpen && around.open(url);
    output.err(invitation(url, checkOf(challenge), isOpen, around.input !== undefined));
    const answer = await firstAnswer(listener.answer, state, around, output);
    if ("error" in answer)
      throw new MeshError(
        "bad_object",
        answer.error === "access_denied"
          ? "you did not give access; run `countersign login` again if that was a mistake"
          : `the gateway gave no access: \`${plain(answer.error).slice(0, 100)}\``,
      );
    return await redeem(
      gateway,
      caFile,
      { code: answer.code, verifier, redirectUri: listener.redirectUri },
      around,
    );
  } finally {
    listener.close();
  }
}

function invitation(url: string, check: string, isOpen: boolean, canPaste: boolean): string {
  const begin = isOpen ? "A page opens in your browser; if not, open" : "Open this address in a browser";
  const paste = canPaste
    ? "\nIs the browser on another computer? Its last page will not open there: paste that page's address here, within a minute.\n"
    : "";
  return `${begin}:\n\n  ${url}\n\nThe page must show ${check}. If it shows anything else, cancel.\n${paste}`;
}

/** From the browser, or from the person; nobody waits for ever. @throws MeshError `timeout`. */
async function firstAnswer(
  fromBrowser: Promise<CodeAnswer>,
  state: string,
  { input, timeoutMs }: Surroundings,
  output: Output,
): Promise<CodeAnswer> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new MeshError("timeout", "nobody signed in; run `countersign login` again")),
      timeoutMs,
    );
  });
  const lines = input === undefined ? undefined : createInterface({ input });
  const pasted = new Promise<CodeAnswer>((resolve) => {
    lines?.on("line", (line) => {
      const found = codeIn(line.trim(), state);
      if (found !== undefined) resolve(found);
      else if (line.trim() !== "") output.err("that is no address of this login's last page\n");
    });
  });
  try {
    return await Promise.race([fromBrowser, pasted, late]);
  } finally {
    clearTimeout(timer);
    lines?.close();
  }
}

/** @throws MeshError `bad_object` when the gateway refuses, `protocol_error` for an answer that is none. */
async function redeem(
  gateway: string,
  caFile: string | undefined,
  { code, verifier, redirectUri }: Readonly<Record<"code" | "verifier" | "redirectUri", string>>,
  { nowMs }: Surroundings,
): Promise<KeptLogin> {
  const { status, fields } = await askGateway({
    ...{ gateway, caFile, path: CLIENT_PATHS.token },
    form: {
      grant_type: "authorization_code",
      client_id: CLIENT_ID,
      ...{ code, code_verifier: verifier, redirect_uri: redirectUri },
    },
  });
  if (status !== 200) throw refused(gateway, status, fields);
  const token = textOf(fields["access_token"]);
  const seconds = fields["expires_in"];
  if (!isClientToken(token) || typeof seconds !== "number" || !(seconds > 0))
    throw new MeshError("protocol_error", `\`${gateway}\` answered with something else than a token`);
  return { gateway, token, user: textOf(fields["user"]), expiresMs: nowMs() + seconds * 1_000, caFile };
}

function refused(gateway: string, status: number, fields: Fields): MeshError {
  const why = textOf(fields["error_description"]) || textOf(fields["detail"]);
  return why === ""
    ? new MeshError(
        "protocol_error",
        `\`${gateway}\` answered ${status}; is it the address of a Countersign gateway?`,
      )
    : new MeshError("bad_object", plain(why).slice(0, 300));
}

/** Who is signed in, as the gateway says. Exit status 1: nobody. */
export async function whoami(
  options: LoginOptions,
  around: Surroundings,
  output: Output,
): Promise<ExitStatus> {
  const { gateway, kept } = which(loginsFile(around.env), options, around);
  if (kept === undefined) return nobody(gateway, "you are not signed in", options, output);
  if (kept.expiresMs <= around.nowMs())
    return nobody(gateway, `the login expired at ${timeText(kept.expiresMs)}`, options, output);
  const { status, fields } = await askGateway({
    ...{ gateway, path: CLIENT_PATHS.whoami, bearer: kept.token },
    caFile: options.caFile ?? kept.caFile,
  });
  if (status !== 200) throw refused(gateway, status, fields);
  if (fields["signedIn"] !== true)
    return nobody(gateway, "the session has ended (signed out, revoked or idle)", options, output);
  if (options.json) {
    printJson(output, { gateway, ...fields });
    return EXIT.ok;
  }
  const roles = textsOf(fields["roles"]);
  output.out(
    `${plain(textOf(fields["user"]))}${fields["email"] === undefined ? "" : ` <${plain(textOf(fields["email"]))}>`} at ${gateway}\n` +
      `roles: ${roles.length === 0 ? "none" : plain(roles.join(", "))}\nuntil: ${timeText(Date.parse(textOf(fields["endsAt"])))}\n`,
  );
  return EXIT.ok;
}

function nobody(gateway: string, why: string, { json }: LoginOptions, output: Output): ExitStatus {
  if (json) printJson(output, { gateway, signedIn: false, reason: why });
  else output.err(`countersign: ${why} at ${gateway}; run \`countersign login ${gateway}\`\n`);
  return EXIT.no;
}

/** Ends the token at the gateway and forgets it here, also when the gateway cannot be asked. */
export async function logout(
  options: LoginOptions,
  around: Surroundings,
  output: Output,
): Promise<ExitStatus> {
  const file = loginsFile(around.env);
  const { gateway, kept } = which(file, options, around);
  if (kept === undefined) {
    if (options.json) printJson(output, { gateway, ended: false });
    else output.out(`not signed in at ${gateway}\n`);
    return EXIT.ok;
  }
  forgetLogin(file, gateway);
  const { status, fields } = await askGateway({
    ...{ gateway, path: CLIENT_PATHS.revoke, form: { token: kept.token } },
    caFile: options.caFile ?? kept.caFile,
  });
  if (status !== 200) throw refused(gateway, status, fields);
  if (options.json) printJson(output, { gateway, ended: true });
  else output.out(`signed out at ${gateway}; in the browser you stay signed in\n`);
  return EXIT.ok;
}
