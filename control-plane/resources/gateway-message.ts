// What a gateway is told of itself, as a discovery resource. PURE. The receiver's half is sidecar/discovery/decode-gateway.ts.
import type { Gateway as GatewayMessage } from "../../proto/gen/countersign/mesh/v1/Gateway.ts";
import type { GatewayIdp as GatewayIdpMessage } from "../../proto/gen/countersign/mesh/v1/GatewayIdp.ts";
import type { GatewayRoute as GatewayRouteMessage } from "../../proto/gen/countersign/mesh/v1/GatewayRoute.ts";
import { messageCodec } from "../../proto/load.ts";
import type { Gateway, GatewayIdp, GatewayRoute } from "../../sidecar/core/gateway/gateway.ts";
import { type BuiltResource, createResource } from "./build.ts";

const codec = messageCodec<GatewayMessage>("countersign.mesh.v1.Gateway");

function idpMessage({
  clientSecret,
  stepUpAcr,
  maxAgeSeconds,
  hostedDomain,
  ...idp
}: GatewayIdp): GatewayIdpMessage {
  return {
    ...idp,
    scopes: [...idp.scopes],
    audiences: [...idp.audiences],
    algorithms: [...idp.algorithms],
    clientSecretName: clientSecret?.name ?? "",
    clientSecretKey: clientSecret?.key ?? "",
    stepUpAcr: stepUpAcr ?? "",
    ...(maxAgeSeconds === undefined ? {} : { maxAgeSeconds }),
    hostedDomain: hostedDomain ?? "",
  };
}

function routeMessage({ name, hosts, path, backend, access, ...rest }: GatewayRoute): GatewayRouteMessage {
  const { stepUp, rewrite, cors, owner } = rest;
  return {
    name,
    hosts: [...hosts],
    ...(path.kind === "exact" ? { pathExact: path.value } : { pathPrefix: path.value }),
    ...(backend.kind === "external"
      ? { external: backend.id }
      : { service: backend.id, port: backend.port ?? 0 }),
    access,
    ...(stepUp === undefined
      ? {}
      : {
          stepUp: {
            acr: stepUp.acr ?? "",
            ...(stepUp.maxAgeSeconds === undefined ? {} : { maxAgeSeconds: stepUp.maxAgeSeconds }),
          },
        }),
    ...(rewrite === undefined ? {} : { rewrite: { prefix: rewrite.prefix ?? "", host: rewrite.host ?? "" } }),
    ...(cors === undefined
      ? {}
      : {
          cors: {
            ...cors,
            allowOrigins: [...cors.allowOrigins],
            allowMethods: [...cors.allowMethods],
            allowHeaders: [...cors.allowHeaders],
            exposeHeaders: [...cors.exposeHeaders],
          },
        }),
    owner: owner ?? "",
  };
}

export function buildGateway(gateway: Gateway): BuiltResource {
  const { session, limits, securityHeaders } = gateway;
  const body = codec.encode({
    id: gateway.id,
    tier: gateway.tier,
    listeners: gateway.listeners.map((listener) => ({ ...listener, hosts: [...listener.hosts] })),
    redirectPort: gateway.redirectPort ?? 0,
    idps: gateway.idps.map(idpMessage),
    routes: gateway.routes.map(routeMessage),
    session: {
      ...session,
      storeSecretName: session.storeSecretName ?? "",
      loginHost: session.loginHost ?? "",
    },
    trustedHops: [...gateway.trustedHops],
    ...(limits.perUser === undefined ? {} : { perUser: limits.perUser }),
    ...(limits.perIp === undefined ? {} : { perIp: limits.perIp }),
    securityHeaders: {
      ...securityHeaders,
      contentSecurityPolicy: securityHeaders.contentSecurityPolicy ?? "",
      frameOptions: securityHeaders.frameOptions ?? "",
      referrerPolicy: securityHeaders.referrerPolicy ?? "",
    },
  });
  return createResource("gateway", gateway.id, body);
}
