// Cookies of one browser, as far as the tests of signing in need them: by host, with deletion.

export class CookieJar {
  readonly #byHost = new Map<string, Map<string, string>>();

  take(host: string, setCookie: readonly string[]): void {
    const kept = this.#byHost.get(host) ?? new Map<string, string>();
    this.#byHost.set(host, kept);
    for (const line of setCookie) {
      const [pair = "", ...attributes] = line.split(";");
      const equals = pair.indexOf("=");
      const [name, value] = [pair.slice(0, equals).trim(), pair.slice(equals + 1).trim()];
      const isGone = attributes.some((each) => /^\s*(max-age=0|expires=thu, 01 jan 1970.*)$/i.test(each));
      if (isGone || value === "") kept.delete(name);
      else kept.set(name, value);
    }
  }

  field(host: string): string | undefined {
    const kept = this.#byHost.get(host);
    if (kept === undefined || kept.size === 0) return undefined;
    return Array.from(kept, ([name, value]) => `${name}=${value}`).join("; ");
  }

  /** Value of a cookie, for tests that steal or change it. */
  get(host: string, name: string): string | undefined {
    return this.#byHost.get(host)?.get(name);
  }

  put(host: string, name: string, value: string): void {
    const kept = this.#byHost.get(host) ?? new Map<string, string>();
    this.#byHost.set(host, kept);
    kept.set(name, value);
  }
}
