// The pages of signing in and out. They say what happened and what to do, in the words of people. PURE.
import type { GatewayIdp } from "../../core/gateway/gateway.ts";
import type { SignInFailure } from "../login/sign-in-failure.ts";
import type { EdgeAnswer } from "../people.ts";
import { html } from "./html.ts";
import { page } from "./layout.ts";

const hostOf = (issuer: string): string => (URL.canParse(issuer) ? new URL(issuer).host : issuer);

/** @param links where each provider's sign-in begins, in the order of `idps`. */
export function choicePage(host: string, idps: readonly GatewayIdp[], links: readonly string[]): EdgeAnswer {
  const choices = idps.map(
    ({ displayName, issuer }, i) =>
      html`<li><a class="choice" href="${links[i]}"><span>${displayName}</span><span>${hostOf(issuer)}</span></a></li>`,
  );
  return page({
    status: 200,
    title: "Sign in",
    content: html`<p class="soft">to go on to <span class="host">${host}</span>. Which account do you use?</p>
<ul>${choices}</ul>`,
  });
}

interface Words {
  readonly status: number;
  readonly title: string;
  readonly text: string;
  readonly again: string;
}

const WORDS: Readonly<Record<SignInFailure, Words>> = {
  no_attempt: {
    status: 400,
    title: "This sign-in has expired",
    text: "It was begun too long ago, in another browser, or was finished before. That happens with bookmarks of sign-in pages and with the back button.",
    again: "Sign in again",
  },
  declined: {
    status: 403,
    title: "You were not signed in",
    text: "The sign-in was cancelled, or your organisation does not let this account sign in here. If you did not cancel it, ask whoever looks after your accounts.",
    again: "Try again",
  },
  invalid: {
    status: 400,
    title: "The sign-in could not be verified",
    text: "The answer of your sign-in service did not fit to the question, so it was not accepted. Trying again often helps; if it does not, tell your administrator.",
    again: "Try again",
  },
  too_weak: {
    status: 403,
    title: "A stronger sign-in is needed",
    text: "This page needs a fresh sign-in or a second factor, and your sign-in service gave less. You may have to set up a second factor first.",
    again: "Try again",
  },
  provider_down: {
    status: 503,
    title: "Your sign-in service does not answer",
    text: "You are not doing anything wrong: it cannot be reached at the moment. Wait a little and try again.",
    again: "Try again",
  },
  refused: {
    status: 403,
    title: "This account may not sign in here",
    text: "You signed in, but this platform does not accept the account. Choose another account, or ask your administrator.",
    again: "Use another account",
  },
  mesh_down: {
    status: 503,
    title: "Signing in is not possible right now",
    text: "You are not doing anything wrong: a part of the platform cannot be reached. Wait a little and try again.",
    again: "Try again",
  },
  in_circles: {
    status: 400,
    title: "Signing in goes round in circles",
    text: "You were signed in several times within a minute, and each time the page asked again.",
    again: "Start over",
  },
};

export interface FailureInput {
  readonly failure: SignInFailure;
  readonly againLink: string;
  readonly reference: string;
  readonly setCookie?: readonly string[];
}

export function failurePage({ failure, againLink, reference, setCookie }: FailureInput): EdgeAnswer {
  const { status, title, text, again } = WORDS[failure];
  const advice =
    failure === "in_circles"
      ? html`<ol><li>Let your browser keep cookies of this page.</li><li>See that your computer's clock is right.</li><li>Close the other tabs of this page, then start over.</li></ol>`
      : undefined;
  return page({
    status,
    title,
    content: html`<p>${text}</p>${advice}<a class="button" href="${againLink}">${again}</a>`,
    reference,
    ...(setCookie === undefined ? {} : { setCookie }),
  });
}

/** Asks before signing out: a link of somebody else's page must not do it. */
export function signOutPage(who: string, action: string, formTargets: readonly string[]): EdgeAnswer {
  return page({
    status: 200,
    title: "Sign out?",
    content: html`<p class="soft">You are signed in as <span class="host">${who}</span>.</p>
<form method="post" action="${action}"><button>Sign out</button></form>`,
    formTargets,
  });
}

export function signedOutPage(againLink: string, setCookie: readonly string[]): EdgeAnswer {
  return page({
    status: 200,
    title: "You are signed out",
    content: html`<p>Notebooks and calls that you had open here have ended.</p>
<a class="button" href="${againLink}">Sign in again</a>`,
    setCookie,
  });
}

/** For answers of the gateway itself: unknown host or path, not the owner, overload. */
export function problemPage(status: number, title: string, detail: string, reference: string): EdgeAnswer {
  return page({ status, title, content: html`<p>${detail}</p>`, reference });
}

export interface ConsentInput {
  readonly host: string;
  /** On 127.0.0.1, where the program listens. */
  readonly port: number;
  /** What the program shows, too. */
  readonly check: string;
  readonly who: string;
  readonly action: string;
  readonly fields: readonly (readonly [string, string])[];
  readonly cancelLink: string;
}

/** Whether a program may act as the person: nothing happens without the click. */
export function consentPage(input: ConsentInput): EdgeAnswer {
  const { host, port, check, who, action, fields, cancelLink } = input;
  const hidden = fields.map(([name, value]) => html`<input type="hidden" name="${name}" value="${value}">`);
  return page({
    status: 200,
    title: "Give a program access?",
    content: html`<p>A program on this computer (127.0.0.1, port ${port}) wants to act as <span class="host">${who}</span> at <span class="host">${host}</span> for up to an hour.</p>
<p>Go on only if you have just started <code>countersign login</code> yourself, and it shows</p>
<p><code class="host">${check}</code></p>
<form method="post" action="${action}">${hidden}<button>Give access</button></form>
<ul><li><a class="choice" href="${cancelLink}"><span>Cancel</span></a></li></ul>`,
    formTargets: [`http://127.0.0.1:${port}`],
  });
}
