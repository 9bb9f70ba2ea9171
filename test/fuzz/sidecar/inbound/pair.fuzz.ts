// Broken and hostile HTTP/1.1 through a whole pair of sidecars: application, outbound, mesh, inbound, application.
// Findings: a request the policy does not allow arrives, or one that cannot be read, or more than were allowed; a hang.
import { connect } from "node:net";
import { mulberry32 } from "../core/policy/random.ts";
import { type RecordedWorld, sendAll, startRecordedWorld } from "./recorded-world.ts";

const HOST = "host: things.ml:8080\r\n";
const BASES: readonly string[] = [
  `GET http://things.ml:8080/things/a HTTP/1.1\r\n${HOST}\r\n`,
  `GET /things/b?x=1 HTTP/1.1\r\n${HOST}connection: keep-alive\r\n\r\n`,
  `POST http://things.ml:8080/things/c HTTP/1.1\r\n${HOST}content-length: 11\r\n\r\nhello world`,
  `POST /things/d HTTP/1.1\r\n${HOST}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\nx-t: 1\r\n\r\n`,
  `HEAD /stream/e HTTP/1.1\r\n${HOST}\r\n`,
  `DELETE /things/f HTTP/1.1\r\n${HOST}\r\n`,
  `GET /admin HTTP/1.1\r\n${HOST}\r\n`,
];
const POISON: readonly string[] = [
  ...[
    "\r",
    "\n",
    "\0",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "\r\n",
    "\r\n\r\n",
    "\n\n",
    "\r\n ",
    "%2f",
    "%2e%2e/",
    "//",
    "/..;/",
    "\\",
    "#",
  ],
  "Content-Length: 5\r\n",
  "Content-Length: 0\r\n",
  "Transfer-Encoding: chunked\r\n",
  "transfer-encoding : chunked\r\n",
  "Transfer-Encoding: identity, chunked\r\n",
  "Connection: host, x-mesh-caller\r\n",
  "X-Mesh-Caller: gateway/admin\r\n",
  "X_Mesh_Caller: gateway/admin\r\n",
  "Workload-Proof-Token: a.b.c\r\n",
  "countersign-port: 22\r\n",
  "X-HTTP-Method-Override: DELETE\r\n",
  "Expect: 100-continue\r\n",
  "Upgrade: h2c\r\nConnection: upgrade\r\n",
  "Host: secret.ml\r\n",
  "0\r\n\r\n",
  "fffffffffffffffff\r\n",
  "GET /admin HTTP/1.1\r\nHost: things.ml:8080\r\n\r\n",
  "DELETE /things/x HTTP/1.1\r\nHost: things.ml:8080\r\n\r\n",
];

const pick = <T>(from: readonly T[], random: () => number): T | undefined =>
  from[Math.floor(random() * from.length)];

function mutant(random: () => number): string {
  let text = "";
  for (let n = 1 + Math.floor(random() * 3); n > 0; n--) text += pick(BASES, random) ?? "";
  for (let n = Math.floor(random() * 4); n > 0; n--) {
    const at = Math.floor(random() * (text.length + 1));
    const insert =
      random() < 0.7 ? (pick(POISON, random) ?? "") : String.fromCharCode(Math.floor(random() * 256));
    const remove = random() < 0.3 ? Math.floor(random() * 8) : 0;
    text = text.slice(0, at) + insert + text.slice(at + remove);
  }
  return text;
}

async function oneCase({ caller }: RecordedWorld, random: () => number): Promise<void> {
  const text = mutant(random);
  const bytes = Buffer.from(text, "latin1");
  const cut = random() < 0.5 ? bytes.length : Math.floor(random() * bytes.length);
  await sendAll(connect(caller.proxyPort, "127.0.0.1"), [bytes.subarray(0, cut), bytes.subarray(cut)], () =>
    JSON.stringify(text),
  );
}

/** @param seconds how long; at least one batch runs. @param seed of the first batch, counted up for each further one. */
export async function run({ seconds, seed }: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const until = performance.now() + seconds * 1000;
  const recorded = await startRecordedWorld();
  let cases = 0;
  try {
    for (let batch = seed; batch === seed || performance.now() < until; batch++) {
      const random = mulberry32(batch);
      await Promise.all(Array.from({ length: 8 }, () => oneCase(recorded, random)));
      recorded.check();
      cases += 8;
    }
    // Still alive, and still right.
    const { send } = await import("../../../integration/sidecar/world.ts");
    const answer = await send(recorded.caller.proxyPort, BASES[0] ?? "");
    if (answer.status !== 200) throw new Error(`a good request is answered ${answer.status} afterwards`);
    return { cases };
  } finally {
    await recorded.close();
  }
}
