// What a hostile (or broken) server may answer to make two readers disagree on where its answer ends.

/**
 * What must become of it: `passed`, the client gets it whole in our own words; `failed`, the client gets a 502 of ours;
 * `broken`, the client gets a part and the end of the connection, never what looks like a whole answer.
 */
type AnswerVerdict = "passed" | "failed" | "broken";

export interface AnswerVector {
  readonly name: string;
  readonly bytes: string;
  /** The server closes its connection behind it. */
  readonly close?: boolean;
  readonly verdict: AnswerVerdict;
  /** Of the answer that is passed on; 200 where it is not said. */
  readonly status?: number;
  /** Of the answer that is passed on; `hello` where it is not said. */
  readonly body?: string;
}

const SMUGGLED = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
const OK = "HTTP/1.1 200 OK\r\n";
const TE = "Transfer-Encoding: chunked\r\n";
const CL = "Content-Length: 5\r\n";
const CHUNKS = "5\r\nhello\r\n0\r\n\r\n";
const visible = (text: string): string => JSON.stringify(text).slice(1, -1);
const ok = (fields: string, body = ""): string => `${OK}${fields}\r\n${body}`;
const failed = (name: string, bytes: string): AnswerVector => ({ name, bytes, verdict: "failed" });
const broken = (name: string, bytes: string, close = false): AnswerVector => ({
  name,
  bytes,
  close,
  verdict: "broken",
});
const passed = (name: string, bytes: string, more: Partial<AnswerVector> = {}): AnswerVector => ({
  name,
  bytes,
  verdict: "passed",
  ...more,
});

export const ANSWERS: readonly AnswerVector[] = [
  // Two framings, odd lengths, odd codings.
  failed("length and chunked", ok(`${CL}${TE}`, CHUNKS + SMUGGLED)),
  failed("chunked and length", ok(`${TE}${CL}`, CHUNKS + SMUGGLED)),
  failed("two lengths", ok(`${CL}Content-Length: 50\r\n`, `hello${SMUGGLED}`)),
  failed("two equal lengths", ok(`${CL}${CL}`, `hello${SMUGGLED}`)),
  failed("two chunked", ok(`${TE}${TE}`, CHUNKS)),
  ...["+5", "-5", "05", "0x5", "5,5", "5 5", "five", "", "5;", "18446744073709551621"].map((value) =>
    failed(`length \`${value}\``, ok(`Content-Length: ${value}\r\n`, `hello${SMUGGLED}`)),
  ),
  ...[
    "gzip",
    "identity",
    "chunked, gzip",
    "gzip, chunked",
    "xchunked",
    "chunkedchunked",
    "",
    "\x0bchunked",
    "chunked\0",
  ].map((value) => failed(`coding \`${visible(value)}\``, ok(`Transfer-Encoding: ${value}\r\n`, CHUNKS))),
  ...["Content-Length", "Transfer-Encoding"].flatMap((name) => {
    const value = name === "Content-Length" ? "5" : "chunked";
    return [
      failed(`${name}: space before the colon`, ok(`${name} : ${value}\r\n`, CHUNKS)),
      failed(`${name}: folded`, ok(`${name}:\r\n ${value}\r\n`, CHUNKS)),
      failed(`${name}: behind a bare LF`, ok(`X: y\n${name}: ${value}\r\n`, CHUNKS)),
      failed(`${name}: behind a bare CR`, ok(`X: y\r${name}: ${value}\r\n`, CHUNKS)),
      failed(`${name}: NUL in the name`, ok(`${name}\0: ${value}\r\n`, CHUNKS)),
    ];
  }),
  // Start lines.
  ...[
    "HTP/1.1 200 OK",
    "HTTP/01.1 200 OK",
    "HTTP/11.1 200 OK",
    "HTTP/1.01 200 OK",
    "HTTP/1.1\t200 OK",
    "HTTP/5.6 200 OK",
    "HTTP/2.0 200 OK",
    "HTTP/1.1  200 OK",
    "HTTP/1.1 2 OK",
    "HTTP/1.1 2000 OK",
    "HTTP/1.1 099 OK",
    "HTTP/1.1 600 OK",
    "HTTP/1.1 +20 OK",
    "HTTP/1.1 200\0OK",
    "HTTP/1.1 200 O\rK",
    "ICY 200 OK",
    "200 OK",
    "",
  ].map((line) => failed(`start line \`${visible(line)}\``, `${line}\r\n${CL}\r\nhello`)),
  failed("only LFs", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
  failed("a space behind the start line", `${OK} X: y\r\n${CL}\r\nhello`),
  failed("a line without a colon", ok(`X\r\n${CL}`, "hello")),
  failed("NUL in a value", ok(`X: a\0b\r\n${CL}`, "hello")),
  failed("CR in a value", ok(`X: a\rb\r\n${CL}`, "hello")),
  failed("connection names its length", ok(`Connection: content-length\r\n${CL}`, "hello")),
  failed("101 fields", ok(`${"X: y\r\n".repeat(101)}${CL}`, "hello")),
  failed("a head of 17 KiB", ok(`X: ${"y".repeat(17_000)}\r\n${CL}`, "hello")),
  failed(
    "a switch of protocols that nobody asked for",
    `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n${SMUGGLED}`,
  ),
  failed("33 informational answers", `HTTP/1.1 103 Early Hints\r\n\r\n`.repeat(33) + SMUGGLED),
  failed("a body with 204", `HTTP/1.1 204 No Content\r\n${CL}\r\nhello`),
  failed("chunks with 204", `HTTP/1.1 204 No Content\r\n${TE}\r\n${CHUNKS}`),
  failed("a body with 103", `HTTP/1.1 103 Early Hints\r\n${CL}\r\nhello${SMUGGLED}`),
  failed("chunked in HTTP/1.0", `HTTP/1.0 200 OK\r\n${TE}\r\n${CHUNKS}`),
  { name: "nothing", bytes: "", close: true, verdict: "failed" },
  { name: "half a head", bytes: `${OK}Content-Le`, close: true, verdict: "failed" },
  // Bodies that are not what the head says.
  ...[
    ["a size with `0x`", "0x5\r\nhello\r\n0\r\n\r\n"],
    ["space behind a size", "5 \r\nhello\r\n0\r\n\r\n"],
    ["a size that ends in LF", "5\nhello\r\n0\r\n\r\n"],
    ["data longer than its size", "3\r\nhello\r\n0\r\n\r\n"],
    ["data without an end", "5\r\nhello0\r\n\r\n"],
    ["a size of 2^64 + 5", "10000000000000005\r\nhello\r\n0\r\n\r\n"],
    ["an extension without a name", "5;\r\nhello\r\n0\r\n\r\n"],
    ["unbalanced quotes", '5;a="b\r\nhello\r\n0\r\n\r\n'],
    ["framing in the trailers", "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"],
    ["a folded trailer", "5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n"],
  ].map(([name, body]) => broken(`chunks: ${name}`, ok(TE, `${body}${SMUGGLED}`))),
  broken("a body that is too short", ok("Content-Length: 50\r\n", "hello"), true),
  broken("chunks that stop", ok(TE, "5\r\nhello\r\n"), true),
  broken("a chunk that stops", ok(TE, "50\r\nhello"), true),
  broken("trailers that stop", ok(TE, "5\r\nhello\r\n0\r\nX: y\r\n"), true),
  // Odd, but with one meaning.
  passed("plain", ok(CL, "hello")),
  passed("chunks", ok(TE, CHUNKS)),
  passed("chunks with extensions and trailers", ok(TE, '5;a="b;c"\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n')),
  passed("until the end of the connection", ok("", "hello"), { close: true }),
  passed("HTTP/1.0 until the end", "HTTP/1.0 200 OK\r\n\r\nhello", { close: true }),
  passed("an empty reason", `HTTP/1.1 200 \r\n${CL}\r\nhello`),
  passed("no reason", `HTTP/1.1 200\r\n${CL}\r\nhello`),
  passed("two spaces before the reason", `HTTP/1.1 200  OK\r\n${CL}\r\nhello`),
  passed(
    "an informational answer before it",
    `HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n${ok(CL, "hello")}`,
  ),
  passed(
    "its own identity and hop fields",
    ok(`${CL}Keep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n`, "hello"),
  ),
  passed("204", "HTTP/1.1 204 No Content\r\n\r\n", { status: 204, body: "" }),
  passed("304 with the length of what it does not carry", `HTTP/1.1 304 Not Modified\r\n${CL}\r\n`, {
    status: 304,
    body: "",
  }),
  // What comes behind a whole answer answers nobody.
  passed("another answer behind it", ok(CL, `hello${SMUGGLED}`)),
  passed("another answer behind chunks", ok(TE, `${CHUNKS}${SMUGGLED}`)),
  passed("a body behind 204", `HTTP/1.1 204 No Content\r\n\r\nhello${SMUGGLED}`, { status: 204, body: "" }),
  passed("an answer behind 304", `HTTP/1.1 304 Not Modified\r\n\r\n${SMUGGLED}`, { status: 304, body: "" }),
  passed("half an answer behind it", ok(CL, "helloHTTP/1.1 20")),
];
