// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Variable-length integers (RFC 9000 §16): the two high bits of the first byte tell the length, 1,
 * 2, 4 or 8 bytes.
 */

/** The largest that is written here; larger ones are read, but not exactly. */
export const MAX_WRITTEN_VARINT = 2 ** 30 - 1;

/**
 * The integer in its shortest form.
 *
 * @throws {RangeError} when it is no whole number from 0 to {@linkcode MAX_WRITTEN_VARINT}
 */
export function encodeVarint(value: number): number[] {
  if (!Number.isSafeInteger(value) || value < 0 || value > MAX_WRITTEN_VARINT) {
    throw new RangeError(`${value} is not in 0 to ${MAX_WRITTEN_VARINT}`);
  }
  if (value < 0x40) return [value];
  if (value < 0x4000) return [0x40 | (value >> 8), value & 0xff];
  return [0x80 | (value >> 24), (value >> 16) & 0xff, (value >> 8) & 0xff, value & 0xff];
}

/** How many bytes the integer has that begins with this byte. */
export function varintLength(firstByte: number): number {
  return 1 << (firstByte >> 6);
}

/**
 * The integer in `bytes`, which hold all of it. Above 2^53 it is rounded.
 *
 * @param offset of its first byte
 */
export function decodeVarint(bytes: Uint8Array, offset = 0): number {
  const end = offset + varintLength(bytes[offset]!);
  let value = bytes[offset]! & 0x3f;
  for (let i = offset + 1; i < end; i++) value = value * 256 + bytes[i]!;
  return value;
}
