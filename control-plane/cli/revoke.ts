// `countersign revoke` and `revocations`: what was issued to a workload, a pod, a user or a session until now is worth nothing.
import { fieldsOf, listOf, textOf } from "./answers.ts";
import type { Mesh } from "./mesh.ts";
import {
  counted,
  EXIT,
  type ExitStatus,
  type Output,
  plain,
  printJson,
  printTable,
  timeText,
} from "./print.ts";

export interface Revoked {
  /** Key of a workload. One of the four is given. */
  readonly workload: string | undefined;
  /** `namespace/name` or UID. */
  readonly pod: string | undefined;
  /** `idp|id`. */
  readonly user: string | undefined;
  readonly session: string | undefined;
  readonly reason: string;
}

/** Revokes. @throws MeshError `bad_object` when the control plane refuses. */
export async function revoke(mesh: Mesh, asked: Revoked, json: boolean, output: Output): Promise<ExitStatus> {
  const answer = fieldsOf(await mesh.manage("POST", "/v1/revocations", asked));
  if (json) {
    printJson(output, answer);
    return EXIT.ok;
  }
  output.out(`revoked: what ${subjectOf(answer)} was issued before ${timeOf(answer["beforeMs"])}\n`);
  if (textOf(answer["user"]) !== "" || textOf(answer["session"]) !== "") {
    output.out(
      "callees refuse it with REVOKED from now on, open streams end, and gateways ask to sign in again. Whoever may sign in at the\n" +
        "identity provider gets a new session: to keep the user out, close the account there or deny it by a policy\n",
    );
    return EXIT.ok;
  }
  output.out(
    "callees refuse it with REVOKED from now on. Sidecars in pods prove themselves again with their ServiceAccount token within\n" +
      "seconds; elsewhere make a new join token. To keep the workload out, deny it by a policy\n",
  );
  return EXIT.ok;
}

/** Prints what is revoked. */
export async function showRevocations(mesh: Mesh, json: boolean, output: Output): Promise<ExitStatus> {
  const answer = fieldsOf(await mesh.manage("GET", "/v1/revocations"));
  if (json) {
    printJson(output, answer);
    return EXIT.ok;
  }
  const revocations = listOf(answer["revocations"]);
  if (revocations.length === 0) {
    output.out("nothing is revoked\n");
    return EXIT.ok;
  }
  printTable(
    output,
    revocations.map((one) => ({
      subject: subjectOf(one),
      "issued before": timeOf(one["beforeMs"]),
      "kept until": timeOf(one["expiresAtMs"]),
      reason: plain(textOf(one["reason"])),
    })),
  );
  output.out(`\n${counted(revocations.length, "revocation")}\n`);
  return EXIT.ok;
}

const timeOf = (ms: unknown): string => (typeof ms === "number" ? timeText(ms) : "?");

function subjectOf(revocation: Readonly<Record<string, unknown>>): string {
  for (const kind of ["pod", "user", "session"]) {
    const name = textOf(revocation[kind]);
    if (name !== "") return plain(`${kind} ${name}`);
  }
  return plain(textOf(revocation["spiffeId"]));
}
