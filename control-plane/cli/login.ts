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
import { textOf, textsOf } from "./answers.ts";
import { type CodeAnswer, codeIn, listenForCode } from "./code-listener.ts";
import { askGateway } from "./gateway-client.ts";
import { forgetLogin, type KeptLogin, keepLogin, loginsFile } from "./kept-logins.ts";
import { goodLogin, type LoginOptions, loginAt, nobody, refusedBy, type Surroundings } from "./person.ts";
import { EXIT, type ExitStatus, type Output, plain, printJson, timeText } from "./print.ts";

/** A kept token with less left is replaced. */
const LEAST_LEFT_MS = 60_000;

/** Signs in, unless a token is kept that is still good. @throws MeshError `bad_config`, `io_failed`, `bad_object`. */
export async function login(
  options: LoginOptions & { readonly print: boolean; readonly browser: boolean; readonly renew: boolean },
  around: Surroundings,
  output: Output,
): Promise<ExitStatus> {
  const file = loginsFile(around.env);
  const { gateway, kept } = loginAt(file, options, around);
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

async function signIn(
  gateway: string,
  caFile: string | undefined,
  mayOpen: boolean,
  around: Surroundings,
  output: Output,
): Promise<KeptLogin> {
  await mustBeGateway(gateway, caFile);
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

/** Before anybody is sent to a page: is it there, trusted, and one of ours? @throws MeshError `io_failed`, `bad_object`, `protocol_error`. */
async function mustBeGateway(gateway: string, caFile: string | undefined): Promise<void> {
  const { status, fields } = await askGateway({ gateway, path: CLIENT_PATHS.whoami, caFile });
  if (typeof fields["signedIn"] !== "boolean") throw refusedBy(gateway, status, fields);
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
  if (status !== 200) throw refusedBy(gateway, status, fields);
  const token = textOf(fields["access_token"]);
  const seconds = fields["expires_in"];
  if (!isClientToken(token) || typeof seconds !== "number" || !(seconds > 0))
    throw new MeshError("protocol_error", `\`${gateway}\` answered with something else than a token`);
  return { gateway, token, user: textOf(fields["user"]), expiresMs: nowMs() + seconds * 1_000, caFile };
}

/** Who is signed in, as the gateway says. Exit status 1: nobody. */
export async function whoami(
  options: LoginOptions,
  around: Surroundings,
  output: Output,
): Promise<ExitStatus> {
  const kept = goodLogin(options, around, output);
  if ("status" in kept) return kept.status;
  const { gateway } = kept;
  const { status, fields } = await askGateway({
    ...{ gateway, path: CLIENT_PATHS.whoami, bearer: kept.token },
    caFile: options.caFile ?? kept.caFile,
  });
  if (status !== 200) throw refusedBy(gateway, status, fields);
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

/**
 * Ends the token at the gateway, and then forgets it here: one that is forgotten first would stay good there, out of reach.
 *
 * @param force forget it although the gateway does not end it.
 * @throws MeshError `io_failed`, `bad_object`, `protocol_error` when it is not ended there: it is kept then.
 */
export async function logout(
  options: LoginOptions & { readonly force: boolean },
  around: Surroundings,
  output: Output,
): Promise<ExitStatus> {
  const file = loginsFile(around.env);
  const { gateway, kept } = loginAt(file, options, around);
  if (kept === undefined) {
    if (options.json) printJson(output, { gateway, ended: false });
    else output.out(`not signed in at ${gateway}\n`);
    return EXIT.ok;
  }
  const isOver = kept.expiresMs <= around.nowMs();
  const failure = isOver ? undefined : await endThere(kept, options);
  if (failure !== undefined && !options.force) throw failure;
  forgetLogin(file, gateway);
  const ended = failure === undefined;
  if (options.json)
    printJson(output, {
      gateway,
      ended,
      ...(ended ? {} : { goodUntil: new Date(kept.expiresMs).toISOString() }),
    });
  else if (ended) output.out(`signed out at ${gateway}; in the browser you stay signed in\n`);
  else
    output.err(
      `countersign: ${failure.message}\nforgotten here; who has a copy of the token can use it until ${timeText(kept.expiresMs)}, unless you sign out at ${gateway}${SIGN_OUT_PATH} in the browser\n`,
    );
  return EXIT.ok;
}

const SIGN_OUT_PATH = "/.countersign/logout";

/** @returns why the token may still be good there; undefined: it is not. */
async function endThere(kept: KeptLogin, { caFile }: LoginOptions): Promise<MeshError | undefined> {
  const { gateway, token, expiresMs } = kept;
  try {
    const { status, fields } = await askGateway({
      ...{ gateway, path: CLIENT_PATHS.revoke, form: { token } },
      caFile: caFile ?? kept.caFile,
    });
    if (status === 200) return undefined;
    throw refusedBy(gateway, status, fields);
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    return new MeshError(
      error.code,
      `${error.message}; the token is kept, and good there until ${timeText(expiresMs)}: log out again, or forget it here alone with \`--force\``,
      { cause: error },
    );
  }
}
