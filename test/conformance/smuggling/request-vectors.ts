// What a hostile client may send over HTTP/1.1 to make two readers disagree on where a request ends, whom it is for or
// what it asks. `smuggled` stands in whatever must never become a request of its own.

/**
 * What must become of it: `passed`, each request of it answered and the connection good for the next one; `refused`, not a
 * byte reaches the application and the connection ends; `cut`, the head is good but what follows is not, so the
 * application sees no whole request and the connection ends.
 */
export type Verdict = "passed" | "refused" | "cut";

export interface RequestVector {
  readonly name: string;
  readonly bytes: string;
  readonly verdict: Verdict;
  /** Requests in it that are answered; 1 where it is not said. */
  readonly answers?: number;
}

const HOST = "Host: things.ml\r\n";
const SMUGGLED = "GET /things/smuggled HTTP/1.1\r\nHost: things.ml\r\n\r\n";
const TE = "Transfer-Encoding: chunked\r\n";
const CHUNKS = "5\r\nhello\r\n0\r\n\r\n";

const get = (fields: string, target = "/things/v"): string => `GET ${target} HTTP/1.1\r\n${fields}\r\n`;
const post = (fields: string, body: string): string =>
  `POST /things/v HTTP/1.1\r\n${HOST}${fields}\r\n${body}`;
const length = (body: string): string => `Content-Length: ${body.length}\r\n`;

const refused = (name: string, bytes: string): RequestVector => ({ name, bytes, verdict: "refused" });
const cut = (name: string, bytes: string): RequestVector => ({ name, bytes, verdict: "cut" });
const passed = (name: string, bytes: string, answers = 1): RequestVector => ({
  name,
  bytes,
  verdict: "passed",
  answers,
});
const visible = (text: string): string => JSON.stringify(text).slice(1, -1);

/** Content-Length and Transfer-Encoding in one request, in every order, case and number. */
const TWO_FRAMINGS: readonly RequestVector[] = [
  ["length before chunked", `Content-Length: 6\r\n${TE}`, `0\r\n\r\nX${SMUGGLED}`],
  ["chunked before length", `${TE}Content-Length: 4\r\n`, `5c\r\n${SMUGGLED}\r\n0\r\n\r\n`],
  ["length of zero and chunked", `Content-Length: 0\r\n${TE}`, `${CHUNKS}${SMUGGLED}`],
  ["lower case", "content-length: 6\r\ntransfer-encoding: chunked\r\n", `0\r\n\r\n${SMUGGLED}`],
  ["upper case", "CONTENT-LENGTH: 6\r\nTRANSFER-ENCODING: CHUNKED\r\n", `0\r\n\r\n${SMUGGLED}`],
  ["with other fields between", `Content-Length: 6\r\nX-A: b\r\n${TE}`, `0\r\n\r\n${SMUGGLED}`],
  ["identity and a length", "Transfer-Encoding: identity\r\nContent-Length: 5\r\n", `hello${SMUGGLED}`],
  ["a length and an empty coding", "Content-Length: 5\r\nTransfer-Encoding:\r\n", `hello${SMUGGLED}`],
  ["two equal lengths", "Content-Length: 5\r\nContent-Length: 5\r\n", `hello${SMUGGLED}`],
  ["two different lengths", "Content-Length: 0\r\nContent-Length: 50\r\n", SMUGGLED],
  ["two lengths the other way round", "Content-Length: 50\r\nContent-Length: 0\r\n", SMUGGLED],
  ["two chunked", `${TE}${TE}`, `${CHUNKS}${SMUGGLED}`],
].map(([name = "", fields = "", body = ""]) => refused(`two framings: ${name}`, post(fields, body)));

/** Values of Content-Length that some servers read and others do not. */
const LENGTHS: readonly RequestVector[] = [
  "+5",
  "-5",
  "05",
  "005",
  "0x5",
  "5;",
  "5,",
  "5,5",
  "5, 5",
  "5 5",
  "5\t5",
  "5.0",
  "5e0",
  "0b101",
  "5_0",
  "\xb25",
  "5\xa0",
  '"5"',
  "five",
  "",
  "9007199254740993",
  "18446744073709551617",
  "4294967301",
  "-0",
  "0,0",
  "5\x0b",
  "5\x0c",
  "5\0",
].flatMap((value) =>
  // A length that can be read but never comes would swallow the probe: it is not refused, and not in this table.
  value === "4294967301"
    ? []
    : [refused(`length \`${visible(value)}\``, post(`Content-Length: ${value}\r\n`, `hello${SMUGGLED}`))],
);

/** Names that are nearly, or for some servers exactly, those of framing. */
const NAMES: readonly RequestVector[] = [
  ...["Content-Length", "Transfer-Encoding"].flatMap((name) => {
    const value = name === "Content-Length" ? "50" : "chunked";
    return [
      ["space before the colon", `${name} : ${value}\r\n`],
      ["tab before the colon", `${name}\t: ${value}\r\n`],
      ["space before the name", ` ${name}: ${value}\r\n`],
      ["tab before the name", `\t${name}: ${value}\r\n`],
      ["NUL in the name", `${name}\0: ${value}\r\n`],
      ["CR in the name", `${name.replace("-", "\r")}: ${value}\r\n`],
      ["CR behind the name", `${name}\r: ${value}\r\n`],
      ["LF behind the name", `${name}\n: ${value}\r\n`],
      ["vertical tab before the name", `\x0b${name}: ${value}\r\n`],
      ["no-break space behind the name", `${name}\xa0: ${value}\r\n`],
      ["behind a bare LF", `X: y\n${name}: ${value}\r\n`],
      ["behind a bare CR", `X: y\r${name}: ${value}\r\n`],
      ["behind LF CR", `X: y\n\r${name}: ${value}\r\n`],
      ["behind CR CR LF", `X: y\r\r\n${name}: ${value}\r\n`],
      ["in a folded line", `X: y\r\n ${name}: ${value}\r\n`],
      ["folded behind the colon", `${name}:\r\n ${value}\r\n`],
      ["folded with a tab", `${name}:\r\n\t${value}\r\n`],
      ["without a colon", `${name} ${value}\r\n`],
    ].map(([what, fields]) => refused(`${name}: ${what}`, post(fields ?? "", CHUNKS + SMUGGLED)));
  }),
];

/** Values of Transfer-Encoding, alone: what is not exactly `chunked` frames nothing that all agree on. */
const CODINGS: readonly RequestVector[] = [
  "xchunked",
  "chunkedx",
  "x chunked",
  "chunked, identity",
  "identity, chunked",
  "identity",
  "chunked, chunked",
  "chunked,",
  ",chunked",
  ", chunked",
  "gzip, chunked",
  "chunked, gzip",
  "gzip",
  "deflate",
  "cow",
  "pigeons",
  "chunked;",
  "chunked;q=1",
  "chunked; q=0",
  '"chunked"',
  "'chunked'",
  "chunk",
  "chunkedchunked",
  "\x0bchunked",
  "\x0cchunked",
  "chunked\x0b",
  "chunked\0",
  "\0chunked",
  "chunked\x85",
  "\xa0chunked",
  "chu\xadnked",
  "\xffchunked",
  "c\x00hunked",
  "",
].map((value) =>
  refused(`coding \`${visible(value)}\``, post(`Transfer-Encoding: ${value}\r\n`, CHUNKS + SMUGGLED)),
);
const TWO_CODINGS: readonly RequestVector[] = [
  ["identity", "chunked"],
  ["chunked", "identity"],
  ["chunked", "cow"],
  ["gzip", "chunked"],
  ["", "chunked"],
].map(([first, second]) =>
  refused(
    `codings \`${first}\` and \`${second}\``,
    post(`Transfer-Encoding: ${first}\r\nTransfer-Encoding: ${second}\r\n`, CHUNKS + SMUGGLED),
  ),
);

/** Chunks. The head is good, so the application may have seen it when the body turns out not to be. */
const BODIES: readonly RequestVector[] = [
  ["a size with `0x`", `0x5\r\nhello\r\n0\r\n\r\n`],
  ["a signed size", `+5\r\nhello\r\n0\r\n\r\n`],
  ["a negative size", `-5\r\nhello\r\n0\r\n\r\n`],
  ["no size", `\r\nhello\r\n0\r\n\r\n`],
  ["space before the size", ` 5\r\nhello\r\n0\r\n\r\n`],
  ["space behind the size", `5 \r\nhello\r\n0\r\n\r\n`],
  ["tab behind the size", `5\t\r\nhello\r\n0\r\n\r\n`],
  ["space before an extension", `5 ;a\r\nhello\r\n0\r\n\r\n`],
  ["space in an extension", `5; a\r\nhello\r\n0\r\n\r\n`],
  ["an extension without a name", `5;\r\nhello\r\n0\r\n\r\n`],
  ["an extension without a value", `5;a=\r\nhello\r\n0\r\n\r\n`],
  ["an extension with LF", `5;a\nb\r\nhello\r\n0\r\n\r\n`],
  ["an extension with CR", `5;a\rb\r\nhello\r\n0\r\n\r\n`],
  ["an extension with NUL", `5;a\0\r\nhello\r\n0\r\n\r\n`],
  ["a quoted extension that does not end", `5;a="b\r\nhello\r\n0\r\n\r\n`],
  ["LF in a quoted extension", `5;a="\n"\r\nhello\r\n0\r\n\r\n`],
  ["an extension without a semicolon", `5 abc\r\nhello\r\n0\r\n\r\n`],
  ["a size that ends in LF", `5\nhello\r\n0\r\n\r\n`],
  ["a size that ends in CR", `5\rhello\r\n0\r\n\r\n`],
  ["a size that ends in CR CR LF", `5\r\r\nhello\r\n0\r\n\r\n`],
  ["data that ends in LF", `5\r\nhello\n0\r\n\r\n`],
  ["data that ends in CR", `5\r\nhello\r0\r\n\r\n`],
  ["data without an end", `5\r\nhello0\r\n\r\n`],
  ["data longer than its size", `3\r\nhello\r\n0\r\n\r\n`],
  ["data shorter than its size", `6\r\nhello\r\n0\r\n\r\n`],
  ["a size of 2^64", `10000000000000000\r\nhello\r\n0\r\n\r\n`],
  ["a size of 2^64 + 5", `10000000000000005\r\nhello\r\n0\r\n\r\n`],
  ["a size of 2^53", `20000000000000\r\nhello\r\n0\r\n\r\n`],
  ["a size of 17 digits", `00000000000000005\r\nhello\r\n0\r\n\r\n`],
  ["a size that is no number", `g\r\nhello\r\n0\r\n\r\n`],
  ["a full-width digit", `\xef\xbc\x95\r\nhello\r\n0\r\n\r\n`],
  ["a last chunk that ends in LF", `5\r\nhello\r\n0\n\n`],
  ["a last chunk with space", `5\r\nhello\r\n0 \r\n\r\n`],
  ["framing in the trailers", `5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n`],
  ["a coding in the trailers", `5\r\nhello\r\n0\r\n${TE}\r\n`],
  ["a host in the trailers", `5\r\nhello\r\n0\r\nHost: other\r\n\r\n`],
  ["authorization in the trailers", `5\r\nhello\r\n0\r\nAuthorization: x\r\n\r\n`],
  ["a connection field in the trailers", `5\r\nhello\r\n0\r\nConnection: close\r\n\r\n`],
  ["identity in the trailers", `5\r\nhello\r\n0\r\nWorkload-Identity-Token: x\r\n\r\n`],
  ["a folded trailer", `5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n`],
  ["a trailer that ends in LF", `5\r\nhello\r\n0\r\nX: a\n\r\n`],
  ["a trailer without a colon", `5\r\nhello\r\n0\r\nX\r\n\r\n`],
  ["a trailer with a space before its colon", `5\r\nhello\r\n0\r\nX : a\r\n\r\n`],
].map(([name, body]) => cut(`chunks: ${name}`, post(TE, `${body}${SMUGGLED}`)));

/** Start lines, targets and hosts. */
const HEADS: readonly RequestVector[] = [
  ["LF behind the start line", `GET /things/v HTTP/1.1\n${HOST}\r\n`],
  ["LF everywhere", "GET /things/v HTTP/1.1\nHost: things.ml\n\n"],
  ["CR behind the start line", `GET /things/v HTTP/1.1\r${HOST}\r\n`],
  ["CR CR LF behind the start line", `GET /things/v HTTP/1.1\r\r\n${HOST}\r\n`],
  ["two spaces before the target", `GET  /things/v HTTP/1.1\r\n${HOST}\r\n`],
  ["two spaces before the version", `GET /things/v  HTTP/1.1\r\n${HOST}\r\n`],
  ["a tab before the target", `GET\t/things/v HTTP/1.1\r\n${HOST}\r\n`],
  ["a space behind the version", `GET /things/v HTTP/1.1 \r\n${HOST}\r\n`],
  ["a space in the target", `GET /things/v x HTTP/1.1\r\n${HOST}\r\n`],
  ["NUL in the target", `GET /things/v\0 HTTP/1.1\r\n${HOST}\r\n`],
  ["CR in the target", `GET /things\r/v HTTP/1.1\r\n${HOST}\r\n`],
  ["a fragment", `GET /things/v#/things/smuggled HTTP/1.1\r\n${HOST}\r\n`],
  ["a byte above ASCII in the target", `GET /things/\xff HTTP/1.1\r\n${HOST}\r\n`],
  ["no version", `GET /things/v\r\n${HOST}\r\n`],
  ["HTTP/0.9", "GET /things/v\r\n\r\n"],
  ["HTTP/1.2", `GET /things/v HTTP/1.2\r\n${HOST}\r\n`],
  ["HTTP/2.0", `GET /things/v HTTP/2.0\r\n${HOST}\r\n`],
  ["HTTP/1.10", `GET /things/v HTTP/1.10\r\n${HOST}\r\n`],
  ["HTTP/01.1", `GET /things/v HTTP/01.1\r\n${HOST}\r\n`],
  ["http/1.1", `GET /things/v http/1.1\r\n${HOST}\r\n`],
  ["HTTP 1.1", `GET /things/v HTTP 1.1\r\n${HOST}\r\n`],
  ["HTTP/1,1", `GET /things/v HTTP/1,1\r\n${HOST}\r\n`],
  ["a byte order mark", `\xef\xbb\xbfGET /things/v HTTP/1.1\r\n${HOST}\r\n`],
  ["a method with a colon", `GET: /things/v HTTP/1.1\r\n${HOST}\r\n`],
  ["a method with a slash", `GE/T /things/v HTTP/1.1\r\n${HOST}\r\n`],
  ["a method with NUL", `GET\0 /things/v HTTP/1.1\r\n${HOST}\r\n`],
  ["no method", ` /things/v HTTP/1.1\r\n${HOST}\r\n`],
  ["no host", "GET /things/v HTTP/1.1\r\n\r\n"],
  ["two hosts", get(`${HOST}Host: other\r\n`)],
  ["two equal hosts", get(`${HOST}${HOST}`)],
  ["an empty host", get("Host:\r\n")],
  ["a host with a space", get("Host: things.ml other\r\n")],
  ["a host with a comma", get("Host: things.ml, other\r\n")],
  ["a host with a slash", get("Host: things.ml/x\r\n")],
  ["a host with user information", get("Host: things.ml@other\r\n")],
  ["a host with a bad port", get("Host: things.ml:port\r\n")],
  ["a host with an empty port", get("Host: things.ml:\r\n")],
  ["a host with two ports", get("Host: things.ml:80:80\r\n")],
  ["a host with NUL", get("Host: things.ml\0\r\n")],
  ["a host with an encoded byte", get("Host: things%2eml\r\n")],
  ["a folded host", get("Host: things.ml\r\n other\r\n")],
  ["a space before the host's colon", get("Host : things.ml\r\n")],
  ["a target that names another host", get(HOST, "http://other/things/v")],
  ["a target with user information", get(HOST, "http://things.ml@other/things/v")],
  ["a target of another scheme", get(HOST, "https://things.ml/things/v")],
  ["a target without slashes", get(HOST, "http:things.ml/things/v")],
  ["a target without a slash", get(HOST, "things/v")],
  ["an asterisk", get(HOST, "*")],
  ["an authority as target", get(HOST, "things.ml:80")],
  ["CONNECT with a body", `CONNECT things.ml:80 HTTP/1.1\r\n${HOST}Content-Length: 50\r\n\r\n${SMUGGLED}`],
  ["CONNECT in chunks", `CONNECT things.ml:80 HTTP/1.1\r\n${HOST}${TE}\r\n${CHUNKS}`],
  ["a line without a colon", get(`${HOST}X\r\n`)],
  ["a line that begins with a colon", get(`${HOST}: x\r\n`)],
  ["a name with a space", get(`${HOST}X Y: z\r\n`)],
  ["a name with a slash", get(`${HOST}X/Y: z\r\n`)],
  ["a name with a quote", get(`${HOST}"X": z\r\n`)],
  ["a name above ASCII", get(`${HOST}X\xe4: z\r\n`)],
  ["NUL in a value", get(`${HOST}X: a\0b\r\n`)],
  ["CR in a value", get(`${HOST}X: a\rb\r\n`)],
  ["LF in a value", get(`${HOST}X: a\nb\r\n`)],
  ["DEL in a value", get(`${HOST}X: a\x7fb\r\n`)],
  ["a folded value", get(`${HOST}X: a\r\n b\r\n`)],
  ["a folded start", `GET /things/v HTTP/1.1\r\n ${HOST}\r\n`],
  ["chunked in HTTP/1.0", `POST /things/v HTTP/1.0\r\n${HOST}${TE}\r\n${CHUNKS}${SMUGGLED}`],
  ["a request behind a bare CR", `GET /things/v HTTP/1.1\r\n${HOST}\r${SMUGGLED}`],
  ["a request behind a bare LF", `GET /things/v HTTP/1.1\r\n${HOST}\n${SMUGGLED}`],
  ["a request behind LF LF in a value", get(`${HOST}X: y\n\n${SMUGGLED}`)],
  ["two empty lines before it", `\r\n\r\n${get(HOST)}`],
  ["a bare LF before it", `\n${get(HOST)}`],
  ["too many fields", get(HOST + "X: y\r\n".repeat(140))],
  ["too large a head", get(`${HOST}X: ${"y".repeat(33_000)}\r\n`)],
  ["a target of 9 KiB", get(HOST, `/things/${"v".repeat(9_000)}`)],
  ["TLS on a plaintext port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"],
  ["the PROXY protocol", `PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n${get(HOST)}`],
].map(([name, bytes]) => refused(`head: ${name}`, bytes ?? ""));

/** Connection may name nothing that frames, routes, identifies or is decided on. */
const NOMINATED: readonly RequestVector[] = [
  "content-length",
  "Content-Length",
  "transfer-encoding",
  "host",
  "authorization",
  "cookie",
  "workload-identity-token",
  "workload-proof-token",
  "countersign-port",
  "content-type",
  "x-forwarded-for",
  "via",
  "close, content-length",
  "keep-alive, host",
  "traceparent",
].map((name) =>
  refused(`connection names ${name}`, post(`Connection: ${name}\r\n${length("hello")}`, `hello${SMUGGLED}`)),
);

/** What is odd, but means one thing only: it passes, in our own words. */
const GOOD: readonly RequestVector[] = [
  passed("plain", get(HOST)),
  passed("one empty line before it", `\r\n${get(HOST)}`),
  passed("no space behind the colon", get("Host:things.ml\r\n")),
  passed("spaces and tabs around a value", get("Host: \t things.ml \t \r\n")),
  passed("absolute form of the same host", get(HOST, "http://things.ml/things/v")),
  passed("a length of zero", post("Content-Length: 0\r\n", "")),
  passed("a body that looks like a request", post(length(SMUGGLED), SMUGGLED)),
  passed(
    "chunks that look like a request",
    post(TE, `${SMUGGLED.length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`),
  ),
  passed("a body on GET", `GET /things/v HTTP/1.1\r\n${HOST}${length(SMUGGLED)}\r\n${SMUGGLED}`),
  passed("chunks on GET", `GET /things/v HTTP/1.1\r\n${HOST}${TE}\r\n${CHUNKS}`),
  passed("a coding in capitals", post("Transfer-Encoding: CHUNKED\r\n", CHUNKS)),
  passed("a coding behind a tab", post("Transfer-Encoding:\tchunked\r\n", CHUNKS)),
  passed("sizes in capitals, with zeros", post(TE, "000A\r\n0123456789\r\n0000\r\n\r\n")),
  passed("extensions", post(TE, '5;a;b=c;d="e\\"f; g"\r\nhello\r\n0;z\r\n\r\n')),
  passed("a trailer", post(TE, "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")),
  passed(
    "names of framing with underscores",
    get(`${HOST}Content_Length: 50\r\nTransfer_Encoding: chunked\r\n`),
  ),
  passed("a name of framing with a dot", get(`${HOST}Content.Length: 50\r\n`)),
  passed("a name of framing with more", get(`${HOST}X-Content-Length: 50\r\nContent-Length-X: 50\r\n`)),
  passed(
    "an upgrade to h2c that is not taken",
    get(`${HOST}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n`),
  ),
  passed("an upgrade that Connection does not name", get(`${HOST}Upgrade: websocket\r\n`)),
  passed("connection names a field of its own", get(`${HOST}Connection: x-hop\r\nX-Hop: 1\r\n`)),
  passed(
    "identity of its own",
    get(
      `${HOST}X-Mesh-Caller: smuggled\r\nX-Forwarded-Client-Cert: smuggled\r\nX-Forwarded-User: smuggled\r\n`,
    ),
  ),
  passed("three in one go", get(HOST).repeat(3), 3),
  passed("a body and another in one go", post(length("hello"), "hello") + get(HOST), 2),
  passed("chunks and another in one go", post(TE, CHUNKS) + get(HOST), 2),
  passed("100 fields", get(HOST + "X: y\r\n".repeat(99))),
  passed("bytes above ASCII in a value", get(`${HOST}X: \xe4\xff\r\n`)),
  passed("an expectation", post(`Expect: 100-continue\r\n${length("hello")}`, "hello")),
];

export const OWN_REQUESTS: readonly RequestVector[] = [
  ...TWO_FRAMINGS,
  ...LENGTHS,
  ...NAMES,
  ...CODINGS,
  ...TWO_CODINGS,
  ...BODIES,
  ...HEADS,
  ...NOMINATED,
  ...GOOD,
];
