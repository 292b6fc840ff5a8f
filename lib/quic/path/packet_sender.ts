// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { NativeConnection } from "../quiche/native.ts";
import { MIN_DATAGRAM_BYTES, PathMtu } from "./path_mtu.ts";
import type { PeerAddress } from "./peer_address.ts";
import type { UdpSocket } from "../udp/socket.ts";

/** Packets sent in one go; then what came in meanwhile gets its turn. */
const MAX_BURST_PACKETS = 64;

export interface PacketSenderOptions {
  readonly native: Pick<NativeConnection, "send">;
  readonly socket: Pick<UdpSocket, "reserve" | "commit" | "flush">;
  readonly peer: PeerAddress;
  /** Largest UDP payload, unless {@linkcode PacketSender.findOut} is to find out what the path carries. */
  readonly maxDatagramBytes: number;
  /** Is called when there was more than one turn may send. */
  more(): void;
}

/** What {@linkcode PacketSender.look} wants to know of the connection. */
interface Counts {
  readonly rttMs: number;
  readonly sentPackets: number;
  readonly lostPackets: number;
}

/** Sends what a connection has to send, in datagrams as large as the path carries. */
export class PacketSender {
  readonly #options: PacketSenderOptions;
  #mtu: PathMtu | undefined;
  /** Whether an acknowledgement is missing, and what is sent next is to get through whatever the path carries. */
  #isLate = false;
  /** Large datagrams that were sent since the peer was heard of. */
  #unheard = 0;
  #isCut = false;

  constructor(options: PacketSenderOptions) {
    this.#options = options;
  }

  /** Whether the last {@linkcode send} has left something for want of room. */
  get isCut(): boolean {
    return this.#isCut;
  }

  /** UDP payload of the largest datagrams that are sent now. */
  get datagramBytes(): number {
    return this.#mtu?.bytes ?? this.#options.maxDatagramBytes;
  }

  /** Finds out what the path carries from now on. @param max what the peer takes */
  findOut(max: number): void {
    this.#mtu = new PathMtu(Math.min(this.#options.maxDatagramBytes, max));
  }

  /** The peer tells how large the datagrams are that it gets: larger ones may be tried. */
  tellsArrivals(): void {
    this.#mtu?.answering();
  }

  /** The peer has got a datagram of this size. */
  arrived(bytes: number): void {
    this.#mtu?.confirmed(bytes);
  }

  /** The peer was heard of. Returns whether that shows that large datagrams are lost. */
  heard(now: number): boolean {
    this.#unheard = 0;
    return this.#mtu?.heard(now) ?? false;
  }

  /** An acknowledgement is missing. */
  late(): void {
    this.#isLate = true;
  }

  /** Looks whether large datagrams are lost. Returns whether that has just turned out: smaller ones are sent then. */
  look(now: number, silentForMs: number, counts: () => Counts): boolean {
    const mtu = this.#mtu;
    if (!mtu) return false;
    if (!mtu.wantsSilence(silentForMs, this.#unheard)) {
      return mtu.wantsLook(now) && mtu.look(now, counts());
    }
    // It turns out when the peer is heard of again.
    if (mtu.silence(now, silentForMs, counts().rttMs)) this.#unheard = 0;
    return false;
  }

  /**
   * Sends what there is to send.
   *
   * @param mustLeave it may not wait for room: it is little
   * @returns the largest datagram, 0 for none
   */
  send(now: number, mustLeave = false): number {
    const { socket, peer, more } = this.#options;
    const datagramBytes = this.#isLate
      ? Math.min(this.datagramBytes, MIN_DATAGRAM_BYTES)
      : this.datagramBytes;
    let probeBytes: number | undefined;
    let largestBytes = 0;
    this.#isCut = false;
    for (let packets = 0;; packets++) {
      const { current, previous, maxPacketBytes } = peer;
      const isBurst = packets === MAX_BURST_PACKETS;
      const buffer = isBurst || maxPacketBytes === 0
        ? undefined
        : socket.reserve(Math.min(probeBytes ?? datagramBytes, maxPacketBytes), mustLeave);
      if (!buffer) {
        this.#isCut = true;
        if (isBurst) more();
        break;
      }
      const bytes = this.#fill(buffer);
      if (bytes === 0) break;
      peer.sent(bytes);
      largestBytes = Math.max(largestBytes, bytes);
      if (bytes > MIN_DATAGRAM_BYTES) this.#unheard++;
      if (bytes > datagramBytes) this.#mtu?.probed(now);
      // Whoever fills a datagram may fill a larger one.
      probeBytes = bytes === datagramBytes && !this.#isLate ? this.#mtu?.probe(now) : undefined;
      socket.commit(bytes, current);
      const copy = previous && socket.reserve(bytes);
      if (copy) {
        copy.set(buffer.subarray(0, bytes));
        socket.commit(bytes, previous);
      }
    }
    this.#isLate = false;
    socket.flush();
    return largestBytes;
  }

  /** Asks for one datagram of no more than this size, which may come to nothing; it leaves with what is sent next. */
  tryOne(maxBytes: number): void {
    const { socket, peer } = this.#options;
    const buffer = peer.maxPacketBytes < maxBytes ? undefined : socket.reserve(maxBytes);
    const bytes = buffer ? this.#fill(buffer) : 0;
    if (bytes === 0) return;
    peer.sent(bytes);
    socket.commit(bytes, peer.current);
  }

  #fill(buffer: Uint8Array): number {
    try {
      return this.#options.native.send(buffer)?.[0] ?? 0;
    } catch {
      // Cannot be sent: quiche says so for good reasons of its own, and the connection's state tells if they were fatal.
      return 0;
    }
  }
}
