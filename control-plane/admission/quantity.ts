// Kubernetes quantities (`100m`, `64Mi`), as far as requests and limits of a container need them. PURE.

const FORM = /^([0-9]{1,15}(?:\.[0-9]{1,9})?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?$/;
const FACTORS: Readonly<Record<string, number>> = {
  m: 1e-3,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
};

/** The value in cores or bytes; undefined for what is not a quantity, or not a positive one. */
export function parseQuantity(text: string): number | undefined {
  const match = FORM.exec(text);
  if (match === null) return undefined;
  const value = Number(match[1]) * (match[2] === undefined ? 1 : (FACTORS[match[2]] ?? Number.NaN));
  return value > 0 ? value : undefined;
}
