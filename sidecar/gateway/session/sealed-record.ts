// A session, or a sign-in under way, as bytes that only the holder of its id can read: a store, its backups and its
// administrator cannot. PURE but for the nonce.
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";

const VERSION = 1;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const CIPHER = "aes-256-gcm";

/** The key comes from the id, of which the store has only the digest. */
function keyOf(id: string): Buffer {
  return Buffer.from(hkdfSync("sha256", id, "", "countersign gateway session", 32));
}

/** AES-256-GCM with a random nonce under a key of this session alone; bound to the place where it is stored. */
export function seal(id: string, digest: string, record: object): Buffer {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv(CIPHER, keyOf(id), nonce).setAAD(Buffer.from(digest));
  const text = Buffer.concat([cipher.update(JSON.stringify(record), "utf8"), cipher.final()]);
  return Buffer.concat([Buffer.of(VERSION), nonce, cipher.getAuthTag(), text]);
}

/** undefined: not made by {@link seal} for this id. */
export function open(id: string, digest: string, sealed: Buffer): unknown {
  if (sealed.length < 1 + NONCE_BYTES + TAG_BYTES || sealed[0] !== VERSION) return undefined;
  const nonce = sealed.subarray(1, 1 + NONCE_BYTES);
  const tag = sealed.subarray(1 + NONCE_BYTES, 1 + NONCE_BYTES + TAG_BYTES);
  try {
    const decipher = createDecipheriv(CIPHER, keyOf(id), nonce, { authTagLength: TAG_BYTES })
      .setAAD(Buffer.from(digest))
      .setAuthTag(tag);
    const text = Buffer.concat([
      decipher.update(sealed.subarray(1 + NONCE_BYTES + TAG_BYTES)),
      decipher.final(),
    ]);
    return JSON.parse(text.toString("utf8"));
  } catch {
    return undefined;
  }
}
