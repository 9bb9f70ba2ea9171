// Waits for servers that do not say when they listen.
import { connect } from "node:net";
import { until } from "../demo/mesh-processes.ts";

/** Resolves when a port on loopback takes connections. */
export async function connects(port: number): Promise<void> {
  await until(
    `port ${port}`,
    () =>
      new Promise<true | undefined>((resolve) => {
        const socket = connect(port, "127.0.0.1", () => {
          socket.destroy();
          resolve(true);
        });
        socket.on("error", () => resolve(undefined));
      }),
  );
}
