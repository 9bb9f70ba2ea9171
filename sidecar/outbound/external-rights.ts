// Whether a connection to a host outside the mesh may stand whose TLS is the application's own: by who calls, for whom,
// which host and when. Nothing more can be told, so rules that ask for more are never in its favour.
import type { Revocations } from "../core/identity/revocations.ts";
import type { Call } from "../core/policy/call.ts";
import { type Decision, decide } from "../core/policy/decide.ts";
import { unseenRequest } from "../core/policy/unseen-program.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import type { ExternalDestination, Self } from "./external.ts";
import { type ExternalRefusal, refusalOf, revokedBy, subjectsOf } from "./external-ground.ts";

const DENIED =
  "policy does not allow this connection to a host outside the mesh: its requests are encrypted by the application, so only rules for any operation allow it";

/** What does not change while the connection stands. */
export interface ConnectionClaim {
  /** Name that the client's TLS asks for, and that is connected to. */
  readonly host: string;
  /** Hops and person that it goes on for; undefined: the workload alone. */
  readonly chain: CallChain | undefined;
  readonly self: Self;
}

export interface ConnectionVerdict {
  /** undefined: it was refused before it could be decided on. */
  readonly call: Call | undefined;
  readonly decision: Decision | undefined;
  /** Why it may not stand; undefined: it may. */
  readonly refused: ExternalRefusal | undefined;
}

const refused = (refusal: ExternalRefusal): ConnectionVerdict => ({
  call: undefined,
  decision: undefined,
  refused: refusal,
});

/**
 * Decides as the callee's sidecar would (DOMAIN 2.5 V5 to V9), with ourselves as the caller.
 *
 * @param nowMs control plane's time, Unix milliseconds.
 */
export function decideConnection(
  external: ExternalDestination,
  { host, chain, self }: ConnectionClaim,
  revocations: Revocations,
  nowMs: number,
): ConnectionVerdict {
  const revoked = revokedBy(revocations, self.issuedTo, chain);
  if (revoked !== undefined) return refused(revoked);
  const subjects = subjectsOf(self.caller, chain, external.external.program.maxHops, nowMs);
  if (!subjects.ok) return refused(subjects.error);
  const call: Call = { ...unseenRequest(host), ...subjects.value, port: external.port, nowMs };
  const decision = decide(external.unseen, call);
  return { call, decision, refused: refusalOf(decision, DENIED) };
}
