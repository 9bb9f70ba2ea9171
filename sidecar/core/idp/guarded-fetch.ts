// GET of a document of an identity provider: https only, no redirects, bounded in time and size, and to addresses that
// whoever named the URL may send us to. The address is checked where the connection is made, so a name that resolves
// differently the second time changes nothing.
import { lookup as systemLookup } from "node:dns";
import { request as httpRequest, type IncomingMessage, type RequestOptions } from "node:http";
import { request as httpsRequest } from "node:https";
import { isIP, type LookupFunction } from "node:net";
import { MeshError, messageOf } from "../runtime/errors.ts";
import { readBounded } from "../runtime/whole-answer.ts";
import { mayReach, type Reach, reachOf } from "./address-reach.ts";

export interface GuardedRequest {
  readonly url: string;
  /** Where the one who named the URL is; undefined: an operator named it. */
  readonly namedFrom: Reach | undefined;
  /** Permits `http` to loopback; for tests. */
  readonly allowInsecure: boolean;
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** For tests. */
  readonly timeoutMs?: number | undefined;
}

export interface Fetched {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
  /** Where the answer came from. */
  readonly reach: Reach;
}

const TIMEOUT_MS = 5_000;
/** Larger than any key set; the rest of a gigabyte is not read. */
export const MAX_DOCUMENT_BYTES = 524_288;
const MAX_URL_CHARS = 2_048;

function failed(what: string, cause?: unknown): MeshError {
  return new MeshError("io_failed", what, { cause });
}

/** @throws MeshError `bad_config` for a URL that is never asked. */
export function checkedUrl(text: string, allowInsecure: boolean): URL {
  const url = text.length <= MAX_URL_CHARS && URL.canParse(text) ? new URL(text) : undefined;
  const shown = text.slice(0, 200);
  if (url === undefined) throw new MeshError("bad_config", `\`${shown}\` is not a URL`);
  if (url.username !== "" || url.password !== "" || url.hash !== "")
    throw new MeshError("bad_config", `\`${shown}\` has a user, password or fragment; leave them out`);
  const isLoopback = ["localhost", "127.0.0.1", "[::1]"].includes(url.hostname);
  if (url.protocol === "https:" || (url.protocol === "http:" && allowInsecure && isLoopback)) return url;
  throw new MeshError("bad_config", `\`${shown}\` is not an \`https\` URL`);
}

/** Resolves names, and leaves out what may not be reached. */
function guardedLookup(permits: (address: string) => boolean): LookupFunction {
  return (hostname, options, callback) => {
    systemLookup(hostname, { ...options, all: true }, (error, addresses) => {
      const permitted = error === null ? addresses.filter(({ address }) => permits(address)) : [];
      const [first] = permitted;
      if (error !== null) callback(error, "");
      else if (first === undefined)
        callback(failed(`\`${hostname}\` has no address that may be asked from here`), "");
      else if (options.all === true) callback(null, permitted);
      else callback(null, first.address, first.family);
    });
  };
}

/**
 * Asks for a document.
 *
 * @throws MeshError `bad_config` for a URL that is never asked, `io_failed` for anything but a whole answer: a redirect,
 *   an address out of reach, too slow, too large, compressed.
 */
export async function fetchGuarded(asked: GuardedRequest): Promise<Fetched> {
  const url = checkedUrl(asked.url, asked.allowInsecure);
  const { namedFrom } = asked;
  const permits = (address: string): boolean => {
    const reach = reachOf(address);
    if (url.protocol === "http:") return reach === "loopback";
    return namedFrom === undefined ? reach !== "never" : mayReach(namedFrom, reach);
  };
  const host = url.hostname.replace(/^\[|\]$/g, "");
  if (isIP(host) !== 0 && !permits(host)) throw failed(`\`${url.host}\` may not be asked from here`);
  const signal = AbortSignal.timeout(asked.timeoutMs ?? TIMEOUT_MS);
  const options: RequestOptions = {
    headers: { accept: "application/json", "accept-encoding": "identity", ...asked.headers },
    lookup: guardedLookup(permits),
    // No kept connection: the address is checked each time.
    agent: false,
    maxHeaderSize: 16_384,
    signal,
  };
  try {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const send = url.protocol === "http:" ? httpRequest : httpsRequest;
      send(url, { ...options, method: "GET" })
        .once("response", resolve)
        .once("error", reject)
        .end();
    });
    return await readAnswer(url, response);
  } catch (error) {
    if (error instanceof MeshError) throw error;
    throw failed(
      `\`${url.host}\` ${signal.aborted ? "did not answer in time" : `cannot be asked: ${messageOf(error)}`}`,
      error,
    );
  }
}

async function readAnswer(url: URL, response: IncomingMessage): Promise<Fetched> {
  const { statusCode: status = 0, headers } = response;
  const reach = reachOf(response.socket.remoteAddress ?? "");
  const refuse = (why: string): MeshError => {
    response.destroy();
    return failed(`\`${url.host}\` ${why}`);
  };
  if (status >= 300 && status < 400) throw refuse("answers with a redirect, which is not followed");
  if (!["", "identity"].includes(headers["content-encoding"] ?? "")) throw refuse("answers compressed");
  if (Number(headers["content-length"] ?? 0) > MAX_DOCUMENT_BYTES) throw refuse("answers more than 512 KiB");
  const body = await readBounded(response, MAX_DOCUMENT_BYTES);
  if (body === undefined) throw refuse("answers more than 512 KiB");
  return {
    status,
    contentType: headers["content-type"] ?? "",
    body: body.toString("utf8"),
    reach,
  };
}
