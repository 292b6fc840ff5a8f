// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Consecutive failures, of which only some are logged prominently: the first, each that differs
 * from the previous one, and of equal ones the 2nd, 4th, 8th and so on. A lasting failure thus
 * takes only a few lines of the log.
 */
export class FailureStreak {
  #last: string | undefined;
  #alike = 0;
  #failures = 0;

  /** Failures since the last success. */
  get failures(): number {
    return this.#failures;
  }

  /** Counts a failure, and returns whether it is one of those. */
  add(failure: string): boolean {
    this.#failures++;
    this.#alike = failure === this.#last ? this.#alike + 1 : 1;
    this.#last = failure;
    return Number.isInteger(Math.log2(this.#alike));
  }

  /** A success ends the streak. */
  end(): void {
    this.#last = undefined;
    this.#alike = 0;
    this.#failures = 0;
  }
}
