// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { within } from "./wait.ts";

/** Tasks in progress. Each is removed when it ends. */
export class TaskGroup {
  readonly #tasks = new Set<Promise<void>>();

  /** Tasks that have not ended. */
  get size(): number {
    return this.#tasks.size;
  }

  /** @param task must not reject */
  add(task: Promise<void>): void {
    const ended = task.then(() => void this.#tasks.delete(ended));
    this.#tasks.add(ended);
  }

  /** Resolves when all have ended, including those added meanwhile. */
  async ended(): Promise<void> {
    while (this.#tasks.size > 0) await Promise.all(this.#tasks);
  }

  /**
   * Waits for {@linkcode ended} for a bounded time.
   *
   * @returns whether all have ended
   */
  async endedWithin(ms: number): Promise<boolean> {
    await within(ms, this.ended(), () => new Error("too late")).catch(() => {});
    return this.#tasks.size === 0;
  }
}
