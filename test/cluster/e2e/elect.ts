// One candidate of a leader election as a process of its own: says on standard output when it leads, follows and ends.
import { loadKubernetes } from "../../../control-plane/kubernetes/client.ts";
import { runLeaderElection } from "../../../control-plane/leader/lease.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";

const [kubeconfig, namespace = "", name = "", identity = ""] = process.argv.slice(2);
const { coordination } = await loadKubernetes({ kubeconfig, context: undefined });
const stop = new AbortController();
process.once("SIGTERM", () => stop.abort());
const say = (text: string): void => void process.stdout.write(`${text}\n`);
await runLeaderElection(
  {
    coordination,
    namespace,
    name,
    identity,
    clock: systemClock,
    random: Math.random,
    log: createLogger("error", { identity }),
    onHolder: (holder) => {
      if (holder !== undefined && holder.identity !== identity) say("follows");
    },
    onLead: async (signal) => {
      say("leads");
      await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
      say("ends");
    },
  },
  stop.signal,
);
