// The frame of every page: one self-contained document, readable in light and dark, by keyboard and on a telephone, whose
// Content-Security-Policy permits its own style sheet and nothing else. PURE.
import { hash } from "node:crypto";
import type { EdgeAnswer } from "../people.ts";
import { html, Markup } from "./html.ts";

const STYLE = `
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5a6675;--line:#dde3ea;--paper:#fff;--ground:#f3f5f8;--blue:#1f5fd1;--press:#184ba6;--on-blue:#fff;--hover:#f0f5fe;--shade:0 1px 2px #1c243014,0 12px 32px #1c24301a}
@media (prefers-color-scheme:dark){:root{--ink:#e8edf4;--soft:#9aa7b8;--line:#2e3947;--paper:#18202b;--ground:#0f151d;--blue:#7fb0ff;--press:#a5c8ff;--on-blue:#0b1a33;--hover:#202b3a;--shade:0 1px 2px #0006,0 12px 32px #0008}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;min-height:100dvh;display:grid;place-items:center;padding:1.5rem 1rem;background:var(--ground);color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{width:100%;max-width:26rem;background:var(--paper);border:1px solid var(--line);border-radius:14px;box-shadow:var(--shade);padding:2.25rem 2rem 1.75rem}
.mark{display:flex;align-items:center;gap:.55rem;color:var(--soft);font-size:.875rem;letter-spacing:.01em}
.mark svg{width:1.375rem;height:1.375rem;flex:none;color:var(--blue)}
h1{font-size:1.5rem;line-height:1.25;font-weight:650;letter-spacing:-.015em;margin:1.35rem 0 .5rem;text-wrap:balance}
p{margin:.5rem 0;text-wrap:pretty}
.soft{color:var(--soft)}
.host{font-weight:600;overflow-wrap:anywhere}
ul{list-style:none;margin:1.4rem 0 .25rem;padding:0;display:grid;gap:.6rem}
.choice,.button,button{display:flex;align-items:center;justify-content:space-between;gap:.75rem;width:100%;min-height:3rem;padding:.7rem 1rem;border:1px solid var(--line);border-radius:10px;background:var(--paper);color:var(--ink);font:inherit;font-weight:550;text-decoration:none;text-align:left;cursor:pointer}
.choice:hover{background:var(--hover);border-color:var(--blue)}
.choice span:last-child{color:var(--soft);font-weight:400}
.button,button{justify-content:center;margin-top:1.4rem;background:var(--blue);border-color:var(--blue);color:var(--on-blue)}
.button:hover,button:hover{background:var(--press);border-color:var(--press)}
a:focus-visible,button:focus-visible,summary:focus-visible{outline:3px solid var(--blue);outline-offset:2px}
a{color:var(--blue)}
footer{margin-top:1.6rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--soft);font-size:.8125rem}
footer code{font:.8125rem ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere;user-select:all}
ol{padding-left:1.25rem;margin:.9rem 0}
li+li{margin-top:.35rem}
ul li+li{margin-top:0}
@media (max-width:30rem){main{padding:1.75rem 1.25rem 1.35rem;border-radius:12px}body{align-items:start}}
@media (prefers-reduced-motion:no-preference){.choice,.button,button{transition:background .12s,border-color .12s}}
@media print{body{background:#fff}main{border:0;box-shadow:none}}
`;

const STYLE_HASH = hash("sha256", STYLE, "base64");

// A seal with a check mark: what is countersigned.
const MARK = new Markup(
  '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><path d="M12 2.5l2.6 1.9 3.2 0 1 3.1 2.6 1.9-1 3.1 1 3.1-2.6 1.9-1 3.1-3.2 0L12 22.5l-2.6-1.9-3.2 0-1-3.1-2.6-1.9 1-3.1-1-3.1 2.6-1.9 1-3.1 3.2 0z"/><path d="M8.5 12.6l2.4 2.4 4.6-5"/></svg>',
);

export interface PageInput {
  readonly status: number;
  readonly title: string;
  readonly content: Markup;
  /** What somebody who helps needs to know; shown small. */
  readonly reference?: string | undefined;
  readonly setCookie?: readonly string[];
  /** Whom forms of the page may lead to besides this host, through redirects too. */
  readonly formTargets?: readonly string[];
}

/** A whole answer. Nothing of it is kept by caches, framed, or told to other hosts. */
export function page({ status, title, content, reference, setCookie, formTargets }: PageInput): EdgeAnswer {
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
<style>${new Markup(STYLE)}</style>
</head>
<body>
<main>
<div class="mark">${MARK}<span>Countersign</span></div>
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
      ["referrer-policy", "no-referrer"],
      ["x-content-type-options", "nosniff"],
      ["x-frame-options", "DENY"],
      ...(setCookie ?? []).map((value) => ["set-cookie", value] as const),
    ],
    body: body.text,
  };
}
