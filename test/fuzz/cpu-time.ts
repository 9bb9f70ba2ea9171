// What a fuzz target measures with that looks for inputs which cost too much: a machine that stands still adds nothing.

/** Milliseconds of CPU that this process has used, all threads. */
export function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1_000;
}
