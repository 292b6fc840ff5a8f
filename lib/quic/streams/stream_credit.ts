// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { StreamOpenError } from "../errors.ts";

/** Callers that may wait at a time. */
const MAX_WAITERS = 10_000;

interface Waiter {
  /** There is credit. */
  serve(): void;
  reject(error: unknown): void;
}

/** Those that wait until the peer allows another stream (MAX_STREAMS, RFC 9000 §4.6), in their order. */
export class StreamCredit {
  readonly #waiters = new Set<Waiter>();

  get isAwaited(): boolean {
    return this.#waiters.size > 0;
  }

  /**
   * Opens a stream once there is credit.
   *
   * @throws {StreamOpenError} when too many wait already
   * @throws what {@linkcode end} is given when the connection ends first
   * @throws the signal's reason when it aborts first
   */
  take<Stream>(open: () => Stream, signal: AbortSignal | undefined): Promise<Stream> {
    if (this.#waiters.size >= MAX_WAITERS) {
      return Promise.reject(
        new StreamOpenError(
          `Cannot open a stream: ${MAX_WAITERS} callers wait for stream credit already`,
        ),
      );
    }
    return new Promise((resolve, reject) => {
      const settle = () => {
        this.#waiters.delete(waiter);
        signal?.removeEventListener("abort", onAbort);
      };
      const onAbort = () => waiter.reject(signal!.reason);
      const waiter: Waiter = {
        serve: () => (settle(), resolve(open())),
        reject: (error) => (settle(), reject(error)),
      };
      this.#waiters.add(waiter);
      signal?.addEventListener("abort", onAbort);
    });
  }

  /** Resolves, and never rejects, when there is credit, or the connection has ended. */
  wait(): Promise<void> {
    return new Promise((resolve) => {
      const settle = () => {
        this.#waiters.delete(waiter);
        resolve();
      };
      const waiter: Waiter = { serve: settle, reject: settle };
      this.#waiters.add(waiter);
    });
  }

  /** Serves as many as there is credit for. */
  serve(hasCredit: () => boolean): void {
    for (const waiter of this.#waiters) {
      if (!hasCredit()) break;
      waiter.serve();
    }
  }

  /** Nobody is served any more. */
  end(error: unknown): void {
    for (const waiter of [...this.#waiters]) waiter.reject(error);
  }
}
