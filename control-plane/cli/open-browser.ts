// Opens an address in the person's browser, where there is one.
import { spawn } from "node:child_process";

/** @returns whether something was started that should show it. */
export function openBrowser(url: string, env: Readonly<Record<string, string | undefined>>): boolean {
  const command = browserCommand(process.platform, env);
  if (command === undefined) return false;
  const [program, ...args] = command;
  const child = spawn(program, [...args, url], { stdio: "ignore", detached: true });
  // The address is printed as well.
  child.on("error", () => {});
  child.unref();
  return true;
}

/** undefined: nobody sits in front of this machine. */
export function browserCommand(
  platform: string,
  env: Readonly<Record<string, string | undefined>>,
): readonly [string, ...string[]] | undefined {
  if (platform === "darwin") return ["open"];
  if (platform === "win32") return ["rundll32", "url.dll,FileProtocolHandler"];
  const isRemote = env["SSH_CONNECTION"] !== undefined;
  const hasScreen = Boolean(env["DISPLAY"]) || Boolean(env["WAYLAND_DISPLAY"]);
  return hasScreen && !isRemote ? ["xdg-open"] : undefined;
}
