// A token service's key and what it signs: transaction tokens for tests, and the trust bundle that knows the key.
import { createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { TOKEN_TYPES } from "../../sidecar/core/identity/claims.ts";
import { type HeldTxn, holdTxn } from "../../sidecar/core/identity/held-txn.ts";
import { signToken } from "../../sidecar/core/identity/token.ts";
import { parseTrustBundle, type TrustBundle, TXN_KEY_USE } from "../../sidecar/core/identity/trust-bundle.ts";
import { encodeTxnClaims, TXN_SCOPE_ALL, type TxnClaims } from "../../sidecar/core/identity/txn.ts";
import { must, testId } from "./authority.ts";

export class TestTokenService {
  readonly kid: string;
  readonly key: KeyObject;

  constructor(kid = "tts-test", key = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey) {
    this.kid = kid;
    this.key = key;
  }

  /** The public key as it stands in a bundle document. */
  get jwk(): Record<string, unknown> {
    return { ...createPublicKey(this.key).export({ format: "jwk" }), use: TXN_KEY_USE, kid: this.kid };
  }

  /** A bundle document with this key in it. */
  bundleJson(json: string): string {
    const document = JSON.parse(json);
    return JSON.stringify({ ...document, keys: [...document.keys, this.jwk] });
  }

  bundle(before: TrustBundle): TrustBundle {
    return must(parseTrustBundle(this.bundleJson(before.json), before.trustDomain));
  }

  mint(claims: TxnClaims): string {
    return this.signed({ ...encodeTxnClaims(claims) });
  }

  /** Signs anything: for claims that no token service would sign. */
  signed(claims: Readonly<Record<string, unknown>>): string {
    return signToken({ typ: TOKEN_TYPES.txn, kid: this.kid }, claims, this.key);
  }

  held(claims: TxnClaims): HeldTxn {
    return must(holdTxn(this.mint(claims)));
  }
}

/** Claims of a person who came through a gateway. @param user after the `|` of `sub`. */
export function txnClaims(user: string, nowMs: number, over: Partial<TxnClaims> = {}): TxnClaims {
  const iat = Math.floor(nowMs / 1_000);
  return {
    iat,
    exp: iat + 300,
    aud: "lake.example",
    txn: `txn-${user}`,
    sub: `okta-main|${user}`,
    scope: TXN_SCOPE_ALL,
    reqWl: testId("gateway"),
    tctx: {
      typ: "person",
      roles: ["fraud-ds"],
      idp: "okta-main",
      amr: ["pwd", "mfa"],
      acr: "2",
      email: `${user}@acme.example`,
      username: user,
      authTime: iat - 1_200,
    },
    rctx: { reqIp: "10.20.3.4", sid: `sid-${user}` },
    ...over,
  };
}
