// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { within } from "./wait.ts";

/** Things under way, which take themselves off when they end. */
export class Running {
  readonly #all = new Set<Promise<void>>();

  get size(): number {
    return this.#all.size;
  }

  /** @param task must not reject */
  add(task: Promise<void>): void {
    const ended = task.finally(() => this.#all.delete(ended));
    this.#all.add(ended);
  }

  /** Waits until all have ended, those included that are added meanwhile. */
  async ended(): Promise<void> {
    while (this.#all.size > 0) await Promise.all(this.#all);
  }

  /** The same, but not for longer than a time. Returns whether all have ended. */
  async endedWithin(ms: number): Promise<boolean> {
    await within(ms, this.ended(), () => new Error("too late")).catch(() => {});
    return this.#all.size === 0;
  }
}
