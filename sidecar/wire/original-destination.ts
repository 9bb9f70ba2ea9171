// Where a connection was going before iptables redirected it: getsockopt(SO_ORIGINAL_DST) through koffi, which is loaded
// with the first reader and not before. Once per connection, about 2 us.
import { createRequire } from "node:module";
import { type Socket, SocketAddress } from "node:net";
import { MeshError, messageOf, type Result } from "../core/runtime/errors.ts";

export interface OriginalDestination {
  /** IPv4 in dotted form; IPv6 in its canonical text (RFC 5952), with `%scope` where it is link-local. */
  readonly address: string;
  readonly port: number;
}

/**
 * `direct`: nobody redirected the connection, it was made to the listener itself; forwarding it would come back here.
 * `unavailable`: the kernel has no answer (no connection tracking, or the connection is already gone).
 */
export type OriginalDestinationProblem = "direct" | "unavailable";
export type OriginalDestinationReader = (
  socket: Socket,
) => Result<OriginalDestination, OriginalDestinationProblem>;

const SOL_IP = 0;
const SOL_IPV6 = 41;
/** SO_ORIGINAL_DST (linux/netfilter_ipv4.h) and IP6T_SO_ORIGINAL_DST have the same number. */
const SO_ORIGINAL_DST = 80;
const SOCKADDR_IN_BYTES = 16;
const SOCKADDR_IN6_BYTES = 28;
const MAPPED = "::ffff:";

type GetSockOpt = (fd: number, level: number, name: number, value: Buffer, length: Uint32Array) => number;

/**
 * Loads the system call.
 *
 * @throws MeshError `unsupported` where koffi has no build for the platform; capture cannot work there.
 */
export function createOriginalDestinationReader(): OriginalDestinationReader {
  let getsockopt: GetSockOpt;
  try {
    const koffi: typeof import("koffi") = createRequire(import.meta.url)("koffi");
    getsockopt = koffi
      .load(null)
      .func("int getsockopt(int fd, int level, int name, _Out_ uint8_t *value, _Inout_ uint32_t *length)");
  } catch (error) {
    throw new MeshError(
      "unsupported",
      `capture needs the system call getsockopt, and koffi cannot be loaded: ${messageOf(error)}; install with optional dependencies`,
      { cause: error },
    );
  }
  const value = Buffer.alloc(SOCKADDR_IN6_BYTES);
  const length = new Uint32Array(1);
  return (socket) => {
    const { localAddress, localPort } = socket;
    const fd = descriptorOf(socket);
    if (fd === undefined || localAddress === undefined || localPort === undefined)
      return { ok: false, error: "unavailable" };
    const isV6 = localAddress.includes(":") && !localAddress.startsWith(MAPPED);
    const bytes = isV6 ? SOCKADDR_IN6_BYTES : SOCKADDR_IN_BYTES;
    length[0] = bytes;
    if (getsockopt(fd, isV6 ? SOL_IPV6 : SOL_IP, SO_ORIGINAL_DST, value, length) !== 0 || length[0] !== bytes)
      return { ok: false, error: "unavailable" };
    const destination = readSockaddr(value, isV6);
    const own = isV6 ? localAddress : localAddress.replace(MAPPED, "");
    // The kernel answers with the listener's own address for a connection that was not redirected.
    return destination.port === localPort && destination.address === own
      ? { ok: false, error: "direct" }
      : { ok: true, value: destination };
  };
}

/** `_handle.fd` is not documented; in Node 22 to 24 every TCP handle has it. */
function descriptorOf(socket: Socket): number | undefined {
  const { _handle } = socket as Socket & { readonly _handle?: { readonly fd?: unknown } | null };
  return typeof _handle?.fd === "number" && _handle.fd >= 0 ? _handle.fd : undefined;
}

/** Reads a sockaddr_in or sockaddr_in6: port and address are in network order. */
function readSockaddr(value: Buffer, isV6: boolean): OriginalDestination {
  const port = value.readUInt16BE(2);
  if (!isV6) return { address: value.subarray(4, 8).join("."), port };
  const groups: string[] = [];
  for (let at = 8; at < 24; at += 2) groups.push(value.readUInt16BE(at).toString(16));
  const { address } = new SocketAddress({ address: groups.join(":"), family: "ipv6" });
  const scope = value.readUInt32LE(24);
  return { address: scope !== 0 && /^fe[89ab]/.test(address) ? `${address}%${scope}` : address, port };
}
