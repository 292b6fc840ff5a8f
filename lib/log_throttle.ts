// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Rate limit for log lines about events that strangers can cause. */
export class LogThrottle {
  readonly #intervalMs: number;
  readonly #now: () => number;
  #passedAt = -Infinity;
  #held = 0;

  /** @param intervalMs between two that pass @default {1000} */
  constructor(intervalMs = 1_000, now: () => number = () => performance.now()) {
    this.#intervalMs = intervalMs;
    this.#now = now;
  }

  /** Events since the last one that passed, including this; undefined if this must not pass. */
  pass(): number | undefined {
    this.#held++;
    const now = this.#now();
    if (now - this.#passedAt < this.#intervalMs) return undefined;
    this.#passedAt = now;
    const count = this.#held;
    this.#held = 0;
    return count;
  }
}
