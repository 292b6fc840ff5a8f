// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { HostPort } from "./native.ts";

/** What may be sent to an address that has not proven itself, for each byte that came from it (RFC 9000 §8). */
const AMPLIFICATION_FACTOR = 3;

/** No packet is smaller: header, packet number, a frame and the AEAD tag. */
const MIN_PACKET_BYTES = 48;

/**
 * The address that a peer is reached at, which a NAT on the way may change (RFC 9000 §9.3).
 *
 * It follows the newest authentic packet. A new address is unproven until a second packet comes from it, in answer to
 * what was sent there; until then it gets at most three times the bytes that came from it, so that a copied packet with
 * a false source draws no flood on anybody. quiche's own path validation gives up for good under that same limit when
 * the first packet from the new address is a small one, so it is not told of addresses.
 */
export class PeerAddress {
  #current: HostPort;
  #proven: HostPort;
  #allowance = Infinity;

  constructor(address: HostPort) {
    this.#current = this.#proven = { ...address };
  }

  get current(): HostPort {
    return this.#current;
  }

  /** Whether the next packet has to be looked at. */
  mustCheck(from: HostPort): boolean {
    return this.#allowance !== Infinity || !same(from, this.#current);
  }

  /** Takes notice of an authentic packet that was not seen before. Returns whether its address is to be tried. */
  authentic(from: HostPort, bytes: number): boolean {
    if (same(from, this.#proven)) {
      this.#current = this.#proven;
      this.#allowance = Infinity;
    } else if (same(from, this.#current)) {
      this.#proven = this.#current;
      this.#allowance = Infinity;
    } else {
      this.#current = { ...from };
      this.#allowance = AMPLIFICATION_FACTOR * bytes;
      return true;
    }
    return false;
  }

  /** How long a packet to the current address may be; 0 for none at all. */
  get maxPacketBytes(): number {
    return this.#allowance < MIN_PACKET_BYTES ? 0 : this.#allowance;
  }

  sent(bytes: number): void {
    this.#allowance -= bytes;
  }
}

function same(a: HostPort, b: HostPort): boolean {
  return a.port === b.port && a.host === b.host;
}
