// The end of a sign-in that did not work: the page, the count, the record.
import { failurePage } from "../page/sign-in-pages.ts";
import type { EdgeAnswer, EdgeRequest } from "../people.ts";
import type { LoginWorld } from "./login-world.ts";
import type { SignInError } from "./sign-in-failure.ts";

/** The page for a sign-in that failed; counted and logged. */
export function failed(
  world: LoginWorld,
  failure: SignInError,
  {
    request,
    idp,
    again,
    setCookie,
  }: {
    readonly request: EdgeRequest;
    readonly idp: string;
    readonly again: string;
    readonly setCookie?: readonly string[];
  },
): EdgeAnswer {
  const reference = world.reference();
  const { code, detail } = failure;
  world.count(idp, code);
  const page = failurePage({
    failure: code,
    againLink: again,
    reference,
    ...(setCookie === undefined ? {} : { setCookie }),
  });
  const isNew = world.tell({
    ...{ action: "login", allowed: false, reason: code.toUpperCase(), detail, idp },
    ...{ request, status: page.status, decisionId: reference },
  });
  if (isNew) world.log.warn("sign-in failed", { idp, result: code, detail, reference });
  return page;
}
