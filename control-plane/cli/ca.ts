// `countersign ca`: the certificate authority of a running control plane, and the rotation of its root.
import { type Fields, fieldsOf, listOf, numberOf, textOf, textsOf } from "./answers.ts";
import type { Mesh } from "./mesh.ts";
import { counted, EXIT, type ExitStatus, type Output, plain, printJson, printTable } from "./print.ts";

/** What can be asked of a rotation. */
export type RotationVerb = "rotate" | "abort" | "force";

const STAGES: Readonly<Record<string, string>> = {
  distribute: "1 of 3, distribute: every sidecar learns the new root",
  sign: "2 of 3, sign: certificates renew below the new root",
  retire: "3 of 3, retire: the old root leaves",
};

const DONE: Readonly<Record<RotationVerb, string>> = {
  rotate:
    "root rotation started; it goes on by itself. Join tokens that are not redeemed and exported identities end with the old root: make new ones when it is done\n\n",
  abort: "going back to the old root\n\n",
  force: "",
};

/** Prints roots, issuing certificate and rotation. */
export async function showAuthority(mesh: Mesh, json: boolean, output: Output): Promise<ExitStatus> {
  return print(fieldsOf(await mesh.manage("GET", "/v1/ca")), json, output);
}

/** Starts, aborts or forces a rotation. @throws MeshError `bad_object` when the control plane refuses. */
export async function changeRotation(
  mesh: Mesh,
  verb: RotationVerb,
  json: boolean,
  output: Output,
): Promise<ExitStatus> {
  const answer = fieldsOf(await mesh.manage("POST", `/v1/ca/${verb}`, {}));
  if (!json) {
    output.out(DONE[verb]);
    if (verb === "force") printGivenUp(textsOf(answer["givenUp"]), output);
  }
  return print(answer, json, output);
}

function printGivenUp(names: readonly string[], output: Output): void {
  if (names.length === 0) {
    output.out("nobody was waited for\n\n");
    return;
  }
  output.out(`given up: ${counted(names.length, "sidecar")}, whose calls may fail until they have renewed\n`);
  for (const name of names) output.out(`  ${plain(name)}\n`);
  output.out("\n");
}

function print(authority: Fields, json: boolean, output: Output): ExitStatus {
  if (json) {
    printJson(output, authority);
    return EXIT.ok;
  }
  const domain = plain(textOf(authority["trustDomain"]));
  output.out(`trust domain ${domain}, trust bundle ${textOf(authority["bundleSequence"])}\n\n`);
  printTable(
    output,
    listOf(authority["roots"]).map((root) => ({
      root: plain(textOf(root["fingerprint256"])),
      until: dateOf(root["notAfter"]),
      use: root["signs"] === true ? "signs" : "trusted",
    })),
  );
  output.out(`\nissuing certificate until ${dateOf(authority["issuingNotAfter"])}\n`);
  printRotation(authority["rotation"], output);
  if (authority["leads"] === false)
    output.out("the replica that answered does not lead: it knows its own sidecars only\n");
  return EXIT.ok;
}

function printRotation(value: unknown, output: Output): void {
  if (value === null || value === undefined) {
    output.out("no root rotation is under way\n");
    return;
  }
  const rotation = fieldsOf(value);
  const stage = textOf(rotation["stage"]);
  const names = textsOf(rotation["waitingFor"]);
  const waiting = numberOf(rotation["waiting"]) ?? names.length;
  const direction = rotation["aborting"] === true ? "going back to the old root" : "root rotation";
  output.out(
    `${direction}: stage ${STAGES[stage] ?? plain(stage)}, since ${dateOf(rotation["stageSince"])}\n`,
  );
  if (waiting > 0) {
    output.out(`waiting for ${counted(waiting, "sidecar")}:\n`);
    for (const name of names) output.out(`  ${plain(name)}\n`);
    if (waiting > names.length) output.out(`  and ${waiting - names.length} more\n`);
  }
  const givenUp = numberOf(rotation["givenUp"]) ?? 0;
  if (givenUp > 0) output.out(`${counted(givenUp, "sidecar")} given up by force\n`);
  if (rotation["overdue"] === true)
    output.out(
      "overdue: `countersign proxy-status` or the sidecars' logs say why; then `countersign ca force` gives them up, `countersign ca abort` goes back\n",
    );
}

function dateOf(value: unknown): string {
  return plain(textOf(value)).slice(0, 19).replace("T", " ").concat("Z");
}
