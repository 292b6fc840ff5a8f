// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Initial and maximum size of a buffer. */
export const MIN_BUFFER_BYTES = 512;
export const MAX_BUFFER_BYTES = 64 << 10;

/**
 * A buffer grows by this factor when a read fills most of it, and shrinks by it when this many
 * reads in a row leave most of it empty.
 */
const FACTOR = 4;
const FULL_SHARE = 0.75;
const EMPTY_SHARE = 0.25;
const EMPTY_READS = 16;

/** Number of buffers of each size that are kept for reuse. */
const MAX_SPARE_BUFFERS = 16;
const spareBuffers = new Map<number, Uint8Array<ArrayBuffer>[]>();

for (let bytes = MIN_BUFFER_BYTES; bytes < MAX_BUFFER_BYTES; bytes *= FACTOR) {
  spareBuffers.set(bytes, []);
}
spareBuffers.set(MAX_BUFFER_BYTES, []);

/** A buffer, which may hold old bytes. @param bytes one of the sizes of a {@linkcode ReadBuffer} */
export function takeBuffer(bytes: number): Uint8Array<ArrayBuffer> {
  return spareBuffers.get(bytes)?.pop() ?? new Uint8Array(bytes);
}

/** Another reader may have the buffer. */
export function keepBuffer(buffer: Uint8Array<ArrayBuffer>): void {
  const spare = spareBuffers.get(buffer.length);
  if (spare && spare.length < MAX_SPARE_BUFFERS) spare.push(buffer);
}

/**
 * A buffer for one read at a time, which adapts to their size. It does not shrink at a single small
 * read, because many readers of one source get large and small ones in turn.
 */
export class ReadBuffer {
  #bytes = takeBuffer(MIN_BUFFER_BYTES);
  #emptyReads = 0;

  /** For the next read. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#bytes;
  }

  /** To be called when the bytes of the last read are no longer needed. */
  filled(read: number): void {
    const { length } = this.#bytes;
    this.#emptyReads = read <= length * EMPTY_SHARE ? this.#emptyReads + 1 : 0;
    if (read >= length * FULL_SHARE) this.#resize(Math.min(length * FACTOR, MAX_BUFFER_BYTES));
    else if (this.#emptyReads === EMPTY_READS) {
      this.#resize(Math.max(length / FACTOR, MIN_BUFFER_BYTES));
    }
  }

  /**
   * Another reader may have the buffer: no read is under way any more, as one may be after a
   * failure.
   */
  release(): void {
    keepBuffer(this.#bytes);
  }

  #resize(bytes: number): void {
    this.#emptyReads = 0;
    if (bytes === this.#bytes.length) return;
    keepBuffer(this.#bytes);
    this.#bytes = takeBuffer(bytes);
  }
}
