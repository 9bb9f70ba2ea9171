// From the body of a `gateway` resource to what a gateway works by. PURE. The control plane checked it all before; what
// cannot be used in full is refused here again, so that no condition of a route is lost on the way.
import type { Gateway__Output } from "../../proto/gen/countersign/mesh/v1/Gateway.ts";
import type { GatewayCors__Output } from "../../proto/gen/countersign/mesh/v1/GatewayCors.ts";
import type { GatewayIdp__Output } from "../../proto/gen/countersign/mesh/v1/GatewayIdp.ts";
import type { GatewayLimit__Output } from "../../proto/gen/countersign/mesh/v1/GatewayLimit.ts";
import type { GatewayListener__Output } from "../../proto/gen/countersign/mesh/v1/GatewayListener.ts";
import type { GatewayRoute__Output } from "../../proto/gen/countersign/mesh/v1/GatewayRoute.ts";
import type { GatewaySecurityHeaders__Output } from "../../proto/gen/countersign/mesh/v1/GatewaySecurityHeaders.ts";
import type { GatewaySession__Output } from "../../proto/gen/countersign/mesh/v1/GatewaySession.ts";
import { messageCodec } from "../../proto/load.ts";
import {
  FRAME_OPTIONS,
  GATEWAY_TIERS,
  type Gateway,
  type GatewayBackend,
  type GatewayCors,
  type GatewayIdp,
  type GatewayLimit,
  type GatewayListener,
  type GatewayRoute,
  IDP_ALGORITHMS,
  REFERRER_POLICIES,
  ROUTE_ACCESS,
  SESSION_STORES,
} from "../core/gateway/gateway.ts";
import { parseCidr } from "../core/policy/cidr.ts";
import { oneOf, portNumber } from "./resource-checks.ts";

const codec = messageCodec<object, Gateway__Output>("countersign.mesh.v1.Gateway");

const HOST = /^(?:\*\.)?[a-z0-9](?:[a-z0-9.-]{0,249}[a-z0-9])?$/;
const NAME = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/;
const SECRET_KEY = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}$/;
const PATH = /^\/[\x21-\x7e]{0,1023}$/;
const OBJECT_ID = /^[a-z0-9.-]{1,253}\/[a-z0-9.:-]{1,253}$/;
const PRINTABLE = /^[\x20-\x7e]{0,4096}$/;
const ORIGIN = /^https?:\/\/[a-z0-9.-]{1,253}(?::[0-9]{1,5})?$/;
const TOKEN = /^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$/;
const COOKIE_NAME = /^__Host-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,56}$/;
const USER = /^[a-z0-9-]{1,63}\|[\x21-\x7e]{1,256}$/;

function checked(text: string, pattern: RegExp, what: string): string {
  if (!pattern.test(text)) throw new Error(`${what} \`${text.slice(0, 64)}\` cannot be used`);
  return text;
}

const filled = (text: string): string | undefined => (text === "" ? undefined : text);

function atLeastOne(value: number, what: string): number {
  if (value < 1) throw new Error(`${what} is 0`);
  return value;
}

function some<T>(list: readonly T[], what: string): readonly T[] {
  if (list.length === 0) throw new Error(`${what} is empty`);
  return list;
}

const hostsOf = (hosts: readonly string[]): readonly string[] =>
  some(hosts, "list of hosts").map((host) => checked(host, HOST, "host"));

function decodeListener({ name, port, hosts, secretName }: GatewayListener__Output): GatewayListener {
  return {
    name: checked(name, NAME, "listener"),
    port: portNumber(port, "port"),
    hosts: hostsOf(hosts),
    secretName: checked(secretName, NAME, "secret"),
  };
}

function decodeIssuer({ issuer, allowInsecureIssuer }: GatewayIdp__Output): string {
  const url = new URL(issuer);
  const insecure = url.protocol === "http:" && allowInsecureIssuer;
  if ((url.protocol !== "https:" && !insecure) || url.search !== "" || url.hash !== "" || url.username !== "")
    throw new Error(`issuer \`${issuer.slice(0, 64)}\` cannot be used`);
  return issuer;
}

function decodeIdp(idp: GatewayIdp__Output): GatewayIdp {
  const { clientSecretName: secret, clientSecretKey: key } = idp;
  if (!idp.scopes.includes("openid")) throw new Error("identity provider is not asked for `openid`");
  return {
    name: checked(idp.name, NAME, "identity provider"),
    displayName: checked(idp.displayName, /^[^\p{Cc}]{1,128}$/u, "display name"),
    issuer: decodeIssuer(idp),
    clientId: checked(idp.clientId, PRINTABLE, "client id"),
    clientSecret:
      secret === ""
        ? undefined
        : { name: checked(secret, NAME, "secret"), key: checked(key, SECRET_KEY, "key") },
    scopes: idp.scopes.map((scope) => checked(scope, /^[\x21\x23-\x5b\x5d-\x7e]{1,256}$/, "scope")),
    userIdClaim: atLeastOneCharacter(idp.userIdClaim, "claim of the user"),
    emailClaim: atLeastOneCharacter(idp.emailClaim, "claim of the mail address"),
    usernameClaim: atLeastOneCharacter(idp.usernameClaim, "claim of the user name"),
    audiences: idp.audiences,
    algorithms: some(idp.algorithms, "list of algorithms").map((one) =>
      oneOf(IDP_ALGORITHMS, one, "algorithm"),
    ),
    stepUpAcr: filled(idp.stepUpAcr),
    maxAgeSeconds: idp.maxAgeSeconds,
    hostedDomain: filled(idp.hostedDomain),
    offlineAccess: idp.offlineAccess,
    clockSkewSeconds: idp.clockSkewSeconds,
    allowInsecureIssuer: idp.allowInsecureIssuer,
  };
}

function atLeastOneCharacter(text: string, what: string): string {
  if (text === "") throw new Error(`${what} is empty`);
  return text;
}

function decodeBackend({ service, port, external }: GatewayRoute__Output): GatewayBackend {
  if ((service === "") === (external === "")) throw new Error("route has no backend, or two");
  if (external !== "") return { kind: "external", id: checked(external, OBJECT_ID, "external service") };
  return {
    kind: "service",
    id: checked(service, OBJECT_ID, "service"),
    port: port === 0 ? undefined : portNumber(port, "port"),
  };
}

function decodePath({ pathExact, pathPrefix }: GatewayRoute__Output): GatewayRoute["path"] {
  if ((pathExact === "") === (pathPrefix === "")) throw new Error("route has no path, or two");
  return pathExact === ""
    ? { kind: "prefix", value: checked(pathPrefix, PATH, "path") }
    : { kind: "exact", value: checked(pathExact, PATH, "path") };
}

function decodeCors(cors: GatewayCors__Output): GatewayCors {
  const tokens = (list: readonly string[]): readonly string[] =>
    list.map((one) => checked(one, TOKEN, "field of cors"));
  return {
    allowOrigins: cors.allowOrigins.map((origin) => checked(origin, ORIGIN, "origin")),
    allowMethods: tokens(cors.allowMethods),
    allowHeaders: tokens(cors.allowHeaders),
    exposeHeaders: tokens(cors.exposeHeaders),
    allowCredentials: cors.allowCredentials,
    maxAgeSeconds: cors.maxAgeSeconds,
  };
}

function decodeRewrite(rewrite: GatewayRoute__Output["rewrite"]): GatewayRoute["rewrite"] {
  if (rewrite === null) return undefined;
  const { prefix, host } = rewrite;
  return {
    prefix: prefix === "" ? undefined : checked(prefix, PATH, "prefix"),
    host: host === "" ? undefined : checked(host, /^[a-z0-9.-]{1,253}(?::[0-9]{1,5})?$/, "host"),
  };
}

function decodeRoute(route: GatewayRoute__Output): GatewayRoute {
  const { name, hosts, stepUp, cors, owner } = route;
  const access = oneOf(ROUTE_ACCESS, route.access, "access");
  if (access === "Public" && (owner !== "" || stepUp !== null))
    throw new Error(`route \`${name.slice(0, 64)}\` asks for a user and takes everybody`);
  return {
    name: atLeastOneCharacter(name, "name of a route"),
    hosts: hostsOf(hosts),
    path: decodePath(route),
    backend: decodeBackend(route),
    access,
    stepUp: stepUp === null ? undefined : { acr: filled(stepUp.acr), maxAgeSeconds: stepUp.maxAgeSeconds },
    rewrite: decodeRewrite(route.rewrite),
    cors: cors === null ? undefined : decodeCors(cors),
    owner: owner === "" ? undefined : checked(owner, USER, "owner"),
  };
}

function decodeSession(session: GatewaySession__Output | null): Gateway["session"] {
  if (session === null) throw new Error("gateway has no settings of sessions");
  const store = oneOf(SESSION_STORES, session.store, "store");
  const secret = filled(session.storeSecretName);
  const loginHost = filled(session.loginHost);
  if ((store === "redis") !== (secret !== undefined))
    throw new Error("a store `redis`, and no other, names a secret");
  return {
    idleMs: atLeastOne(session.idleMs, "idle time"),
    absoluteMs: atLeastOne(session.absoluteMs, "absolute time"),
    cookieName: checked(session.cookieName, COOKIE_NAME, "cookie"),
    loginHost: loginHost === undefined ? undefined : checked(loginHost, NAME, "login host"),
    store,
    storeSecretName: secret === undefined ? undefined : checked(secret, NAME, "secret"),
  };
}

function decodeLimit(limit: GatewayLimit__Output | null): GatewayLimit | undefined {
  if (limit === null) return undefined;
  return {
    requests: atLeastOne(limit.requests, "limit"),
    perMs: atLeastOne(limit.perMs, "time of a limit"),
    burst: atLeastOne(limit.burst, "burst"),
  };
}

function decodeSecurityHeaders(headers: GatewaySecurityHeaders__Output | null): Gateway["securityHeaders"] {
  if (headers === null) throw new Error("gateway has no settings of security headers");
  const { frameOptions, referrerPolicy, contentSecurityPolicy } = headers;
  return {
    hstsMaxAgeSeconds: headers.hstsMaxAgeSeconds,
    hstsIncludeSubDomains: headers.hstsIncludeSubDomains,
    hstsPreload: headers.hstsPreload,
    contentSecurityPolicy: filled(checked(contentSecurityPolicy, PRINTABLE, "content security policy")),
    frameOptions: frameOptions === "" ? undefined : oneOf(FRAME_OPTIONS, frameOptions, "frame option"),
    referrerPolicy:
      referrerPolicy === "" ? undefined : oneOf(REFERRER_POLICIES, referrerPolicy, "referrer policy"),
    noSniff: headers.noSniff,
  };
}

function unique(names: readonly string[], what: string): void {
  if (new Set(names).size !== names.length) throw new Error(`two ${what} have one name`);
}

/**
 * Reads untrusted bytes.
 *
 * @throws Error with one line that says what cannot be used.
 */
export function decodeGateway(name: string, body: Buffer): Gateway {
  const message = codec.decode(body);
  if (message.id !== name) throw new Error(`body is about \`${message.id.slice(0, 128)}\``);
  const { listeners, idps, routes, redirectPort, trustedHops } = message;
  unique(
    listeners.map((one) => one.name),
    "listeners",
  );
  unique(
    idps.map((one) => one.name),
    "identity providers",
  );
  unique(
    routes.map((one) => one.name),
    "routes",
  );
  for (const hop of trustedHops)
    if (parseCidr(hop) === undefined) throw new Error(`\`${hop.slice(0, 64)}\` is not a network`);
  return {
    id: name,
    tier: oneOf(GATEWAY_TIERS, message.tier, "tier"),
    listeners: some(listeners, "list of listeners").map(decodeListener),
    redirectPort: redirectPort === 0 ? undefined : portNumber(redirectPort, "port"),
    idps: idps.map(decodeIdp),
    routes: routes.map(decodeRoute),
    session: decodeSession(message.session),
    trustedHops,
    limits: { perUser: decodeLimit(message.perUser), perIp: decodeLimit(message.perIp) },
    securityHeaders: decodeSecurityHeaders(message.securityHeaders),
  };
}
