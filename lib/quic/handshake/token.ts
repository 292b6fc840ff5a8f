// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { Authority } from "../../net/authority.ts";
import { connectionIdKey } from "./packet.ts";

const MAC_BYTES = 32;
const EXPIRY_BYTES = 8;

/**
 * Used tokens that are remembered at most, the latest; one that is forgotten may be used again
 * until it expires.
 */
const MAX_REDEEMED = 20_000;

/**
 * Retry tokens and connection ids of one endpoint (RFC 9000 §8.1), under a random key that lives as
 * long as it.
 *
 * A token is `expiry (8) | original destination connection id | HMAC-SHA256 (32)`. The MAC also
 * covers the client's address and port and the connection id that the Retry packet gave, so a token
 * is worth nothing anywhere else.
 */
export class AddressValidator {
  readonly #key = randomBytes(32);
  readonly #lifetimeMs: number;
  readonly #now: () => number;
  /** When they expire, by the connection id that the Retry packet gave; the earliest used first. */
  readonly #redeemed = new Map<string, number>();

  constructor(options: { lifetimeMs?: number; now?: () => number } = {}) {
    this.#lifetimeMs = options.lifetimeMs ?? 10_000;
    this.#now = options.now ?? Date.now;
  }

  /**
   * The connection id that a client's first packet leads to: the same one each time it is sent
   * again, so that copies and retransmissions find the connection that the first one made.
   */
  connectionIdFor(initialDcid: Uint8Array, bytes: number): Uint8Array {
    const mac = createHmac("sha256", this.#key).update("connection id").update(initialDcid)
      .digest();
    return new Uint8Array(mac.subarray(0, bytes));
  }

  /** Makes the token of a Retry packet. */
  mint(peer: Authority, retryCid: Uint8Array, originalDcid: Uint8Array): Uint8Array {
    const token = new Uint8Array(EXPIRY_BYTES + originalDcid.length + MAC_BYTES);
    new DataView(token.buffer).setFloat64(0, this.#now() + this.#lifetimeMs);
    token.set(originalDcid, EXPIRY_BYTES);
    const body = token.subarray(0, -MAC_BYTES);
    token.set(this.#mac(peer, retryCid, body), body.length);
    return token;
  }

  /**
   * Checks a token that came back.
   *
   * @returns the original destination connection id, or undefined when the token is forged, expired
   *   or was made for another address or connection id
   */
  verify(token: Uint8Array, peer: Authority, retryCid: Uint8Array): Uint8Array | undefined {
    if (token.length <= EXPIRY_BYTES + MAC_BYTES) return undefined;
    const body = token.subarray(0, -MAC_BYTES);
    if (!timingSafeEqual(this.#mac(peer, retryCid, body), token.subarray(-MAC_BYTES))) {
      return undefined;
    }
    const expiry = new DataView(token.buffer, token.byteOffset).getFloat64(0);
    return this.#now() < expiry ? body.slice(EXPIRY_BYTES) : undefined;
  }

  /**
   * As {@linkcode verify}, and takes each connection id once only, so that copies of a packet start
   * nothing.
   */
  redeem(token: Uint8Array, peer: Authority, retryCid: Uint8Array): Uint8Array | undefined {
    const originalDcid = this.verify(token, peer, retryCid);
    if (!originalDcid) return undefined;
    const now = this.#now();
    for (const [used, expiry] of this.#redeemed) {
      if (now < expiry && this.#redeemed.size < MAX_REDEEMED) break;
      this.#redeemed.delete(used);
    }
    const key = connectionIdKey(retryCid);
    if (this.#redeemed.has(key)) return undefined;
    this.#redeemed.set(key, now + this.#lifetimeMs);
    return originalDcid;
  }

  #mac(peer: Authority, retryCid: Uint8Array, body: Uint8Array): Uint8Array {
    return createHmac("sha256", this.#key).update("retry token")
      .update(`${peer.hostname} ${peer.port} ${retryCid.length} `).update(retryCid).update(body)
      .digest();
  }
}
