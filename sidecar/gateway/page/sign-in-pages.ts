// The pages of signing in and out. They say what happened and what to do, in the words of people. PURE.
import type { GatewayIdp } from "../../core/gateway/gateway.ts";
import type { SignInFailure } from "../login/sign-in-failure.ts";
import type { EdgeAnswer } from "../people.ts";
import { html, type Markup } from "./html.ts";
import { ONWARD, page } from "./layout.ts";

const hostOf = (issuer: string): string => (URL.canParse(issuer) ? new URL(issuer).host : issuer);

/** On narrow screens a host is broken behind its dots. */
const breakable = (host: string): readonly Markup[] =>
  host.split(".").map((label, i) => (i === 0 ? html`${label}` : html`.<wbr>${label}`));

/** A letter that a name is known by: whole, also where it is two UTF-16 units. */
const firstOf = (name: string): string => (Array.from(name.trim())[0] ?? "").toUpperCase();

/** @param links where each provider's sign-in begins, in the order of `idps`. */
export function choicePage(
  host: string,
  idps: readonly Pick<GatewayIdp, "displayName" | "issuer">[],
  links: readonly string[],
): EdgeAnswer {
  const choices = idps.map(({ displayName, issuer }, i) => {
    const letter = html`<span class="letter" aria-hidden="true">${firstOf(displayName)}</span>`;
    const names = html`<span class="names"><span>${displayName}</span> <span>${breakable(hostOf(issuer))}</span></span>`;
    return html`<li><a class="choice" href="${links[i]}">${letter}${names}${ONWARD}</a></li>`;
  });
  return page({
    status: 200,
    title: "Sign in",
    content: html`<p class="soft">to go on to <span class="host">${breakable(host)}</span></p>
<p class="soft">Which account do you use?</p>
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
    tone: "attention",
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
    tone: "done",
    content: html`<p>Notebooks and calls that you had open here have ended.</p>
<a class="button" href="${againLink}">Sign in again</a>`,
    setCookie,
  });
}

/** What to do, by status; what happened, the detail says. */
const ADVICE: ReadonlyMap<number, string> = new Map([
  [400, "Follow the link again from where you found it; if that does not help, tell whoever gave it to you."],
  [403, "Ask whoever it belongs to for access. If you have another account, sign out and use that."],
  [404, "Look for a slip in the address, or begin at the first page."],
  [413, "Send less at once."],
  [421, "Close this tab, and open the address in a new one."],
  [429, "Wait a few seconds, then load the page again."],
  [502, "You are not doing anything wrong. Load the page again; if that does not help, ask whoever runs it."],
  [503, "You are not doing anything wrong. Wait a little, then load the page again."],
  [504, "You are not doing anything wrong. Wait a little, then load the page again."],
]);
const BEGIN: ReadonlySet<number> = new Set([400, 404]);

/** For answers of the gateway itself: unknown host or path, not the owner, overload. */
export function problemPage(status: number, title: string, detail: string, reference: string): EdgeAnswer {
  const advice = ADVICE.get(status);
  return page({
    status,
    title,
    tone: "attention",
    content: html`<p>${sentence(detail)}${advice === undefined ? "" : ` ${advice}`}</p>
${BEGIN.has(status) ? html`<a class="button" href="/">To the first page</a>` : undefined}
${status === 403 ? html`<a class="button" href="/.countersign/logout">Use another account</a>` : undefined}`,
    reference,
  });
}

/** Details are written as error messages are: no capital, no full stop. */
function sentence(detail: string): string {
  const whole = detail.charAt(0).toUpperCase() + detail.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
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
<p class="check"><code>${check}</code></p>
<form method="post" action="${action}">${hidden}<button>Give access</button></form>
<a class="button quiet" href="${cancelLink}">Cancel</a>`,
    formTargets: [`http://127.0.0.1:${port}`],
  });
}
