// One request of the command line to a gateway: HTTPS, no redirects, bounded in time and size.
import { readFileSync } from "node:fs";
import { request } from "node:https";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { askWhole } from "../../sidecar/core/runtime/whole-answer.ts";
import { type Fields, fieldsOf } from "./answers.ts";

const TIMEOUT_MS = 15_000;
const MAX_ANSWER_BYTES = 65_536;

/** `https://host[:port]` of what somebody typed. @throws MeshError `bad_config`. */
export function gatewayUrl(typed: string): string {
  const text = typed.includes("://") ? typed : `https://${typed}`;
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || url.protocol !== "https:" || url.username !== "" || url.hostname === "")
    throw new MeshError(
      "bad_config",
      `\`${typed}\` is no address of a gateway, expected for example \`https://lab.example.com\``,
    );
  return url.origin;
}

export interface GatewayAnswer {
  readonly status: number;
  /** Empty when the body is no JSON object. */
  readonly fields: Fields;
}

export interface Asked {
  readonly gateway: string;
  readonly path: string;
  readonly caFile: string | undefined;
  readonly bearer?: string;
  /** A POST with this form; otherwise a GET. */
  readonly form?: Readonly<Record<string, string>>;
}

/** @throws MeshError `io_failed` when the gateway cannot be reached or trusted, `bad_config` for roots that cannot be read. */
export async function askGateway({ gateway, path, caFile, bearer, form }: Asked): Promise<GatewayAnswer> {
  const ca = caFile === undefined ? undefined : readRoots(caFile);
  const body = form === undefined ? undefined : new URLSearchParams(form).toString();
  try {
    return await send(new URL(path, gateway), {
      method: body === undefined ? "GET" : "POST",
      ...(ca === undefined ? {} : { ca }),
      headers: {
        accept: "application/json",
        ...(bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }),
        ...(body === undefined
          ? {}
          : {
              "content-type": "application/x-www-form-urlencoded",
              "content-length": Buffer.byteLength(body),
            }),
      },
      body,
    });
  } catch (error) {
    const hint = isDistrusted(error)
      ? "; if its authority is your company's own, name its roots with `--ca FILE`"
      : "";
    throw new MeshError("io_failed", `\`${gateway}\` cannot be asked: ${messageOf(error)}${hint}`, {
      cause: error,
    });
  }
}

const DISTRUST: ReadonlySet<unknown> = new Set([
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
]);

function isDistrusted(error: unknown): boolean {
  return error instanceof Error && "code" in error && DISTRUST.has(error.code);
}

function readRoots(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new MeshError("bad_config", `cannot read the roots in \`${file}\`: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

interface Sent {
  readonly method: string;
  readonly ca?: string;
  readonly headers: Readonly<Record<string, string | number>>;
  readonly body: string | undefined;
}

async function send(url: URL, { body, ...options }: Sent): Promise<GatewayAnswer> {
  const outgoing = request(url, { ...options, agent: false, signal: AbortSignal.timeout(TIMEOUT_MS) });
  const answer = await askWhole(outgoing, body, MAX_ANSWER_BYTES);
  return { status: answer.status, fields: jsonFields(answer.body.toString("utf8")) };
}

function jsonFields(text: string): Fields {
  try {
    return fieldsOf(JSON.parse(text));
  } catch {
    return {};
  }
}
