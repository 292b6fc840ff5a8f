// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Less is read at a time of a stream that carries little: one datagram of most paths. */
const BULK_BYTES = 2 << 10;

/** After this time with less, a stream counts as a new transfer. */
const PAUSE_MS = 1_000;

/** After so many bytes of a transfer, its window has reached its maximum. */
const GROWTH_BYTES = 8 << 20;

/** Round-trip time above which it matters, and interval of reading it. */
const LONG_PATH_MS = 10;
const RTT_LOOK_MS = 100;

/**
 * Header without connection id and packet number, authentication tag (RFC 9001 §5.3), and the least
 * that quiche begins with.
 */
const LEAST_PACKET_BYTES = 1 + 16 + 4;

/** What is read from a native connection. */
interface Asked {
  destinationId(): Uint8Array;
  /** Round-trip times in milliseconds. */
  pathStats(): { readonly rtt: number }[];
  /** Packets so far. */
  stats(): { readonly sent: number };
}

interface Transfer {
  bytes: number;
  lastAt: number;
}

/**
 * Makes the windows of streams (RFC 9000 §4.1) grow as fast as the congestion window of a peer that
 * has much to send.
 *
 * quiche 0.18.0 starts each stream with a small window, and doubles it when it grants more within
 * two round trips of the last grant. Over a long path that takes a dozen round trips. Where packets
 * are lost, the window limits a transfer, as it has to hold what arrives behind a gap.
 *
 * The trick: quiche doubles the window when it makes the MAX_STREAM_DATA frame, before it looks
 * whether the packet has room for it. A packet that is asked for with no room sends nothing, and
 * doubles the window of each stream that is due for a grant.
 *
 * The cost: an answer to a PATH_CHALLENGE (RFC 9000 §8.2) is lost if it was to leave in that
 * packet. Peers of this project send none, unless a NAT has moved this end. So only the first bytes
 * of a transfer are treated this way.
 *
 * Can go when quiche has windows follow the bandwidth-delay product, or the binding sets the window
 * to begin with.
 */
export class WindowGrowth {
  /** By stream, only those that carry much. */
  readonly #transfers = new Map<number, Transfer>();
  /** Whether much was read of a young transfer since the last look. */
  #mayGrow = false;
  #rttMs = 0;
  #lookAt = 0;

  /** Bytes were read of a stream. */
  read(id: number, bytes: number, now: number): void {
    if (bytes < BULK_BYTES) return;
    let transfer = this.#transfers.get(id);
    if (!transfer || now - transfer.lastAt > PAUSE_MS) {
      transfer = { bytes: 0, lastAt: now };
      this.#transfers.set(id, transfer);
    }
    transfer.lastAt = now;
    transfer.bytes += bytes;
    if (transfer.bytes <= GROWTH_BYTES) this.#mayGrow = true;
  }

  ended(id: number): void {
    this.#transfers.delete(id);
  }

  /**
   * The size of a packet that has no room for MAX_STREAM_DATA, if windows are to grow now;
   * undefined if not.
   */
  emptyPacketBytes(native: Asked, now: number): number | undefined {
    if (!this.#mayGrow) return undefined;
    this.#mayGrow = false;
    if (now >= this.#lookAt) {
      this.#lookAt = now + RTT_LOOK_MS;
      this.#rttMs = native.pathStats()[0]?.rtt ?? 0;
    }
    if (this.#rttMs < LONG_PATH_MS) return undefined;
    const { sent } = native.stats();
    const numberBytes = sent < 0xff ? 1 : sent < 0xffff ? 2 : sent < 0xffffff ? 3 : 4;
    return LEAST_PACKET_BYTES + native.destinationId().length + numberBytes;
  }
}
