import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { gatewayUrl } from "../../../control-plane/cli/gateway-client.ts";
import { forgetLogin, keepLogin, loginsFile, readLogins } from "../../../control-plane/cli/kept-logins.ts";
import { browserCommand } from "../../../control-plane/cli/open-browser.ts";

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "countersign-logins-"));
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

const loginAt = (gateway: string) => ({
  ...{ gateway, token: `countersign_${"t".repeat(43)}`, user: "acme|alice" },
  ...{ expiresMs: 1_790_000_000_000, caFile: undefined },
});

test("logins are kept by gateway, for their owner alone, and forgotten one by one", () => {
  const file = loginsFile({ XDG_CONFIG_HOME: home });
  expect(readLogins(file)).toEqual({ current: undefined, logins: new Map() });
  const [a, b] = [loginAt("https://a.example"), loginAt("https://b.example:8443")];
  keepLogin(file, a);
  keepLogin(file, b);
  expect(readLogins(file)).toEqual({
    current: b.gateway,
    logins: new Map([
      [a.gateway, a],
      [b.gateway, b],
    ]),
  });
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(statSync(dirname(file)).mode & 0o777).toBe(0o700);
  forgetLogin(file, b.gateway);
  expect(readLogins(file)).toEqual({ current: b.gateway, logins: new Map([[a.gateway, a]]) });
  expect(readdirSync(dirname(file))).toEqual(["logins.json"]);
});

test.each(["", "{", "[]", '{"logins":{"https://a":{"token":1,"expiresAt":"x"}}}'])(
  "a file with `%s` in it holds no login",
  (text) => {
    const file = join(home, "logins.json");
    writeFileSync(file, text);
    expect(readLogins(file).logins.size).toBe(0);
  },
);

test("the file is where others keep theirs", () => {
  expect(loginsFile({ HOME: "/home/a" })).toBe("/home/a/.config/countersign/logins.json");
  expect(loginsFile({ HOME: "/home/a", XDG_CONFIG_HOME: "/c" })).toBe("/c/countersign/logins.json");
});

test.each([
  ["lab.example", "https://lab.example"],
  ["https://Lab.Example/tree?x=1", "https://lab.example"],
  ["lab.example:8443", "https://lab.example:8443"],
])("the gateway of `%s`", (typed, url) => {
  expect(gatewayUrl(typed)).toBe(url);
});

test.each(["http://lab.example", "https://user@lab.example", "https://", "ftp://x", "a b"])(
  "`%s` is no gateway",
  (typed) => {
    expect(() => gatewayUrl(typed)).toThrow("no address of a gateway");
  },
);

test.each([
  ["linux", {}, undefined],
  ["linux", { DISPLAY: ":0" }, "xdg-open"],
  ["linux", { DISPLAY: ":0", SSH_CONNECTION: "10.0.0.1 1 10.0.0.2 22" }, undefined],
  ["linux", { WAYLAND_DISPLAY: "wayland-0" }, "xdg-open"],
  ["darwin", {}, "open"],
  ["win32", {}, "rundll32"],
])("on %s with %p the browser is opened by %p", (platform, env, program) => {
  expect(browserCommand(platform, env)?.[0]).toBe(program);
});
