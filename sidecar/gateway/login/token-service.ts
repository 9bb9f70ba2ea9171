// What signing in needs of the token service's client, so that tests can stand in for it.
import type { TokenClient } from "../../tokens/token-client.ts";

export type { OpenedSession } from "../../tokens/token-client.ts";
export type { TokenRefusal } from "../../tokens/token-transport.ts";

export type TokenService = Pick<
  TokenClient,
  | "openSession"
  | "refreshSession"
  | "endSession"
  | "mintFromSession"
  | "endpointToken"
  | "heldForSession"
  | "exchange"
  | "heldForToken"
  | "published"
>;
