// Answers of the gateway to those who are not signed in, and redirects. PURE.
import type { EdgeAnswer } from "../people.ts";
import { OWN_PATHS } from "./return-path.ts";
import type { Strength } from "./step-up.ts";

const NO_STORE = ["cache-control", "no-store"] as const;

export function redirect(to: string, setCookie: readonly string[] = [], status: 302 | 303 = 302): EdgeAnswer {
  return {
    kind: "answer",
    status,
    fields: [
      ["location", to],
      NO_STORE,
      ["referrer-policy", "no-referrer"],
      ...setCookie.map((value) => ["set-cookie", value] as const),
    ],
    body: "",
  };
}

export function json(status: number, body: object, fields: EdgeAnswer["fields"] = []): EdgeAnswer {
  return {
    kind: "answer",
    status,
    fields: [["content-type", "application/json"], NO_STORE, ...fields],
    body: JSON.stringify(body),
  };
}

/** RFC 6749 section 5.2. */
export function refusal(error: string, description: string, status = 400): EdgeAnswer {
  return json(status, { error, error_description: description });
}

export interface Refusal {
  readonly status: number;
  readonly reason: string;
  readonly title: string;
  readonly detail: string;
  /** Where a person can sign in, absolute. */
  readonly login?: string | undefined;
  readonly fields?: EdgeAnswer["fields"];
}

/** RFC 9457. */
export function problem({ status, reason, title, detail, login, fields }: Refusal): EdgeAnswer {
  return {
    kind: "answer",
    status,
    fields: [["content-type", "application/problem+json"], NO_STORE, ...(fields ?? [])],
    body: JSON.stringify({
      type: `https://countersign.dev/errors/${reason.toLowerCase().replaceAll("_", "-")}`,
      ...{ title, status, reason, detail, login },
    }),
  };
}

/** Where a sign-in begins, on the same host. */
export function loginPath(
  returnTo: string,
  more: { readonly idp?: string | undefined; readonly strength?: Strength | undefined } = {},
): string {
  const query = new URLSearchParams();
  if (more.idp !== undefined) query.set("idp", more.idp);
  if (returnTo !== "/") query.set("rd", returnTo);
  if (more.strength?.acr !== undefined) query.set("acr", more.strength.acr);
  if (more.strength?.maxAgeSeconds !== undefined) query.set("max_age", String(more.strength.maxAgeSeconds));
  return query.size === 0 ? `${OWN_PATHS}login` : `${OWN_PATHS}login?${query}`;
}

/** RFC 6750 section 3 and RFC 9728 section 5.1. */
export function challenge(host: string, error?: string, more: Readonly<Record<string, string>> = {}): string {
  const parameters: Record<string, string> = {
    ...(error === undefined ? {} : { error }),
    ...more,
    resource_metadata: `https://${host}${OWN_PATHS}oauth-protected-resource`,
  };
  const texts = Object.entries(parameters).map(([name, value]) => `${name}="${value.replace(/["\\]/g, "")}"`);
  return `Bearer ${texts.join(", ")}`;
}
