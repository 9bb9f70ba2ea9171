// The frame of every page: one self-contained document, readable in light and dark, by keyboard and on a telephone, whose
// Content-Security-Policy permits its own style sheet and nothing else. PURE.
import { hash } from "node:crypto";
import type { EdgeAnswer } from "../people.ts";
import { html, Markup } from "./html.ts";

const STYLE = `
:root{color-scheme:light dark;--ink:#1c2430;--soft:#566272;--line:#dbe1e9;--paper:#fff;--ground:#f2f5f9;--glow:#e3edfd;--blue:#1f5fd1;--press:#184ba6;--tint:#e8f0fe;--on-blue:#fff;--hover:#f3f7ff;--amber:#8a5300;--amber-tint:#fdf1dc;--shade:0 1px 2px #1c243014,0 14px 40px #1c24301f}
@media (prefers-color-scheme:dark){:root{--ink:#e8edf4;--soft:#a0adbd;--line:#303c4b;--paper:#171f29;--ground:#0d131a;--glow:#121d2e;--blue:#86b4ff;--press:#a9caff;--tint:#1d2c45;--on-blue:#0b1a33;--hover:#1e2937;--amber:#f2bd6b;--amber-tint:#362a16;--shade:0 1px 2px #0006,0 14px 40px #0009}}
*{box-sizing:border-box}
html{background:var(--ground)}
body{margin:0;min-height:100vh;min-height:100dvh;display:grid;place-items:center;padding:1.5rem 1rem;background:linear-gradient(172deg,var(--glow) 42%,transparent 42.1%) no-repeat;color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{width:100%;max-width:27rem;min-width:0;background:var(--paper);border:1px solid var(--line);border-radius:16px;box-shadow:var(--shade);padding:2rem 2rem 1.75rem}
.mark{display:flex;align-items:center;gap:.55rem;color:var(--soft);font-size:.875rem;font-weight:550;letter-spacing:.01em}
.mark svg{width:1.5rem;height:1.5rem;flex:none;color:var(--blue)}
.sign{width:3rem;height:3rem;margin:1.5rem 0 -.35rem;border-radius:50%;display:grid;place-items:center;background:var(--tint);color:var(--blue)}
.sign svg{width:1.5rem;height:1.5rem}
.attention{background:var(--amber-tint);color:var(--amber)}
.attention svg{width:1.75rem;height:1.75rem;stroke-width:2.4}
h1{font-size:1.5rem;line-height:1.25;font-weight:650;letter-spacing:-.015em;margin:1.35rem 0 .5rem;text-wrap:balance}
p{margin:.5rem 0;text-wrap:pretty}
.soft{color:var(--soft)}
.host{display:inline-block;font-weight:600;overflow-wrap:anywhere;color:var(--ink)}
ul{list-style:none;margin:1.4rem 0 .25rem;padding:0;display:grid;gap:.6rem}
.choice{display:flex;align-items:center;gap:.85rem;min-height:4rem;padding:.6rem .9rem;border:1px solid var(--line);border-radius:12px;color:var(--ink);text-decoration:none}
.choice:hover{background:var(--hover);border-color:var(--blue)}
.choice .letter{flex:none;width:2.5rem;height:2.5rem;border-radius:50%;display:grid;place-items:center;background:var(--tint);color:var(--blue);font-weight:650}
.choice .names{flex:1;min-width:0;display:grid;line-height:1.35;overflow-wrap:anywhere}
.choice .names span:first-child{font-weight:600}
.choice .names span:last-child{color:var(--soft);font-size:.875rem}
.choice svg{flex:none;width:1.25rem;height:1.25rem;color:var(--soft)}
.choice:hover svg{color:var(--blue)}
.button,button{display:flex;align-items:center;justify-content:center;width:100%;min-height:3rem;margin-top:1.4rem;padding:.7rem 1rem;border:1px solid var(--blue);border-radius:12px;background:var(--blue);color:var(--on-blue);font:inherit;font-weight:600;text-decoration:none;cursor:pointer}
.button:hover,button:hover{background:var(--press);border-color:var(--press)}
.quiet{margin-top:.75rem;background:none;border-color:var(--line);color:var(--ink)}
.quiet:hover{background:var(--hover);border-color:var(--blue)}
code{font:.9375em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.check{margin:1rem 0 0;padding:.75rem 1rem;border-radius:12px;background:var(--tint);text-align:center}
.check code{font-size:1.5rem;font-weight:650;letter-spacing:.12em;overflow-wrap:anywhere}
a:focus-visible,button:focus-visible{outline:3px solid var(--blue);outline-offset:2px}
footer{margin-top:1.6rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--soft);font-size:.8125rem}
footer code{display:block;font-size:1em;overflow-wrap:anywhere;user-select:all}
ol{padding-left:1.25rem;margin:.9rem 0}
li+li{margin-top:.35rem}
ul li{min-width:0}
ul li+li{margin-top:0}
@media (max-width:30rem){main{padding:1.5rem 1.25rem 1.35rem}body{align-items:start}}
@media (prefers-reduced-motion:no-preference){.choice,.button,button{transition:background .12s,border-color .12s}}
@media (forced-colors:active){.letter,.sign{border:1px solid}}
@media print{html,body{background:#fff}main{border:0;box-shadow:none}}
`;

const STYLE_HASH = hash("sha256", STYLE, "base64");

const svg = (paths: string): Markup =>
  new Markup(
    `<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">${paths}</svg>`,
  );

// A seal with a check mark: what is countersigned.
const SEAL =
  '<path d="M12 2.5l2.6 1.9 3.2 0 1 3.1 2.6 1.9-1 3.1 1 3.1-2.6 1.9-1 3.1-3.2 0L12 22.5l-2.6-1.9-3.2 0-1-3.1-2.6-1.9 1-3.1-1-3.1 2.6-1.9 1-3.1 3.2 0z"/><path d="M8.5 12.6l2.4 2.4 4.6-5"/>';
const MARK = svg(SEAL);
const SIGNS: Readonly<Record<Tone, Markup>> = {
  done: svg('<path d="M5 12.5l4.5 4.5L19 7.5"/>'),
  attention: svg('<path d="M12 5.5v8"/><path d="M12 18h.01"/>'),
};
export const ONWARD: Markup = svg('<path d="M9 5.5l6.5 6.5L9 18.5"/>');
// In the document itself: the policy permits nothing else, and browsers ask for one.
const ICON = `data:image/svg+xml,${encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#3b82f6" stroke-width="2.4" stroke-linecap="round" stroke-linejoin="round">${SEAL}</svg>`)}`;

/** The sign above the heading: all is well, or somebody has to do something. */
export type Tone = "done" | "attention";

export interface PageInput {
  readonly status: number;
  readonly title: string;
  readonly content: Markup;
  readonly tone?: Tone;
  /** What somebody who helps needs to know; shown small. */
  readonly reference?: string | undefined;
  readonly setCookie?: readonly string[];
  /** Whom forms of the page may lead to besides this host, through redirects too. */
  readonly formTargets?: readonly string[];
}

/** A whole answer. Nothing of it is kept by caches, framed, or told to other hosts. */
export function page({
  status,
  title,
  content,
  tone,
  reference,
  setCookie,
  formTargets,
}: PageInput): EdgeAnswer {
  const help =
    reference === undefined
      ? undefined
      : html`<footer>If you ask for help, give this reference: <code>${reference}</code></footer>`;
  const body = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="robots" content="noindex">
<title>${title}</title>
<link rel="icon" href="${ICON}">
<style>${new Markup(STYLE)}</style>
</head>
<body>
<main>
<div class="mark">${MARK}<span>Countersign</span></div>
${tone === undefined ? undefined : html`<div class="sign ${tone}">${SIGNS[tone]}</div>`}
<h1>${title}</h1>
${content}
${help}
</main>
</body>
</html>
`;
  const policy = [
    "default-src 'none'",
    `style-src 'sha256-${STYLE_HASH}'`,
    "img-src data:",
    `form-action ${["'self'", ...(formTargets ?? [])].join(" ")}`,
    "base-uri 'none'",
    "frame-ancestors 'none'",
  ];
  return {
    kind: "answer",
    status,
    fields: [
      ["content-type", "text/html; charset=utf-8"],
      ["content-security-policy", policy.join("; ")],
      ["cache-control", "no-store"],
      // Without one, browsers send `Origin: null` with the page's own form.
      ["referrer-policy", "same-origin"],
      ["x-content-type-options", "nosniff"],
      ["x-frame-options", "DENY"],
      ...(setCookie ?? []).map((value) => ["set-cookie", value] as const),
    ],
    body: body.text,
  };
}
