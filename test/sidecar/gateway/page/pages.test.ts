// The gateway's pages: whole documents that need nothing else, and where nothing that came from outside becomes markup.
import { hash } from "node:crypto";
import { describe, expect, test } from "@jest/globals";
import { SIGN_IN_FAILURES } from "../../../../sidecar/gateway/login/sign-in-failure.ts";
import { escapeHtml, html } from "../../../../sidecar/gateway/page/html.ts";
import {
  choicePage,
  failurePage,
  problemPage,
  signedOutPage,
  signOutPage,
} from "../../../../sidecar/gateway/page/sign-in-pages.ts";
import type { EdgeAnswer } from "../../../../sidecar/gateway/people.ts";
import { idpOf } from "../login/world.ts";

const EVIL = `"><script>alert('x')</script>&`;
const PAGES: readonly (readonly [string, EdgeAnswer])[] = [
  ["choice", choicePage(EVIL, [idpOf("a", "https://idp.example", { displayName: EVIL })], [`/x?${EVIL}`])],
  ...SIGN_IN_FAILURES.map(
    (failure) => [failure, failurePage({ failure, againLink: EVIL, reference: EVIL })] as const,
  ),
  ["sign out", signOutPage(EVIL, EVIL, ["https://idp.example"])],
  ["signed out", signedOutPage(EVIL, ["a=b"])],
  ["problem", problemPage(404, EVIL, EVIL, EVIL)],
];

describe.each(PAGES)("the page `%s`", (_name, { fields, body }) => {
  const text = String(body);

  test("shows what came from outside as text", () => {
    expect(text).not.toContain("<script");
    expect(text).not.toContain(EVIL);
  });

  test("permits its own style sheet and nothing else", () => {
    const style = /<style>([\s\S]*?)<\/style>/.exec(text)?.[1] ?? "";
    const policy = fields.find(([name]) => name === "content-security-policy")?.[1];
    expect(policy).toContain(`style-src 'sha256-${hash("sha256", style, "base64")}'`);
    expect(policy).toContain("default-src 'none'");
    expect(policy).toContain("frame-ancestors 'none'");
    expect(text).not.toMatch(/(src|href)="https?:/);
    expect(text).not.toMatch(/ (style|on[a-z]+)="/);
  });

  test("is kept by nobody", () => {
    expect(fields).toContainEqual(["cache-control", "no-store"]);
    expect(fields).toContainEqual(["referrer-policy", "same-origin"]);
  });

  test("has a language, a title, one heading and one main part", () => {
    expect(text).toContain('<html lang="en">');
    expect(text.match(/<h1>/g)).toHaveLength(1);
    expect(text.match(/<main>/g)).toHaveLength(1);
    expect(text).toMatch(/<title>[^<]+<\/title>/);
    expect(text).toContain('name="viewport"');
  });
});

test("values of a template are escaped unless they are markup", () => {
  expect(html`<a href="${`"'<>&`}">${html`<b>${"<"}</b>`}${undefined}${3}</a>`.text).toBe(
    '<a href="&quot;&#39;&lt;&gt;&amp;"><b>&lt;</b>3</a>',
  );
  expect(escapeHtml("a")).toBe("a");
});
