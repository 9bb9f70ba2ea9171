// Session handles: what the token service knows of a login, sealed so that only a replica of it can read or change it, and
// carried by the gateway that the person signed in at. Nothing is stored here; the secret lies with the authority.
import { deflateRawSync, inflateRawSync } from "node:zlib";
import { CompactEncrypt, compactDecrypt } from "jose";
import type { HandleKey } from "../ca/token-service-keys.ts";
import { TokenRefusal } from "./refusal.ts";

/** A person as a login showed them; roles are computed from it again at each mint. */
export interface Person {
  readonly idp: string;
  /** Without the provider's name. */
  readonly id: string;
  readonly type: "person" | "servicePrincipal";
  readonly email?: string | undefined;
  readonly username?: string | undefined;
  /** `unknown`: the provider left them out (overage), which is not the same as none. */
  readonly groups: readonly string[] | "unknown";
  /** Other claims, for bindings that ask for them. */
  readonly claims: Readonly<Record<string, unknown>>;
  readonly amr: readonly string[];
  readonly acr?: string | undefined;
  /** Unix seconds. */
  readonly authTime?: number | undefined;
}

/** Times are Unix seconds. */
export interface Session {
  /** SPIFFE ID of the gateway: nobody else may use the handle. */
  readonly gateway: string;
  readonly sid: string;
  readonly openedAt: number;
  /** Absolute: no refresh moves it. */
  readonly expiresAt: number;
  /** `sub` of the ID token, which a refreshed one repeats. */
  readonly subject: string;
  readonly person: Person;
}

/** Longest handle, characters: sealed claims of at most 24 KiB. */
const MAX_HANDLE_CHARS = 40_960;
const MAX_SESSION_BYTES = 28_672;
const MAX_OPEN = 20_000;
const CONTENT = { alg: "dir", enc: "A256GCM", typ: "countersign-session" } as const;
/** Content that is deflated: gateways keep a handle for each person, and send it for each token. */
const DEFLATED = "deflate";

interface Opened {
  readonly handle: string;
  readonly session: Session;
}

function invalid(): TokenRefusal {
  return new TokenRefusal(
    "SESSION_INVALID",
    "this is no session of this mesh, or one from before its keys changed; sign in again",
  );
}

export class SessionHandles {
  readonly #keys: () => readonly HandleKey[];
  /** Opened before by the end of the handle (its seal), oldest first: opening one costs more than signing a token. */
  readonly #open = new Map<string, Opened>();

  /** @param keys the first seals, all open. */
  constructor(keys: () => readonly HandleKey[]) {
    this.#keys = keys;
  }

  /** @throws TokenRefusal `NOT_READY` without a key, `TOKEN_INVALID` when the person has too many claims. */
  async seal(session: Session): Promise<string> {
    const [key] = this.#keys();
    if (key === undefined)
      throw new TokenRefusal("NOT_READY", "the token service has no keys yet; try again");
    const json = Buffer.from(JSON.stringify(session));
    const handle = await new CompactEncrypt(deflateRawSync(json))
      .setProtectedHeader({ ...CONTENT, cty: DEFLATED, kid: key.kid })
      .encrypt(key.key);
    if (json.length > MAX_SESSION_BYTES || handle.length > MAX_HANDLE_CHARS)
      throw new TokenRefusal(
        "TOKEN_INVALID",
        "the identity provider says too much about this user; send fewer groups",
      );
    return handle;
  }

  /** @throws TokenRefusal `SESSION_INVALID` for anything that this token service did not seal. */
  async open(handle: string): Promise<Session> {
    const known = this.#open.get(sealOf(handle));
    if (known?.handle === handle) return known.session;
    if (handle.length > MAX_HANDLE_CHARS || handle.split(".", 6).length !== 5) throw invalid();
    try {
      const { plaintext, protectedHeader } = await compactDecrypt(
        handle,
        ({ kid }) => {
          const key = this.#keys().find((one) => one.kid === kid);
          if (key === undefined) throw invalid();
          return key.key;
        },
        { keyManagementAlgorithms: [CONTENT.alg], contentEncryptionAlgorithms: [CONTENT.enc] },
      );
      const json =
        protectedHeader.cty === DEFLATED
          ? inflateRawSync(plaintext, { maxOutputLength: MAX_SESSION_BYTES })
          : Buffer.from(plaintext);
      // Sealed by us: authenticated encryption vouches for the form.
      const session = JSON.parse(json.toString("utf8")) as Session;
      this.#remember(handle, session);
      return session;
    } catch {
      throw invalid();
    }
  }

  #remember(handle: string, session: Session): void {
    if (this.#open.size >= MAX_OPEN) {
      const [oldest] = this.#open.keys();
      if (oldest !== undefined) this.#open.delete(oldest);
    }
    this.#open.set(sealOf(handle), { handle, session });
  }
}

/** Characters of the authentication tag: looking up by thousands, of a text that was just received, costs a hash of them. */
const SEAL_CHARS = 22;

function sealOf(handle: string): string {
  return handle.slice(-SEAL_CHARS);
}
