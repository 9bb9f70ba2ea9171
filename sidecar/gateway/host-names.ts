// PURE. Something kept by host name, where `*.example.com` covers exactly one label.

export class HostNames<T> {
  readonly #exact = new Map<string, T>();
  readonly #wildcards = new Map<string, T>();

  /** Replaces what was kept for the name. @param name lower case, perhaps beginning with `*.`. */
  set(name: string, value: T): void {
    if (name.startsWith("*.")) this.#wildcards.set(name.slice(2), value);
    else this.#exact.set(name, value);
  }

  /** What was set for exactly this name. */
  own(name: string): T | undefined {
    return name.startsWith("*.") ? this.#wildcards.get(name.slice(2)) : this.#exact.get(name);
  }

  /** What covers a host. @param host lower case, without port and final dot. */
  get(host: string): T | undefined {
    const exact = this.#exact.get(host);
    if (exact !== undefined) return exact;
    const dot = host.indexOf(".");
    return dot <= 0 ? undefined : this.#wildcards.get(host.slice(dot + 1));
  }

  /** Every name. */
  names(): string[] {
    return [...this.#exact.keys(), ...[...this.#wildcards.keys()].map((name) => `*.${name}`)];
  }
}
