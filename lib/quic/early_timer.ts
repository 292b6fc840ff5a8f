// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A timer that is moved only to fire earlier: one that fires too early costs less than moving it
 * for every packet.
 */
export class EarlyTimer {
  readonly #fire: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #at = Infinity;

  /** @param fire is called when the time has come, or before that */
  constructor(fire: () => void) {
    this.#fire = fire;
  }

  /** Fires at this time at the latest, by `performance.now()`; Infinity for any time. */
  fireBy(at: number, now: number): void {
    if (at >= this.#at) return;
    clearTimeout(this.#timer);
    this.#at = at;
    // Timers of the native layer are cut to whole milliseconds; one more and they are over for
    // sure.
    this.#timer = setTimeout(() => {
      this.#at = Infinity;
      this.#fire();
    }, Math.max(0, at - now) + 1);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}
