// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Sizes of a buffer: at first, and at most. */
export const MIN_BUFFER_BYTES = 512;
export const MAX_BUFFER_BYTES = 64 << 10;

/**
 * A buffer grows by this factor when a read fills most of it, and shrinks by it when these many in
 * a row leave most free.
 */
const FACTOR = 4;
const FULL_SHARE = 0.75;
const EMPTY_SHARE = 0.25;
const EMPTY_READS = 16;

/** Of the largest buffers, these many wait for the next reader that needs one. */
const MAX_SPARE_BUFFERS = 16;
const spareBuffers: Uint8Array<ArrayBuffer>[] = [];

function bufferOf(bytes: number): Uint8Array<ArrayBuffer> {
  const spare = bytes === MAX_BUFFER_BYTES ? spareBuffers.pop() : undefined;
  return spare ?? new Uint8Array(bytes);
}

function keep(buffer: Uint8Array<ArrayBuffer>): void {
  const isSpare = buffer.length === MAX_BUFFER_BYTES && spareBuffers.length < MAX_SPARE_BUFFERS;
  if (isSpare) spareBuffers.push(buffer);
}

/**
 * A buffer for reads of which each is done with before the next: as large as they turn out to need.
 * A single small one tells nothing, as where many readers share what comes in, large and small ones
 * alternate.
 */
export class ReadBuffer {
  #bytes = bufferOf(MIN_BUFFER_BYTES);
  #emptyReads = 0;

  /** What the next read is to fill. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#bytes;
  }

  /** The last read has filled so much, and its bytes are done with. */
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
    keep(this.#bytes);
  }

  #resize(bytes: number): void {
    this.#emptyReads = 0;
    if (bytes === this.#bytes.length) return;
    keep(this.#bytes);
    this.#bytes = bufferOf(bytes);
  }
}
