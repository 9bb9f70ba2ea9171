// `countersign login`, `whoami` and `logout`: verbs for people who call what is behind a gateway.
import { resolve } from "node:path";
import type { Command } from "commander";
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

const SHORT = [
  ["whoami", "who you are at a gateway, with which roles, until when"],
  ["logout", "end the token of `countersign login`"],
] as const;

/** Adds `login`, `whoami` and `logout`. */
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
      const { login, terminalSurroundings } = await import("./login.ts");
      const { ca, json, print, browser, renew } = flags;
      const asked = {
        ...{ gateway, browser, json: json === true, print: print === true, renew: renew === true },
        caFile: ca === undefined ? undefined : resolve(ca),
      };
      await run(() => login(asked, terminalSurroundings(), output));
    });
  for (const [name, description] of SHORT)
    atGateway(verb(program, name, description, `\nExample: countersign ${name}`)).action(
      async (gateway: string | undefined, { ca, json }: GatewayOptions) => {
        const people = await import("./login.ts");
        const asked = { gateway, caFile: ca, json: json === true };
        await run(() => people[name](asked, people.terminalSurroundings(), output));
      },
    );
}
