// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Why an endpoint drops a datagram, or has one dropped by the system. */
export const dropReasons = [
  /** Not QUIC, or a packet that cannot begin a connection. */
  "invalid",
  /** For a connection that is not, or no longer, here. */
  "unknown-connection",
  /** Its Retry token is forged, expired, used before, or of another address. */
  "bad-token",
  /** Too many handshakes are under way, or too many connections wait to be accepted. */
  "busy",
  /** It comes from another address than the handshake that it belongs to. */
  "other-address",
  /** Its address has its share of the handshakes under way, or of the bytes received in them. */
  "address-limit",
  /** It would be answered by Retry or Version Negotiation, of which enough were sent. */
  "answer-limit",
  /** It was to be sent, which the system refused (ENETUNREACH, EPERM, ENOBUFS). */
  "send-error",
] as const;

export type DropReason = typeof dropReasons[number];

/** Numbers of an endpoint since it was bound. */
export interface EndpointStats {
  /** Datagrams received. */
  readonly received: number;
  /** Datagrams dropped. */
  readonly dropped: Readonly<Record<DropReason, number>>;
  /** Retry packets sent. */
  readonly retries: number;
  /** Handshakes under way of connections that clients have begun, now. */
  readonly halfOpen: number;
}

/** None for each reason. */
export function noDrops(): Record<DropReason, number> {
  return Object.fromEntries(dropReasons.map((reason) => [reason, 0])) as Record<DropReason, number>;
}
