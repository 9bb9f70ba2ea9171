// The cases of llhttp's own tests (its public repository, test/request/*.md), rewritten for this pair: with the host that the
// pair serves, and our verdicts. Where llhttp takes what we refuse, the name says so.
import type { RequestVector, Verdict } from "./request-vectors.ts";

const HOST = "Host: things.ml\r\n";
const row = (verdict: Verdict, name: string, bytes: string, answers = 1): RequestVector => ({
  name: `llhttp: ${name}`,
  bytes,
  verdict,
  answers,
});
const put = (fields: string, body: string): string => `PUT /things/v HTTP/1.1\r\n${HOST}${fields}\r\n${body}`;
const TE = "Transfer-Encoding: chunked\r\n";

export const LLHTTP_REQUESTS: readonly RequestVector[] = [
  // invalid.md
  row("refused", "ICE protocol and GET method", `GET /things/v ICE/1.0\r\n${HOST}\r\n`),
  row("refused", "ICE protocol, but not really", `GET /things/v IHTTP/1.0\r\n${HOST}\r\n`),
  row("refused", "RTSP protocol and PUT method", `PUT /things/v RTSP/1.0\r\n${HOST}\r\n`),
  row("refused", "fields separated by CR", `GET /things/v HTTP/1.1\r\n${HOST}Foo: 1\rBar: 2\r\n\r\n`),
  row(
    "refused",
    "fields separated by LF",
    `POST /things/v HTTP/1.1\r\n${HOST}x:x\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n0\r\n\r\n`,
  ),
  row(
    "refused",
    "fields separated by dummy characters",
    `GET /things/v HTTP/1.1\r\nConnection: close\r\n${HOST}\rZGET /things/smuggled: HTTP/1.1\r\n${HOST}\r\n`,
  ),
  row(
    "refused",
    "empty fields separated by CR",
    `POST /things/v HTTP/1.1\r\nConnection: Close\r\n${HOST}x:\rTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n0\r\n\r\n`,
  ),
  row(
    "refused",
    "empty fields separated by LF",
    `POST /things/v HTTP/1.1\r\n${HOST}x:\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n0\r\n\r\n`,
  ),
  row("refused", "invalid field name 1", `GET /things/v HTTP/1.1\r\n${HOST}Fo@: Failure\r\n\r\n`),
  row("refused", "invalid field name 2", `GET /things/v HTTP/1.1\r\n${HOST}Foo\x01\test: Bar\r\n\r\n`),
  row("refused", "invalid field name 3", `GET /things/v HTTP/1.1\r\n${HOST}: Bar\r\n\r\n`),
  row(
    "refused",
    "field name on a line of its own",
    `GET /things/v HTTP/1.1\r\n${HOST}name\r\n : value\r\n\r\n`,
  ),
  row(
    "refused",
    "corrupted Connection field",
    `GET /things/v HTTP/1.1\r\n${HOST}Connection\r\x1b5\xd5eep-Alive\r\nAccept-Encoding: gzip\r\n\r\n`,
  ),
  row(
    "refused",
    "corrupted field name",
    `GET /things/v HTTP/1.1\r\n${HOST}X-Some-Header\r\x1b5\xd5eep-Alive\r\nAccept-Encoding: gzip\r\n\r\n`,
  ),
  row(
    "refused",
    "missing CR between fields",
    `GET /things/v HTTP/1.1\r\n${HOST}Dummy: x\nContent-Length: 23\r\n\r\nGET / HTTP/1.1\r\nDummy: GET /things/smuggled HTTP/1.1\r\n${HOST}\r\n`,
  ),
  row("refused", "invalid version", `GET /things/v HTTP/5.6\r\n${HOST}\r\n`),
  row("refused", "space after the start line", `GET /things/v HTTP/1.1\r\n ${HOST}\r\n`),
  row(
    "refused",
    "only LFs",
    "POST /things/v HTTP/1.1\nTransfer-Encoding: chunked\nTrailer: Baz\r\nFoo: abc\nBar: def\n\n1\nA\n1;abc\nB\n0\n\n",
  ),
  row(
    "refused",
    "spaces before fields",
    `POST /things/v HTTP/1.1\r\n${HOST}Foo: bar\r\n Content-Length: 38\r\n\r\nGET /things/smuggled HTTP/1.1\r\n${HOST}\r\n`,
  ),
  // content-length.md
  row("refused", "length with zeros (taken by llhttp)", put("Content-Length: 003\r\n", "abc")),
  row(
    "refused",
    "length with zeros and a field (taken by llhttp)",
    put("Content-Length: 003\r\nOhai: world\r\n", "abc"),
  ),
  row("refused", "length that overflows", put("Content-Length: 1000000000000000000000\r\n", "")),
  row("refused", "length twice", put("Content-Length: 1\r\nContent-Length: 2\r\n", "ab")),
  row("refused", "length and identity", put("Content-Length: 1\r\nTransfer-Encoding: identity\r\n", "a")),
  row("refused", "length and chunked (lenient there)", put(`Content-Length: 1\r\n${TE}`, "a")),
  row(
    "passed",
    "funky length in HTTP/1.1",
    `GET /things/v HTTP/1.1\r\n${HOST}conTENT-Length: 5\r\n\r\nHELLO`,
  ),
  row("passed", "spaces around a length", put("Content-Length:  2 \r\n", "ab")),
  row("refused", "spaces in a length 2", put("Content-Length: 4 2\r\n", "ab")),
  row("refused", "spaces in a length 3", put("Content-Length: 13 37\r\n", "ab")),
  row("refused", "empty length", put("Content-Length:\r\n", "")),
  row("refused", "length with CR instead of dash", put("Content\rLength: 003\r\n", "abc")),
  // transfer-encoding.md
  row("refused", "empty coding with a length", put("Transfer-Encoding:\r\nContent-Length: 5\r\n", "hello")),
  row("passed", "chunks with a lower-case size", put(TE, "a\r\n0123456789\r\n0\r\n\r\n")),
  row("passed", "chunks with an upper-case size", put(TE, "A\r\n0123456789\r\n0\r\n\r\n")),
  row("passed", "chunks", put(TE, "1e\r\nall your base are belong to us\r\n0\r\n\r\n")),
  row(
    "passed",
    "two chunks and a last one of three zeros",
    put(TE, "5\r\nhello\r\n6\r\n world\r\n000\r\n\r\n"),
  ),
  row(
    "cut",
    "content-type as trailer (taken by llhttp)",
    put(TE, "5\r\nhello\r\n0\r\nVary: *\r\nContent-Type: text/plain\r\n\r\n"),
  ),
  row("passed", "trailer", put(TE, "5\r\nhello\r\n6\r\n world\r\n0\r\nVary: *\r\n\r\n")),
  row(
    "passed",
    "chunk extensions",
    put(
      TE,
      "5;ilovew3;somuchlove=aretheseparametersfor;another=withvalue\r\nhello\r\n6;blahblah;blah\r\n world\r\n0\r\n\r\n",
    ),
  ),
  row("cut", "no semicolon before extensions", put(TE, "2 erfrferferf\r\naa\r\n0 rrrr\r\n\r\n")),
  row("cut", "no extension after the semicolon", put(TE, "2;\r\naa\r\n0\r\n\r\n")),
  row(
    "passed",
    "quoted extensions",
    put(
      TE,
      '5;ilovew3="I \\"love\\"; \\\\extensions\\\\";somuchlove="aretheseparametersfor";blah;foo=bar\r\nhello\r\n6;blahblah;blah\r\n world\r\n0\r\n\r\n',
    ),
  ),
  row(
    "cut",
    "unbalanced quotes",
    put(TE, '5;ilovew3="abc";somuchlove="def; ghi\r\nhello\r\n6;blah\r\n world\r\n0\r\n\r\n'),
  ),
  row("refused", "pigeons", put("Transfer-Encoding: pigeons\r\n", "")),
  row(
    "refused",
    "identity and a length",
    put("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "World"),
  ),
  row(
    "refused",
    "a length and three empty codings",
    put(
      "Content-Length: 10\r\nTransfer-Encoding:\r\nTransfer-Encoding:\r\nTransfer-Encoding:\r\n",
      "2\r\nAA\r\n0\r\n",
    ),
  ),
  row("refused", "chunked before another coding", put("Transfer-Encoding: chunked, deflate\r\n", "World")),
  row(
    "refused",
    "chunked, then identity",
    put("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "World"),
  ),
  row(
    "refused",
    "another coding before chunked (taken by llhttp)",
    put("Transfer-Encoding: deflate, chunked\r\n", "5\r\nWorld\r\n0\r\n\r\n"),
  ),
  row(
    "refused",
    "a tab before chunked and obs-fold",
    put("Transfer-Encoding:\r\n  chunked\r\n", "0\r\n\r\n"),
  ),
  row("cut", "space after a chunk size", put(TE, "a \r\n0123456789\r\n0\r\n\r\n")),
  row("cut", "CR alone behind a chunk size", put(TE, "a\r0123456789\r\n0\r\n\r\n")),
  row("cut", "LF alone behind a chunk size", put(TE, "a\n0123456789\r\n0\r\n\r\n")),
  row("cut", "missing CRLF behind a chunk", put(TE, "a\r\n01234567890\r\n\r\n")),
  // sample.md, connection.md, method.md, uri.md
  row(
    "passed",
    "simple request",
    `OPTIONS /things/v HTTP/1.1\r\n${HOST}Header1: Value1\r\nHeader2:\t Value2\r\n\r\n`,
  ),
  row(
    "passed",
    "a field without a space",
    `GET /things/v HTTP/1.1\r\n${HOST}aaaaaaaaaaaaa:++++++++++\r\n\r\n`,
  ),
  row("refused", "no fields, so no host", "GET /things/v HTTP/1.1\r\n\r\n"),
  row("passed", "an empty line before it", `\r\nGET /things/v HTTP/1.1\r\n${HOST}\r\n`),
  row("refused", "no version (taken by llhttp)", "GET /things/v\r\n\r\n"),
  row(
    "refused",
    "folded lines with CRLF (taken by llhttp)",
    `GET /things/v HTTP/1.1\r\n${HOST}Line1:   abc\r\n\tdef\r\n ghi\r\nConnection:\r\n close\r\n\r\n`,
  ),
  row("refused", "folded lines with LF", `GET /things/v HTTP/1.1\n${HOST}Line1:   abc\n\tdef\n ghi\n\n`),
  row("passed", "bytes above ASCII", `GET /things/v HTTP/1.1\r\n${HOST}Test: D\xfcsseldorf\r\n\r\n`),
  row("passed", "255 in a value", `OPTIONS /things/v HTTP/1.1\r\n${HOST}Header2: \xffValue2\r\n\r\n`),
  row(
    "refused",
    "a certificate over several lines",
    `GET /things/v HTTP/1.1\r\n${HOST}X-SSL-Nonsense:   -----BEGIN\r\n\tMIIF\r\n\t-----END\r\n\r\n`,
  ),
  row(
    "passed",
    "keep-alive and more in a list",
    `GET /things/v HTTP/1.1\r\n${HOST}Connection: x-a, keep-alive\r\n\r\n`,
  ),
  row("passed", "several requests in one go", `GET /things/v HTTP/1.1\r\n${HOST}\r\n`.repeat(2), 2),
  row("refused", "quotes in the target's host", `GET http://hello"world/things/v HTTP/1.1\r\n${HOST}\r\n`),
  row("refused", "a fragment in the target (taken by llhttp)", `GET /things/v?a=b#c HTTP/1.1\r\n${HOST}\r\n`),
  row("refused", "a path above ASCII (taken by llhttp)", `GET /\xce\xb4\xc2\xb6/v HTTP/1.1\r\n${HOST}\r\n`),
  row("refused", "a path with a tab", `GET /foo\tbar HTTP/1.1\r\n${HOST}\r\n`),
  row("refused", "a path with a form feed", `GET /foo\x0cbar HTTP/1.1\r\n${HOST}\r\n`),
];
