// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../net/authority.ts";

/**
 * Sends and receives the datagrams of connections: a UDP socket, or a carrier, which is a
 * connection that takes its place where UDP does not get through.
 *
 * A datagram to be sent is written where {@linkcode reserve} says, and committed; what was
 * committed is on its way after {@linkcode flush} at the latest.
 */
export interface DatagramSocket {
  /** Address of this end. */
  readonly addr: Authority;
  /**
   * Whether it is a carrier: then the peer is at its other end, datagrams arrive in order, and a
   * path that stalls delays all of them and loses none.
   */
  readonly isCarrier: boolean;
  /**
   * The largest datagram that can be sent to an address: of a UDP socket what the route is said to
   * carry, of a carrier what it does carry. Undefined where that is not known.
   */
  maxDatagramBytes(to: Authority): number | undefined;
  /**
   * Where the next datagram is to be written, up to a number of bytes; undefined when there is no
   * room now, and `writable` is called once there is.
   *
   * @param mustLeave it waits for room here if it has to; for few
   */
  reserve(bytes: number, mustLeave?: boolean): Uint8Array | undefined;
  /** The datagram that was written where {@linkcode reserve} said last is to be sent. */
  commit(bytes: number, to: Authority): void;
  /** Sends what was committed. */
  flush(): void;
  /** Looks whether anything was refused; else that is noticed when a send fails, or a receive. */
  noticeErrors(): void;
  close(): Promise<void>;
}

export interface DatagramEvents {
  /** A datagram, valid during the call only. */
  datagram(bytes: Uint8Array, from: Authority): void;
  /** A send failed; the datagram is lost. */
  sendError(error: unknown): void;
  /**
   * No program receives what was sent to an address, its system says (ICMP "port unreachable").
   *
   * @param datagram the first bytes of what was sent, valid during the call only
   */
  refused(datagram: Uint8Array): void;
  /** There is room for sends again after {@linkcode DatagramSocket.reserve} had none. */
  writable(): void;
  /** A carrier was lost, and another one has taken its place: the peer is to hear from it. */
  replaced(): void;
  /** A carrier is gone, and none takes its place. */
  lost(error: unknown): void;
}

/** Makes a socket that reports to an endpoint. */
export type OpenDatagramSocket = (events: DatagramEvents) => DatagramSocket;

/** Where a peer is: its address, and the socket that leads there. */
export interface PeerLocation extends Authority {
  readonly socket: DatagramSocket;
}
