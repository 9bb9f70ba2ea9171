// The people of the demo and what they meet: an OpenID Provider where they sign in, browsers, the applications behind the
// gateway, and a workspace outside the mesh. Everything but the mesh itself lives in this process.
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { edgeCertificate, writeSecret } from "../fakes/edge-certificate.ts";
import { type OpenIdProvider, startOpenIdProvider } from "../fakes/openid-provider.ts";
import { NetBrowser } from "../integration/gateway/people-mesh.ts";
import { textOf } from "../sidecar/gateway/login/browser.ts";
import type { PlatformMore } from "./platform.ts";
import { freePorts } from "./process.ts";
import { type Relay, type Relayed, type RelayedCall, startRelay } from "./relay.ts";

const IDP = "okta-main";
const CLIENT_SECRET = "a secret of the client, thirty-two bytes";
const CLAIMS_HOST = "claims.acme.example";
const notebookHost = (name: string): string => `${name}.notebooks.acme.example`;

/** Where somebody works: the host that leads there, and how an application there is asked. */
interface Place {
  readonly host: string;
  readonly path: string;
}

export const PLACES = {
  "nb-alice": { host: notebookHost("nb-alice"), path: "/api/sessions" },
  "nb-bob": { host: notebookHost("nb-bob"), path: "/api/sessions" },
  "claims-agent": { host: CLAIMS_HOST, path: "/ask" },
} as const satisfies Record<string, Place>;
export type PlaceName = keyof typeof PLACES;

/** Who they are to the provider: DOMAIN's Alice, Bob and Dave. */
const PEOPLE = {
  alice: { groups: ["fraud-data-scientists"], place: "nb-alice" },
  bob: { groups: ["fraud-data-scientists", "externals"], place: "nb-bob" },
  dave: { groups: ["claims-desk"], place: "claims-agent" },
} as const satisfies Record<string, { readonly groups: readonly string[]; readonly place: PlaceName }>;
export type PersonName = keyof typeof PEOPLE;
export const PERSON_NAMES = Object.keys(PEOPLE) as PersonName[]; // the keys of the object above

/** What the gateway says of who is signed in. */
export interface WhoAmI {
  readonly signedIn: boolean;
  readonly user?: string;
  readonly roles?: readonly string[];
}

export interface EdgeReply {
  readonly status: number;
  /** What the application answered; undefined: somebody before it did. */
  readonly relayed: Relayed | undefined;
  readonly text: string;
}

/** A browser with somebody in front of it. */
export class Person {
  readonly name: PersonName;
  readonly #browser: NetBrowser;

  constructor(name: PersonName, browser: NetBrowser) {
    this.name = name;
    this.#browser = browser;
  }

  get id(): string {
    return idOf(this.name);
  }

  get #home(): Place {
    return PLACES[PEOPLE[this.name].place];
  }

  /** Through the gateway to the provider and back; each host has a session of its own. */
  async signIn(at: PlaceName = PEOPLE[this.name].place): Promise<WhoAmI> {
    const { host } = PLACES[at];
    await this.#browser.go("/.countersign/login?rd=/", { host });
    const whoAmI = JSON.parse(textOf(await this.#browser.ask("/.countersign/whoami", { host }))) as WhoAmI;
    if (!whoAmI.signedIn) throw new Error(`${this.name} did not get in`);
    return whoAmI;
  }

  async signOut(): Promise<void> {
    const { host } = this.#home;
    const fields = { origin: `https://${host}` };
    const { status } = await this.#browser.ask("/.countersign/logout", { method: "POST", host, fields });
    if (status !== 303) throw new Error(`${this.name} could not sign out: ${status}`);
  }

  /** Has the application at a place make calls. */
  async ask(at: PlaceName, calls: readonly RelayedCall[]): Promise<EdgeReply> {
    const { host, path } = PLACES[at];
    const answer = await this.#browser.ask(path, {
      ...{ method: "POST", host, body: JSON.stringify({ calls }) },
      fields: {
        accept: "application/json",
        "content-type": "application/json",
        origin: `https://${host}`,
        "sec-fetch-site": "same-origin",
      },
    });
    const text = textOf(answer);
    const { status } = answer;
    return { status, text, relayed: status === 200 ? (JSON.parse(text) as Relayed) : undefined };
  }
}

/** `provider|user`, as everything in the mesh calls them. */
export function idOf(name: PersonName): string {
  return `${IDP}|${name}`;
}

export interface PeopleWorld {
  /** For `startPlatform`. */
  readonly more: PlatformMore;
  readonly values: Readonly<Record<string, string>>;
  readonly gatewayPort: number;
  readonly issuer: string;
  person(name: PersonName): Person;
  close(): Promise<void>;
}

/** @param dir an empty folder for certificates and secrets. */
export async function startPeopleWorld(dir: string): Promise<PeopleWorld> {
  const hosts = Object.values(PLACES).map(({ host }) => host);
  const op = await startProvider(hosts);
  const material = await edgeCertificate(["*.notebooks.acme.example", CLAIMS_HOST, "localhost"], Date.now());
  const secrets = join(dir, "secrets");
  writeSecret(secrets, "edge-tls", material);
  mkdirSync(join(secrets, "okta"), { recursive: true });
  writeFileSync(join(secrets, "okta", "client-secret"), CLIENT_SECRET, { mode: 0o600 });
  const ca = join(dir, "workspace-ca.pem");
  writeFileSync(ca, material.ca);
  const workspace = await startWorkspace(material);
  const [edge = 0, ...proxies] = await freePorts(5);
  const relays: Relay[] = await Promise.all(proxies.map((port) => startRelay(port)));
  const middle = (index: number) => ({ app: relays[index]?.port ?? 0, proxyPort: proxies[index] ?? 0 });
  return {
    more: {
      config: new URL("config-people", import.meta.url),
      workloads: [
        {
          ...{ name: "people", namespace: "countersign-system" },
          args: ["--gateway-secrets", secrets, "--gateway-port-map", `8443=127.0.0.1:${edge}`],
        },
        {
          ...{ name: "nb-alice", namespace: "ml-dev", calls: true, serves: 8888, ...middle(0) },
          args: ["--external-ca-file", ca],
        },
        { name: "nb-bob", namespace: "ml-dev", serves: 8888, ...middle(1) },
        { name: "backfill", namespace: "ml-batch", serves: 8265, ...middle(2) },
        { name: "claims-agent", namespace: "agents", serves: 8080, ...middle(3) },
        { name: "claims-tools", namespace: "agents", serves: 8080 },
      ],
    },
    values: { issuer: op.issuer, workspace: String((workspace.address() as AddressInfo).port) },
    gatewayPort: edge,
    issuer: op.issuer,
    person: (name) => new Person(name, new NetBrowser([edge], material.ca, name)),
    close: async () => {
      for (const relay of relays) relay.close();
      workspace.closeAllConnections();
      workspace.close();
      await op.close();
    },
  };
}

async function startProvider(hosts: readonly string[]): Promise<OpenIdProvider> {
  const op = await startOpenIdProvider({
    ...{ clientId: "countersign", clientSecret: CLIENT_SECRET },
    redirectUris: hosts.map((host) => `https://${host}/.countersign/callback/${IDP}`),
    postLogoutRedirectUris: hosts.map((host) => `https://${host}/.countersign/signed-out`),
  });
  for (const name of PERSON_NAMES) {
    op.claims.set(name, { groups: PEOPLE[name].groups });
    op.methods.set(name, ["pwd", "mfa"]);
  }
  return op;
}

/** Stands for a Databricks workspace: answers everything, over TLS; what comes here was decided on before. */
async function startWorkspace({ cert, key }: { cert: string; key: string }): Promise<Server> {
  const server = createServer({ cert, key }, (request, response) => {
    request.resume().on("end", () => {
      response.writeHead(200, { "content-type": "application/json" });
      response.end('{"status": {"state": "SUCCEEDED"}}');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}
