// What is checked of a request before policy is asked: whether we can decide at all, who calls, which port and operation
// it means, and whether the proof fits (DOMAIN 2.5 V1 to V8). Fills the facts; the first thing that is wrong is returned.
import { joinedField } from "../core/http/headers.ts";
import { checkChain, checkOperation } from "../core/identity/chain.ts";
import { type Classified, NO_VIEWS, NONE, UNKNOWN } from "../core/policy/classified.ts";
import { needsResource } from "../core/policy/decide.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { Result } from "../core/runtime/errors.ts";
import type { SidecarTable } from "../discovery/table.ts";
import { type EnforcedPort, proofOperation } from "./authorize.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerSide } from "./caller-side.ts";
import type { InboundServices } from "./services.ts";
import { IdentifiedCaller } from "./verify.ts";

export interface Refusal {
  readonly reason: Reason;
  readonly detail: string;
  /** It is the identity that was not good: counted, and ten of them end the connection. */
  readonly ofIdentity: boolean;
}

export const refusal = (reason: Reason, detail: string): Refusal => ({ reason, detail, ofIdentity: false });
const badIdentity = (reason: Reason, detail: string): Refusal => ({ reason, detail, ofIdentity: true });

const revoked = refusal("REVOKED", "what the caller was issued is revoked");
const userRevoked = refusal("REVOKED", "the user or the session is revoked");

/** V7: what of a caller is revoked by the table in force; undefined: nothing. */
export function revocationProblem({ verified }: IdentifiedCaller, table: SidecarTable): Refusal | undefined {
  const { revocations } = table;
  if (verified === undefined || revocations.size === 0) return undefined;
  if (revocations.covers(verified.peer)) return revoked;
  return verified.txn !== undefined && revocations.coversTxn(verified.txn.claims) ? userRevoked : undefined;
}

/**
 * Checks the head of a request. Afterwards `facts` has everything that a decision needs, but for what stands in the body.
 *
 * @param barred what its connection holds against the request.
 * @returns what is wrong; undefined: nothing.
 */
export function admit(
  facts: CallFacts,
  peer: CallerSide,
  services: InboundServices,
  barred: Refusal | undefined,
): Refusal | undefined {
  const refused = admitCaller(facts, peer, services, barred);
  if (refused !== undefined) return refused;
  const port = portOf(facts, peer);
  if (typeof port === "string") return refusal("REQ_MALFORMED", port);
  facts.port = port;
  if (!speaksHttp(port))
    return refusal("UNSUPPORTED", `requests are not carried to a port of protocol \`${port.protocol}\``);
  const classified = classifyHead(facts, peer, port);
  if (!classified.ok) return refusal("REQ_MALFORMED", classified.error);
  facts.classified = classified.value;
  return checkProof(facts, services, port, classified.value);
}

/** The same of a connection whose bytes are passed on unseen: what it is asked for is its port, and no more is known. */
export function admitOpaque(
  facts: CallFacts,
  peer: CallerSide,
  services: InboundServices,
): Refusal | undefined {
  const refused = admitCaller(facts, peer, services, undefined);
  if (refused !== undefined) return refused;
  const port = portOf(facts, peer);
  if (typeof port === "string") return refusal("REQ_MALFORMED", port);
  facts.port = port;
  const unseen = opaqueProblem(facts, port);
  if (unseen !== undefined) return unseen;
  facts.classified = opaqueClass(port.port);
  return checkProof(facts, services, port, facts.classified);
}

/** V1 to V5, and V7. */
function admitCaller(
  facts: CallFacts,
  peer: CallerSide,
  services: InboundServices,
  barred: Refusal | undefined,
): Refusal | undefined {
  const { head } = facts;
  const { enforcement, identityUntilMs, bundleEpoch } = services.state;
  facts.enforcement = enforcement;
  if (enforcement === undefined) return refusal("NOT_READY", "no policy yet");
  if (facts.nowMs >= identityUntilMs) return refusal("IDENTITY_EXPIRED", "the own certificate has expired");
  if (head.malformed !== "") return refusal("REQ_MALFORMED", head.malformed);
  const program = peer.programOf(enforcement);
  if (program === undefined) return badIdentity("AUTHN_MTLS_REQUIRED", "plaintext is refused here");
  facts.program = program;
  if (barred !== undefined) return barred;
  if (head.twice !== "") return badIdentity("AUTHN_PROOF_INVALID", `\`${head.twice}\` came twice`);
  const identified = peer.identify(head, bundleEpoch, facts.nowMs);
  if (!(identified instanceof IdentifiedCaller)) return badIdentity(identified.reason, identified.detail);
  facts.identified = identified;
  const { verified } = identified;
  const problem = revocationProblem(identified, enforcement.table);
  if (problem !== undefined) return problem;
  if (verified?.kind === "mtls" && enforcement.table.settings.proofs === "Required")
    return badIdentity("AUTHN_PROOF_INVALID", "this mesh requires proof tokens");
  return undefined;
}

/** Why the bytes of a connection must not go to a port unseen. */
export function opaqueProblem(facts: CallFacts, port: EnforcedPort): Refusal | undefined {
  const { protocol } = port;
  if (protocol === "tcp" || protocol === "tls") return undefined;
  if (protocol !== "auto")
    return refusal(
      "REQ_MALFORMED",
      `port ${port.port} speaks \`${protocol}\`: it takes requests, no connections`,
    );
  // What speaks HTTP there could be told otherwise to be anything else, and so slip past rules on operations.
  const blind = facts.enforcement?.blindDeny(port.port);
  return blind === undefined
    ? undefined
    : refusal(
        "DENIED_BY_POLICY",
        `deny rule \`${blind}\` is about operations, which cannot be seen here: declare the port's protocol`,
      );
}

/** What policies see of a connection: no operation, no resource, no request. */
function opaqueClass(port: number): Classified {
  return {
    operation: UNKNOWN,
    resource: NONE,
    access: undefined,
    template: `:${port}`,
    request: { method: "", path: "", grpc: undefined, mcp: undefined },
    folded: NO_VIEWS,
    pending: undefined,
    query: undefined,
  };
}

/** The application's port that the request means, or why none can be told. */
function portOf({ enforcement, head }: CallFacts, peer: CallerSide): EnforcedPort | string {
  const text = peer.port === undefined ? head.portText : String(peer.port);
  if (text === undefined)
    return enforcement?.onlyPort ?? "`countersign-port` is missing and more than one port is declared";
  const port = /^[1-9][0-9]{0,4}$/.test(text) ? enforcement?.ports.get(Number(text)) : undefined;
  return port ?? `port \`${text.slice(0, 8)}\` is not declared by this workload`;
}

/** What the head asks for. */
export function classifyHead(
  facts: CallFacts,
  peer: CallerSide,
  port: EnforcedPort,
): Result<Classified, string> {
  const { head } = facts;
  return port.classifier.classify({
    method: head.method,
    websocket: head.upgrade !== "",
    target: head.target,
    contentType: joinedField(head.fields, "content-type"),
    hasBody: !facts.bodyless && head.upgrade === "",
    header: peer.lookup(head.fields),
    corsMethod:
      head.method === "OPTIONS" && head.header("origin") !== undefined
        ? joinedField(head.fields, "access-control-request-method")
        : undefined,
  });
}

/** V6 and V8. */
function checkProof(
  facts: CallFacts,
  { metrics }: InboundServices,
  port: EnforcedPort,
  classified: Classified,
): Refusal | undefined {
  const verified = facts.identified?.verified;
  if (verified === undefined) return undefined;
  const { hop, via, peer } = verified;
  if (hop !== undefined) {
    const outcome = checkOperation(hop, proofOperation(classified), port.packsDigest);
    if (outcome === "skew") metrics.proofSkew.add(metrics.skew);
    else if (outcome !== "match") return badIdentity(outcome, "the proof names another operation");
  }
  const maxHops = facts.enforcement?.table.program.maxHops ?? 0;
  const chain = checkChain(via, peer.spiffeId, hop?.n ?? 1, maxHops);
  if (!chain.ok) return refusal(chain.error, "the call chain is too deep or loops");
  const until = hop?.cav?.exp;
  return until !== undefined && facts.nowMs >= until * 1_000
    ? refusal("SCOPE_EXCEEDED", "the caveat of the proof has expired")
    : undefined;
}

function speaksHttp({ protocol }: EnforcedPort): boolean {
  return protocol !== "tcp" && protocol !== "tls";
}

/** Whether the application behind the port speaks HTTP/2 with prior knowledge. */
export function speaksHttp2({ port, head }: CallFacts): boolean {
  const protocol = port?.protocol;
  return protocol === "h2c" || protocol === "grpc" || (protocol === "auto" && head.appProtocol === "h2c");
}

/** Whether the decision may depend on what stands in the body. */
export function wantsBody({ classified, program, head }: CallFacts): boolean {
  const pending = classified?.pending;
  if (classified === undefined || program === undefined || pending === undefined) return false;
  // What follows a handshake is no body.
  if (head.upgrade !== "") return false;
  return pending.kind === "mcp" || needsResource(program, classified.operation);
}

/**
 * A table that came while the body was awaited decides: a caller must not hold on to a withdrawn permission.
 *
 * @returns what is wrong under that table; undefined: nothing.
 */
export function catchUp(facts: CallFacts, peer: CallerSide, { state }: InboundServices): Refusal | undefined {
  const { enforcement } = state;
  if (enforcement === undefined || enforcement === facts.enforcement) return undefined;
  const program = peer.programOf(enforcement);
  if (program === undefined) return badIdentity("AUTHN_MTLS_REQUIRED", "plaintext is refused here");
  const problem = facts.identified && revocationProblem(facts.identified, enforcement.table);
  if (problem !== undefined) return problem;
  const port = enforcement.ports.get(facts.port?.port ?? 0);
  if (port === undefined || !speaksHttp(port))
    return refusal("REQ_MALFORMED", "the port is not declared by this workload any more");
  const classified = classifyHead(facts, peer, port);
  if (!classified.ok) return refusal("REQ_MALFORMED", classified.error);
  facts.enforcement = enforcement;
  facts.program = program;
  facts.port = port;
  facts.classified = classified.value;
  return undefined;
}
