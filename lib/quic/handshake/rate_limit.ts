// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Allows something so many times a second, and as often at once after a second of rest (a token
 * bucket).
 */
export class RateLimit {
  readonly #perSecond: number;
  readonly #now: () => number;
  #credit: number;
  #at: number;

  /** @param options.now a clock in milliseconds */
  constructor(perSecond: number, options: { now?: () => number } = {}) {
    this.#perSecond = this.#credit = perSecond;
    this.#now = options.now ?? (() => performance.now());
    this.#at = this.#now();
  }

  /** Whether it may be done once more now; if so, that is counted. */
  take(): boolean {
    const now = this.#now();
    const earned = (now - this.#at) * this.#perSecond / 1_000;
    this.#credit = Math.min(this.#perSecond, this.#credit + earned);
    this.#at = now;
    if (this.#credit < 1) return false;
    this.#credit--;
    return true;
  }
}
