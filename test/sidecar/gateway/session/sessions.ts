// Sessions for tests.
import type { Session } from "../../../../sidecar/gateway/session/session.ts";

export const T0 = 1_790_000_000_000;

export const sessionOf = (sid: string, more: Partial<Session> = {}): Session => ({
  sid,
  idp: "okta-main",
  idpSid: `idp-${sid}`,
  user: {
    id: "okta-main|alice",
    email: "alice@acme.example",
    roles: ["fraud-ds"],
    amr: ["pwd", "mfa"],
    authTimeMs: T0,
  },
  handle: "sealed.by.the.token.service",
  createdMs: T0,
  endsMs: T0 + 12 * 3_600_000,
  ...more,
});
