// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Request } from "./wire.ts";

/** A tunnel under way, as its target is to see it. */
interface Entry {
  /** Number of the next request that has not been seen. */
  next: number;
  repeated: boolean;
  readonly finished: PromiseWithResolvers<void>;
}

/** What clients have asked for and targets have seen: the two ends of every tunnel, side by side. */
export class Ledger {
  readonly #entries = new Map<number, Entry>();
  readonly #violations: string[] = [];
  readonly #told: (what: string) => void;
  #lastId = 0;
  bytesAtClients = 0;
  bytesAtTargets = 0;

  /** @param told hears of each violation at once */
  constructor(told: (what: string) => void) {
    this.#told = told;
  }

  /** What must never be, in words. */
  get violations(): readonly string[] {
    return this.#violations;
  }

  /** How much was checked, and with which result, for one line. */
  get summary(): string {
    const mb = (bytes: number) => (bytes / 1e6).toFixed(0);
    return `${mb(this.bytesAtClients)} MB at clients and ${
      mb(this.bytesAtTargets)
    } MB at targets, ` +
      `${this.#violations.length} violations`;
  }

  violated(what: string): void {
    this.#violations.push(what);
    this.#told(what);
  }

  /** Begins a tunnel; returns its number. */
  begin(): number {
    this.#entries.set(++this.#lastId, {
      next: 0,
      repeated: false,
      finished: Promise.withResolvers(),
    });
    return this.#lastId;
  }

  /** Returns whether a target has got a request of it more than once: one that was tried again had got through. */
  end(id: number): boolean {
    const repeated = this.#entries.get(id)?.repeated ?? false;
    this.#entries.delete(id);
    return repeated;
  }

  /** A target has got a request. */
  arrived({ id, sequence }: Request): void {
    const entry = this.#entries.get(id);
    if (!entry && (id === 0 || id > this.#lastId)) {
      return this.violated(`target: a request of tunnel ${id}, which nobody has begun`);
    }
    // Its client is gone already.
    if (!entry) return;
    if (sequence > entry.next) {
      this.violated(`target: request ${sequence} of tunnel ${id} where ${entry.next} was to come`);
    } else if (sequence < entry.next) entry.repeated = true;
    entry.next = Math.max(entry.next, sequence + 1);
  }

  /** A target has got everything of a tunnel. */
  finished(id: number): void {
    this.#entries.get(id)?.finished.resolve();
  }

  /** Resolves when the target has got everything of a tunnel. */
  whenFinished(id: number): Promise<void> {
    return this.#entries.get(id)?.finished.promise ?? Promise.resolve();
  }
}
