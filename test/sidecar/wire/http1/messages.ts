// Arbitrary valid messages, for the properties and the fuzz target: bytes together with what the parser must report.
import fc from "fast-check";

export interface Message {
  readonly head: string;
  /** As it goes over the wire. */
  readonly wire: string;
  readonly body: string;
  readonly trailers: readonly string[];
}

const token = fc.stringMatching(/^[a-z][a-z0-9-]{0,12}$/).map((name) => `x-${name}`);
const value = fc.stringMatching(/^([!-~]([ -~]{0,30}[!-~])?)?$/);
const field = fc.tuple(token, value).map(([name, text]) => `${name}: ${text}`);
const fields = fc.array(field, { maxLength: 6 });
const path = fc.stringMatching(/^\/[a-z0-9/._~%=&?-]{0,40}$/);
const bytes = fc.uint8Array({ maxLength: 60 }).map((data) => Buffer.from(data).toString("latin1"));
const extension = fc.constantFrom("", ";a", ";a=b", ';a="b c"', ';a="\\""');

type Body = Pick<Message, "wire" | "body" | "trailers"> & { readonly framing: string };

const none: fc.Arbitrary<Body> = fc.constant({ framing: "", wire: "", body: "", trailers: [] });
const sized: fc.Arbitrary<Body> = bytes.map((body) => {
  return { framing: `Content-Length: ${body.length}\r\n`, wire: body, body, trailers: [] };
});
const chunked: fc.Arbitrary<Body> = fc
  .tuple(fc.array(fc.tuple(bytes, extension), { maxLength: 4 }), fields)
  .map(([chunks, trailers]) => {
    const full = chunks.filter(([data]) => data !== "");
    const data = full.map(([text, ext]) => `${text.length.toString(16)}${ext}\r\n${text}\r\n`).join("");
    return {
      framing: "transfer-encoding: Chunked\r\n",
      wire: `${data}0\r\n${trailers.map((t) => `${t}\r\n`).join("")}\r\n`,
      body: full.map(([text]) => text).join(""),
      trailers,
    };
  });

function message(start: string, own: readonly string[], body: Body): Message {
  const head = `${start}\r\n${own.map((f) => `${f}\r\n`).join("")}${body.framing}\r\n`;
  return { head, wire: head + body.wire, body: body.body, trailers: body.trailers };
}

/** A request that breaks no rule. */
export const validRequest: fc.Arbitrary<Message> = fc
  .tuple(fc.constantFrom("GET", "POST", "PUT", "X-CUSTOM"), path, fields, fc.oneof(none, sized, chunked))
  .map(([method, target, own, body]) =>
    message(`${method} ${target} HTTP/1.1`, ["Host: a.example:8080", ...own], body),
  );

/** A response to GET with a framing of its own. */
export const validResponse: fc.Arbitrary<Message> = fc
  .tuple(fc.constantFrom("200 OK", "404 ", "500 Oh no", "201"), fields, fc.oneof(sized, chunked))
  .map(([status, own, body]) => message(`HTTP/1.1 ${status}`, own, body));
