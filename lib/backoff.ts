// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Bounds of the wait between attempts, and where its randomness comes from. */
export interface BackoffOptions {
  /** Upper bound of the first wait, in milliseconds, at least 1; doubled with each attempt. */
  readonly minMs: number;
  /** Upper bound of every wait, in milliseconds, from `minMs` to `MAX_TIMER_MS`. */
  readonly maxMs: number;
  /**
   * A source of numbers from 0 to 1.
   *
   * @default {Math.random}
   */
  readonly random?: () => number;
}

/**
 * How long to wait before trying again: exponential backoff with full jitter.
 *
 * The wait is uniform in [`minMs` / 4, min(`maxMs`, `minMs` · 2^`attempt`)], rounded up to whole
 * milliseconds. Full jitter spreads clients that lost the same server over the whole interval. Its
 * usual lower bound is 0; a quarter of `minMs` keeps an unlucky draw from becoming a busy loop, and
 * takes little from the spread.
 *
 * @param attempt 0-based number of the failed attempt
 * @returns milliseconds, at least 1
 *
 * @example
 * ```ts
 * import { MAX_TIMER_MS } from "./wait.ts";
import { backoffDelayMs } from "./backoff.ts";
 * import { assert } from "@std/assert";
 *
 * const delayMs = backoffDelayMs(2, { minMs: 250, maxMs: 10_000 });
 * assert(delayMs >= 250 / 4 && delayMs <= 1_000);
 * ```
 */
export function backoffDelayMs(
  attempt: number,
  { minMs, maxMs, random = Math.random }: BackoffOptions,
): number {
  // 2 ** attempt ends at Infinity, which the smaller maxMs replaces.
  const ceiling = Math.min(maxMs, minMs * 2 ** attempt);
  const floor = minMs / 4;
  return Math.min(ceiling, Math.ceil(floor + random() * (ceiling - floor)));
}
