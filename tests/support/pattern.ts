// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Prime, so that no window or buffer size divides it and a misplaced block shows. */
const PERIOD = 65_521;

const block = Uint8Array.from({ length: 4 * PERIOD }, (_, i) => patternByte(i));

/** The byte at an offset of the pattern. */
export function patternByte(offset: number): number {
  const i = offset % PERIOD;
  return (i * 31 + (i >> 8)) & 0xff;
}

/** The pattern's first `size` bytes, as a stream. */
export function pattern(size: number): ReadableStream<Uint8Array<ArrayBuffer>> {
  let offset = 0;
  return new ReadableStream({
    pull(controller) {
      const bytes = block.subarray(0, Math.min(block.length, size - offset));
      if (bytes.length > 0) controller.enqueue(bytes.slice());
      offset += bytes.length;
      if (offset >= size) controller.close();
    },
  });
}

/** Compares bytes that belong at an offset of the pattern. @throws {Error} at the first wrong one */
export function checkPattern(bytes: Uint8Array, offset: number): void {
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] !== patternByte(offset + i)) throw new Error(`wrong byte at offset ${offset + i}`);
  }
}
