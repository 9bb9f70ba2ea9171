import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { loadBuiltInPacks } from "../../../../control-plane/policy/packs.ts";
import { type Pack, type PackRow, parsePack } from "../../../../sidecar/core/policy/catalog.ts";
import type { Classified } from "../../../../sidecar/core/policy/classified.ts";
import {
  type Classifier,
  type ClassifyInput,
  createClassifier,
} from "../../../../sidecar/core/policy/operations.ts";

const packs = new Map<string, Pack>();
for (const [name, text] of loadBuiltInPacks()) {
  const parsed = parsePack(name, text);
  if (!parsed.ok) throw new Error(parsed.error);
  packs.set(name, parsed.value);
}

const port = (...names: string[]): Classifier =>
  createClassifier({ packs: names.map((name) => packs.get(name)!), selfName: "fraud-scorer" });
const noHeaders = (): undefined => undefined;
const grpcBody = (message: Buffer, flag = 0): Buffer => {
  const head = Buffer.alloc(5);
  head[0] = flag;
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
};
const json = {
  contentType: "application/json",
  contentEncoding: undefined,
  truncated: false,
  header: noHeaders,
};

function classified(
  classifier: Classifier,
  method: string,
  target: string,
  more: Partial<ClassifyInput> = {},
): Classified {
  const result = classifier.classify({ method, target, header: noHeaders, ...more });
  if (!result.ok) throw new Error(result.error);
  return result.value;
}
const nameOf = (value: Classified): string =>
  value.operation.kind === "known" ? value.operation.name : value.operation.kind;
const resourceName = (value: Pick<Classified, "resource">): string =>
  value.resource.kind === "known" ? `${value.resource.type}:${value.resource.value}` : value.resource.kind;
const withBody = (
  classifier: Classifier,
  value: Classified,
  body: string | Buffer,
  facts: Partial<typeof json> = {},
): string => {
  const result = classifier.withBody(value, Buffer.from(body as string), { ...json, ...facts });
  return result.ok ? resourceName(result.value) : "malformed";
};

/** A path that the row's template matches, with a different text for each variable. */
function exampleOf(row: PackRow): string {
  return row.segments
    .map((each) => {
      if (each.kind === "literal") return `/${each.text}`;
      return each.kind === "param" ? `/${each.prefix}x-${each.name}${each.suffix}` : `/dir/x-${each.name}`;
    })
    .join("");
}

describe("every row of every built-in pack", () => {
  const rows = [...packs.values()].flatMap((pack) => pack.rows.map((row) => ({ pack: pack.name, row })));
  test.each(
    rows
      .filter(({ row }) => row.method !== "MCP")
      .map(({ pack, row }) => [pack, row.method, row.template, row] as const),
  )("%s %s %s", (pack, method, template, row) => {
    const classifier = port(pack);
    const more: Partial<ClassifyInput> =
      method === "WS"
        ? { websocket: true }
        : method === "GRPC"
          ? { contentType: "application/grpc+proto" }
          : {};
    const verb = method === "WS" ? "GET" : method === "GRPC" ? "POST" : method;
    const source = row.resource?.source;
    const query = source?.kind === "query" ? `?${source.key}=r1` : "";
    let found = classified(classifier, verb, exampleOf(row) + query, more);
    expect(found).toMatchObject({
      operation: { kind: "known", name: row.operation, access: row.access },
      template,
      access: row.access,
    });
    if (source?.kind === "body") {
      const done = classifier.withBody(
        found,
        Buffer.from(JSON.stringify({ other: {}, [source.key]: "r1" })),
        json,
      );
      expect(done.ok).toBe(true);
      if (done.ok) found = done.value;
    } else if (source?.kind === "protobuf") {
      const message = Buffer.concat([Buffer.from([(source.field << 3) | 2, 2]), Buffer.from("r1")]);
      const done = classifier.withBody(found, grpcBody(message), {
        ...json,
        contentType: "application/grpc",
      });
      if (done.ok) found = done.value;
    }
    const expected =
      source === undefined
        ? "none"
        : source.kind === "self"
          ? "fraud-scorer"
          : source.kind === "path"
            ? `x-${source.name}`
            : "r1";
    expect(found.pending).toBeUndefined();
    expect(resourceName(found)).toMatch(
      source === undefined ? /^none$/ : new RegExp(`^${row.resource?.type}:(dir/)?${expected}$`),
    );
  });

  test.each(packs.get("mcp")!.rows.map((row) => [row.template, row] as const))("mcp %s", (method, row) => {
    const classifier = port("mcp");
    const start = classified(classifier, "POST", "/mcp");
    expect(start).toMatchObject({ operation: { kind: "undetermined" }, pending: { kind: "mcp" } });
    const params = method === "resources/read" ? { uri: "file:///data/x.csv" } : { name: "search_claims" };
    const done = classifier.withBody(
      start,
      Buffer.from(JSON.stringify({ jsonrpc: "2.0", id: 1, method, params })),
      json,
    );
    expect(done).toMatchObject({
      ok: true,
      value: { operation: { kind: "known", name: row.operation }, access: row.access, pending: undefined },
    });
    if (done.ok)
      expect(resourceName(done.value)).toBe(
        row.resource === undefined
          ? "none"
          : `${row.resource.type}:${"uri" in params ? params.uri : params.name}`,
      );
  });
});

describe("requests of real clients", () => {
  test.each([
    ["OpenAI chat", "openai", "POST", "/v1/chat/completions", "serving.invoke.chat"],
    ["OpenAI embeddings", "openai", "POST", "/v1/embeddings", "serving.invoke.embed"],
    ["OpenAI models", "openai", "GET", "/v1/models", "serving.metadata"],
    ["KServe LLM", "openai", "POST", "/openai/v1/chat/completions", "serving.invoke.chat"],
    ["MLflow log batch", "mlflow", "POST", "/api/2.0/mlflow/runs/log-batch", "mlflow.log.batch"],
    ["MLflow UI search", "mlflow", "POST", "/ajax-api/2.0/mlflow/runs/search", "mlflow.read.search"],
    [
      "MLflow metric history",
      "mlflow",
      "GET",
      "/api/2.0/mlflow/metrics/get-history?run_uuid=r1&metric_key=auc&run_id=r1&max_results=25000",
      "mlflow.read.metric",
    ],
    [
      "MLflow models of a run",
      "mlflow",
      "POST",
      "/api/2.0/mlflow/logged-models/search",
      "mlflow.read.search",
    ],
    ["MLflow server", "mlflow", "GET", "/api/3.0/mlflow/server-info", "mlflow.read.server"],
    [
      "MLflow list of artifacts",
      "mlflow",
      "GET",
      "/api/2.0/mlflow-artifacts/artifacts?path=1%2Fr1%2Fartifacts",
      "mlflow.read.artifact",
    ],
    [
      "MLflow model by alias",
      "mlflow",
      "GET",
      "/api/2.0/mlflow/registered-models/alias?name=fraud&alias=champion",
      "mlflow.read.model",
    ],
    ["MLflow alias", "mlflow", "POST", "/api/2.0/mlflow/registered-models/alias", "mlflow.promote"],
    [
      "MLflow alias taken away",
      "mlflow",
      "DELETE",
      "/api/2.0/mlflow/registered-models/alias",
      "mlflow.promote",
    ],
    [
      "MLflow get experiment",
      "mlflow",
      "GET",
      "/api/2.0/mlflow/experiments/get-by-name?experiment_name=fraud",
      "mlflow.read.experiment",
    ],
    [
      "MLflow artifact",
      "mlflow",
      "PUT",
      "/api/2.0/mlflow-artifacts/artifacts/1/ab/artifacts/model/MLmodel",
      "mlflow.log.artifact",
    ],
    ["MLflow scoring", "mlflow-scoring", "POST", "/invocations", "serving.invoke.predict"],
    ["KServe v1", "kserve-v1", "POST", "/v1/models/sklearn-iris:predict", "serving.invoke.predict"],
    ["KServe v1 explain", "kserve-v1", "POST", "/v1/models/a:b:explain", "serving.invoke.explain"],
    ["KServe v2", "oip-v2", "POST", "/v2/models/fraud/versions/3/infer", "serving.invoke.predict"],
    ["Databricks run now", "databricks", "POST", "/api/2.2/jobs/run-now", "jobs.runNow"],
    ["Databricks list", "databricks", "GET", "/api/2.1/jobs/list?limit=20&expand_tasks=false", "jobs.list"],
    [
      "Databricks SQL chunk",
      "databricks",
      "GET",
      "/api/2.0/sql/statements/01ef/result/chunks/0",
      "sql.result",
    ],
    [
      "Databricks volume",
      "databricks",
      "GET",
      "/api/2.0/fs/files/Volumes/main/x/y/part%2D0.parquet",
      "files.read",
    ],
    ["Databricks OpenAI", "databricks", "POST", "/serving-endpoints/chat/completions", "serving.invoke.chat"],
    [
      "Databricks invoke",
      "databricks",
      "POST",
      "/serving-endpoints/fraud/invocations",
      "serving.invoke.predict",
    ],
    ["JupyterHub", "jupyter", "GET", "/user/alice/api/contents/work/a%20b.ipynb", "notebook.read"],
    ["Ray submit", "ray", "POST", "/api/jobs/", "ray.job.submit"],
    ["Ray without slash", "ray", "POST", "/api/jobs", "unknown"],
    ["HEAD counts as GET", "openai", "HEAD", "/v1/models", "serving.metadata"],
    ["trailing slash is another path", "openai", "GET", "/v1/models/", "unknown"],
    ["case matters", "openai", "GET", "/V1/models", "unknown"],
    ["other verb", "openai", "DELETE", "/v1/models", "unknown"],
  ])("%s", (_name, pack, method, target, operation) => {
    expect(nameOf(classified(port(pack), method, target))).toBe(operation);
  });

  test("a port tries its packs in order", () => {
    expect(nameOf(classified(port("kserve-v1", "openai"), "GET", "/v1/models/m"))).toBe("serving.metadata");
    expect(classified(port("mlflow-scoring", "oip-v2"), "GET", "/health").template).toBe("/health");
    expect(classified(port("openai", "mcp"), "POST", "/v1/embeddings").pending?.kind).toBe("body");
    expect(classified(port("openai", "mcp"), "POST", "/mcp").pending?.kind).toBe("mcp");
  });

  test("gRPC carries service and method", () => {
    const found = classified(port("oip-v2"), "POST", "/inference.GRPCInferenceService/ModelInfer", {
      contentType: "Application/GRPC",
    });
    expect(found.request.grpc).toEqual({ service: "inference.GRPCInferenceService", method: "ModelInfer" });
  });
});

describe("malformed requests", () => {
  test.each([
    ["GET", "/v1/models#x"],
    ["GET", "/v1/models?a=1#b"],
    ["GET", "*"],
    ["get", "/v1/models"],
    ["GRPC", "/v1/models"],
    ["WS", "/v1/models"],
    ["CONNECT", "host:443"],
    ["GET", "http://other/v1/models"],
    ["POST", "/v1/chat%2Fcompletions"],
    ["POST", "/v1//chat/completions"],
    ["GET", "/v1/models/100%25"],
  ])("%s %s", (method, target) => {
    expect(port("openai").classify({ method, target, header: noHeaders }).ok).toBe(false);
  });

  test("only the tails of file names carry %25, %23 and %3B", () => {
    const classifier = port("databricks", "mlflow");
    expect(resourceName(classified(classifier, "GET", "/api/2.0/fs/files/a/100%25%23%3B"))).toBe(
      "file:a/100%#;",
    );
    for (const target of [
      "/api/2.0/fs/files/%252e%252e/a",
      "/api/2.0/mcp/a%25b",
      "/serving-endpoints/a%23b/invocations",
      "/x/a%3Bb",
    ]) {
      for (const method of ["GET", "POST"])
        expect(classifier.classify({ method, target, header: noHeaders }).ok).toBe(false);
    }
  });
});

describe("query sources", () => {
  const of = (query: string): string => {
    const result = port("databricks").classify({
      method: "GET",
      target: `/api/2.1/jobs/get${query}`,
      header: noHeaders,
    });
    return result.ok ? resourceName(result.value) : "malformed";
  };
  test.each([
    ["", "unknown"],
    ["?job_id=", "unknown"],
    ["?job_id", "unknown"],
    ["?job_id=7", "job:7"],
    ["?x=1&job_id=7&y=2", "job:7"],
    ["?job%5Fid=7", "job:7"],
    ["?job_id=a+b%20c", "job:a b c"],
    ["?%zz=1&job_id=7", "job:7"],
    ["?job_id=%zz", "malformed"],
    ["?job_id=%ff", "malformed"],
    ["?job_id=1&job_id=1", "malformed"],
    ["?job_id=1&job%5fid=2", "malformed"],
    ["?job_id[]=1", "malformed"],
    ["?job_id%5B%5D=1", "malformed"],
    ["?job_id=1&JOB_ID=2", "malformed"],
    ["?JOB_ID=2", "unknown"],
    ["?x=1;job_id=2", "malformed"],
    ["?job_id=1;x", "malformed"],
    ["?filter=a;b&job_id=1", "job:1"],
    ["?job_id=../x", "unknown"],
    ["?job_id=a%00", "unknown"],
  ])("%s is %s", (query, expected) => {
    expect(of(query)).toBe(expected);
  });

  test("a body may not name the resource of the query again", () => {
    const classifier = port("databricks");
    const found = classified(classifier, "GET", "/api/2.1/jobs/get?job_id=7", { hasBody: true });
    expect(found.pending).toMatchObject({ kind: "body", key: "job_id" });
    expect(withBody(classifier, found, '{"job_id":8}')).toBe("malformed");
    expect(withBody(classifier, found, '{"x":8}')).toBe("job:7");
    expect(withBody(classifier, found, "")).toBe("job:7");
    expect(withBody(classifier, found, "x")).toBe("unknown");
    const without = classified(classifier, "GET", "/api/2.1/jobs/get", { hasBody: true });
    expect(withBody(classifier, without, '{"job_id":8}')).toBe("unknown");
  });
});

describe("body sources", () => {
  const classifier = port("openai");
  const start = classified(classifier, "POST", "/v1/chat/completions");
  test.each([
    ['{"model":"a"}', {}, "model:a"],
    ['{"messages":[{"model":"x"}],"model":"a"}', {}, "model:a"],
    ['{"mod\\u0065l":"a"}', {}, "model:a"],
    ['{"model":7}', {}, "model:7"],
    ['{"model":0}', {}, "model:0"],
    ['{"model":-1}', {}, "unknown"],
    ['{"model":1.0}', {}, "unknown"],
    ['{"model":1e3}', {}, "unknown"],
    ['{"model":01}', {}, "unknown"],
    ['{"model":null}', {}, "unknown"],
    ['{"model":["a"]}', {}, "unknown"],
    ['{"model":""}', {}, "unknown"],
    ['{"model":"a\\u0000"}', {}, "unknown"],
    ['{"model":"\\ud800"}', {}, "unknown"],
    ['{"Model":"a"}', {}, "unknown"],
    ["{}", {}, "unknown"],
    ["[]", {}, "unknown"],
    ["", {}, "unknown"],
    ['{"model":"a"', {}, "unknown"],
    ['{"model":"a"}x', {}, "unknown"],
    ['\ufeff{"model":"a"}', {}, "unknown"],
    ['{"model":"a","model":"b"}', {}, "malformed"],
    ['{"model":"a","Model":"b"}', {}, "malformed"],
    ['{"model":"a","mod\\u0065l":"b"}', {}, "malformed"],
    ['{"model":"a","model":"b"', {}, "malformed"],
    ['{"x":1,"x":2,"model":"a"}', {}, "malformed"],
    ['{"s":1,"\u017f":2}', {}, "malformed"],
    ['{"model":"a"}', { contentType: "Application/JSON; charset=UTF-8" }, "model:a"],
    ['{"model":"a"}', { contentType: "application/json;charset=utf-16" }, "unknown"],
    ['{"model":"a"}', { contentType: "text/plain" }, "unknown"],
    ['{"model":"a"}', { contentType: undefined as unknown as string }, "unknown"],
    ['{"model":"a"}', { contentEncoding: "gzip" as unknown as undefined }, "unknown"],
    ['{"model":"a"}', { truncated: true }, "unknown"],
    [`{"model":"a","p":"${"x".repeat(65_536)}"}`, {}, "unknown"],
  ])("%.60s %j is %s", (body, facts, expected) => {
    expect(withBody(classifier, start, body, facts)).toBe(expected);
  });

  test("a key in query and body is malformed, in the query alone unknown", () => {
    const found = classified(classifier, "POST", "/v1/chat/completions?model=b");
    expect(withBody(classifier, found, '{"model":"a"}')).toBe("malformed");
    expect(withBody(classifier, found, '{"x":"a"}')).toBe("unknown");
  });

  test("invalid UTF-8 is unknown", () => {
    expect(withBody(classifier, start, Buffer.from('{"model":"\xff"}', "latin1"))).toBe("unknown");
  });
});

describe("protobuf sources", () => {
  const classifier = port("oip-v2");
  const start = classified(classifier, "POST", "/inference.GRPCInferenceService/ModelInfer", {
    contentType: "application/grpc",
  });
  const facts = { contentType: "application/grpc" };
  const of = (bytes: number[], flag = 0, more: Partial<typeof json> = {}): string =>
    withBody(classifier, start, grpcBody(Buffer.from(bytes), flag), { ...facts, ...more });
  test.each([
    ["one", [0x0a, 1, 0x61], "model:a"],
    ["last wins", [0x0a, 1, 0x61, 0x0a, 1, 0x62], "model:b"],
    [
      "other fields",
      [0x10, 5, 0x1a, 2, 1, 2, 0x0a, 1, 0x61, 0x25, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0, 0, 0, 0],
      "model:a",
    ],
    ["inside a group does not count", [0x13, 0x0a, 1, 0x61, 0x14], "unknown"],
    ["wrong wire type does not count", [0x08, 1], "unknown"],
    ["absent", [], "unknown"],
    ["length beyond the end", [0x0a, 9, 0x61], "unknown"],
    ["not UTF-8", [0x0a, 1, 0xff], "unknown"],
    ["overlong tag", [0x8a, 0x80, 0x80, 0x80, 0x80, 0, 1, 0x61], "unknown"],
    ["field number 0", [0x02, 0, 0x0a, 1, 0x61], "unknown"],
    ["reserved wire type", [0x0e, 0x0a, 1, 0x61], "unknown"],
    ["open group", [0x0a, 1, 0x61, 0x13], "unknown"],
  ])("%s", (_name, bytes, expected) => {
    expect(of(bytes)).toBe(expected);
  });

  test("compressed, foreign, truncated or doubled messages are unknown", () => {
    const one = [0x0a, 1, 0x61];
    expect(of(one, 1)).toBe("unknown");
    expect(of(one, 0, { contentType: "application/grpc+json" })).toBe("unknown");
    expect(of(one, 0, { truncated: true })).toBe("unknown");
    expect(
      withBody(
        classifier,
        start,
        Buffer.concat([grpcBody(Buffer.from(one)), grpcBody(Buffer.from(one))]),
        facts,
      ),
    ).toBe("unknown");
  });
});

describe("folded views", () => {
  const views = (value: Classified): string[] =>
    value.folded.map(
      (view) => `${nameOf({ ...value, operation: view.operation })} ${resourceName(view)} ${view.path}`,
    );

  test("an ordinary path has none", () => {
    expect(classified(port("openai"), "GET", "/v1/models").folded).toEqual([]);
    expect(classified(port("databricks"), "GET", "/api/2.1/jobs/list?job_id=4").folded).toEqual([]);
  });

  test.each([
    ["openai", "GET", "/V1/Models", "serving.metadata none /v1/models"],
    ["openai", "GET", "/v1/models/", "serving.metadata none /v1/models"],
    ["ray", "POST", "/api/jobs", "ray.job.submit none /api/jobs"],
    [
      "oip-v2",
      "POST",
      "/v2/models/Fraud/infer/",
      "serving.invoke.predict model:fraud /v2/models/fraud/infer",
    ],
    [
      "oip-v2",
      "POST",
      "/v2/models/Fraud/infer/",
      "serving.invoke.predict model:Fraud /v2/models/Fraud/infer",
    ],
    [
      "oip-v2",
      "POST",
      "/V2/REPOSITORY/models/m/unload",
      "serving.admin model:m /v2/repository/models/m/unload",
    ],
    ["openai", "GET", "/metrics/", "unknown none /metrics"],
    [
      "oip-v2",
      "POST",
      "/inference.GRPCInferenceService/ModelInfer",
      "serving.invoke.predict unknown /inference.GRPCInferenceService/ModelInfer",
    ],
  ])("%s %s %s has the view %s", (pack, method, target, expected) => {
    expect(views(classified(port(pack), method, target))).toContain(expected);
  });

  test("a body sent as gRPC and an upgrade that the server ignores are seen by Deny rules", () => {
    const chat = classified(port("openai"), "POST", "/v1/chat/completions", {
      contentType: "application/grpc",
    });
    expect(nameOf(chat)).toBe("unknown");
    expect(views(chat)).toContain("serving.invoke.chat unknown /v1/chat/completions");
    expect(views(classified(port("jupyter"), "GET", "/lab", { websocket: true }))).toContain(
      "notebook.view none /lab",
    );
  });

  test("any change of case keeps the operation visible to Deny rules", () => {
    const rows = [...packs.values()].flatMap((pack) =>
      pack.rows
        .filter((row) => !["MCP", "GRPC", "WS"].includes(row.method))
        .map((row) => ({ pack: pack.name, row })),
    );
    fc.assert(
      fc.property(
        fc.constantFrom(...rows),
        fc.array(fc.boolean(), { minLength: 120, maxLength: 120 }),
        fc.boolean(),
        ({ pack, row }, flips, slash) => {
          const target =
            [...exampleOf(row)].map((each, at) => (flips[at] ? each.toUpperCase() : each)).join("") +
            (slash && !exampleOf(row).endsWith("/") ? "/" : "");
          const found = classified(port(pack), row.method, target);
          expect(
            [found.operation, ...found.folded.map((view) => view.operation)].some(
              (each) => each.kind === "known" && each.name === row.operation,
            ),
          ).toBe(true);
        },
      ),
    );
  });
});

describe("mcp", () => {
  const classifier = port("mcp");
  const call = (
    body: string,
    headers: Record<string, string | string[]> = {},
    facts: Partial<typeof json> = {},
  ): string => {
    const done = classifier.withBody(classified(classifier, "POST", "/mcp/"), Buffer.from(body), {
      ...json,
      ...facts,
      header: ((name: string) => headers[name]) as never,
    });
    if (!done.ok) return `malformed ${done.error.startsWith("mcp header mismatch") ? "-32020" : ""}`.trim();
    expect(done.value.folded.every((view) => view.operation === done.value.operation)).toBe(true);
    return `${nameOf(done.value)} ${resourceName(done.value)}`;
  };
  const tool =
    '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search_claims","arguments":{"name":"x"}}}';
  const version = { "mcp-protocol-version": "2026-07-28" };
  test.each([
    ["old version, no headers", tool, {}, {}, "mcp.tool.call tool:search_claims"],
    [
      "new version with headers",
      tool,
      { ...version, "mcp-method": "tools/call", "mcp-name": "search_claims" },
      {},
      "mcp.tool.call tool:search_claims",
    ],
    [
      "encoded name",
      tool,
      { ...version, "mcp-method": "tools/call", "mcp-name": "=?base64?c2VhcmNoX2NsYWltcw==?=" },
      {},
      "mcp.tool.call tool:search_claims",
    ],
    ["new version without method", tool, version, {}, "malformed -32020"],
    ["new version without name", tool, { ...version, "mcp-method": "tools/call" }, {}, "malformed -32020"],
    [
      "other method",
      tool,
      { ...version, "mcp-method": "tools/list", "mcp-name": "search_claims" },
      {},
      "malformed -32020",
    ],
    [
      "other name",
      tool,
      { ...version, "mcp-method": "tools/call", "mcp-name": "delete_claim" },
      {},
      "malformed -32020",
    ],
    ["other name, old version", tool, { "mcp-name": "delete_claim" }, {}, "malformed -32020"],
    ["header twice", tool, { "mcp-method": ["tools/call", "tools/list"] }, {}, "malformed -32020"],
    ["bad version", tool, { "mcp-protocol-version": "zzz" }, {}, "malformed -32020"],
    ["batch", `[${tool}]`, {}, {}, "malformed"],
    ["key twice", '{"method":"tools/list","method":"tools/call"}', {}, {}, "malformed"],
    ["name twice", '{"method":"tools/call","params":{"name":"a","Name":"b"}}', {}, {}, "malformed"],
    ["folded key only", '{"Method":"tools/call"}', {}, {}, "undetermined unknown"],
    ["unknown method", '{"method":"x/y"}', {}, {}, "unknown none"],
    ["response", '{"jsonrpc":"2.0","id":1,"result":{}}', {}, {}, "unknown none"],
    ["name is no string", '{"method":"tools/call","params":{"name":5}}', {}, {}, "mcp.tool.call unknown"],
    ["no params", '{"method":"tools/call"}', {}, {}, "mcp.tool.call unknown"],
    ["params is a list", '{"method":"tools/call","params":["a"]}', {}, {}, "undetermined unknown"],
    [
      "too long",
      tool,
      { ...version, "mcp-method": "tools/call", "mcp-name": "search_claims" },
      { truncated: true },
      "undetermined unknown",
    ],
    ["compressed", tool, {}, { contentEncoding: "gzip" as unknown as undefined }, "undetermined unknown"],
    ["not json", "x", {}, {}, "undetermined unknown"],
    [
      "resource with dots",
      '{"method":"resources/read","params":{"uri":"file:///a/../b"}}',
      {},
      {},
      "mcp.resource.read unknown",
    ],
  ])("%s", (_name, body, headers, facts, expected) => {
    expect(call(body, headers as Record<string, string>, facts)).toBe(expected);
  });
});

describe("preflights and header sources", () => {
  test("a preflight is decided as the method it asks for, without waiting for a body", () => {
    const found = classified(port("openai"), "OPTIONS", "/v1/chat/completions", { corsMethod: "POST" });
    expect(found).toMatchObject({
      operation: { name: "serving.invoke.chat" },
      resource: { kind: "unknown" },
      pending: undefined,
      request: { method: "POST" },
    });
    expect(nameOf(classified(port("openai"), "OPTIONS", "/v1/chat/completions"))).toBe("unknown");
    expect(nameOf(classified(port("openai"), "OPTIONS", "*"))).toBe("unknown");
    for (const corsMethod of ["post", "WS", ""]) {
      expect(
        port("openai").classify({ method: "OPTIONS", target: "/v1/models", corsMethod, header: noHeaders })
          .ok,
      ).toBe(false);
    }
  });

  test("a header that names the resource counts once only", () => {
    const parsed = parsePack("custom", "team.read GET /data team<header:x-team read -\n");
    if (!parsed.ok) throw new Error(parsed.error);
    const classifier = createClassifier({ packs: [parsed.value], selfName: "s" });
    expect(resourceName(classified(classifier, "GET", "/data", { header: () => "red" }))).toBe("team:red");
    expect(resourceName(classified(classifier, "GET", "/data", { header: () => "blue" }))).toBe("team:blue");
    expect(resourceName(classified(classifier, "GET", "/data"))).toBe("unknown");
    expect(classifier.classify({ method: "GET", target: "/data", header: () => ["a", "a"] }).ok).toBe(false);
  });

  test("a prefix of the port may stand before every path", () => {
    const classifier = createClassifier({
      packs: [packs.get("openai")!],
      selfName: "s",
      prefix: "/llm/{name}",
    });
    expect(nameOf(classified(classifier, "GET", "/llm/a/v1/models"))).toBe("serving.metadata");
    expect(nameOf(classified(classifier, "GET", "/v1/models"))).toBe("serving.metadata");
  });
});

describe("caching", () => {
  test("a repeated target gives the same object, and a fresh classifier an equal one", () => {
    const classifier = port("databricks", "oip-v2");
    const targets = fc.constantFrom(
      "/api/2.1/jobs/get?job_id=1",
      "/V2/models/m/infer",
      "/v2/models/m/infer/",
      "/x//y",
      "/api/2.0/fs/files/a%25",
    );
    fc.assert(
      fc.property(fc.constantFrom("GET", "POST", "PUT", "HEAD"), targets, (method, target) => {
        const input = { method, target, header: noHeaders };
        const first = classifier.classify(input);
        expect(classifier.classify(input)).toBe(first);
        expect(port("databricks", "oip-v2").classify(input)).toEqual(first);
      }),
    );
  });

  test("ten thousand different targets do not change an answer", () => {
    const classifier = port("oip-v2");
    for (let i = 0; i < 10_000; i++)
      expect(resourceName(classified(classifier, "POST", `/v2/models/m${i % 3000}/infer`))).toBe(
        `model:m${i % 3000}`,
      );
  });

  test("random targets never throw", () => {
    const classifier = port("databricks", "mcp");
    fc.assert(
      fc.property(
        fc.constantFrom("GET", "POST", "PUT", "X"),
        fc.string(),
        fc.boolean(),
        (method, text, websocket) => {
          classifier.classify({ method, target: `/${text}`, websocket, header: noHeaders });
        },
      ),
    );
  });
});
