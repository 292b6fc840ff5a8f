// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Those that wait until the peer allows another stream (MAX_STREAMS, RFC 9000 §4.6), in their
 * order.
 */
export class StreamCredit {
  readonly #waiting: (() => void)[] = [];

  get isAwaited(): boolean {
    return this.#waiting.length > 0;
  }

  /** Resolves, and never rejects, when there is credit, or the connection has ended. */
  wait(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Serves as many as there is credit for. */
  serve(hasCredit: () => boolean): void {
    while (this.#waiting.length > 0 && hasCredit()) this.#waiting.shift()!();
  }

  /** Nobody needs to wait any longer. */
  end(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
