// What the front of the gateway and the part that knows people say to each other (types only): the front asks of every
// request whether it may go on and as whom; sign-in, sessions, bearer tokens and pages are behind it.
import type { GatewayRoute } from "../core/gateway/gateway.ts";
import type { HeldTxn } from "../core/identity/held-txn.ts";

/** A request from outside, checked and routed. */
export interface EdgeRequest {
  readonly method: string;
  /** As received: `host` or `host:port`. */
  readonly host: string;
  /** Path and query as received. */
  readonly target: string;
  /** Of the client, as far as trusted hops tell. */
  readonly sourceIp: string;
  /** It asks for a WebSocket or another protocol. */
  readonly isUpgrade: boolean;
  /** undefined: one of the gateway's own paths. */
  readonly route: GatewayRoute | undefined;
  /** Value of a field (name in lower case); several are joined by `, `, those of `cookie` by `; `. */
  field(name: string): string | undefined;
}

/** The request goes on. */
export interface Admitted {
  readonly kind: "admitted";
  /** On whose behalf; undefined: nobody's. */
  readonly txn: HeldTxn | undefined;
  /** Its streams end with this session. */
  readonly session: string | undefined;
  /** Values of Set-Cookie. */
  readonly setCookie: readonly string[];
  /** `cookie` to forward, ours taken off; undefined: none. */
  readonly cookie: string | undefined;
}

/** The request is answered here. */
export interface EdgeAnswer {
  readonly kind: "answer";
  readonly status: number;
  /** Lower-case names; `content-length` is written by the front. */
  readonly fields: readonly (readonly [string, string])[];
  readonly body: string | Buffer;
}

/** Why the front answers a request itself, for a page that says it to people. */
export interface EdgeProblem {
  readonly status: number;
  readonly title: string;
  readonly detail: string;
  readonly decisionId: string;
}

export interface People {
  /**
   * Whether a request may go on, and as whom. Asked of every routed request, of `Public` routes too: there it only takes the
   * gateway's own cookies off. Answers at once where it can: a promise costs the hot path.
   */
  authenticate(request: EdgeRequest): Admitted | EdgeAnswer | Promise<Admitted | EdgeAnswer>;
  /** Everything below `/.countersign/` of every host. */
  serve(request: EdgeRequest, body: Buffer): Promise<EdgeAnswer>;
  /** A page in place of a problem document, where the request is a person's who looks at it; undefined: the document. */
  explain(request: EdgeRequest, problem: EdgeProblem): EdgeAnswer | undefined;
  /**
   * Tells of every session that ends, by whatever cause.
   *
   * @param isOpen whether requests hang on a session; what is known of others is forgotten.
   */
  onSessionEnd(listener: (session: string) => void, isOpen: (session: string) => boolean): void;
}
