// What is called in the demo, by whom, and what policy says to it. Rows of the design's decision table carry their number.
import type { PersonName, PlaceName } from "./people.ts";
import type { RelayedCall } from "./relay.ts";

export interface Planned extends RelayedCall {
  /** Name of the workload that calls. */
  readonly from: string;
  /** `kind/name` of who is called. */
  readonly to: string;
  /** On whose behalf; absent: nobody's. */
  readonly person?: PersonName;
  /** The person asks, through the gateway, and the workload's application calls; absent: it calls by itself. */
  readonly at?: PlaceName;
  /** Callers in front of the last one, oldest first. */
  readonly path?: readonly string[];
  /** Row of the decision table. */
  readonly vector?: string;
  readonly want: { readonly status: number; readonly reason: string; readonly rule?: string };
  readonly note?: string;
  /** The sidecar may have to ask first for what changed a moment ago. */
  readonly eventually?: boolean;
}

export const CHAT = "http://llm-chat.ml-serving:8000";
const SCORER = "http://fraud-scorer.ml-serving:8080";
const MLFLOW = "http://mlflow.mlflow:5000";
const TOOLS = "http://claims-tools.agents:8080";
const SCORE = { dataframe_records: [{ amount: 12 }, { amount: 4200 }] };
const ALLOWED = { status: 200, reason: "ALLOWED" };
const NOT_ALLOWED = { status: 403, reason: "NO_MATCHING_ALLOW" };

const toScorer = { to: "serving/fraud-scorer", method: "POST", url: `${SCORER}/invocations`, body: SCORE };
const toChat = { to: "serving/llm-chat", method: "POST", url: `${CHAT}/v1/chat/completions` };
const toTracking = (path: string, body: unknown) => ({
  ...{ to: "service/mlflow", method: "POST", url: `${MLFLOW}${path}`, body },
});

export const NIGHTLY: Planned = {
  ...{ from: "nightly-score", ...toScorer, want: NOT_ALLOWED, note: "outside its window" },
};

/** Before anybody has signed in: what jobs may do by themselves. */
export const OF_WORKLOADS: readonly Planned[] = [
  {
    ...{ from: "retrain-fraud", want: ALLOWED },
    ...toTracking("/api/2.0/mlflow/runs/log-metric", { run_id: "r-17", key: "auc", value: 0.97 }),
  },
  {
    ...{ from: "retrain-fraud", want: ALLOWED, note: "model named in the body" },
    ...toTracking("/api/2.0/mlflow/model-versions/create", { name: "fraud_v2" }),
  },
  {
    ...{ from: "retrain-fraud", want: NOT_ALLOWED, note: "another team's model" },
    ...toTracking("/api/2.0/mlflow/model-versions/create", { name: "credit" }),
  },
  NIGHTLY,
];

/** A call of the notebook itself, without a word about users: it is its owner's. */
const ofNotebook = { from: "nb-alice", person: "alice" } as const;
const chat = (more: object = {}) => ({ ...toChat, body: { model: "llm-chat", messages: [], ...more } });
/** To the workspace outside the mesh; the proxy knows it by its name. */
const toWorkspace = (port: string, method: string, path: string) => ({
  ...{ to: "external/databricks-prod", method, url: `http://localhost:${port}${path}` },
});
const toTool = (name: string) => ({
  ...{ to: "service/claims-tools", method: "POST", url: `${TOOLS}/mcp` },
  headers: { "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": name },
  body: { jsonrpc: "2.0", id: 1, method: "tools/call", params: { name } },
});
const throughGateway = (person: PersonName, at: PlaceName) => ({
  ...{ from: at, person, at, path: ["gateway/people"] },
});

/** Alice's notebook before and after: what it is answered depends on her login. */
export const WITHOUT_LOGIN = { want: NOT_ALLOWED, vector: "", note: "no login, no roles" } as const;

/** Alice's notebook, again and again: what it is answered depends on whether she is signed in. */
export const ALICE_CHATS: Planned = {
  ...{ ...ofNotebook, ...chat(), vector: "T10" },
  want: { ...ALLOWED, rule: "llm-budget/scientists" },
};

/** When they have signed in. @param workspacePort of the host outside the mesh. */
export const ofPeople = (workspacePort: string): readonly Planned[] => [
  {
    ...throughGateway("alice", "nb-alice"),
    ...{ ...toScorer, url: `${SCORER}/v2/models/fraud-scorer/infer`, vector: "T03" },
    want: { ...ALLOWED, rule: "fraud-scorer-callers/interactive" },
  },
  { ...ALICE_CHATS, ...chat({ stream: true }), eventually: true },
  {
    ...{ ...ofNotebook, ...chat() },
    headers: { "x-forwarded-user": "okta-main|bob", "x-mesh-caller": "job/release", "txn-token": "forged" },
    want: { ...ALLOWED, rule: "llm-budget/scientists" },
    note: "forged headers are stripped",
  },
  {
    ...{ ...ofNotebook, ...toTracking("/ajax-api/2.0/mlflow/runs/search", {}), vector: "T23" },
    want: { ...ALLOWED, rule: "tracking/notebooks" },
    note: "a read, although it is a POST",
  },
  {
    ...{ ...ofNotebook, ...toTracking("/api/2.0/mlflow/registered-models/alias", { name: "fraud" }) },
    ...{
      vector: "T26",
      want: { status: 403, reason: "DENIED_BY_POLICY", rule: "guard-admin-surface/admin-ops" },
    },
    note: "guard rail of the platform",
  },
  {
    ...{ ...ofNotebook, ...toWorkspace(workspacePort, "POST", "/api/2.0/sql/statements") },
    ...{ body: { statement: "select 1" }, vector: "T37" },
    want: { ...ALLOWED, rule: "databricks-egress/query-and-run" },
    note: "outside the mesh, decided at the notebook",
  },
  {
    ...{ ...ofNotebook, ...toWorkspace(workspacePort, "GET", "/api/2.0/secrets/get?scope=prod") },
    ...{ vector: "T38", want: NOT_ALLOWED },
  },
  {
    ...{ ...ofNotebook, ...chat(), url: `${CHAT}/v1/models%2f..%2fadmin` },
    want: { status: 400, reason: "REQ_MALFORMED" },
    note: "never reaches the model",
  },
  {
    ...{ ...ofNotebook, to: "service/payroll", method: "GET", url: "http://payroll.finance:8080/salaries" },
    want: { status: 502, reason: "UNKNOWN_DESTINATION" },
  },
  {
    ...throughGateway("bob", "nb-bob"),
    ...{ ...toScorer, vector: "T05" },
    want: { status: 403, reason: "DENIED_BY_POLICY", rule: "no-contractors-on-pii/contractors" },
    note: "a contractor, and the model is labelled pii",
  },
  {
    ...{ ...throughGateway("bob", "nb-bob"), ...chat() },
    want: { ...ALLOWED, rule: "llm-budget/scientists" },
  },
  {
    ...{ ...throughGateway("dave", "claims-agent"), ...chat(), vector: "T14" },
    want: { ...ALLOWED, rule: "llm-budget/agents" },
    note: "the agent calls, on Dave's behalf",
  },
  {
    ...{ ...throughGateway("dave", "claims-agent"), ...toTool("search_claims"), vector: "T15" },
    want: { ...ALLOWED, rule: "claims-tools/on-behalf-of-handler" },
  },
  {
    ...{ ...throughGateway("dave", "claims-agent"), ...toTool("delete_claim"), vector: "T16" },
    want: NOT_ALLOWED,
    note: "reading tools only",
  },
];

/** Alice asks in her notebook, the notebook starts a job, the job asks the model. */
export const CHAIN: {
  readonly at: PlaceName;
  readonly calls: readonly RelayedCall[];
  readonly lines: readonly string[][];
} = {
  at: "nb-alice",
  calls: [{ method: "POST", url: "http://backfill.ml-batch:8265/api/jobs/", onward: [toScorer] }],
  lines: [
    ["gateway/people", "notebook/nb-alice", "notebook.session"],
    ["gateway/people → notebook/nb-alice", "job/backfill", "ray.job.submit"],
    ["gateway/people → notebook/nb-alice → job/backfill", "serving/fraud-scorer", "serving.invoke.predict"],
  ],
};
