// What a status means, in the words of people. PURE.

const TITLES: ReadonlyMap<number, string> = new Map([
  [400, "Bad request"],
  [403, "You may not open this"],
  [404, "Nothing is here"],
  [413, "Too large"],
  [421, "Wrong address"],
  [429, "Too many requests"],
  [502, "Something broke off"],
  [503, "Not available right now"],
  [504, "That took too long"],
]);

export function statusTitle(status: number): string {
  return TITLES.get(status) ?? "The request was not carried out";
}
