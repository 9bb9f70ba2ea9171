import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { packSession, unpackSession } from "../../../../sidecar/gateway/session/packed-session.ts";
import { sessionOfSize } from "../../../bench/edge/claims.ts";
import { sessionOf } from "./sessions.ts";

const segment = fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes).toString("base64url"));
const token = fc.oneof(
  fc.array(segment, { minLength: 1, maxLength: 6 }).map((segments) => segments.join(".")),
  fc.string({ unit: "binary", maxLength: 80 }),
);

describe("a packed session", () => {
  test("is the session again, whatever its tokens look like", () => {
    fc.assert(
      fc.property(token, fc.option(token), fc.option(token), (handle, refreshToken, idToken) => {
        const session = sessionOf("s1", {
          handle,
          ...(refreshToken === null ? {} : { refreshToken }),
          ...(idToken === null ? {} : { idToken }),
        });
        expect(unpackSession(packSession(session))).toEqual(session);
      }),
    );
  });

  test.each([
    ["a token with padding", "YQ==.YQ"],
    ["one whose last character has stray bits", "YR.YQ"],
    ["one of the other alphabet", "a+b/.YQ"],
    ["nothing", ""],
    ["dots", "..."],
    ["text beyond Latin-1", "\u{1f511}.\u0100"],
  ])("keeps %s as it is", (_what, odd) => {
    const session = sessionOf("s1", { handle: odd, refreshToken: odd, idToken: odd });
    expect(unpackSession(packSession(session))).toEqual(session);
  });

  test("takes two thirds of its text at most, where claims are 2 KB of ids", () => {
    const session = sessionOfSize(1, 2_048);
    const { length } = packSession(session);
    expect(length).toBeLessThan((JSON.stringify(session).length * 2) / 3);
  });
});
