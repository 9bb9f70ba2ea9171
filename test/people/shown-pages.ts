// Every page of the gateway as people may see it, with the words of a small company, and a server that answers with them.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { SIGN_IN_FAILURES } from "../../sidecar/gateway/login/sign-in-failure.ts";
import {
  choicePage,
  consentPage,
  failurePage,
  problemPage,
  signedOutPage,
  signOutPage,
} from "../../sidecar/gateway/page/sign-in-pages.ts";
import type { EdgeAnswer } from "../../sidecar/gateway/people.ts";

const REFERENCE = "g-65c3ee836911";
const HOST = "nb-alice.notebooks.acme.example";
const LOGIN = "/.countersign/login?rd=%2Flab";

/** By the path of each. */
export const PAGES: ReadonlyMap<string, EdgeAnswer> = new Map([
  [
    "choice",
    choicePage(
      HOST,
      [
        { displayName: "Acme staff", issuer: "https://login.acme.example/realms/staff" },
        { displayName: "Partners and contractors", issuer: "https://partners.acme.example" },
        { displayName: "University lab", issuer: "https://idp.research-computing.university.example/oidc" },
      ],
      [LOGIN, LOGIN, LOGIN],
    ),
  ],
  ...SIGN_IN_FAILURES.map((failure): [string, EdgeAnswer] => [
    failure.replaceAll("_", "-"),
    failurePage({ failure, againLink: LOGIN, reference: REFERENCE }),
  ]),
  [
    "program",
    consentPage({
      ...{ host: HOST, port: 38_211, check: "K7QD-M2XA", who: "alice@acme.example" },
      ...{ action: "/.countersign/authorize", fields: [["state", "x"]], cancelLink: "/" },
    }),
  ],
  ["sign-out", signOutPage("alice@acme.example", "/.countersign/logout", [])],
  ["signed-out", signedOutPage(LOGIN, [])],
  ["not-found", problemPage(404, "Nothing is here", "nothing is served at this path", REFERENCE)],
  [
    "not-yours",
    problemPage(403, "You may not open this", "this address belongs to another person", REFERENCE),
  ],
]);

export interface PageServer {
  /** Of one page. */
  url(name: string): string;
  close(): void;
}

export async function servePages(): Promise<PageServer> {
  const server = createServer((request, response) => {
    const page = PAGES.get((request.url ?? "").slice(1));
    if (page === undefined) {
      response.writeHead(404).end();
      return;
    }
    for (const [name, value] of page.fields) response.setHeader(name, value);
    response.writeHead(page.status).end(page.body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: (name) => `http://127.0.0.1:${port}/${name}`,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
