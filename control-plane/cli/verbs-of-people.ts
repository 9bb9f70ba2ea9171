// `countersign login`, `whoami`, `token` and `logout`: verbs for people who call what is behind a gateway.
import { resolve } from "node:path";
import type { Command } from "commander";
import type { LoginOptions } from "./person.ts";
import type { JsonOption, Verbs } from "./verb-options.ts";

interface GatewayOptions extends JsonOption {
  readonly ca?: string;
}

interface LoginFlags extends GatewayOptions {
  readonly print?: true;
  readonly browser: boolean;
  readonly renew?: true;
}

const atGateway = (command: Command): Command =>
  command
    .argument("[gateway]", "its address (default: COUNTERSIGN_GATEWAY, then that of the last login)")
    .option("--ca <file>", "roots of the gateway's certificate, PEM (default: the system's; remembered)");

interface TokenFlags extends GatewayOptions {
  readonly audience: string;
  readonly scope?: string;
}

/** Adds `login`, `whoami`, `token` and `logout`. */
export function addPeopleVerbs({ program, output, verb, run }: Verbs): void {
  atGateway(
    verb(
      program,
      "login",
      "sign in at a gateway through your browser, to call what is behind it from a terminal",
      `
Opens the gateway's page where there is a browser, and prints its address. Sign in there, compare the eight characters, give
access. The token is good for an hour at most, never longer than your session in the browser, at that gateway alone; it is
kept in $XDG_CONFIG_HOME/countersign/logins.json (0600). Signing out in the browser ends it. When it has expired, log in
again: while the browser's session lasts, that is one click.

No browser on this machine: open the address on any other one. The last page will not open there; paste its address here.

Examples:
  countersign login https://lab.acme.example
  curl -H "Authorization: Bearer $(countersign login --print)" https://lab.acme.example/api/contents`,
    ),
  )
    .option("--print", "print the token alone on standard output, everything else on standard error")
    .option("--no-browser", "open nothing, print the address only")
    .option("--renew", "sign in although the kept token is still good")
    .action(async (gateway: string | undefined, flags: LoginFlags) => {
      const [{ login }, { terminalSurroundings }] = await load();
      const { print, browser, renew } = flags;
      const asked = { ...common(gateway, flags), browser, print: print === true, renew: renew === true };
      await run(() => login(asked, terminalSurroundings(), output));
    });
  atGateway(
    verb(
      program,
      "whoami",
      "who you are at a gateway, with which roles, until when",
      "\nExample: countersign whoami",
    ),
  ).action(async (gateway: string | undefined, flags: GatewayOptions) => {
    const [{ whoami }, { terminalSurroundings }] = await load();
    await run(() => whoami(common(gateway, flags), terminalSurroundings(), output));
  });
  atGateway(
    verb(
      program,
      "token",
      "a token for one serving endpoint, five minutes at most, by your login",
      `
Prints the token alone, a JWT: for a program that calls one endpoint and should have no more than that. It names you, that
endpoint, and operations that policies let you do there; it counts at the gateway's address of that endpoint, and for
whoever checks tokens by the keys at /.well-known/jwks.json. Signing out in the browser ends it. \`countersign login\` first.

Examples:
  countersign token --audience ml-serving/fraud-scorer
  countersign token --audience ml-serving/fraud-scorer --scope serving.invoke --json`,
    ),
  )
    .requiredOption("--audience <name>", "the endpoint: namespace/name, or its SPIFFE ID")
    .option("--scope <operations>", "operations, separated by spaces (default: all that you may do there)")
    .action(async (gateway: string | undefined, flags: TokenFlags) => {
      const { endpointToken } = await import("./endpoint-token.ts");
      const [, { terminalSurroundings }] = await load();
      const { audience, scope } = flags;
      const asked = { ...common(gateway, flags), audience, scope };
      await run(() => endpointToken(asked, terminalSurroundings(), output));
    });
  atGateway(
    verb(
      program,
      "logout",
      "end the token of `countersign login`",
      `
The token is forgotten here once the gateway has ended it; when it cannot be asked, the token is kept and the exit status is 3.

Examples:
  countersign logout
  countersign logout --force`,
    ),
  )
    .option("--force", "forget the token although the gateway did not end it: copies of it stay good there")
    .action(async (gateway: string | undefined, flags: GatewayOptions & { readonly force?: true }) => {
      const [{ logout }, { terminalSurroundings }] = await load();
      const asked = { ...common(gateway, flags), force: flags.force === true };
      await run(() => logout(asked, terminalSurroundings(), output));
    });
}

const load = () => Promise.all([import("./login.ts"), import("./person.ts")]);

const common = (gateway: string | undefined, { ca, json }: GatewayOptions): LoginOptions => ({
  ...{ gateway, json: json === true },
  caFile: ca === undefined ? undefined : resolve(ca),
});
