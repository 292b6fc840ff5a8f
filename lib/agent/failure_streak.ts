// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Failures in a row, of which few are news: the first, one that differs from the one before it, and of those that are
 * alike the 2nd, 4th, 8th and so on. So what fails for ever, every few seconds, takes a few lines of a log.
 */
export class FailureStreak {
  #last: string | undefined;
  #alike = 0;
  #failures = 0;

  /** Failures since the last success. */
  get failures(): number {
    return this.#failures;
  }

  /** Counts a failure, and tells whether it is news. */
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
