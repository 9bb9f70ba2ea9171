import { describe, expect, test } from "@jest/globals";
import type { AppSide } from "../../../sidecar/outbound/app-side.ts";
import { CallFacts } from "../../../sidecar/outbound/call-facts.ts";
import { classifyCall, readFields } from "../../../sidecar/outbound/classify-call.ts";
import type { Destination } from "../../../sidecar/outbound/resolve.ts";
import { RandomIds } from "../../../sidecar/telemetry/random-ids.ts";
import { createField } from "../../../sidecar/wire/field.ts";

const TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OTHER = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const GRPC = ["content-type", "application/grpc"] as const;

function factsOf(fields: readonly (readonly [string, string])[], upgrade?: string): CallFacts {
  const all = fields.map(([name, value]) => createField(name, value));
  const method = upgrade === undefined ? "POST" : "GET";
  return new CallFacts(
    { method, target: "/", authority: "a", fields: all, upgrade, connectionNames: [] },
    0,
    0,
  );
}

describe("the fields of a call", () => {
  test.each([
    { name: "the one it has", fields: [["traceparent", TRACE]], kept: TRACE },
    {
      name: "none of two",
      fields: [
        ["traceparent", TRACE],
        ["traceparent", OTHER],
      ],
      kept: undefined,
    },
    {
      name: "none of three",
      fields: [
        ["traceparent", TRACE],
        ["traceparent", OTHER],
        ["traceparent", TRACE],
      ],
      kept: undefined,
    },
    { name: "none that cannot be read", fields: [["traceparent", "00-zz"]], kept: undefined },
    { name: "none", fields: [], kept: undefined },
  ] as { name: string; fields: [string, string][]; kept: string | undefined }[])(
    "give it a trace: $name, else a new one",
    ({ fields, kept }) => {
      const facts = factsOf(fields);
      readFields(facts, new RandomIds());
      expect(facts.ownTrace).toBe(kept === undefined);
      if (kept !== undefined) expect(facts.traceparent).toBe(kept);
      else expect([TRACE, OTHER]).not.toContain(facts.traceparent);
      expect(facts.traceparent).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/);
    },
  );

  test.each([
    { name: "a token", fields: [["authorization", "Bearer a"]], malformed: "" },
    {
      name: "two tokens",
      fields: [
        ["authorization", "Bearer a"],
        ["authorization", "Bearer a"],
      ],
      malformed: "there is more than one Authorization field",
    },
    { name: "a deadline", fields: [GRPC, ["grpc-timeout", "2S"]], malformed: "" },
    {
      name: "two deadlines",
      fields: [GRPC, ["grpc-timeout", "2S"], ["grpc-timeout", "3S"]],
      malformed: "the grpc-timeout is malformed",
    },
    {
      name: "a deadline that is none",
      fields: [GRPC, ["grpc-timeout", "soon"]],
      malformed: "the grpc-timeout is malformed",
    },
    { name: "a deadline that means nothing", fields: [["grpc-timeout", "soon"]], malformed: "" },
  ] as { name: string; fields: [string, string][]; malformed: string }[])(
    "with $name are wrong in this: '$malformed'",
    ({ fields, malformed }) => {
      const facts = factsOf(fields);
      readFields(facts, new RandomIds());
      expect(facts.malformed).toBe(malformed);
    },
  );

  test("tell how long it may take and whose token it brings", () => {
    const facts = factsOf([GRPC, ["grpc-timeout", "2S"], ["authorization", "Bearer a"]]);
    readFields(facts, new RandomIds());
    expect([facts.timeoutMs, facts.authorization]).toEqual([2_000, "Bearer a"]);
  });
});

describe("a call whose destination is known", () => {
  const seen: unknown[] = [];
  const destinationOf = (protocol: string, isGood = true): Destination =>
    ({
      port: { protocol },
      classifier: {
        classify: (request: unknown) => {
          seen.push(request);
          return isGood
            ? { ok: true, value: { operation: { kind: "known", name: "a.read" } } }
            : { ok: false, error: "the path is malformed" };
        },
      },
      // What is asked of a destination.
    }) as unknown as Destination;
  const app = (isHttp2: boolean): Pick<AppSide, "isHttp2" | "lookup"> => ({
    isHttp2,
    lookup: () => () => undefined,
  });

  test.each([
    { protocol: "http", refused: undefined },
    { protocol: "grpc", refused: undefined },
    { protocol: "tcp", refused: "UNSUPPORTED" },
    { protocol: "tls", refused: "UNSUPPORTED" },
  ])("to a port of $protocol: $refused", ({ protocol, refused }) => {
    const facts = factsOf([]);
    expect(classifyCall(facts, app(false), destinationOf(protocol))?.reason).toBe(refused);
    expect(facts.operation).toBe(refused === undefined ? "a.read" : "unknown");
  });

  test.each([
    { name: "over HTTP/1.1 without a key", isHttp2: false, fields: [], isRefused: true },
    {
      name: "over HTTP/1.1 with a key",
      isHttp2: false,
      fields: [["sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="]],
      isRefused: false,
    },
    { name: "over HTTP/2, which has none", isHttp2: true, fields: [], isRefused: false },
  ] as { name: string; isHttp2: boolean; fields: [string, string][]; isRefused: boolean }[])(
    "that asks for a WebSocket $name is refused: $isRefused",
    ({ isHttp2, fields, isRefused }) => {
      const refused = classifyCall(factsOf(fields, "websocket"), app(isHttp2), destinationOf("http"));
      expect(refused?.reason).toBe(isRefused ? "REQ_MALFORMED" : undefined);
      if (!isRefused) expect(seen.at(-1)).toMatchObject({ method: "GET", websocket: true });
    },
  );

  test("is refused in the words of who classifies", () => {
    const refused = classifyCall(factsOf([]), app(false), destinationOf("http", false));
    expect(refused).toMatchObject({ reason: "REQ_MALFORMED", detail: "the path is malformed" });
  });
});
