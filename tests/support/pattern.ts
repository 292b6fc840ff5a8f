// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { createHash } from "node:crypto";

/** Prime, so that no window or buffer size divides it and a misplaced block shows. */
const PERIOD = 65_521;

const block = Uint8Array.from({ length: 4 * PERIOD }, (_, i) => patternByte(i));

/** The byte at an offset of the pattern. */
function patternByte(offset: number): number {
  const i = offset % PERIOD;
  return (i * 31 + (i >> 8)) & 0xff;
}

/** Up to 192 KiB of the pattern, from an offset on; to be read only. */
export function patternBytes(offset: number, length: number): Uint8Array<ArrayBuffer> {
  const start = offset % PERIOD;
  return block.subarray(start, Math.min(start + length, start + 3 * PERIOD));
}

/** The pattern's first `size` bytes, as a stream. */
export function patternStream(size: number): ReadableStream<Uint8Array<ArrayBuffer>> {
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

/** In hexadecimal digits. */
export async function sha256(bytes: AsyncIterable<Uint8Array>): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of bytes) hash.update(chunk);
  return hash.digest("hex");
}

/** Compares bytes that belong at an offset of the pattern. @throws {Error} at the first wrong one */
export function checkPattern(bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.length;) {
    const expected = patternBytes(offset + done, bytes.length - done);
    for (let i = 0; i < expected.length; i++) {
      if (bytes[done + i] !== expected[i]) {
        throw new Error(`wrong byte at offset ${offset + done + i}`);
      }
    }
    done += expected.length;
  }
}
