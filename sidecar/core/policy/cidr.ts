// IP addresses and CIDR blocks as big integers; IPv4-mapped IPv6 addresses count as IPv4.

export interface IpAddress {
  readonly bits: 32 | 128;
  readonly value: bigint;
}

export interface Cidr extends IpAddress {
  readonly prefix: number;
}

const parseV4 = (text: string): bigint | undefined => {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  let value = 0n;
  for (const part of parts) {
    if (!/^(0|[1-9][0-9]{0,2})$/.test(part) || Number(part) > 255) return undefined;
    value = (value << 8n) | BigInt(part);
  }
  return value;
};

const groupsOf = (text: string): bigint[] | undefined => {
  if (text === "") return [];
  const out: bigint[] = [];
  for (const part of text.split(":")) {
    if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return undefined;
    out.push(BigInt(`0x${part}`));
  }
  return out;
};

function parseV6(text: string): bigint | undefined {
  let source = text;
  const dotted = source.lastIndexOf(":");
  if (source.includes(".")) {
    const v4 = parseV4(source.slice(dotted + 1));
    if (dotted < 0 || v4 === undefined) return undefined;
    source = `${source.slice(0, dotted + 1)}${(v4 >> 16n).toString(16)}:${(v4 & 0xffffn).toString(16)}`;
  }
  const gap = source.indexOf("::");
  const head = groupsOf(gap < 0 ? source : source.slice(0, gap));
  const tail = gap < 0 ? [] : groupsOf(source.slice(gap + 2));
  if (head === undefined || tail === undefined) return undefined;
  const missing = 8 - head.length - tail.length;
  if (gap < 0 ? missing !== 0 : missing < 1) return undefined;
  const groups = [...head, ...Array<bigint>(missing).fill(0n), ...tail];
  return groups.reduce((sum, group) => (sum << 16n) | group, 0n);
}

/** Parses a textual address; at most 45 characters, no zone. Undefined when it is none. */
export function parseIp(text: string): IpAddress | undefined {
  if (text.length > 45) return undefined;
  if (!text.includes(":")) {
    const v4 = parseV4(text);
    return v4 === undefined ? undefined : { bits: 32, value: v4 };
  }
  const v6 = parseV6(text);
  if (v6 === undefined) return undefined;
  return v6 >> 32n === 0xffffn ? { bits: 32, value: v6 & 0xffffffffn } : { bits: 128, value: v6 };
}

/** Parses `address/prefix`; a mapped IPv6 block of at least /96 becomes an IPv4 block. */
export function parseCidr(text: string): Cidr | undefined {
  const slash = text.lastIndexOf("/");
  if (slash < 0 || !/^(0|[1-9][0-9]{0,2})$/.test(text.slice(slash + 1))) return undefined;
  const address = parseIp(text.slice(0, slash));
  if (address === undefined) return undefined;
  let prefix = Number(text.slice(slash + 1));
  const mapped = address.bits === 32 && text.includes(":");
  if (mapped) prefix -= 96;
  if (prefix < 0 || prefix > address.bits) return undefined;
  return { ...address, prefix };
}

/** Whether the address lies in the block; different families never do. */
export function cidrContains(block: Cidr, address: IpAddress): boolean {
  if (block.bits !== address.bits) return false;
  const shift = BigInt(block.bits - block.prefix);
  return block.value >> shift === address.value >> shift;
}
