import { describe, expect, test } from "@jest/globals";
import { DEFAULT_LIMITS, DEFAULT_TIMEOUTS } from "../../../sidecar/config.ts";
import type { AppExchange, AppPlace } from "../../../sidecar/inbound/app-side.ts";
import { CallerAnswer } from "../../../sidecar/inbound/caller-answer.ts";
import { type ForwardedCall, Forwarding } from "../../../sidecar/inbound/forwarding.ts";
import { RequestBody } from "../../../sidecar/inbound/request-body.ts";
import { WaitingBytes } from "../../../sidecar/inbound/waiting-body.ts";
import { SidecarMetrics } from "../../../sidecar/metrics.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { factsOf, fieldsOf, RecordedCaller } from "../../fakes/recorded-caller.ts";

/** One request, forwarded to an application that does what the test says. */
class Scene implements ForwardedCall {
  readonly caller: RecordedCaller;
  readonly peer;
  readonly facts;
  readonly body: RequestBody;
  readonly answer: CallerAnswer;
  readonly forwarding: Forwarding;
  isOver = false;
  /** What the application got, and how it ended. */
  readonly seen: string[] = [];
  isFull = false;
  congested = false;
  readonly waiting = new WaitingBytes(200_000);
  #place: AppPlace | undefined;

  constructor(fields: Readonly<Record<string, string>> = {}, upgradesByConnect = true) {
    this.caller = new RecordedCaller({ upgradesByConnect });
    this.peer = this.caller.side;
    this.facts = factsOf(fields);
    const { waiting, seen } = this;
    const services = { waiting, limits: DEFAULT_LIMITS, timeouts: DEFAULT_TIMEOUTS };
    this.body = new RequestBody(services, this.peer.answers, this.caller.stream, this.facts);
    this.answer = new CallerAnswer(this.peer, this.caller.stream, this.facts);
    const take = (_exchange: AppExchange, fresh: boolean): AppPlace | undefined => {
      seen.push(fresh ? "fresh" : "kept");
      this.#place = this.isFull ? undefined : this.#newPlace();
      return this.#place;
    };
    const app = (_port: number, http2: boolean) => {
      seen.push(http2 ? "h2" : "h1");
      return { take, sweep: () => {}, close: () => {} };
    };
    const clock = new FakeClock(5);
    this.forwarding = new Forwarding({ app, clock, metrics: new SidecarMetrics() }, this, 0);
  }

  #newPlace(): AppPlace {
    const scene = this;
    const note = (word: string) => () => {
      this.seen.push(word);
    };
    return {
      sendHead: note("head"),
      sendBody: (chunk) => this.seen.push(chunk.toString()),
      sendEnd: (trailers) => this.seen.push(["end", ...trailers.map(({ name }) => name)].join(" ")),
      get congested() {
        return scene.congested;
      },
      touch: () => {},
      ...{ pauseResponse: note("pause"), resumeResponse: note("resume"), abandon: note("abandon") },
      release: (requestSent) => this.seen.push(`released ${requestSent}`),
    };
  }

  onForwarded(): void {
    this.isOver = true;
    this.seen.push("forwarded");
  }

  onForwardFailed(reason: string): void {
    this.isOver = true;
    this.seen.push(reason);
  }

  /** The application's connection stands. */
  ready(): void {
    if (this.#place !== undefined) this.forwarding.onAppReady(this.#place);
  }

  /** Body comes from the caller while the application's connection stands. */
  send(text: string, end = false): void {
    this.body.arrived(Buffer.from(text), end);
    if (this.forwarding.isReady) this.forwarding.sendBody(Buffer.from(text));
    else this.body.wait(Buffer.from(text));
    this.forwarding.sendEnd();
  }

  take(): string[] {
    return this.seen.splice(0);
  }
}

const OK = { status: 200, fields: fieldsOf({}), contentLength: 2, connectionNames: [] };

describe("a request that is forwarded", () => {
  test("goes with what waited, its body and its end, and its answer comes back", () => {
    const scene = new Scene();
    scene.body.wait(Buffer.from("ab"));
    scene.forwarding.start();
    expect([scene.forwarding.isReady, scene.forwarding.isWaiting]).toEqual([false, true]);
    scene.ready();
    scene.send("cd", true);
    expect(scene.take()).toEqual(["h1", "kept", "head", "ab", "cd", "end"]);
    scene.forwarding.onAppHead(OK, undefined);
    scene.forwarding.onAppBody(Buffer.from("ok"));
    scene.forwarding.onAppEnd([]);
    expect(scene.take()).toEqual(["released true", "forwarded"]);
    expect(scene.caller.said).toEqual(["200", 'data "ok"', "end"]);
    expect(scene.facts.upstreamMs).toBe(5);
  });

  test("does not end before its messages have been looked at", () => {
    const scene = new Scene();
    scene.body.holdsEnd = true;
    scene.forwarding.start();
    scene.ready();
    scene.send("ab", true);
    expect(scene.take().at(-1)).toBe("ab");
    scene.body.holdsEnd = false;
    scene.body.trailers = fieldsOf({ "x-sum": "1" });
    scene.forwarding.sendEnd();
    scene.forwarding.sendEnd();
    expect(scene.take()).toEqual(["end x-sum"]);
  });

  test("gets no more of the body while the application does not keep up", () => {
    const scene = new Scene();
    scene.forwarding.start();
    scene.ready();
    scene.congested = true;
    scene.send("ab");
    scene.forwarding.giveCredit();
    expect(scene.caller.said).toEqual([]);
    scene.congested = false;
    scene.forwarding.onAppDrain();
    expect(scene.caller.said).toEqual(["credit 2"]);
  });

  test("holds the answer back while the caller does not keep up", () => {
    const scene = new Scene();
    scene.body.isComplete = true;
    scene.forwarding.start();
    scene.ready();
    scene.forwarding.onAppHead({ ...OK, contentLength: -1 }, undefined);
    scene.caller.hasRoom = false;
    scene.take();
    scene.forwarding.onAppBody(Buffer.from("a"));
    scene.forwarding.resume();
    expect(scene.take()).toEqual(["pause", "resume"]);
  });

  test("that is answered before it is whole is not wanted any further", () => {
    const scene = new Scene();
    scene.forwarding.start();
    scene.ready();
    scene.forwarding.onAppHead({ ...OK, contentLength: 0 }, undefined);
    scene.forwarding.onAppEnd([]);
    expect(scene.take().slice(-2)).toEqual(["released false", "forwarded"]);
    expect(scene.caller.said).toEqual(["200", "end", "reset 0"]);
  });

  test("fails where the application has no place", () => {
    const scene = new Scene();
    scene.isFull = true;
    scene.forwarding.start();
    expect(scene.take()).toEqual(["h1", "kept", "OVERLOADED"]);
  });

  test("is left alone once it is over", () => {
    const scene = new Scene();
    scene.forwarding.start();
    scene.ready();
    scene.isOver = true;
    scene.take();
    scene.forwarding.onAppHead(OK, undefined);
    scene.forwarding.onAppBody(Buffer.from("ok"));
    scene.forwarding.onAppDrain();
    scene.forwarding.onAppFailed("closed", "gone", "all", 0);
    scene.forwarding.abandon();
    expect([scene.take(), scene.caller.said]).toEqual([[], []]);
  });
});

describe("a request whose connection to the application failed", () => {
  test.each([
    { method: "POST", repeatable: "all", again: true },
    { method: "POST", repeatable: "idempotent", again: false },
    { method: "PUT", repeatable: "idempotent", again: true },
    { method: "PUT", repeatable: "nothing", again: false },
  ] as const)(
    "is sent again where $repeatable may be, as $method: $again",
    ({ method, repeatable, again }) => {
      const scene = new Scene({ ":method": method });
      scene.forwarding.start();
      scene.ready();
      scene.send("ab");
      scene.send("cd", true);
      scene.take();
      scene.forwarding.onAppFailed("closed", "gone", repeatable, 0);
      expect(scene.take()).toEqual(again ? ["h1", "fresh"] : ["UPSTREAM_FAILED"]);
      if (!again) return;
      scene.ready();
      expect(scene.take()).toEqual(["head", "abcd", "end"]);
      scene.forwarding.onAppFailed("closed", "gone", "all", 0);
      expect(scene.take()).toEqual(["UPSTREAM_FAILED"]);
      expect(scene.waiting.taken).toBe(0);
    },
  );

  test("is sent again before what has come since", () => {
    const scene = new Scene();
    scene.forwarding.start();
    scene.ready();
    scene.send("ab");
    scene.forwarding.onAppFailed("closed", "gone", "all", 0);
    scene.send("cd", true);
    scene.take();
    scene.ready();
    expect(scene.take()).toEqual(["head", "abcd", "end"]);
  });

  test.each([
    { name: "its body is too long to be kept", bytes: 70_000, answers: false },
    { name: "its answer has begun", bytes: 2, answers: true },
  ])("is not sent again where $name", ({ bytes, answers }) => {
    const scene = new Scene();
    scene.forwarding.start();
    scene.ready();
    scene.send("x".repeat(bytes));
    if (answers) scene.forwarding.onAppHead(OK, undefined);
    scene.take();
    scene.forwarding.onAppFailed("timeout", "slow", "all", 0);
    expect(scene.take()).toEqual(["UPSTREAM_TIMEOUT"]);
  });

  test.each([
    { name: "its code", code: 8, said: "reset 8" },
    { name: "a breach of the protocol as our failure", code: 1, said: "reset 2" },
  ])("passes a reset of gRPC on, $name", ({ code, said }) => {
    const scene = new Scene({ "content-type": "application/grpc" });
    scene.forwarding.start();
    scene.ready();
    scene.take();
    scene.forwarding.onAppFailed("reset", "reset", "nothing", code);
    expect([scene.take(), scene.caller.said]).toEqual([["forwarded"], [said]]);
  });
});

describe("an upgrade that is forwarded", () => {
  const WEBSOCKET = { ":method": "CONNECT", ":protocol": "websocket", "countersign-protocol": "h2c" };

  test.each([
    { name: "by extended CONNECT", byConnect: true, end: [] },
    { name: "over HTTP/1.1", byConnect: false, end: [] },
  ])("$name has a connection of its own, and early bytes wait for the answer", ({ byConnect }) => {
    const scene = new Scene(WEBSOCKET, byConnect);
    // Over HTTP/1.1 the handshake is a whole request.
    scene.body.isComplete = !byConnect;
    scene.forwarding.start();
    scene.body.wait(Buffer.from("early"));
    scene.ready();
    expect(scene.take()).toEqual(["h1", "fresh", "head"]);
    scene.forwarding.onAppSwitched({ ...OK, status: 101 });
    expect(scene.take()).toEqual(["early"]);
    expect(scene.caller.said).toEqual(["switched"]);
    expect(scene.body.isComplete).toBe(false);
  });

  test("drops what came early when the application ignores it", () => {
    const scene = new Scene(WEBSOCKET);
    scene.forwarding.start();
    scene.ready();
    scene.body.arrived(Buffer.from("early"), false);
    scene.body.wait(Buffer.from("early"));
    scene.forwarding.onAppHead({ ...OK, status: 404, contentLength: 0 }, undefined);
    scene.forwarding.onAppEnd([]);
    expect(scene.take().slice(-2)).toEqual(["released true", "forwarded"]);
    expect(scene.caller.said).toEqual(["credit 5", "404", "end", "reset 0"]);
    expect(scene.waiting.taken).toBe(0);
  });

  test("asks again over HTTP/1.1 where HTTP/2 knows no extended CONNECT", () => {
    const scene = new Scene(WEBSOCKET);
    scene.forwarding.start();
    scene.take();
    scene.forwarding.onAppFailed("upgrade", "no extended CONNECT", "nothing", 0);
    expect(scene.take()).toEqual(["h1", "fresh"]);
  });
});
