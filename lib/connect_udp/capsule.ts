// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Capsules (RFC 9297 §3.2): `Type (varint), Length (varint), Value`. A DATAGRAM capsule (§3.5) has
 * an HTTP datagram as its value, which in CONNECT-UDP is a context id (varint) and, in context 0,
 * the payload of a UDP datagram (RFC 9298 §5).
 */

/** Type of a DATAGRAM capsule. */
export const DATAGRAM = 0x00;

/** Context id of the payloads of UDP datagrams. */
export const UDP_CONTEXT = 0;

/**
 * Largest datagram that both ends of this project carry whole: the largest that QUIC sends here. It
 * fits in one record of TLS (RFC 8446 §5.1) with its capsule.
 */
export const MAX_DATAGRAM_BYTES = 16_376;

/** Largest payload of a UDP datagram (RFC 9298 §5). */
export const MAX_UDP_PAYLOAD_BYTES = 65_527;

/** Bytes that came, and are not what RFC 9297 and 9298 allow. */
export class CapsuleError extends Error {
  override readonly name = "CapsuleError";
}
