// HTML of the gateway's own pages: every value is escaped unless it was made here. PURE.

/** Markup that was made by `html`, and needs no escaping. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

const ESCAPES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (found) => ESCAPES[found] ?? found);
}

type Value = string | number | Markup | readonly Markup[] | undefined;

function textOf(value: Value): string {
  if (value === undefined) return "";
  if (value instanceof Markup) return value.text;
  if (typeof value === "object") return value.map(({ text }) => text).join("");
  return escapeHtml(String(value));
}

/** Tag of a template: `html\`<p>${name}</p>\``. Attributes must be quoted. */
export function html(parts: TemplateStringsArray, ...values: readonly Value[]): Markup {
  let text = parts[0] ?? "";
  for (const [i, value] of values.entries()) text += textOf(value) + (parts[i + 1] ?? "");
  return new Markup(text);
}
