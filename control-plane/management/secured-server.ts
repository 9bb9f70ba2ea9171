// The management API on the network (16080): HTTPS with the control plane's certificate, callers known by Kubernetes token
// or operator certificate, rights from RBAC, every write audited. Whatever cannot be checked is refused.
import type { IncomingMessage } from "node:http";
import { createServer } from "node:https";
import { isIPv4, type Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import type { AuthenticationV1Api, AuthorizationV1Api } from "@kubernetes/client-node";
import { controlPlaneSpiffeId } from "../../proto/protocol.ts";
import { AddressLimiter } from "../../sidecar/core/runtime/address-limiter.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { type ServerMaterial, serverContextOptions } from "../../sidecar/core/runtime/server-tls.ts";
import { ApiReviews } from "./api-reviews.ts";
import type { ManagementAudit } from "./audit-log.ts";
import { Authenticator, isOperator, ownIdOf } from "./authenticate.ts";
import { Authorizer } from "./authorize.ts";
import { type Access, createManagementRouter, type ManagementOutcome } from "./router.ts";
import { type ManagementActions, type Route, routesOf } from "./routes.ts";

export interface SecuredManagementOptions {
  readonly host: string;
  /** 16080; 0: the system chooses. */
  readonly port: number;
  readonly material: ServerMaterial;
  readonly trustDomain: string;
  /** Of the control plane. */
  readonly namespace: string;
  readonly tokens: Pick<AuthenticationV1Api, "createTokenReview">;
  readonly rights: Pick<AuthorizationV1Api, "createSubjectAccessReview">;
  readonly actions: ManagementActions;
  readonly audit: ManagementAudit;
  readonly clock: Clock;
  readonly log: Logger;
  readonly observe?: ((action: string, outcome: ManagementOutcome) => void) | undefined;
}

export interface SecuredManagementServer {
  readonly port: number;
  /** Uses other material from the next connection on. @throws Error when it does not fit together; nothing changes then. */
  rotate(material: ServerMaterial): void;
  close(): Promise<void>;
}

const MAX_CONNECTIONS = 256;
/** One address holds at most so many; `kubectl port-forward` comes from the pod itself. */
const MAX_PER_ADDRESS = 16;
const MAX_FROM_LOOPBACK = 128;
const IDLE_MS = 30_000;
const MAX_REQUESTS_PER_CONNECTION = 256;

/** The peer's address without port; IPv4 also where the socket is a dual one. */
function addressOf(socket: { readonly remoteAddress?: string | undefined }): string {
  const address = socket.remoteAddress ?? "";
  return address.startsWith("::ffff:") && isIPv4(address.slice(7)) ? address.slice(7) : address;
}

const isLoopback = (address: string): boolean => address === "::1" || address.startsWith("127.");

/** Who may do what: first who it is, then what RBAC says. */
function createAccess(
  options: SecuredManagementOptions,
): (request: IncomingMessage, route: Route) => Promise<Access> {
  const { trustDomain, namespace, clock, log } = options;
  const ownId = ownIdOf(controlPlaneSpiffeId(trustDomain));
  const ask = new ApiReviews(clock, log);
  const authenticator = new Authenticator({
    ...{ reviews: options.tokens, ask, trustDomain, clock },
    isOperator: (id) => isOperator(id, ownId, namespace),
  });
  const authorizer = new Authorizer({ reviews: options.rights, ask, namespace, clock });
  const limiter = new AddressLimiter();
  return async (request, route) => {
    const address = addressOf(request.socket);
    // Pages of a browser send this, the command line does not: a page must not use a certificate that the browser holds.
    if (request.headers.origin !== undefined)
      return { allowed: false, status: 403, detail: "requests of web pages are not answered" };
    const found = await authenticator.identify(request, () => limiter.admit(address, clock.monotonicMs()));
    if (found.kind === "nobody") {
      log.info("management caller refused", { address, action: route.action, reason: found.detail });
      return { allowed: false, status: found.status, detail: found.detail };
    }
    if (found.kind === "operator")
      return { allowed: true, caller: { user: found.spiffeId, groups: 0, address } };
    const caller = { user: found.user.name, groups: found.user.groups.length, address };
    const permission = await authorizer.decide(found.user, found.digest, route.right);
    return permission.kind === "allowed"
      ? { allowed: true, caller }
      : { allowed: false, status: permission.status, detail: permission.detail, caller };
  };
}

/** Opens the port. @throws MeshError `bad_config` when it is taken or the material does not fit together. */
export async function createSecuredManagementServer(
  options: SecuredManagementOptions,
): Promise<SecuredManagementServer> {
  const { host, port, clock, log, audit, observe } = options;
  const route = createManagementRouter({
    routes: routesOf(options.actions),
    authorize: createAccess(options),
    ...{ audit, clock, log, observe },
    jsonTypeOnly: true,
  });
  const server = createServer(
    {
      ...serverContextOptions(options.material),
      // A certificate is one way to say who one is; without it, or with one of elsewhere, a token is asked for.
      ...{ requestCert: true, rejectUnauthorized: false, ALPNProtocols: ["http/1.1"] },
      ...{ handshakeTimeout: 5_000, headersTimeout: 5_000, requestTimeout: 30_000, keepAliveTimeout: 5_000 },
      connectionsCheckingInterval: 1_000,
      maxHeaderSize: 24_576,
    },
    (request, response) => void route(request, response),
  );
  server.maxConnections = MAX_CONNECTIONS;
  // A certificate is checked in the handshake: roots that left are not trusted for long by connections that stay busy.
  server.maxRequestsPerSocket = MAX_REQUESTS_PER_CONNECTION;
  // A peer that does not take its answer.
  server.setTimeout(IDLE_MS);
  const held = new Map<string, number>();
  // Sockets of TCP, before their handshake; the type of the event leaves open which stream it is.
  server.on("connection", (socket: Socket) => {
    const address = addressOf(socket);
    const count = (held.get(address) ?? 0) + 1;
    if (count > (isLoopback(address) ? MAX_FROM_LOOPBACK : MAX_PER_ADDRESS)) {
      socket.destroy();
      return;
    }
    held.set(address, count);
    socket.once("close", () => {
      const left = (held.get(address) ?? 1) - 1;
      if (left > 0) held.set(address, left);
      else held.delete(address);
    });
  });
  server.on("tlsClientError", (_error: Error, socket: TLSSocket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) =>
      reject(
        new MeshError("bad_config", `management cannot listen on \`${host}:${port}\`: ${cause.message}`, {
          cause,
        }),
      ),
    );
    server.listen({ host, port }, resolve);
  });
  server.on("error", (error: Error) => log.error("management port failed", { error: error.message }));
  const bound = server.address();
  return {
    port: typeof bound === "object" && bound !== null ? bound.port : port,
    rotate: (material) => server.setSecureContext(serverContextOptions(material)),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
