// PURE. What can be wrong with an HTTP/1.1 message, as a closed list: the answer's status and one line of text each.

/** Status with which a bad request is answered before the connection is closed. */
export type Http1ProblemStatus = 400 | 414 | 431 | 501 | 505;

const PROBLEMS = {
  bad_request_line: [400, "the request line is not `METHOD target HTTP/1.1`"],
  bad_method: [400, "the method is not a token of at most 32 characters"],
  bad_target: [400, "the request target is malformed or not allowed with this method"],
  target_too_long: [414, "the request target is too long"],
  bad_version: [400, "the protocol version is malformed"],
  unsupported_version: [505, "only HTTP/1.0 and HTTP/1.1 are spoken here"],
  bad_status_line: [400, "the status line is malformed"],
  head_too_large: [431, "the header section is too large"],
  too_many_fields: [431, "there are too many header fields"],
  bare_lf: [400, "a line ends in LF without CR"],
  bare_cr: [400, "a CR stands without LF"],
  control_character: [400, "a control character stands in the header section"],
  obs_fold: [400, "a field line begins with white space"],
  space_before_colon: [400, "white space stands between field name and colon"],
  bad_field: [400, "a field line is malformed"],
  missing_host: [400, "the Host field is missing"],
  several_hosts: [400, "there is more than one Host field"],
  bad_authority: [400, "the host name or port is malformed"],
  userinfo: [400, "user information in an authority is not allowed"],
  host_mismatch: [400, "the Host field differs from the host in the request target"],
  both_length_and_chunked: [400, "both Content-Length and Transfer-Encoding are present"],
  several_content_lengths: [400, "there is more than one Content-Length"],
  bad_content_length: [400, "the Content-Length is malformed"],
  bad_transfer_encoding: [400, "the Transfer-Encoding is not exactly `chunked`"],
  transfer_encoding_in_http10: [400, "Transfer-Encoding is not part of HTTP/1.0"],
  unexpected_framing: [400, "this kind of message must not announce a body"],
  bad_connection: [400, "the Connection field is malformed"],
  protected_connection_name: [400, "the Connection field names a field that it must not remove"],
  bad_chunk_size: [400, "a chunk size is malformed"],
  bad_chunk_extension: [400, "a chunk extension is malformed"],
  chunk_extensions_too_long: [400, "the chunk extensions are too long"],
  bad_chunk_end: [400, "the data of a chunk does not end in CRLF"],
  trailers_too_large: [400, "the trailer section is too large"],
  forbidden_trailer: [400, "a field that must not be a trailer is one"],
  truncated: [400, "the connection ended inside a message"],
  closed_before_response: [400, "the connection ended before the response began"],
  unexpected_response: [400, "bytes arrived that answer no request"],
  too_many_informational: [400, "there are too many informational responses"],
} as const satisfies Record<string, readonly [Http1ProblemStatus, string]>;

export type Http1ProblemCode = keyof typeof PROBLEMS;

/** Why a message was refused. For a response the status says nothing: the owner answers its own client with 502. */
export interface Http1Problem {
  readonly code: Http1ProblemCode;
  readonly status: Http1ProblemStatus;
  /** One lower-case line without anything from the message. */
  readonly message: string;
}

/** The problem that belongs to a code. */
export function http1Problem(code: Http1ProblemCode): Http1Problem {
  const [status, message] = PROBLEMS[code];
  return { code, status, message };
}

/** All codes, for tests and documentation. */
export const HTTP1_PROBLEM_CODES = Object.keys(PROBLEMS) as Http1ProblemCode[]; // the keys of a constant object
