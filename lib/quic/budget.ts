// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Most that can be saved up, so that a rare run is never put off. */
const MAX_CREDIT_MS = 2;

/**
 * Keeps work that grows with the number of streams from taking more than a share of the time: it earns credit while time
 * passes and spends what it takes.
 */
export class Budget {
  readonly #share: number;
  #creditMs = MAX_CREDIT_MS;
  #at = 0;

  /** @param share of the time, 0 to 1 */
  constructor(share: number) {
    this.#share = share;
  }

  /** Whether the work may run now. */
  allows(now: number): boolean {
    this.#creditMs = Math.min(MAX_CREDIT_MS, this.#creditMs + (now - this.#at) * this.#share);
    this.#at = now;
    return this.#creditMs > 0;
  }

  /** Takes what a run has cost. */
  spend(ms: number): void {
    this.#creditMs -= ms;
  }

  /** When the work may run again. */
  allowsAt(now: number): number {
    return this.#creditMs > 0 ? now : now - this.#creditMs / this.#share;
  }
}
