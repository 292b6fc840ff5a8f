// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { ipBytes } from "../../net/ip_address.ts";

/**
 * Time for which a handshake that failed counts as if it were under way: the packets of its end are
 * kept that long.
 */
const FAILED_MS = 1_000;

/** What may be under way. */
export interface HalfOpenLimits {
  /** Handshakes. */
  readonly maxHandshakes: number;
  /** Handshakes of one address. */
  readonly maxPerAddress: number;
  /** Bytes received by all of them. */
  readonly maxBytes: number;
}

interface Address {
  readonly key: string;
  handshakes: number;
  bytes: number;
}

interface Handshake {
  readonly address: Address;
  bytes: number;
}

/**
 * Handshakes that clients have begun, in total and per address, so that strangers cost little and
 * no address blocks the others.
 *
 * In addition to the fixed limits, an address gets no more than it leaves free for others: half of
 * everything if it is the only one, a third each if there are two.
 */
export class HalfOpen<Connection> {
  readonly #limits: HalfOpenLimits;
  readonly #now: () => number;
  readonly #handshakes = new Map<Connection, Handshake>();
  readonly #failed: { readonly handshake: Handshake; readonly at: number }[] = [];
  readonly #addresses = new Map<string, Address>();
  #bytes = 0;

  /** @param now a clock in milliseconds */
  constructor(limits: HalfOpenLimits, now: () => number = () => performance.now()) {
    this.#limits = limits;
    this.#now = now;
  }

  /** Handshakes in progress. */
  get size(): number {
    return this.#handshakes.size;
  }

  /** Handshakes in progress, and those that failed in the last second. */
  get recent(): number {
    const since = this.#now() - FAILED_MS;
    while (this.#failed.length > 0 && this.#failed[0]!.at <= since) {
      this.#release(this.#failed.shift()!.handshake);
    }
    return this.#handshakes.size + this.#failed.length;
  }

  /** Bytes received by {@linkcode recent} handshakes. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Whether a handshake with so many bytes may begin, or which limit it exceeds: the total, or that
   * of its address.
   */
  judge(host: string, bytes: number): "yes" | "too many" | "too many of the address" {
    const free = this.#limits.maxHandshakes - this.recent;
    const freeBytes = this.#limits.maxBytes - this.#bytes;
    if (free <= 0 || freeBytes < bytes) return "too many";
    const held = this.#addresses.get(addressKey(host)) ?? { handshakes: 0, bytes: 0 };
    return held.handshakes < Math.min(free, this.#limits.maxPerAddress) &&
        held.bytes + bytes <= freeBytes
      ? "yes"
      : "too many of the address";
  }

  /** A handshake begins. */
  add(connection: Connection, host: string): void {
    const key = addressKey(host);
    let address = this.#addresses.get(key);
    if (!address) this.#addresses.set(key, address = { key, handshakes: 0, bytes: 0 });
    address.handshakes++;
    this.#handshakes.set(connection, { address, bytes: 0 });
  }

  /**
   * Whether these bytes may be received. Connections without a handshake in progress may always.
   */
  receive(connection: Connection, bytes: number): boolean {
    const handshake = this.#handshakes.get(connection);
    if (!handshake) return true;
    const { address } = handshake;
    if (address.bytes + bytes > this.#limits.maxBytes - this.#bytes) return false;
    handshake.bytes += bytes;
    address.bytes += bytes;
    this.#bytes += bytes;
    return true;
  }

  /** A handshake is complete: what it occupied is free at once. */
  complete(connection: Connection): void {
    const handshake = this.#take(connection);
    if (handshake) this.#release(handshake);
  }

  /** A handshake has failed: what it occupied is free after a second. */
  fail(connection: Connection): void {
    const handshake = this.#take(connection);
    if (handshake) this.#failed.push({ handshake, at: this.#now() });
  }

  #take(connection: Connection): Handshake | undefined {
    const handshake = this.#handshakes.get(connection);
    this.#handshakes.delete(connection);
    return handshake;
  }

  #release({ address, bytes }: Handshake): void {
    this.#bytes -= bytes;
    address.bytes -= bytes;
    if (--address.handshakes === 0) this.#addresses.delete(address.key);
  }
}

/**
 * What counts as one address: an IPv4 address, or the 64 bits that an IPv6 host can choose below
 * freely.
 */
export function addressKey(host: string): string {
  const ip = ipBytes(host);
  // One with a zone id is of this network.
  if (ip === undefined) return host;
  return ip.subarray(0, 8).join(".");
}
