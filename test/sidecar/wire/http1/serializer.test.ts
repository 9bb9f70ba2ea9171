import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { createField } from "../../../../sidecar/wire/field.ts";
import {
  CHUNK_END,
  CHUNKED_LINE,
  chunkHeader,
  contentLengthLine,
  lastChunk,
  requestLine,
  statusLine,
} from "../../../../sidecar/wire/http1/serializer.ts";
import { runRequests, runResponses } from "./recording.ts";

describe("serializer", () => {
  test("writes status lines that the parser reads back", () => {
    for (let status = 200; status < 600; status++) {
      const text = `${statusLine(status)}${status === 204 ? "" : contentLengthLine(0)}\r\n`;
      expect(runResponses(["GET"], [Buffer.from(text)])[0]).toMatchObject({ kind: "head", head: { status } });
    }
    expect(statusLine(99)).toBe("HTTP/1.1 502 Bad Gateway\r\n");
    expect(statusLine(1000)).toBe("HTTP/1.1 502 Bad Gateway\r\n");
  });

  test.each([
    ["GET", "/ HTTP/1.1\r\nHost: evil\r\n\r\nGET /"],
    ["GET", "/a b"],
    ["GET", "/a\n"],
    ["GET", ""],
    ["GET /x HTTP/1.1\r\nA: b", "/"],
    ["", "/"],
  ])("refuses to write the request line %j %j", (method, target) => {
    expect(() => requestLine(method, target)).toThrow(expect.objectContaining({ code: "protocol_error" }));
  });

  test("writes chunks and trailers that the parser reads back", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 300 })), (chunks) => {
        const data = chunks.map((c) => Buffer.from(c).toString("latin1"));
        const text =
          requestLine("POST", "/x") +
          `host: a\r\n${CHUNKED_LINE}\r\n` +
          data.map((d) => chunkHeader(d.length) + d + CHUNK_END).join("") +
          lastChunk([
            createField("x-sum", "1"),
            createField("host", "b"),
            createField("x-mesh-caller", "admin"),
          ]);
        const events = runRequests([Buffer.from(text, "latin1")]);
        expect(events.at(-1)).toEqual({ kind: "end", trailers: ["x-sum: 1"] });
        expect(events.flatMap((event) => (event.kind === "body" ? [event.text] : [])).join("")).toBe(
          data.join(""),
        );
      }),
    );
  });
});
