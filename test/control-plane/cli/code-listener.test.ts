import { request } from "node:http";
import { describe, expect, test } from "@jest/globals";
import { codeIn, listenForCode } from "../../../control-plane/cli/code-listener.ts";

const STATE = "state-of-this-login";

describe("the answer in an address", () => {
  test.each([
    ["a code", `http://127.0.0.1:4000/callback?code=abc&state=${STATE}`, { code: "abc" }],
    ["a path", `/callback?code=abc&state=${STATE}`, { code: "abc" }],
    ["a refusal", `/callback?error=access_denied&state=${STATE}`, { error: "access_denied" }],
    ["nothing", `/callback?state=${STATE}`, { error: "no code came back" }],
    ["another login's", "/callback?code=abc&state=other", undefined],
    ["no state", "/callback?code=abc", undefined],
    ["another path", `/favicon.ico?code=abc&state=${STATE}`, undefined],
    ["words", "what is this", undefined],
  ])("%s", (_, address, expected) => {
    expect(codeIn(address, STATE)).toEqual(expected);
  });
});

function get(url: string, host?: string): Promise<number> {
  return new Promise((resolve, reject) => {
    request(url, { agent: false, headers: host === undefined ? {} : { host } }, (answer) =>
      answer.resume().on("end", () => resolve(answer.statusCode ?? 0)),
    )
      .on("error", reject)
      .end();
  });
}

test("the listener takes the one answer that belongs to its login, whatever else is asked of it", async () => {
  const listener = await listenForCode(STATE);
  try {
    const { redirectUri } = listener;
    expect(redirectUri).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/callback$/);
    const mine = `${redirectUri}?code=mine&state=${STATE}`;
    expect(await get(`${redirectUri}?code=evil&state=guessed`)).toBe(404);
    // By another name for this address: a page that had its name resolved to it.
    expect(await get(mine.replace("mine", "rebound"), "evil.example")).toBe(404);
    expect(await get(redirectUri.replace("/callback", "/"))).toBe(404);
    expect(await get(mine)).toBe(200);
    expect(await listener.answer).toEqual({ code: "mine" });
  } finally {
    listener.close();
  }
});
