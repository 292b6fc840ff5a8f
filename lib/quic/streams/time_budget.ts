// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Maximum credit, so that rare work is never postponed. */
const MAX_CREDIT_MS = 2;

/**
 * Limits work that grows with the number of streams to a share of the time: it earns credit as time
 * passes, and spends what it takes.
 */
export class TimeBudget {
  readonly #share: number;
  readonly #maxDebtMs: number;
  #creditMs = MAX_CREDIT_MS;
  #at = 0;
  #putOff = false;

  /**
   * @param share of the time, 0 to 1
   * @param maxDebtMs the most that one run is charged for: by the clock, a run that was interrupted
   *   looks like a long one
   */
  constructor(share: number, maxDebtMs = Infinity) {
    this.#share = share;
    this.#maxDebtMs = maxDebtMs;
  }

  /** Runs the work if there is credit for it, or postpones it. */
  run(now: number, work: () => void): void {
    this.#creditMs = Math.min(MAX_CREDIT_MS, this.#creditMs + (now - this.#at) * this.#share);
    this.#at = now;
    this.#putOff = this.#creditMs <= 0;
    if (this.#putOff) return;
    work();
    this.#creditMs = Math.max(this.#creditMs - (performance.now() - now), -this.#maxDebtMs);
  }

  /** There is no such work now. */
  rest(): void {
    this.#putOff = false;
  }

  /** When postponed work may run; Infinity if there is none. */
  dueAt(now: number): number {
    if (!this.#putOff) return Infinity;
    return this.#creditMs > 0 ? now : now - this.#creditMs / this.#share;
  }
}
