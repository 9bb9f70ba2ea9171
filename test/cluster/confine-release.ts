// A post-renderer of helm for one test on a cluster that others use too: of a release it lets through the webhooks, which
// are then asked about labelled namespaces alone, and MeshConfig, as a kind of the test's own.
//   node confine-release.ts ID TIMEOUT_SECONDS < manifests > manifests
import { parseAllDocuments, stringify } from "yaml";

const [id = "", timeoutSeconds = ""] = process.argv.slice(2);

type Fields = Record<string, unknown>;
const chunks: Buffer[] = [];
for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
for (const document of parseAllDocuments(Buffer.concat(chunks).toString("utf8"))) {
  const object = document.toJS() as (Fields & { kind: string; metadata: Fields; webhooks?: Fields[] }) | null;
  if (object === null) continue;
  if (object.kind === "MeshConfig") object["apiVersion"] = `${id}.test/v1alpha1`;
  else if (object.kind.endsWith("WebhookConfiguration")) {
    object.metadata["name"] = id;
    for (const webhook of object.webhooks ?? []) {
      webhook["namespaceSelector"] = { matchLabels: { "countersign.test/release": id } };
      // As if another version of the chart had changed it.
      webhook["timeoutSeconds"] = Number(timeoutSeconds);
    }
  } else continue;
  process.stdout.write(`---\n${stringify(object)}`);
}
