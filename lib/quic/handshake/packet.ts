// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What every version of QUIC has in common (RFC 8999): enough to route a datagram without trusting
 * it.
 */

/** Length of the connection ids that this driver gives out. */
export const CONNECTION_ID_BYTES = 16;

/** Shortest datagram that may carry a client's Initial packet (RFC 9000 §14.1). */
export const MIN_INITIAL_DATAGRAM_BYTES = 1200;

/** Longest connection id of QUIC version 1 (RFC 9000 §17.2). */
const MAX_CONNECTION_ID_BYTES = 20;

/** Shortest destination connection id that a client may choose (RFC 9000 §7.2). */
export const MIN_INITIAL_DCID_BYTES = 8;

const INITIAL = 0;

/** A long header as far as all versions share it (RFC 8999 §5.1). */
export interface LongHeader {
  readonly version: number;
  /** Whether it is an Initial packet, if the version is 1 (RFC 9000 §17.2.2). */
  readonly initial: boolean;
  /** Views into the datagram. */
  readonly dcid: Uint8Array;
  readonly scid: Uint8Array;
}

/** Whether the datagram starts with a long header (RFC 8999 §5). */
export function hasLongHeader(datagram: Uint8Array): boolean {
  return (datagram[0]! & 0x80) !== 0;
}

/**
 * Reads a long header.
 *
 * @returns undefined when the bytes are too short for one, or carry connection ids longer than QUIC
 *   version 1 allows
 */
export function parseLongHeader(datagram: Uint8Array): LongHeader | undefined {
  const first = datagram[0];
  if (datagram.length < 7 || first === undefined || (first & 0x80) === 0) return undefined;
  const version =
    ((datagram[1]! << 24) | (datagram[2]! << 16) | (datagram[3]! << 8) | datagram[4]!) >>> 0;
  const dcidLength = datagram[5]!;
  const scidAt = 6 + dcidLength;
  const scidLength = datagram[scidAt];
  if (scidLength === undefined || scidAt + 1 + scidLength > datagram.length) return undefined;
  if (dcidLength > MAX_CONNECTION_ID_BYTES || scidLength > MAX_CONNECTION_ID_BYTES) {
    return undefined;
  }
  return {
    version,
    initial: ((first >> 4) & 0x03) === INITIAL,
    dcid: datagram.subarray(6, scidAt),
    scid: datagram.subarray(scidAt + 1, scidAt + 1 + scidLength),
  };
}

/**
 * The token of an Initial packet of version 1, empty for none (RFC 9000 §17.2.2).
 *
 * @param header the packet's
 * @returns a view into the datagram, or undefined when that ends before the token
 */
export function initialToken(datagram: Uint8Array, { scid }: LongHeader): Uint8Array | undefined {
  const lengthAt = scid.byteOffset - datagram.byteOffset + scid.length;
  const first = datagram[lengthAt];
  if (first === undefined) return undefined;
  // A variable-length integer (RFC 9000 §16).
  const tokenAt = lengthAt + (1 << (first >> 6));
  if (tokenAt > datagram.length) return undefined;
  let length = first & 0x3f;
  for (let i = lengthAt + 1; i < tokenAt; i++) length = length * 256 + datagram[i]!;
  if (length > datagram.length - tokenAt) return undefined;
  return datagram.subarray(tokenAt, tokenAt + length);
}

/** Whether a datagram, of which the beginning is enough, goes to a connection id. */
export function isAddressedTo(datagram: Uint8Array, dcid: Uint8Array): boolean {
  const at = datagram.length > 0 && hasLongHeader(datagram) ? 6 : 1;
  if (at === 6 && datagram[5] !== dcid.length) return false;
  return dcid.length > 0 && hasBytesAt(datagram, at, dcid);
}

/** Whether these bytes are at an offset of others. */
export function hasBytesAt(bytes: Uint8Array, at: number, expected: Uint8Array): boolean {
  for (let i = 0; i < expected.length; i++) if (bytes[at + i] !== expected[i]) return false;
  return true;
}

/** A connection id as the key of a map. */
export function connectionIdKey(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}
