// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../net/authority.ts";
import type { DatagramSocket, PeerLocation } from "../datagram_socket.ts";

/**
 * What may be sent to an address that has not proven itself, for each byte that came from it (RFC
 * 9000 §8).
 */
const AMPLIFICATION_FACTOR = 3;

/** No packet is smaller: header, packet number, a frame and the AEAD tag. */
const MIN_PACKET_BYTES = 48;

/** Time in which a new address has to prove itself, and the old one is kept. */
const MOVING_MS = 3_000;

/**
 * The address that a peer is reached at, which a NAT on the way may change, or a carrier that takes
 * the place of another one (RFC 9000 §9.3).
 *
 * It follows the newest authentic packet. A new address is unproven until a second packet comes
 * from it, in answer to what was sent there. Until then it gets at most three times the bytes that
 * came from it, so that a copied packet with a false source draws no flood on anybody; without a
 * second packet the old address is used again. While the peer moves, everything goes to the old
 * address as well: if it is still there, its answers bring the connection back.
 *
 * quiche's own path validation gives up for good under the same limit when the first packet from a
 * new address is a small one. So it is not told of addresses.
 */
export class PeerAddress {
  #current: PeerLocation;
  /** The last address that was proven, while the peer moves. */
  #previous: PeerLocation | undefined;
  #movingUntil = Infinity;
  #allowance = Infinity;

  constructor(peer: PeerLocation) {
    this.#current = peer;
  }

  get current(): PeerLocation {
    return this.#current;
  }

  /** Where everything has to go as well. */
  get previous(): PeerLocation | undefined {
    return this.#previous;
  }

  /** Whether {@linkcode authentic} wants to know about a packet. */
  concerns(from: Authority, socket: DatagramSocket): boolean {
    return this.#previous !== undefined || !isAt(this.#current, from, socket);
  }

  /**
   * Takes notice of an authentic packet that was not seen before.
   *
   * @returns whether something has to be sent, for an answer that proves its address
   */
  authentic(from: Authority, socket: DatagramSocket, bytes: number, now: number): boolean {
    if (isAt(this.#current, from, socket)) {
      this.#allowance = Infinity;
      return false;
    }
    const isBack = this.#previous !== undefined && isAt(this.#previous, from, socket);
    if (this.#allowance === Infinity) this.#previous = this.#current;
    this.#current = locate(from, socket);
    this.#allowance = isBack ? Infinity : AMPLIFICATION_FACTOR * bytes;
    this.#movingUntil = now + MOVING_MS;
    return !isBack;
  }

  /** When the move is over. */
  get movingUntil(): number {
    return this.#movingUntil;
  }

  /** Ends the move when its time is over; an address that is not proven by then is given up. */
  settle(now: number): void {
    if (now < this.#movingUntil) return;
    if (this.#allowance !== Infinity) this.#current = this.#previous!;
    this.#previous = undefined;
    this.#movingUntil = this.#allowance = Infinity;
  }

  /** How long a packet to the current address may be; 0 for none at all. */
  get maxPacketBytes(): number {
    return this.#allowance < MIN_PACKET_BYTES ? 0 : this.#allowance;
  }

  sent(bytes: number): void {
    this.#allowance -= bytes;
  }
}

/** Where what has come from an address to a socket has come from; the address may change later. */
export function locate({ hostname, port }: Authority, socket: DatagramSocket): PeerLocation {
  return { hostname, port, socket };
}

/** Whether what has come from an address to a socket has come from there. */
export function isAt(peer: PeerLocation, from: Authority, socket: DatagramSocket): boolean {
  return peer.socket === socket && peer.port === from.port && peer.hostname === from.hostname;
}
