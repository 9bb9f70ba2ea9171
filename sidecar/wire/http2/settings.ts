// SETTINGS (RFC 9113 section 6.5): what we announce, and the strict reading of what the peer announces.
import { ErrorCode, MAX_FRAME_BYTES, MAX_WINDOW, readUint32, writeUint32 } from "./frames.ts";

/** Setting identifiers (RFC 9113 section 6.5.2, RFC 8441 section 3). */
const SettingId = {
  headerTableSize: 1,
  enablePush: 2,
  maxConcurrentStreams: 3,
  initialWindowSize: 4,
  maxFrameSize: 5,
  maxHeaderListSize: 6,
  enableConnectProtocol: 8,
} as const;

/** Limits of one connection; sizes in bytes. */
export interface Http2Settings {
  /** HPACK table we keep for decoding and announce; also the most we use for encoding, where the peer allows it. */
  readonly headerTableSize: number;
  /** Streams a client may have open with us; as a client, the most we open whatever the server allows. */
  readonly maxConcurrentStreams: number;
  /** Receive window of a new stream, 65535 to 2^31-1: a peer may send that much before it has read our SETTINGS. */
  readonly initialWindowSize: number;
  /** What a stream's receive window grows to while its consumer keeps up. */
  readonly maxStreamWindow: number;
  /** First receive window of the whole connection; at least 65535. */
  readonly connectionWindow: number;
  /** What it grows to likewise: the bound of what a peer can make us hold. */
  readonly maxConnectionWindow: number;
  /** Most of a decoded header list (name + value + 32 a field); announced as SETTINGS_MAX_HEADER_LIST_SIZE. */
  readonly maxHeaderListSize: number;
  /** Most fields of one header list, pseudo-headers and split cookies included. */
  readonly maxFields: number;
  /** `sendData` answers false from this many queued bytes of a stream on. */
  readonly streamQueueBytes: number;
}

/** Defaults for a role; a server takes 16 KiB header lists, a client 64 KiB. */
export function completeSettings(
  role: "client" | "server",
  settings: Partial<Http2Settings> | undefined,
): Http2Settings {
  return {
    // A proof is 0.8 KB and lives 30 s: 64 KiB hold 75 callee operations, and 100 in rotation then miss every time
    // (8 % of the CPU per request on either side). Entries share their strings with the field cache.
    headerTableSize: 131_072,
    maxConcurrentStreams: 256,
    initialWindowSize: 65_536,
    // Half of it is under way while the other half is given back: 2 MiB per round trip, 200 MB/s at 10 ms.
    maxStreamWindow: 4_194_304,
    connectionWindow: 1_048_576,
    maxConnectionWindow: 4_194_304,
    maxHeaderListSize: role === "server" ? 16_384 : 65_536,
    maxFields: 100,
    streamQueueBytes: 32_768,
    ...settings,
  };
}

/** What the peer announced; starts with the defaults of RFC 9113 section 6.5.2. */
interface PeerSettings {
  headerTableSize: number;
  /** The smallest table size since the encoder last looked: it must pass through it (RFC 7541 section 4.2). */
  leastHeaderTableSize: number;
  maxConcurrentStreams: number;
  initialWindowSize: number;
  maxFrameSize: number;
  maxHeaderListSize: number;
  /** RFC 8441. */
  enableConnectProtocol: boolean;
}

/** Before a server's SETTINGS a client opens at most 100 streams, the least that RFC 9113 recommends to allow. */
export function initialPeerSettings(): PeerSettings {
  return {
    headerTableSize: 4096,
    leastHeaderTableSize: 4096,
    maxConcurrentStreams: 100,
    initialWindowSize: 65_535,
    maxFrameSize: MAX_FRAME_BYTES,
    maxHeaderListSize: Number.POSITIVE_INFINITY,
    enableConnectProtocol: false,
  };
}

/**
 * Payload of our SETTINGS frame. Server push is refused.
 *
 * @param takesConnect announces extended CONNECT (a server's to say).
 */
export function encodeSettings(
  role: "client" | "server",
  settings: Http2Settings,
  takesConnect: boolean,
): Buffer {
  const pairs: [number, number][] = [
    [SettingId.headerTableSize, settings.headerTableSize],
    [SettingId.initialWindowSize, settings.initialWindowSize],
    [SettingId.maxHeaderListSize, settings.maxHeaderListSize],
    role === "client"
      ? [SettingId.enablePush, 0]
      : [SettingId.maxConcurrentStreams, settings.maxConcurrentStreams],
  ];
  if (takesConnect) pairs.push([SettingId.enableConnectProtocol, 1]);
  const payload = Buffer.alloc(pairs.length * 6);
  for (const [at, [id, value]] of pairs.entries()) {
    payload[at * 6 + 1] = id;
    writeUint32(payload, at * 6 + 2, value);
  }
  return payload;
}

/**
 * Reads one setting of the peer into `peer`; unknown ones are ignored.
 *
 * @returns 0, or the error code of the connection error (RFC 9113 section 6.5.2).
 */
function applySetting(role: "client" | "server", peer: PeerSettings, id: number, value: number): number {
  switch (id) {
    case SettingId.headerTableSize:
      peer.headerTableSize = value;
      peer.leastHeaderTableSize = Math.min(peer.leastHeaderTableSize, value);
      return ErrorCode.noError;
    case SettingId.enablePush:
      return value > (role === "client" ? 0 : 1) ? ErrorCode.protocolError : ErrorCode.noError;
    case SettingId.maxConcurrentStreams:
      peer.maxConcurrentStreams = value;
      return ErrorCode.noError;
    case SettingId.initialWindowSize:
      peer.initialWindowSize = value;
      return value > MAX_WINDOW ? ErrorCode.flowControlError : ErrorCode.noError;
    case SettingId.maxFrameSize:
      peer.maxFrameSize = value;
      return value < MAX_FRAME_BYTES || value > 0xff_ffff ? ErrorCode.protocolError : ErrorCode.noError;
    case SettingId.maxHeaderListSize:
      peer.maxHeaderListSize = value;
      return ErrorCode.noError;
    case SettingId.enableConnectProtocol:
      if (value > 1 || (peer.enableConnectProtocol && value === 0)) return ErrorCode.protocolError;
      peer.enableConnectProtocol = value === 1;
      return ErrorCode.noError;
    default:
      return ErrorCode.noError;
  }
}

/** Reads a whole SETTINGS payload (its length is a multiple of 6); returns 0 or a connection error code. */
export function applySettings(
  role: "client" | "server",
  peer: PeerSettings,
  buffer: Uint8Array,
  start: number,
  end: number,
): number {
  for (let at = start; at < end; at += 6) {
    const id = ((buffer[at] ?? 0) << 8) | (buffer[at + 1] ?? 0);
    const code = applySetting(role, peer, id, readUint32(buffer, at + 2));
    if (code !== ErrorCode.noError) return code;
  }
  return ErrorCode.noError;
}
