// Signals of the system to one AbortSignal: the first asks for a graceful end, the second ends at once.

/**
 * @param onSecond called for a second signal; the default ends the process with status 1.
 * @returns a signal that aborts with the first SIGTERM or SIGINT, and a way to stop listening.
 */
export function shutdownSignal(onSecond: () => void = () => process.exit(1)): {
  readonly signal: AbortSignal;
  readonly close: () => void;
} {
  const controller = new AbortController();
  const onSignal = (): void => {
    if (controller.signal.aborted) onSecond();
    else controller.abort();
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  return {
    signal: controller.signal,
    close: () => {
      process.off("SIGTERM", onSignal);
      process.off("SIGINT", onSignal);
    },
  };
}
