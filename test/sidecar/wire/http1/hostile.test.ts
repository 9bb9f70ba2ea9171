// What an attacker may send: each row must be refused with this code, whole or byte by byte, and nothing of it may reach
// the application.
import { describe, expect, test } from "@jest/globals";
import { byteByByte, type Recorded, runRequests, runResponses } from "./recording.ts";

interface Row {
  readonly name: string;
  readonly bytes: string;
  readonly code: string;
  readonly status?: number;
  /** A head may be reported before the problem (the body is bad). */
  readonly afterHead?: boolean;
}

const H = "Host: a.example\r\n";
const get = (rest: string): string => `GET / HTTP/1.1\r\n${rest}\r\n`;
const post = (rest: string, body = ""): string => `POST /x HTTP/1.1\r\n${H}${rest}\r\n${body}`;
const chunked = (body: string): string => post("Transfer-Encoding: chunked\r\n", body);
const line = (text: string): string => `${text}\r\n${H}\r\n`;

const REQUESTS: readonly Row[] = [
  {
    name: "length and chunked",
    bytes: post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    code: "both_length_and_chunked",
  },
  {
    name: "chunked and length",
    bytes: post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
    code: "both_length_and_chunked",
  },
  {
    name: "two different lengths",
    bytes: post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
    code: "several_content_lengths",
  },
  {
    name: "two equal lengths",
    bytes: post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
    code: "several_content_lengths",
  },
  ...[
    "+5",
    "-1",
    "5,5",
    "5, 5",
    "0x5",
    "",
    "5 5",
    "5;",
    "05",
    "00",
    "1e3",
    "5.0",
    "\xb2",
    "9007199254740992",
    "99999999999999999999999",
    "five",
    '"5"',
  ].map((value) => ({
    name: `length \`${value}\``,
    bytes: post(`Content-Length: ${value}\r\n`, "hello"),
    code: "bad_content_length",
  })),
  ...[
    "gzip",
    "gzip, chunked",
    "chunked, chunked",
    "chunked, identity",
    "identity",
    "chunked;q=1",
    "xchunked",
    "chunked,",
    '"chunked"',
    "",
    ", chunked",
    "chunked chunked",
    "\x0bchunked",
  ].map((value) => ({
    name: `transfer-encoding \`${value}\``,
    bytes: post(`Transfer-Encoding: ${value}\r\n`, "0\r\n\r\n"),
    code: value.startsWith("\x0b") ? "control_character" : "bad_transfer_encoding",
  })),
  {
    name: "two transfer-encodings",
    bytes: post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
    code: "bad_transfer_encoding",
  },
  {
    name: "transfer-encoding in HTTP/1.0",
    bytes: `POST / HTTP/1.0\r\n${H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    code: "transfer_encoding_in_http10",
  },
  {
    name: "CONNECT with a body",
    bytes: "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 5\r\n\r\nhello",
    code: "unexpected_framing",
  },
  { name: "bare LF everywhere", bytes: "GET / HTTP/1.1\nHost: a\n\n", code: "bare_lf" },
  { name: "bare LF behind the request line", bytes: `GET / HTTP/1.1\n${H}\r\n`, code: "bare_lf" },
  { name: "bare LF behind a field", bytes: get("Host: a\nX: y\r\n"), code: "bare_lf" },
  { name: "empty line of a bare LF", bytes: "GET / HTTP/1.1\r\nHost: a\r\n\n", code: "bare_lf" },
  {
    name: "hidden field behind a bare LF",
    bytes: get(`${H}X: y\nTransfer-Encoding: chunked\r\n`),
    code: "bare_lf",
  },
  { name: "bare CR in a value", bytes: get(`${H}X: a\rb\r\n`), code: "bare_cr" },
  { name: "bare CR before the line end", bytes: get(`${H}X: a\r\r\n`), code: "bare_cr" },
  { name: "bare CR as a line end", bytes: get("Host: a\rX: y\r\n"), code: "bare_cr" },
  { name: "bare CR in the request line", bytes: line("GET /\r HTTP/1.1"), code: "bare_cr" },
  { name: "CR CR LF as an empty line", bytes: "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", code: "bare_cr" },
  { name: "obs-fold with a space", bytes: get(`${H}X: a\r\n b\r\n`), code: "obs_fold" },
  { name: "obs-fold with a tab", bytes: get(`${H}X: a\r\n\tb\r\n`), code: "obs_fold" },
  { name: "white space before the first field", bytes: get(` ${H}`), code: "obs_fold" },
  { name: "a line of one space", bytes: get(`${H} \r\n`), code: "obs_fold" },
  { name: "NUL in a value", bytes: get(`${H}X: a\0b\r\n`), code: "control_character" },
  { name: "NUL in a name", bytes: get(`${H}X\0: a\r\n`), code: "control_character" },
  { name: "DEL in a value", bytes: get(`${H}X: a\x7fb\r\n`), code: "control_character" },
  { name: "escape character in a value", bytes: get(`${H}X: \x1b[31m\r\n`), code: "control_character" },
  { name: "space before the colon", bytes: get(`${H}Content-Length : 5\r\n`), code: "space_before_colon" },
  { name: "tab before the colon", bytes: get(`${H}Content-Length\t: 5\r\n`), code: "space_before_colon" },
  { name: "space before the colon of Host", bytes: get("Host : a\r\n"), code: "space_before_colon" },
  { name: "empty name", bytes: get(`${H}: x\r\n`), code: "bad_field" },
  { name: "no colon", bytes: get(`${H}nonsense\r\n`), code: "bad_field" },
  { name: "space inside a name", bytes: get(`${H}X Y: z\r\n`), code: "bad_field" },
  { name: "parentheses in a name", bytes: get(`${H}X(Y): z\r\n`), code: "bad_field" },
  { name: "pseudo-header", bytes: get(`${H}:path: /admin\r\n`), code: "bad_field" },
  { name: "bytes above ASCII in a name", bytes: get(`${H}X\xe9: z\r\n`), code: "bad_field" },
  { name: "no Host", bytes: get("X: y\r\n"), code: "missing_host" },
  { name: "two Hosts", bytes: get("Host: a\r\nHost: b\r\n"), code: "several_hosts" },
  { name: "two equal Hosts", bytes: get("Host: a\r\nhost: a\r\n"), code: "several_hosts" },
  ...[
    "",
    "a b",
    "a,b",
    "a/b",
    "a:b",
    "a:",
    "a:0",
    "a:080",
    "a:65536",
    "a:99999999",
    "a:-1",
    "a:80:80",
    "[::1",
    "::1",
    "[::g]",
    "[fe80::1%25eth0]",
    "[1:2:3]",
    "[::1]x",
    "a..b",
    ".a",
    "a%2eb",
    "a?b",
    "a#b",
    "a\\b",
    "ä",
    "a;b",
    "a'b",
    "x".repeat(256),
  ].map((value) => ({
    name: `host \`${value.slice(0, 20)}\``,
    bytes: get(`Host: ${value}\r\n`),
    code: "bad_authority",
  })),
  { name: "user information in Host", bytes: get("Host: user@a\r\n"), code: "userinfo" },
  {
    name: "user information in the target",
    bytes: "GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    code: "userinfo",
  },
  {
    name: "absolute-form for another host",
    bytes: "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    code: "host_mismatch",
  },
  {
    name: "absolute-form for another port",
    bytes: "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n",
    code: "host_mismatch",
  },
  {
    name: "CONNECT for another host",
    bytes: "CONNECT b:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    code: "host_mismatch",
  },
  { name: "absolute-form without Host", bytes: "GET http://a/ HTTP/1.1\r\n\r\n", code: "missing_host" },
  { name: "absolute-form without authority", bytes: line("GET http:///x HTTP/1.1"), code: "bad_authority" },
  ...[
    "https://a.example/",
    "ftp://a.example/",
    "file:///etc/passwd",
    "a",
    "x/y",
    "*",
    "?a=b",
    "a.example:80",
    "\\\\a\\b",
    "/a#b",
    "/\x80",
    "/\xff",
  ].map((target) => ({
    name: `target \`${target}\``,
    bytes: line(`GET ${target} HTTP/1.1`),
    code: "bad_target",
  })),
  { name: "CONNECT in origin-form", bytes: line("CONNECT / HTTP/1.1"), code: "bad_authority" },
  { name: "CONNECT without a port", bytes: "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", code: "bad_target" },
  { name: "space in the target", bytes: line("GET /a b HTTP/1.1"), code: "bad_request_line" },
  { name: "tab in the target", bytes: line("GET /a\tb HTTP/1.1"), code: "bad_target" },
  { name: "two spaces behind the method", bytes: line("GET  / HTTP/1.1"), code: "bad_request_line" },
  { name: "two spaces behind the target", bytes: line("GET /  HTTP/1.1"), code: "bad_request_line" },
  { name: "space at the end of the line", bytes: line("GET / HTTP/1.1 "), code: "bad_request_line" },
  { name: "leading space", bytes: line(" GET / HTTP/1.1"), code: "bad_method" },
  { name: "no version (HTTP/0.9)", bytes: line("GET /"), code: "bad_request_line" },
  { name: "no target", bytes: line("GET HTTP/1.1"), code: "bad_request_line" },
  { name: "lower-case version", bytes: line("GET / http/1.1"), code: "bad_version" },
  { name: "version without minor", bytes: line("GET / HTTP/1"), code: "bad_version" },
  { name: "long version", bytes: line("GET / HTTP/1.10"), code: "bad_version" },
  { name: "another protocol", bytes: line("GET / ICAP/1.0"), code: "bad_version" },
  { name: "version 1.2", bytes: line("GET / HTTP/1.2"), code: "unsupported_version", status: 505 },
  { name: "version 0.9", bytes: line("GET / HTTP/0.9"), code: "unsupported_version", status: 505 },
  {
    name: "HTTP/2 preface",
    bytes: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    code: "unsupported_version",
    status: 505,
  },
  { name: "method with a separator", bytes: line("GE(T / HTTP/1.1"), code: "bad_method" },
  { name: "method with a high byte", bytes: line("G\xc9T / HTTP/1.1"), code: "bad_method" },
  { name: "method of 33 bytes", bytes: line(`${"A".repeat(33)} / HTTP/1.1`), code: "bad_method" },
  { name: "two empty lines first", bytes: `\r\n\r\nGET / HTTP/1.1\r\n${H}\r\n`, code: "bad_request_line" },
  { name: "bare LF first", bytes: `\nGET / HTTP/1.1\r\n${H}\r\n`, code: "bare_lf" },
  {
    name: "TLS on a plaintext port",
    bytes: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    code: "control_character",
  },
  {
    name: "target of 8193 bytes",
    bytes: line(`GET /${"a".repeat(8192)} HTTP/1.1`),
    code: "target_too_long",
    status: 414,
  },
  { name: "endless target", bytes: `GET /${"a".repeat(20_000)}`, code: "target_too_long", status: 414 },
  {
    name: "endless field",
    bytes: `GET / HTTP/1.1\r\n${H}X: ${"a".repeat(20_000)}`,
    code: "head_too_large",
    status: 431,
  },
  {
    name: "head above the limit",
    bytes: get(
      `${H}${"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(0)}${`X: ${"a".repeat(5990)}\r\n`.repeat(3)}`,
    ),
    code: "head_too_large",
    status: 431,
  },
  { name: "101 fields", bytes: get(`${H}${"X: y\r\n".repeat(100)}`), code: "too_many_fields", status: 431 },
  {
    name: "endless fields",
    bytes: `GET / HTTP/1.1\r\n${"X: y\r\n".repeat(200)}`,
    code: "too_many_fields",
    status: 431,
  },
  ...[
    "authorization",
    "Host",
    "content-length",
    "Transfer-Encoding",
    "x-mesh-caller",
    "X_Mesh_Caller",
    "workload-proof-token",
    "txn-token",
    "cookie",
    "close, Authorization",
  ].map((value) => ({
    name: `connection naming \`${value}\``,
    bytes: get(`${H}Connection: ${value}\r\n`),
    code: "protected_connection_name",
  })),
  { name: "connection with a non-token", bytes: get(`${H}Connection: a b\r\n`), code: "bad_connection" },
  ...[
    "",
    " 5",
    "5 ",
    "+5",
    "-5",
    "0x5",
    "5\t",
    "g",
    "\n",
    "\r\n",
    "11111111111111111",
    "20000000000000",
    "fffffffffffffff",
    "00000000000000005",
    "5 ;a",
  ].map((size) => ({
    name: `chunk size \`${JSON.stringify(size)}\``,
    bytes: chunked(`${size}\r\nhello\r\n0\r\n\r\n`),
    code: "bad_chunk_size",
    afterHead: true,
  })),
  {
    name: "chunk size ending in bare LF",
    bytes: chunked("5\nhello\r\n0\r\n\r\n"),
    code: "bad_chunk_size",
    afterHead: true,
  },
  {
    name: "chunk size ending in bare CR",
    bytes: chunked("5\rhello\r\n0\r\n\r\n"),
    code: "bad_chunk_size",
    afterHead: true,
  },
  {
    name: "chunk without CRLF",
    bytes: chunked("5\r\nhello0\r\n\r\n"),
    code: "bad_chunk_end",
    afterHead: true,
  },
  {
    name: "chunk ending in bare LF",
    bytes: chunked("5\r\nhello\n0\r\n\r\n"),
    code: "bad_chunk_end",
    afterHead: true,
  },
  {
    name: "chunk longer than its size",
    bytes: chunked("4\r\nhello\r\n0\r\n\r\n"),
    code: "bad_chunk_end",
    afterHead: true,
  },
  {
    name: "endless extension",
    bytes: chunked(`5;a=${"b".repeat(5000)}`),
    code: "chunk_extensions_too_long",
    afterHead: true,
  },
  {
    name: "extensions on each of many chunks",
    bytes: chunked(`1;a=${"b".repeat(100)}\r\nx\r\n`.repeat(50)),
    code: "chunk_extensions_too_long",
    afterHead: true,
  },
  ...[
    "5;\r\n",
    "5;=a\r\n",
    "5;a=\r\n",
    '5;a="b\r\n',
    "5;a b\r\n",
    "5;a=b c\r\n",
    "5; a\r\n",
    "5;a\n",
    '5;a="b\n"\r\n',
    '5;a="b"c\r\n',
    "5;\0\r\n",
  ].map((size) => ({
    name: `chunk extension \`${JSON.stringify(size)}\``,
    bytes: chunked(`${size}hello\r\n0\r\n\r\n`),
    code: "bad_chunk_extension",
    afterHead: true,
  })),
  ...[
    "Content-Length: 5",
    "Transfer-Encoding: chunked",
    "Host: b",
    "Authorization: x",
    "Connection: close",
    "X-Mesh-Caller: admin",
    "x_mesh_caller: admin",
    "Workload-Proof-Token: x",
    "Txn-Token: x",
    "Cookie: a=b",
    "Content-Type: text/html",
    "Trailer: x",
    "X-HTTP-Method-Override: DELETE",
    "X-Forwarded-For: 1.1.1.1",
  ].map((field) => ({
    name: `trailer \`${field}\``,
    bytes: chunked(`0\r\n${field}\r\n\r\n`),
    code: "forbidden_trailer",
    afterHead: true,
  })),
  {
    name: "malformed trailer",
    bytes: chunked("0\r\nX : y\r\n\r\n"),
    code: "space_before_colon",
    afterHead: true,
  },
  { name: "folded trailer", bytes: chunked("0\r\nX: y\r\n z\r\n\r\n"), code: "obs_fold", afterHead: true },
  { name: "trailer with bare LF", bytes: chunked("0\r\nX: y\n\r\n"), code: "bare_lf", afterHead: true },
  { name: "body ended by bare LF", bytes: chunked("0\r\n\n"), code: "bare_lf", afterHead: true },
  {
    name: "endless trailer",
    bytes: chunked(`0\r\nX: ${"a".repeat(9000)}`),
    code: "trailers_too_large",
    afterHead: true,
  },
  {
    name: "endless trailers",
    bytes: chunked(`0\r\n${"X: y\r\n".repeat(101)}`),
    code: "trailers_too_large",
    afterHead: true,
  },
];

const ok = "HTTP/1.1 200 OK\r\n";
const RESPONSES: readonly Row[] = [
  {
    name: "length and chunked",
    bytes: `${ok}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n`,
    code: "both_length_and_chunked",
  },
  {
    name: "two lengths",
    bytes: `${ok}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx`,
    code: "several_content_lengths",
  },
  {
    name: "gzip transfer coding",
    bytes: `${ok}Transfer-Encoding: gzip, chunked\r\n\r\n`,
    code: "bad_transfer_encoding",
  },
  {
    name: "chunked in HTTP/1.0",
    bytes: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    code: "transfer_encoding_in_http10",
  },
  {
    name: "204 with a body",
    bytes: "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello",
    code: "unexpected_framing",
  },
  {
    name: "100 with a body",
    bytes: "HTTP/1.1 100 Go\r\nContent-Length: 5\r\n\r\nhello",
    code: "unexpected_framing",
  },
  { name: "status of two digits", bytes: "HTTP/1.1 20 OK\r\n\r\n", code: "bad_status_line" },
  { name: "status of four digits", bytes: "HTTP/1.1 2000 OK\r\n\r\n", code: "bad_status_line" },
  { name: "status 099", bytes: "HTTP/1.1 099 OK\r\n\r\n", code: "bad_status_line" },
  { name: "status 600", bytes: "HTTP/1.1 600 OK\r\n\r\n", code: "bad_status_line" },
  { name: "status with a sign", bytes: "HTTP/1.1 +20 OK\r\n\r\n", code: "bad_status_line" },
  { name: "no protocol", bytes: "200 OK\r\n\r\n", code: "bad_status_line" },
  { name: "empty line first", bytes: `\r\n${ok}\r\n`, code: "bad_status_line" },
  { name: "version 2.0", bytes: "HTTP/2.0 200 OK\r\n\r\n", code: "unsupported_version" },
  { name: "bare LF", bytes: "HTTP/1.1 200 OK\nContent-Length: 0\n\n", code: "bare_lf" },
  { name: "NUL in the reason", bytes: "HTTP/1.1 200 O\0K\r\n\r\n", code: "control_character" },
  { name: "obs-fold", bytes: `${ok}X: a\r\n b\r\n\r\n`, code: "obs_fold" },
  {
    name: "too many informational",
    bytes: "HTTP/1.1 103 E\r\n\r\n".repeat(33),
    code: "too_many_informational",
    afterHead: true,
  },
  {
    name: "bytes behind the response",
    bytes: `${ok}Content-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n`,
    code: "unexpected_response",
    afterHead: true,
  },
  {
    name: "body behind a 304",
    bytes: "HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\nhello",
    code: "unexpected_response",
    afterHead: true,
  },
  {
    name: "bad chunk",
    bytes: `${ok}Transfer-Encoding: chunked\r\n\r\nzz\r\n`,
    code: "bad_chunk_size",
    afterHead: true,
  },
];

function expectRefused(events: readonly Recorded[], row: Row): void {
  const problems = events.filter((event) => event.kind === "problem");
  expect(problems).toEqual([{ kind: "problem", code: row.code, status: expect.any(Number) }]);
  if (row.status !== undefined) expect(problems[0]).toMatchObject({ status: row.status });
  expect(events.at(-1)?.kind).toBe("problem");
  if (!row.afterHead) expect(events).toHaveLength(1);
}

describe("hostile requests", () => {
  test("are more than eighty", () => expect(REQUESTS.length).toBeGreaterThan(80));

  test.each(REQUESTS)("$name", (row) => {
    const bytes = Buffer.from(row.bytes, "latin1");
    expectRefused(runRequests([bytes]), row);
    expectRefused(runRequests(byteByByte(bytes)), row);
    // What follows a refused message is never read as a request.
    const more = Buffer.from("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    expectRefused(runRequests([Buffer.concat([bytes, more]), more]), row);
  });
});

describe("hostile responses", () => {
  test.each(RESPONSES)("$name", (row) => {
    const bytes = Buffer.from(row.bytes, "latin1");
    expectRefused(runResponses(["GET"], [bytes]), row);
    expectRefused(runResponses(["GET"], byteByByte(bytes)), row);
  });
});
