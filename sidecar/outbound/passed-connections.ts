// Captured connections that settings let pass by undecided, until a table says otherwise.
import type { Socket } from "node:net";
import type { OriginalDestination } from "../wire/original-destination.ts";
import { type Passthrough, passThrough } from "../wire/passthrough.ts";
import type { Spoken } from "../wire/sniff.ts";
import { addressKey } from "./address-index.ts";
import type { Directory } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";

interface Passed {
  /** `addressKey` of where it goes. */
  readonly key: string;
  readonly port: number;
  /** That its ClientHello openly asks for, where one was looked for. */
  readonly serverName: string | undefined;
}

/** A local end of a connection, as the guard against loops knows it. */
export const endOf = ({ localAddress, localPort }: Socket): string => `${localAddress} ${localPort}`;

export class PassedConnections {
  readonly #services: OutboundServices;
  readonly #outward: Set<string>;
  readonly #passing = new Map<Passthrough, Passed>();
  /** The table that they were last held against. */
  #heldAgainst: Directory | undefined;

  /** @param outward gets the local ends of connections outward while they stand. */
  constructor(services: OutboundServices, outward: Set<string>) {
    this.#services = services;
    this.#outward = outward;
  }

  /** @param spoken what was found on it; undefined: nobody looked. */
  pass(socket: Socket, { address, port }: OriginalDestination, spoken: Spoken | undefined): void {
    // The verdict may be older than the table in force.
    this.#heldAgainst = undefined;
    let local: string | undefined;
    const passing = passThrough(socket, {
      to: { host: address, port },
      connectTimeoutMs: this.#services.timeouts.connectMs,
      early: spoken?.all,
      onConnected: (outward) => {
        local = endOf(outward);
        this.#outward.add(local);
      },
      onClosed: () => {
        this.#passing.delete(passing);
        if (local !== undefined) this.#outward.delete(local);
      },
    });
    const serverName = spoken?.hidesName === true ? undefined : spoken?.serverName;
    this.#passing.set(passing, { key: addressKey(address, port), port, serverName });
  }

  /** Ends what a new table does not let pass any more, also because it is of the mesh now, or decided on by its name. */
  cutForbidden(): void {
    const { directory, externals } = this.#services.state;
    if (directory === undefined || directory === this.#heldAgainst) return;
    this.#heldAgainst = directory;
    const isDenied = directory.table.settings.outbound === "Deny";
    for (const [passing, { key, port, serverName }] of this.#passing)
      if (
        isDenied ||
        directory.ofAddress(key) !== undefined ||
        externals?.ofServerName(serverName ?? "", port) !== undefined
      )
        passing.cut();
  }
}
