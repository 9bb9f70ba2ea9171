// Certificates and kubeconfigs of the cluster's parts: one authority, one client certificate per part, 30 days.
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "./commands.ts";
import { API_SERVICE_ADDRESS, inHome, NODE_ADDRESS, NODE_NAME, PORTS } from "./layout.ts";

interface PartCertificate {
  readonly name: string;
  /** Kubernetes reads the user from CN and the groups from O. */
  readonly subject: string;
  readonly names: readonly string[];
}

const CERTIFICATES: readonly PartCertificate[] = [
  {
    name: "apiserver",
    subject: "/CN=kube-apiserver",
    names: [
      ...["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map((n) => `DNS:${n}`),
      ...["127.0.0.1", API_SERVICE_ADDRESS, NODE_ADDRESS].map((address) => `IP:${address}`),
    ],
  },
  { name: "admin", subject: "/O=system:masters/CN=admin", names: ["DNS:admin"] },
  {
    name: "controller-manager",
    subject: "/CN=system:kube-controller-manager",
    names: ["DNS:controller-manager"],
  },
  { name: "scheduler", subject: "/CN=system:kube-scheduler", names: ["DNS:scheduler"] },
  { name: "kube-proxy", subject: "/CN=system:kube-proxy", names: ["DNS:kube-proxy"] },
  {
    name: "kubelet",
    subject: `/O=system:nodes/CN=system:node:${NODE_NAME}`,
    names: [`DNS:${NODE_NAME}`, `IP:${NODE_ADDRESS}`, "IP:127.0.0.1"],
  },
];

export const pkiFile = (name: string): string => inHome("pki", name);

/** Makes the authority and every certificate, once per life of the cluster. */
export async function ensureCertificates(): Promise<void> {
  if (existsSync(inHome("pki"))) return;
  const folder = inHome("pki.new"); // renamed when whole, so an interrupted run leaves no half set
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { mode: 0o700 });
  const openssl = (args: readonly string[]) => run("openssl", args, { cwd: folder });
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  await openssl([
    ...["req", "-x509", ...newKey, "-keyout", "ca.key", "-out", "ca.crt", "-days", "30"],
    ...["-subj", "/CN=countersign-test-cluster"],
  ]);
  for (const { name, subject, names } of CERTIFICATES) {
    writeFileSync(
      join(folder, `${name}.ext`),
      `subjectAltName=${names.join(",")}\nextendedKeyUsage=serverAuth,clientAuth\n`,
    );
    await openssl(["req", ...newKey, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", subject]);
    await openssl([
      ...["x509", "-req", "-in", `${name}.csr`, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"],
      ...["-out", `${name}.crt`, "-days", "30", "-extfile", `${name}.ext`],
    ]);
  }
  await openssl(["genrsa", "-out", "service-accounts.key", "2048"]);
  await openssl(["rsa", "-in", "service-accounts.key", "-pubout", "-out", "service-accounts.pub"]);
  renameSync(folder, inHome("pki"));
}

/** Writes `NAME.conf` for every client; JSON, which is YAML. */
export function writeKubeconfigs(): void {
  for (const { name } of CERTIFICATES) {
    if (name === "apiserver") continue;
    const config = {
      apiVersion: "v1",
      kind: "Config",
      "current-context": "countersign-test",
      contexts: [{ name: "countersign-test", context: { cluster: "countersign-test", user: name } }],
      clusters: [
        {
          name: "countersign-test",
          cluster: {
            server: `https://${NODE_ADDRESS}:${PORTS.apiServer}`,
            "certificate-authority": pkiFile("ca.crt"),
          },
        },
      ],
      users: [
        {
          name,
          user: { "client-certificate": pkiFile(`${name}.crt`), "client-key": pkiFile(`${name}.key`) },
        },
      ],
    };
    writeFileSync(inHome(`${name}.conf`), `${JSON.stringify(config, undefined, 2)}\n`, { mode: 0o600 });
  }
}
