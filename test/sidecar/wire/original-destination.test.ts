import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { describe, expect, test } from "@jest/globals";
import { createOriginalDestinationReader } from "../../../sidecar/wire/original-destination.ts";

// What it reads after a REDIRECT, for both families, is shown in test/integration/capture.
describe.each([
  { listen: "127.0.0.1", to: "127.0.0.1" },
  { listen: "::1", to: "::1" },
  { listen: "::", to: "127.0.0.1" },
])("a connection made straight to $to on a listener at $listen", ({ listen, to }) => {
  test("has no original destination, whatever the kernel tracks", async () => {
    const originalOf = createOriginalDestinationReader();
    const server = createServer().listen(0, listen);
    await once(server, "listening");
    const client = connect((server.address() as AddressInfo).port, to);
    const [accepted] = (await once(server, "connection")) as [Socket];
    expect(originalOf(accepted).ok).toBe(false);
    const closed = once(accepted, "close");
    accepted.destroy();
    client.destroy();
    await closed;
    expect(originalOf(accepted)).toEqual({ ok: false, error: "unavailable" });
    server.close();
    await once(server, "close");
  });
});
