// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { NativeConnection } from "../quiche/native.ts";
import { takePacket } from "../quiche/take_packet.ts";
import { MIN_DATAGRAM_BYTES, type PathMtu } from "./path_mtu.ts";
import type { DatagramSocket } from "../datagram_socket.ts";
import type { PeerAddress } from "./peer_address.ts";

/**
 * Packets sent in one go; then what came in meanwhile gets its turn. Of 1472 bytes, one call into
 * the system takes half of them.
 */
const MAX_BURST_PACKETS = 88;

export interface PacketSenderOptions {
  readonly native: Pick<NativeConnection, "send">;
  readonly peer: PeerAddress;
  readonly path: PathMtu;
  /** Is called when there was more than one turn may send. */
  more(): void;
  /** Is called when there was no room: there is something left to send once there is. */
  starved(socket: DatagramSocket): void;
}

/** Sends what a connection has to send, in datagrams as large as the path carries. */
export class PacketSender {
  readonly #options: PacketSenderOptions;
  /**
   * Whether an acknowledgement is missing, and what is sent next is to get through whatever the
   * path carries.
   */
  #isLate = false;
  #isCut = false;

  constructor(options: PacketSenderOptions) {
    this.#options = options;
  }

  /** Whether the last {@linkcode send} has left something for want of room. */
  get isCut(): boolean {
    return this.#isCut;
  }

  /** An acknowledgement is missing. */
  late(): void {
    this.#isLate = true;
  }

  /**
   * Sends what there is to send.
   *
   * @param mustLeave it may not wait for room: it is little
   * @returns the largest datagram, 0 for none
   */
  send(now: number, mustLeave = false): number {
    const { peer, path, more, starved } = this.#options;
    const datagramBytes = this.#isLate
      ? Math.min(path.datagramBytes, MIN_DATAGRAM_BYTES)
      : path.datagramBytes;
    let probeBytes: number | undefined;
    let largestBytes = 0;
    this.#isCut = false;
    const { current, previous } = peer;
    const { socket } = current;
    for (let packets = 0;; packets++) {
      const { maxPacketBytes } = peer;
      const isBurst = packets === MAX_BURST_PACKETS;
      const buffer = isBurst || maxPacketBytes === 0
        ? undefined
        : socket.reserve(Math.min(probeBytes ?? datagramBytes, maxPacketBytes), mustLeave);
      if (!buffer) {
        this.#isCut = true;
        if (isBurst) more();
        else if (maxPacketBytes > 0) starved(socket);
        break;
      }
      const bytes = this.#fill(buffer);
      if (bytes === 0) break;
      peer.sent(bytes);
      largestBytes = Math.max(largestBytes, bytes);
      path.sent(bytes, now);
      // Whoever fills a datagram may fill a larger one.
      probeBytes = bytes === datagramBytes && !this.#isLate ? path.probe(now) : undefined;
      socket.commit(bytes, current);
      const copy = previous?.socket.reserve(bytes);
      if (copy) {
        copy.set(buffer.subarray(0, bytes));
        previous!.socket.commit(bytes, previous!);
      }
    }
    this.#isLate = false;
    socket.flush();
    previous?.socket.flush();
    return largestBytes;
  }

  /**
   * Asks for one datagram of no more than this size, which may come to nothing; it leaves with what
   * is sent next.
   */
  tryOne(maxBytes: number): void {
    const { peer } = this.#options;
    const { socket } = peer.current;
    const buffer = peer.maxPacketBytes < maxBytes ? undefined : socket.reserve(maxBytes);
    const bytes = buffer ? this.#fill(buffer) : 0;
    if (bytes === 0) return;
    peer.sent(bytes);
    socket.commit(bytes, peer.current);
  }

  #fill(buffer: Uint8Array): number {
    try {
      return takePacket(this.#options.native, buffer);
    } catch {
      // Cannot be sent: quiche says so for good reasons of its own, and the connection's state
      // tells if they were fatal.
      return 0;
    }
  }
}
