// The conformance suite of Connect, gRPC and gRPC-Web: the same cases pass and fail with the pair of sidecars between its
// programs as without.
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { freePorts } from "../demo/process.ts";
import { goTools } from "./go.ts";
import { type Mesh, startMesh } from "./mesh.ts";

/** 1.0.7 needs connectrpc.com/connect/v2, which the module proxy does not give out; this one has the same cases. */
const MODULE = "connectrpc.com/conformance";
const VERSION = "v1.0.6";
const PROGRAMS = ["connectconformance", "referenceclient", "referenceserver", "grpcclient", "grpcserver"];
const WITH_PORT = fileURLToPath(new URL("clients/with-port.ts", import.meta.url));
/** Fields `port` of ClientCompatRequest and ServerCompatResponse. */
const CLIENT_PORT_FIELD = 7;
const SERVER_PORT_FIELD = 2;
const HTTP1_PORT = 8080;
const HTTP2_PORT = 8081;
const RULES = `  - name: everything
    from: [{workload: {names: [friend]}}]
    operations: [{any: true}]`;

const tools = await goTools(
  "conformance",
  "Connect, gRPC and gRPC-Web conformance",
  PROGRAMS.map((name) => `${MODULE}/cmd/${name}@${VERSION}`),
);

const features = (version: 1 | 2, protocols: readonly string[]): string => `features:
  versions: [HTTP_VERSION_${version}]
  protocols: [${protocols.map((name) => `PROTOCOL_${name}`).join(", ")}]
  codecs: [CODEC_PROTO]
  compressions: [COMPRESSION_IDENTITY, COMPRESSION_GZIP]
  supports_h2c: ${version === 2}
  supports_tls: false
  supports_tls_client_certs: false
  supports_half_duplex_bidi_over_http1: ${version === 1}
`;

/**
 * Cases whose server answers with a status beyond 599. Such a status is invalid (RFC 9110 section 15), so the sidecar
 * refuses the answer and sends 502 in its place, where the client alone would have seen the number.
 */
const REFUSED_BY_US = /nonexistent-http-status-code$/;

interface Outcome {
  readonly total: number;
  readonly passed: number;
  readonly failed: string[];
}

/** Every kind of program under test, with the protocols it knows. */
const RUNS = [
  { mode: "server", program: "referenceserver", version: 1, protocols: ["CONNECT", "GRPC_WEB"] },
  { mode: "client", program: "referenceclient", version: 1, protocols: ["CONNECT", "GRPC_WEB"] },
  { mode: "server", program: "referenceserver", version: 2, protocols: ["CONNECT", "GRPC", "GRPC_WEB"] },
  { mode: "client", program: "referenceclient", version: 2, protocols: ["CONNECT", "GRPC", "GRPC_WEB"] },
  { mode: "server", program: "grpcserver", version: 2, protocols: ["GRPC"] },
  { mode: "client", program: "grpcclient", version: 2, protocols: ["GRPC"] },
] as const;
type Run = (typeof RUNS)[number];

(tools === undefined ? describe.skip : describe)("conformance", () => {
  let dir: string;
  let mesh: Mesh;
  let appPorts: Readonly<Record<1 | 2, number>>;

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "countersign-conformance-"));
    const [one = 0, two = 0] = await freePorts(2);
    appPorts = { 1: one, 2: two };
    mesh = await startMesh({
      kind: "service",
      ports: [
        { port: HTTP1_PORT, protocol: "http", app: one },
        { port: HTTP2_PORT, protocol: "h2c", app: two },
      ],
      rules: RULES,
    });
  });
  afterAll(async () => {
    await mesh?.close();
    rmSync(dir, { recursive: true, force: true });
  });

  /** One run of the suite; `across` is the port that the clients connect to, undefined for the server's own. */
  async function conform(run: Run, across: number | undefined): Promise<Outcome> {
    const app = String(appPorts[run.version]);
    const config = join(dir, `${run.mode}-${run.program}-${run.version}.yaml`);
    writeFileSync(config, features(run.version, run.protocols));
    const program = join(tools ?? "", run.program);
    const server = run.mode === "server";
    const field = server ? ["stdout", SERVER_PORT_FIELD] : ["stdin", CLIENT_PORT_FIELD];
    const between =
      across === undefined ? [] : [process.execPath, WITH_PORT, ...field.map(String), String(across)];
    const args = [
      ...["--mode", run.mode, "--conf", config],
      ...(server ? ["--max-servers", "1"] : ["--port", app]),
      ...["--", ...between, program, ...(server ? ["-port", app] : [])],
    ];
    const output = await new Promise<string>((resolve) => {
      const options = { timeout: 110_000, maxBuffer: 64 * 1024 * 1024 };
      execFile(join(tools ?? "", "connectconformance"), args, options, (_error, stdout, stderr) =>
        resolve(stdout + stderr),
      );
    });
    const totals = /Total cases: (\d+)\s+(\d+) passed, \d+ failed/.exec(output);
    if (totals === null) throw new Error(`no totals in:\n${output.slice(-3000)}`);
    const named = [...output.matchAll(/^FAILED: (.*?):?$/gm)].map((match) => match[1] ?? "");
    const failed = named.filter((name) => !REFUSED_BY_US.test(name)).sort();
    return { total: Number(totals[1]), passed: Number(totals[2]) + named.length - failed.length, failed };
  }

  test.each(RUNS)(
    "$program over HTTP/$version",
    async (run) => {
      const port = mesh.port("friend", run.version === 1 ? HTTP1_PORT : HTTP2_PORT);
      const direct = await conform(run, undefined);
      expect(direct.total).toBeGreaterThan(50);
      expect(await conform(run, port)).toEqual(direct);
    },
    240_000,
  );
});
