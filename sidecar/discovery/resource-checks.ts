// Checks that the decoders of resources share. PURE.

/** @throws Error when it is none of the choices: a later version's word must not be taken for something else. */
export function oneOf<const T extends string>(choices: readonly T[], text: string, what: string): T {
  const found = choices.find((choice) => choice === text);
  if (found === undefined) throw new Error(`${what} \`${text.slice(0, 64)}\` is not known to this build`);
  return found;
}

export function portNumber(value: number, what: string): number {
  if (value < 1 || value > 65_535) throw new Error(`${what} \`${value}\` is not a port`);
  return value;
}
