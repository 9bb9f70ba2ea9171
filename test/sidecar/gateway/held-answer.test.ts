// Which refusals become pages: those of sidecars, and of them what a person can do something about.
import { describe, expect, test } from "@jest/globals";
import { proxyStatus } from "../../../sidecar/core/http/problem.ts";
import { HeldAnswer } from "../../../sidecar/gateway/held-answer.ts";
import { createField } from "../../../sidecar/wire/field.ts";

const ID = "01987654-3210-7000-8000-0123456789ab";
const PROBLEM = ["content-type", "application/problem+json"] as const;
const STATUS = ["proxy-status", proxyStatus("NO_MATCHING_ALLOW", ID)] as const;

describe("a held answer", () => {
  test.each([
    { name: "a sidecar's refusal", status: 403, fields: [PROBLEM, STATUS], decisionId: ID },
    {
      name: "a sidecar's refusal with words and its name",
      status: 503,
      fields: [["proxy-status", proxyStatus("UPSTREAM_TIMEOUT", ID, "no `way`", "notebook/nb")], PROBLEM],
      decisionId: ID,
    },
    { name: "an application's own problem", status: 403, fields: [PROBLEM], decisionId: undefined },
    {
      name: "an application's page behind a proxy of ours",
      status: 403,
      fields: [["content-type", "text/html"], STATUS],
      decisionId: undefined,
    },
    {
      name: "another proxy's words",
      status: 503,
      fields: [PROBLEM, ["proxy-status", `cdn; error=http_request_denied; details="A ${ID}"`]],
      decisionId: undefined,
    },
    {
      name: "an id that is none",
      status: 403,
      fields: [PROBLEM, ["proxy-status", 'countersign-sidecar; error=a; details="A <script>"']],
      decisionId: undefined,
    },
  ] as const)("$name", ({ status, fields, decisionId }) => {
    const held = new HeldAnswer(status);
    for (const [name, value] of fields) held.putField(createField(name, value));
    expect(held.problem()?.decisionId).toBe(decisionId);
  });

  test("is written on as it came", () => {
    const held = new HeldAnswer(403);
    held.putField(createField("x-a", "1"));
    held.putPair("x-b", "2");
    held.putField(createField("x-a", "3"));
    const written: unknown[] = [];
    held.release(
      {
        beginHeaders: (stream: string) => written.push(stream),
        putStatus: (status) => written.push(status),
        putField: ({ name, value }) => written.push([name, value]),
        putPair: (name, value) => written.push([name, value]),
        endHeaders: () => {},
        sendData: () => true,
        consumed: () => {},
        resetStream: () => {},
      },
      "the stream",
    );
    expect(written).toEqual(["the stream", 403, ["x-a", "1"], ["x-b", "2"], ["x-a", "3"]]);
  });

  test.each([
    [200, false],
    [302, false],
    [401, false],
    [403, true],
    [404, true],
    [500, false],
    [503, true],
  ])("of status %i: %s", (status, wanted) => {
    expect(HeldAnswer.isWanted(status)).toBe(wanted);
  });
});
