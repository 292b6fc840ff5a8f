// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Duplex, writeAll } from "./duplex.ts";

/** Bytes that are handed on as they come, and kept as long as they may have to be handed on once more. */
export class Replay {
  readonly #maxBytes: number;
  readonly #pieces: Uint8Array[] = [];
  #bytes = 0;
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
    if (this.#fixed || this.#ended || this.#bytes + bytes.length > this.#maxBytes) return false;
    this.#bytes += bytes.length;
    this.#pieces.push(bytes.slice());
    this.#change();
    return true;
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
   * Hands on everything from the first byte: what is here, and what comes until the end, or until nothing more is taken.
   *
   * @throws what the carrier throws
   */
  async feed(to: Duplex): Promise<void> {
    for (let next = 0;;) {
      if (next < this.#pieces.length) await writeAll(to, this.#pieces[next++]!);
      else if (this.#ended) return await to.closeWrite();
      else if (this.#fixed) return;
      else await this.#changed.promise;
    }
  }

  /** Forgets what was kept. */
  clear(): void {
    this.#pieces.length = 0;
  }

  #change(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}
