// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { seededRandom } from "../support/udp_relay.ts";

/** Draws that are the same ones for the same seed. */
export class Draws {
  readonly #next: () => number;

  constructor(readonly seed: number) {
    this.#next = seededRandom(seed);
  }

  /** Draws of its own for a part of the whole: how often others draw does not change them. */
  part(name: string): Draws {
    let hash = this.seed | 0;
    for (const char of name) hash = Math.imul(hash ^ char.charCodeAt(0), 0x01000193);
    return new Draws(hash >>> 0);
  }

  /** From `min` up to, but without, `max`. */
  number(min: number, max: number): number {
    return min + this.#next() * (max - min);
  }

  /** A whole number from `min` to `max`. */
  integer(min: number, max: number): number {
    return Math.floor(this.number(min, max + 1));
  }

  chance(share: number): boolean {
    return this.#next() < share;
  }

  one<T>(from: readonly T[]): T {
    return from[this.integer(0, from.length - 1)]!;
  }

  /** Gives each of the items once, in an order that is drawn, then all of them anew. */
  bag<T>(items: readonly T[]): () => T {
    let left: T[] = [];
    return () => {
      if (left.length === 0) left = [...items];
      return left.splice(this.integer(0, left.length - 1), 1)[0]!;
    };
  }
}
