// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../bytes.ts";
import { type Duplex, writeAll } from "../tunnel/duplex.ts";

/** First size of the buffer: most requests fit. */
const MIN_ROOM_BYTES = 512;

/** Bytes that are forwarded at once, and kept as long as they may have to be sent again. */
export class Replay {
  readonly #maxBytes: number;
  #kept = NO_BYTES;
  #length = 0;
  #ended = false;
  #fixed = false;
  /** Wakes the feeds that wait for more. */
  #wakers: (() => void)[] = [];

  /** @param maxBytes limit of kept bytes */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** No more bytes are kept, and the kept ones are forwarded for the last time. */
  get isFixed(): boolean {
    return this.#fixed;
  }

  /** Keeps a copy of the next bytes. Returns whether they fit. */
  add(bytes: Uint8Array): boolean {
    const length = this.#length + bytes.length;
    if (this.#fixed || this.#ended || length > this.#maxBytes) return false;
    if (length > this.#kept.length) this.#grow(length);
    this.#kept.set(bytes, this.#length);
    this.#length = length;
    this.#change();
    return true;
  }

  /** A feed in progress continues with the old buffer, whose bytes do not change. */
  #grow(length: number): void {
    const kept = new Uint8Array(Math.min(Math.max(2 * length, MIN_ROOM_BYTES), this.#maxBytes));
    kept.set(this.#kept.subarray(0, this.#length));
    this.#kept = kept;
  }

  /** No bytes follow: the end is forwarded as well. */
  end(): void {
    this.#ended = true;
    this.#change();
  }

  fix(): void {
    if (this.#fixed) return;
    this.#fixed = true;
    this.#change();
  }

  /**
   * Forwards everything from the first byte: what is kept, and what is added until the end, or
   * until no more is kept.
   *
   * @throws what the carrier throws
   */
  async feed(to: Duplex): Promise<void> {
    for (let next = 0;;) {
      if (next < this.#length) {
        const piece = this.#kept.subarray(next, this.#length);
        next += piece.length;
        const writing = writeAll(to, piece);
        if (writing) await writing;
      } else if (this.#ended) return await to.closeWrite();
      else if (this.#fixed) return;
      else await new Promise<void>((resolve) => this.#wakers.push(resolve));
    }
  }

  /** Forgets what was kept. */
  clear(): void {
    this.#kept = NO_BYTES;
    this.#length = 0;
  }

  #change(): void {
    for (const wake of this.#wakers.splice(0)) wake();
  }
}
