// MeshGateway: where people and API callers come in, typed; what it names need not exist (see gateway-plan.ts). PURE.
import {
  FRAME_OPTIONS,
  GATEWAY_TIERS,
  type GatewayCors,
  type GatewayLimit,
  type GatewayListener,
  type GatewayRoute,
  REFERRER_POLICIES,
  ROUTE_ACCESS,
  SESSION_STORES,
} from "../../sidecar/core/gateway/gateway.ts";
import { parseCidr } from "../../sidecar/core/policy/cidr.ts";
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { MeshGateway, NotebookHosts } from "../sources/store.ts";
import { FieldReader } from "./field-reader.ts";
import { coversHost } from "./gateway-hosts.ts";
import { isRoutePath } from "./route-policy.ts";

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] as const;
const MAX_SESSION_MS = 12 * 3_600_000;
const MESH_PORTS = [16_001, 16_080] as const;

const secondsOf = (ms: number | undefined): number | undefined =>
  ms === undefined ? undefined : Math.round(ms / 1000);

function checkHost(host: string): string | undefined {
  const labels = host.replace(/^\*\./, "").split(".");
  return labels.some((label) => label === "" || label.startsWith("-") || label.endsWith("-"))
    ? "must be a host name in lower case, or `*.` and one"
    : undefined;
}

function readListener(fields: FieldReader): GatewayListener {
  fields.require("name", "hosts", "tls");
  const port = fields.integer("port", 1, 65535) ?? 8443;
  if (port >= MESH_PORTS[0] && port <= MESH_PORTS[1])
    fields.report("ports 16001 to 16080 belong to the mesh: listen on another port", "port");
  return {
    name: fields.text("name") ?? "",
    port,
    hosts: fields.texts("hosts", checkHost) ?? [],
    secretName:
      fields.object("tls", (tls) => {
        tls.require("secretName");
        return tls.text("secretName") ?? "";
      }) ?? "",
  };
}

function readPath(fields: FieldReader): GatewayRoute["path"] {
  const exact = fields.text("exact");
  const prefix = fields.text("prefix");
  const value = exact ?? prefix ?? "/";
  if ((exact === undefined) === (prefix === undefined)) fields.report("state either `exact` or `prefix`");
  if (!isRoutePath(value)) fields.report("must begin with `/` and have no query, escape, space or fragment");
  return { kind: exact === undefined ? "prefix" : "exact", value };
}

function readStepUp(fields: FieldReader): NonNullable<GatewayRoute["stepUp"]> {
  return { acr: fields.text("acr"), maxAgeSeconds: secondsOf(fields.durationMs("maxAge")) };
}

function readCors(fields: FieldReader): GatewayCors {
  fields.require("allowOrigins");
  return {
    allowOrigins: fields.texts("allowOrigins") ?? [],
    allowMethods: fields.choices("allowMethods", METHODS) ?? ["GET", "HEAD", "POST"],
    allowHeaders: fields.texts("allowHeaders") ?? [],
    exposeHeaders: fields.texts("exposeHeaders") ?? [],
    allowCredentials: fields.flag("allowCredentials") ?? false,
    maxAgeSeconds: secondsOf(fields.durationMs("maxAge")) ?? 600,
  };
}

function readBackend(fields: FieldReader, namespace: string): GatewayRoute["backend"] {
  fields.require("service");
  const service = fields.text("service") ?? "";
  const port = fields.integer("port", 1, 65535);
  return { kind: "service", id: `${fields.text("namespace") ?? namespace}/${service}`, port };
}

function readRewrite(fields: FieldReader): NonNullable<GatewayRoute["rewrite"]> {
  const prefix = fields.text("prefix");
  if (prefix !== undefined && !isRoutePath(prefix))
    fields.report("must begin with `/` and have no query, escape, space or fragment", "prefix");
  return { prefix, host: fields.text("host") };
}

function readRoute(
  fields: FieldReader,
  namespace: string,
  listeners: readonly GatewayListener[],
): GatewayRoute {
  fields.require("name");
  const every = [...new Set(listeners.flatMap((listener) => listener.hosts))];
  const backend = fields.object("backend", (one) => readBackend(one, namespace));
  const external = fields.text("external");
  const route: GatewayRoute = {
    name: fields.text("name") ?? "",
    hosts:
      fields.texts(
        "hosts",
        (host) =>
          checkHost(host) ??
          (every.some((listener) => coversHost(listener, host))
            ? undefined
            : `no listener has the host \`${host}\`, so nobody can come this way`),
      ) ?? every,
    path: fields.object("path", readPath) ?? { kind: "prefix", value: "/" },
    backend: backend ?? { kind: "external", id: `${namespace}/${external ?? ""}` },
    access: fields.oneOf("access", ROUTE_ACCESS) ?? "Login",
    stepUp: fields.object("stepUp", readStepUp),
    rewrite: fields.object("rewrite", readRewrite),
    cors: fields.object("cors", readCors),
    owner: fields.text("owner"),
  };
  if ((backend === undefined) === (external === undefined))
    fields.report("state either `backend` or `external`");
  if (route.access === "Public" && (route.owner !== undefined || route.stepUp !== undefined))
    fields.report("`Public` lets everybody in: leave out `owner` and `stepUp`", "access");
  if (route.path.value === "/.countersign" || route.path.value.startsWith("/.countersign/"))
    fields.report("`/.countersign/` belongs to the gateway: choose another path", "path");
  return route;
}

function readNotebooks(
  fields: FieldReader,
  namespace: string,
  listeners: readonly GatewayListener[],
): NotebookHosts {
  fields.require("name", "hostPattern");
  const hostPattern = fields.text("hostPattern") ?? "";
  const sample = hostPattern.replace("{name}", "x");
  if (!/^\{name\}[a-z0-9.-]*\.[a-z0-9.-]*$/.test(hostPattern) || checkHost(sample) !== undefined)
    fields.report("must be `{name}` and a domain, such as `{name}.notebooks.example.com`", "hostPattern");
  else if (!listeners.some(({ hosts }) => hosts.some((host) => coversHost(host, sample))))
    fields.report("no listener has these hosts, so nobody can come this way", "hostPattern");
  return {
    name: fields.text("name") ?? "",
    hostPattern,
    namespaces: fields.patterns("namespaces") ?? [namespace],
    port: fields.integer("port", 1, 65535),
    stepUp: fields.object("stepUp", readStepUp),
  };
}

function readSession(fields: FieldReader | undefined): MeshGateway["session"] {
  const store = fields?.object("store", (one) => {
    const kind = one.oneOf("type", SESSION_STORES) ?? "memory";
    const secret = one.object("secretRef", (ref) => {
      ref.require("name");
      return ref.text("name") ?? "";
    });
    if ((kind === "redis") !== (secret !== undefined))
      one.report("`secretRef` belongs to type `redis`, which needs it");
    return { kind, secret };
  });
  const session = {
    idleMs: fields?.durationMs("idle") ?? 3_600_000,
    absoluteMs: fields?.durationMs("absolute") ?? MAX_SESSION_MS,
    cookieName: fields?.text("cookieName") ?? "__Host-countersign",
    loginHost: fields?.text("loginHost"),
    store: store?.kind ?? "memory",
    storeSecretName: store?.secret,
  } as const;
  if (session.absoluteMs > MAX_SESSION_MS) fields?.report("must be at most `12h`", "absolute");
  if (session.idleMs > session.absoluteMs) fields?.report("must not be longer than `absolute`", "idle");
  if (!session.cookieName.startsWith("__Host-")) fields?.report("must begin with `__Host-`", "cookieName");
  return session;
}

function readLimit(fields: FieldReader): GatewayLimit {
  fields.require("requests");
  const requests = fields.integer("requests", 1, 1_000_000) ?? 1;
  return {
    requests,
    perMs: fields.durationMs("per") ?? 60_000,
    burst: fields.integer("burst", 1, 1_000_000) ?? requests,
  };
}

const given = <T extends string>(value: T | "off"): T | undefined => (value === "off" ? undefined : value);

function readSecurityHeaders(fields: FieldReader | undefined): MeshGateway["securityHeaders"] {
  const hsts = fields?.object("hsts", (one) => ({
    maxAge: one.durationMs("maxAge"),
    includeSubDomains: one.flag("includeSubDomains"),
    preload: one.flag("preload"),
  }));
  return {
    hstsMaxAgeSeconds: secondsOf(hsts?.maxAge) ?? 31_536_000,
    hstsIncludeSubDomains: hsts?.includeSubDomains ?? false,
    hstsPreload: hsts?.preload ?? false,
    contentSecurityPolicy: fields?.text("contentSecurityPolicy"),
    frameOptions: given(fields?.oneOf("frameOptions", [...FRAME_OPTIONS, "off"] as const) ?? "SAMEORIGIN"),
    referrerPolicy: given(
      fields?.oneOf("referrerPolicy", [...REFERRER_POLICIES, "off"] as const) ??
        "strict-origin-when-cross-origin",
    ),
    noSniff: fields?.flag("noSniff") ?? true,
  };
}

/** Reads an object that may be left out, with the same defaults for what it does not say. */
function optional<T>(fields: FieldReader, name: string, read: (inner: FieldReader | undefined) => T): T {
  return fields.object(name, read) ?? read(undefined);
}

function checkNames(fields: FieldReader, gateway: MeshGateway): void {
  for (const list of ["listeners", "routes", "notebooks"] as const)
    if (new Set(gateway[list].map(({ name }) => name)).size !== gateway[list].length)
      fields.report("two entries have the same `name`", list);
  const taken = new Set<string>();
  for (const [i, { port, hosts }] of gateway.listeners.entries()) {
    for (const host of hosts)
      if (taken.has(`${port} ${host}`))
        fields.report("an earlier listener of this port has the host", `listeners[${i}].hosts`);
      else taken.add(`${port} ${host}`);
    if (port === gateway.redirectPort)
      fields.report("is the port that redirects: choose another", `listeners[${i}].port`);
  }
}

export function parseMeshGateway(object: ValidObject): Result<MeshGateway, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const fields = new FieldReader(object.spec, "spec", problems);
  const namespace = object.namespace ?? "";
  fields.require("listeners");
  const listeners = fields.objects("listeners", readListener) ?? [];
  const redirectPort = fields.integer("redirectPort", 0, 65535) ?? 8080;
  const limits = fields.object("limits", (one) => ({
    perUser: one.object("perUser", readLimit),
    perIp: one.object("perIP", readLimit),
  }));
  const gateway: MeshGateway = {
    kind: "MeshGateway",
    name: object.name,
    namespace,
    generation: object.generation,
    workload: fields.text("workload") ?? object.name,
    tier: fields.oneOf("tier", GATEWAY_TIERS) ?? "internal",
    listeners,
    redirectPort: redirectPort === 0 ? undefined : redirectPort,
    identityProviders: fields.texts("identityProviders") ?? [],
    routes: fields.objects("routes", (route) => readRoute(route, namespace, listeners)) ?? [],
    notebooks: fields.objects("notebooks", (one) => readNotebooks(one, namespace, listeners)) ?? [],
    session: optional(fields, "session", readSession),
    trustedHops:
      fields.texts("trustedHops", (text) =>
        parseCidr(text) === undefined ? "must be a network such as `10.0.0.0/8` or `fd00::/8`" : undefined,
      ) ?? [],
    limits: limits ?? { perUser: undefined, perIp: undefined },
    securityHeaders: optional(fields, "securityHeaders", readSecurityHeaders),
  };
  if (gateway.routes.length + gateway.notebooks.length === 0)
    fields.report("state `routes`, `notebooks` or both");
  const needsLogin = gateway.notebooks.length > 0 || gateway.routes.some(({ access }) => access !== "Public");
  if (needsLogin && gateway.identityProviders.length === 0)
    fields.report(
      "is missing: routes that are not `Public` need somebody to sign in with",
      "identityProviders",
    );
  if (gateway.tier === "external" && gateway.limits.perIp === undefined)
    fields.report(
      "is missing: anybody can reach an external gateway",
      "limits.perIP",
      "state `limits: {perIP: {requests: 600}}`",
    );
  const { loginHost } = gateway.session;
  if (
    loginHost !== undefined &&
    !listeners.some(({ hosts }) => hosts.some((host) => coversHost(host, loginHost)))
  )
    fields.report("no listener has this host, so nobody could sign in", "session.loginHost");
  checkNames(fields, gateway);
  fields.end();
  return problems.length > 0 ? { ok: false, error: problems } : { ok: true, value: gateway };
}
