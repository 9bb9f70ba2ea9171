// The realms of the tests, as an administrator would set them up for Countersign. PURE.

import { LEVELS } from "./step-up-flow.ts";

export interface Account {
  readonly username: string;
  readonly password: string;
  readonly groups: readonly string[];
}

export interface RealmInput {
  readonly name: string;
  readonly displayName: string;
  readonly clientSecret: string;
  /** Where browsers find the gateway, without port. */
  readonly host: string;
  /** Where Keycloak finds it. */
  readonly gatewayPort: number;
  readonly idp: string;
  /** People are asked whether the client may know who they are. */
  readonly asksConsent: boolean;
  readonly accounts: readonly Account[];
}

export const CLIENT_ID = "countersign";
export const API_AUDIENCE = "countersign-api";

/** Stable, so that tests can name people before they sign in. */
export function userId(username: string): string {
  return `00000000-0000-4000-8000-${Buffer.from(username.padEnd(6, "-").slice(0, 6)).toString("hex")}`;
}

const mapper = (name: string, type: string, config: Readonly<Record<string, string>>): object => ({
  ...{ name, protocol: "openid-connect", protocolMapper: type },
  config: { ...config, "id.token.claim": "true", "access.token.claim": "true" },
});

export function realm(input: RealmInput): object {
  const { name, displayName, clientSecret, host, gatewayPort, idp, asksConsent, accounts } = input;
  const origin = `https://${host}`;
  const groups = new Set(["fraud", "research", ...accounts.flatMap((account) => account.groups)]);
  return {
    ...{ realm: name, displayName, enabled: true, sslRequired: "none", registrationAllowed: false },
    // Shorter than the tests take: sessions outlive access tokens by refreshing them.
    ...{ accessTokenLifespan: 30, ssoSessionIdleTimeout: 1_800, eventsEnabled: true },
    // A refresh token is good once.
    ...{ revokeRefreshToken: true, refreshTokenMaxReuse: 0 },
    ...{ eventsListeners: ["jboss-logging"], enabledEventTypes: ["REFRESH_TOKEN"] },
    attributes: { "acr.loa.map": JSON.stringify(LEVELS) },
    groups: [...groups].map((group) => ({ name: group })),
    users: accounts.map(({ username, password, groups: member }) => ({
      ...{ id: userId(username), username, enabled: true, emailVerified: true },
      ...{ email: `${username}@acme.example`, firstName: username, lastName: "Example" },
      credentials: [{ type: "password", value: password, temporary: false }],
      groups: member.map((group) => `/${group}`),
    })),
    clients: [
      {
        ...{ clientId: CLIENT_ID, name: "Countersign", enabled: true, protocol: "openid-connect" },
        ...{ publicClient: false, secret: clientSecret, clientAuthenticatorType: "client-secret" },
        ...{ standardFlowEnabled: true, implicitFlowEnabled: false, directAccessGrantsEnabled: true },
        redirectUris: [`${origin}/.countersign/callback/${idp}`],
        consentRequired: asksConsent,
        attributes: {
          "pkce.code.challenge.method": "S256",
          "post.logout.redirect.uris": `${origin}/.countersign/signed-out`,
          "backchannel.logout.url": `${origin}:${gatewayPort}/.countersign/backchannel-logout/${idp}`,
          "backchannel.logout.session.required": "true",
          "access.token.header.type.rfc9068": "true",
        },
        protocolMappers: [
          mapper("groups", "oidc-group-membership-mapper", { "claim.name": "groups", "full.path": "false" }),
          mapper("api", "oidc-audience-mapper", { "included.custom.audience": API_AUDIENCE }),
        ],
      },
    ],
  };
}
