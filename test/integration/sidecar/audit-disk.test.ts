// `audit.mode: Required` on a disk that fills up: calls are refused from then on and allowed when there is room again, and no
// line is read together with the beginning of one that broke off.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { leaveOut } from "../../left-out.ts";
import { ALLOW_READ, type App, hello, type ServiceSpec, send, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const THINGS: ServiceSpec = { namespace: "ml", kind: "serving", name: "things", ports: [8080] };
const REQUIRED: ProgramPolicy = {
  ...ALLOW_READ,
  rules: ALLOW_READ.rules.map((rule) => ({
    ...rule,
    with: { audit: { level: "Metadata", sample: 1, mode: "Required" } },
  })),
};

const dir = mkdtempSync(join(tmpdir(), "countersign-disk-"));
let isMounted = false;
try {
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", dir], { stdio: "ignore" });
  isMounted = true;
} catch {
  leaveOut("audit on a full disk: needs the right to mount a tmpfs");
}

let world: World;
beforeAll(async () => {
  world = await World.create();
});
afterAll(async () => {
  await world.close();
  if (isMounted) execFileSync("umount", [dir]);
  rmSync(dir, { recursive: true, force: true });
});

(isMounted ? test : test.skip)(
  "a full disk refuses calls, and every line before and after it is whole",
  async () => {
    const auditFile = join(dir, "audit.jsonl");
    const filler = join(dir, "filler");
    writeFileSync(filler, Buffer.alloc(32_768));
    const app: App = await world.app(hello);
    const callee = await world.sidecar(THINGS, { app, config: { auditFile } });
    const caller = await world.sidecar(NOTEBOOK);
    const bundle = world.authority.bundle.json;
    callee.plane.setTable(table({ self: THINGS, policies: [REQUIRED], bundle }));
    caller.plane.setTable(
      table({ self: NOTEBOOK, services: [{ service: THINGS, meshPort: callee.meshPort }], bundle }),
    );
    const get = (): ReturnType<typeof send> =>
      send(caller.proxyPort, "GET http://things.ml:8080/things/a HTTP/1.1\r\nhost: things.ml:8080\r\n\r\n");
    let forwarded = 0;
    let refused = await get();
    for (; refused.status === 200 && forwarded < 200; refused = await get()) forwarded++;
    expect([refused.status, refused.body]).toEqual([503, expect.stringContaining("AUDIT_UNAVAILABLE")]);
    expect((await get()).status).toBe(503);
    expect(app.heads).toHaveLength(forwarded);
    rmSync(filler);
    await callee.plane.flush(); // what is left of the outage
    expect((await get()).status).toBe(200);
    await callee.plane.flush();
    const lines = readFileSync(auditFile, "utf8").trimEnd().split("\n");
    const broken = lines.filter((line) => {
      try {
        JSON.parse(line);
        return false;
      } catch {
        return true;
      }
    });
    // The one that broke off stands alone on its line; nobody was told that it is safe.
    expect(broken.length).toBeLessThanOrEqual(2);
    const intents = lines.filter(
      (line) => line.includes('"dev.countersign.intent.v1"') && !broken.includes(line),
    );
    expect(intents.length).toBeGreaterThanOrEqual(forwarded + 1);
    expect(JSON.parse(lines.at(-1) ?? "")).toMatchObject({ type: "dev.countersign.invocation.v1" });
  },
);
