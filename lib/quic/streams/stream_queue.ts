// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { TimeBudget } from "./time_budget.ts";

/** As many waiting streams are all tried each time. */
const FEW = 64;

/** Of more, these many that had something lately. */
const MAX_HOT = 32;

/**
 * Share of the time that looking for others may take: where there are any, and where that is the
 * exception.
 */
const SCAN_SHARE = 0.1;
const GLANCE_SHARE = 0.01;
/** The latter is put off by no more than this. */
const MAX_GLANCE_DELAY_MS = 20;

/**
 * Streams that wait to be read, or written, of which few will be ready at a time.
 *
 * A few are tried whenever something was received. Of many, those that were ready lately are; the
 * others are looked through as often as a share of the time allows. So thousands of streams whose
 * peers have stalled cost the busy ones little.
 */
export class StreamQueue<S> {
  readonly #waiting = new Set<S>();
  readonly #hot = new Set<S>();
  readonly #scanning = new TimeBudget(SCAN_SHARE);
  readonly #glancing = new TimeBudget(GLANCE_SHARE, GLANCE_SHARE * MAX_GLANCE_DELAY_MS);
  readonly #sweeping: TimeBudget;
  /** Whether {@linkcode serve} has left some untried. */
  #hasOthers = false;

  /** @param sweeping limits {@linkcode sweep}. @default {new TimeBudget(0.1)} */
  constructor(sweeping = new TimeBudget(SCAN_SHARE)) {
    this.#sweeping = sweeping;
  }

  get size(): number {
    return this.#waiting.size;
  }

  add(stream: S): void {
    this.#waiting.add(stream);
  }

  /** The stream has ended. */
  forget(stream: S): void {
    this.#waiting.delete(stream);
    this.#hot.delete(stream);
  }

  clear(): void {
    this.#waiting.clear();
    this.#hot.clear();
  }

  /**
   * Tries a few: calls `serve` with each, which tells whether it was ready, and adds none.
   */
  serve(serve: (stream: S) => boolean): void {
    this.#hasOthers = this.#waiting.size > FEW;
    if (!this.#hasOthers) {
      for (const stream of this.#waiting) if (serve(stream)) this.#ready(stream);
    } else {
      for (const stream of this.#hot) {
        if (this.#waiting.has(stream) && serve(stream)) this.#waiting.delete(stream);
      }
    }
  }

  /**
   * Tries these others, if there are any: now if the budget allows it, else at {@linkcode dueAt}.
   * Where {@linkcode serve} has tried all that waited, the budget is a small one.
   */
  scan(now: number, serve: (stream: S) => boolean, others?: () => Iterable<S>): void {
    const budget = this.#hasOthers ? this.#scanning : this.#glancing;
    const other = this.#hasOthers ? this.#glancing : this.#scanning;
    other.rest();
    if (others) budget.run(now, () => this.#serveAll(others(), serve));
    else budget.rest();
  }

  /** Tries all that wait, if {@linkcode serve} has left some untried, in the same way. */
  sweep(now: number, serve: (stream: S) => boolean): void {
    if (this.#hasOthers) this.#sweeping.run(now, () => this.#serveAll(this.#waiting, serve));
    else this.#sweeping.rest();
  }

  #serveAll(streams: Iterable<S>, serve: (stream: S) => boolean): void {
    for (const stream of streams) {
      if (this.#waiting.has(stream) && serve(stream)) this.#ready(stream);
    }
  }

  /** When what was put off is to be made up for. */
  dueAt(now: number): number {
    return Math.min(
      this.#scanning.dueAt(now),
      this.#glancing.dueAt(now),
      this.#sweeping.dueAt(now),
    );
  }

  #ready(stream: S): void {
    this.#waiting.delete(stream);
    this.#hot.delete(stream);
    this.#hot.add(stream);
    if (this.#hot.size > MAX_HOT) this.#hot.delete(this.#hot.values().next().value!);
  }
}
