// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../bytes.ts";
import { type Duplex, writeAll } from "../tunnel/duplex.ts";

/** First size of the buffer: most requests fit. */
const MIN_ROOM_BYTES = 512;

/**
 * Bytes that are handed on as they come, and kept as long as they may have to be handed on once
 * more.
 */
export class Replay {
  readonly #maxBytes: number;
  #kept = NO_BYTES;
  #length = 0;
  #ended = false;
  #fixed = false;
  #changed = Promise.withResolvers<void>();

  /** @param maxBytes how much is kept at most */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Nothing more is taken, and what is here is handed on for the last time. */
  get isFixed(): boolean {
    return this.#fixed;
  }

  /** Takes a copy of the next bytes, unless that would be too much. Returns whether it did. */
  add(bytes: Uint8Array): boolean {
    const length = this.#length + bytes.length;
    if (this.#fixed || this.#ended || length > this.#maxBytes) return false;
    if (length > this.#kept.length) this.#grow(length);
    this.#kept.set(bytes, this.#length);
    this.#length = length;
    this.#change();
    return true;
  }

  /** Whoever hands on bytes meanwhile goes on with the old room, in which they stay. */
  #grow(length: number): void {
    const kept = new Uint8Array(Math.min(Math.max(2 * length, MIN_ROOM_BYTES), this.#maxBytes));
    kept.set(this.#kept.subarray(0, this.#length));
    this.#kept = kept;
  }

  /** No bytes follow: the end is handed on, too. */
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
   * Hands on everything from the first byte: what is here, and what comes until the end, or until
   * nothing more is taken.
   *
   * @throws what the carrier throws
   */
  async feed(to: Duplex): Promise<void> {
    for (let next = 0;;) {
      if (next < this.#length) {
        const piece = this.#kept.subarray(next, this.#length);
        next += piece.length;
        await writeAll(to, piece);
      } else if (this.#ended) return await to.closeWrite();
      else if (this.#fixed) return;
      else await this.#changed.promise;
    }
  }

  /** Forgets what was kept. */
  clear(): void {
    this.#kept = NO_BYTES;
    this.#length = 0;
  }

  #change(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}
