import { describe, expect, test } from "@jest/globals";
import { applyRules, type RunProgram } from "../../../sidecar/capture/apply.ts";
import { PROXY_UID } from "../../../sidecar/capture/rules.ts";

const settings = { proxyUid: PROXY_UID, excludeOutboundPorts: [], excludeInboundPorts: [] };

/** Small working iptables: keeps the nat table of each program as the lines that `-S` prints. */
function fakeIptables(broken: readonly string[] = [], lost: readonly string[] = []) {
  const tables = new Map<string, string[]>();
  const restored: string[] = [];
  const run: RunProgram = (program, args, input) => {
    const name = program.replace("-restore", "");
    if (broken.includes(name)) return { status: 1, stdout: "", stderr: "# Warning\nno such  module" };
    const lines = tables.get(name) ?? [];
    if (!program.endsWith("-restore")) return { status: 0, stdout: lines.join("\n"), stderr: "" };
    expect(args).toContain("--noflush");
    restored.push(name);
    if (lost.includes(name)) return { status: 0, stdout: "", stderr: "" };
    let next = [...lines];
    for (const line of input.split("\n")) {
      const chain = /^:(\S+)/.exec(line)?.[1];
      if (chain !== undefined) next = next.filter((one) => !one.startsWith(`-A ${chain} `));
      if (line.startsWith("-A ")) next.push(line);
      if (line.startsWith("-D ")) {
        const at = next.indexOf(`-A ${line.slice(3)}`);
        if (at < 0) return { status: 2, stdout: "", stderr: "bad rule" };
        next.splice(at, 1);
      }
      if (line.startsWith("-I ")) next.unshift(`-A ${line.slice(3)}`);
    }
    tables.set(name, next);
    return { status: 0, stdout: "", stderr: "" };
  };
  return { run, tables, restored };
}

describe("applyRules", () => {
  test("takes nft where it works, and doing it twice changes nothing", () => {
    const { run, tables } = fakeIptables();
    expect(applyRules(settings, "ipv4", run)).toBe("nft");
    const once = tables.get("iptables-nft");
    expect(applyRules(settings, "ipv4", run)).toBe("nft");
    expect(tables.get("iptables-nft")).toEqual(once);
    expect([...tables.keys()]).toEqual(["iptables-nft"]);
  });

  test("takes legacy where nft does not work, and stays with it when nft works later", () => {
    const first = fakeIptables(["ip6tables-nft"]);
    expect(applyRules(settings, "ipv6", first.run)).toBe("legacy");
    const later = fakeIptables();
    later.tables.set("ip6tables-legacy", first.tables.get("ip6tables-legacy") ?? []);
    expect(applyRules(settings, "ipv6", later.run)).toBe("legacy");
    expect(later.restored).toEqual(["ip6tables-legacy"]);
  });

  test("does not believe a program that says yes and has no rules afterwards", () => {
    const { run } = fakeIptables([], ["iptables-nft"]);
    expect(applyRules(settings, "ipv4", run)).toBe("legacy");
  });

  test("says what each program said when none works", () => {
    const { run } = fakeIptables(["iptables-nft", "iptables-legacy"]);
    expect(() => applyRules(settings, "ipv4", run)).toThrow(
      "cannot capture IPv4: iptables-nft: ended with 1 (no such module); iptables-legacy: ended with 1 (no such module)",
    );
  });
});
