// Somebody in front of a browser window of their own: what they do, as they would tell it.
import type { Browser, BrowserContext, Page } from "playwright-core";
import { until } from "../demo/mesh-processes.ts";

/** For one thing that a page is expected to come to, on a busy machine. */
const PATIENCE_MS = 100_000;

export interface Account {
  readonly username: string;
  readonly password: string;
}

export class Person {
  readonly context: BrowserContext;
  readonly page: Page;
  /** What the browser held against our pages: violations of their policy, and errors of scripts. */
  readonly complaints: string[] = [];
  /**
   * The machine's network changed (tests beside this one make and unmake interfaces), upon which Chromium drops whatever is
   * under way, on loopback too: what failed says nothing.
   */
  wasDisturbed = false;
  /** Addresses of documents, as they were asked for. */
  readonly visited: string[] = [];
  readonly #origin: string;

  private constructor(context: BrowserContext, page: Page, origin: string) {
    this.context = context;
    this.page = page;
    this.#origin = origin;
    page.on("console", (message) => {
      if (/Content.Security.Policy|Mixed Content|Refused to/i.test(message.text()))
        this.complaints.push(message.text());
    });
    page.on("pageerror", (error) => this.complaints.push(`${page.url()}: ${error.message}`));
    page.on("requestfailed", (request) => {
      const why = request.failure()?.errorText ?? "";
      if (why === "net::ERR_NETWORK_CHANGED") this.wasDisturbed = true;
      // A page that is left ends what it asked for.
      else if (why !== "net::ERR_ABORTED")
        this.complaints.push(`${request.method()} ${request.url()}: ${why}`);
    });
    page.on("websocket", (socket) =>
      socket.on("socketerror", (why) => {
        if (why.includes("ERR_NETWORK_CHANGED")) this.wasDisturbed = true;
      }),
    );
    page.on("request", (request) => {
      if (request.isNavigationRequest()) this.visited.push(request.url());
    });
  }

  /** @param host of the gateway. */
  static async create(browser: Browser, host: string): Promise<Person> {
    const context = await browser.newContext();
    context.setDefaultTimeout(PATIENCE_MS);
    return new Person(context, await context.newPage(), `https://${host}`);
  }

  async open(path: string): Promise<void> {
    await this.page.goto(this.#origin + path, { waitUntil: "load" });
  }

  async choose(provider: string): Promise<void> {
    await this.page.getByRole("link", { name: provider }).click();
  }

  /** Agrees, at Keycloak's page that asks, or declines. */
  async consent(answer: "yes" | "no"): Promise<void> {
    await this.page.locator("#kc-cancel").waitFor();
    await this.page.locator(answer === "yes" ? "#kc-login" : "#kc-cancel").click();
  }

  /** Fills in Keycloak's form. */
  async fill({ username, password }: Account): Promise<void> {
    await this.page.locator("#username").fill(username);
    await this.page.locator("#password").fill(password);
    await this.page.locator("#kc-login").click();
  }

  async signIn(provider: string, account: Account, path = "/"): Promise<void> {
    await this.open(path);
    await this.choose(provider);
    await this.fill(account);
    await this.arrives(path);
  }

  /** Waits for a page; says where it is instead. */
  async arrives(at: string | RegExp): Promise<void> {
    const whole = typeof at === "string" ? this.#origin + at : at;
    await this.page.waitForURL(whole).catch(async (error: unknown) => {
      const text = await this.page.locator("body").textContent();
      throw new Error(`not at ${whole}, but at ${this.page.url()}:\n${text}`, { cause: error });
    });
  }

  async heading(): Promise<string> {
    return (await this.page.locator("h1").first().textContent())?.trim() ?? "";
  }

  /** Text of an element of the notebook, once there is one that fits. */
  async shown(id: "score" | "kernel", wanted: RegExp): Promise<string> {
    let last = "";
    return await until(
      `${id} to be like ${wanted}`,
      async () => {
        last = (await this.page.locator(`#${id}`).textContent()) ?? "";
        return wanted.test(last) ? last : undefined;
      },
      PATIENCE_MS,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}, last \`${last}\``);
    });
  }

  /** What a script of the open page gets. */
  async script(
    path: string,
    method = "GET",
  ): Promise<{ readonly status: number; readonly body: Readonly<Record<string, unknown>> }> {
    const got = await this.page.evaluate(
      async ([target, by]) => {
        const answer = await fetch(target, { method: by, headers: { accept: "application/json" } });
        return { status: answer.status, text: await answer.text() };
      },
      [path, method] as const,
    );
    const isJson = got.text.startsWith("{");
    return { status: got.status, body: isJson ? (JSON.parse(got.text) as Record<string, unknown>) : {} };
  }

  close(): Promise<void> {
    return this.context.close();
  }
}
