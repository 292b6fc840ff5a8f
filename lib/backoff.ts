// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Bounds of the wait between attempts, and where its randomness comes from. */
export interface BackoffOptions {
  /** Upper bound of the first wait, in milliseconds, at least 1; doubled with each attempt. */
  minMs: number;
  /** Upper bound of every wait, in milliseconds, from `minMs` to 2147483647, the longest timer there is. */
  maxMs: number;
  /**
   * A source of numbers from 0 to 1.
   *
   * @default {Math.random}
   */
  random?: () => number;
}

/** The longest that a timer can wait for; one set for longer fires at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * How long to wait before trying again: exponential backoff with full jitter.
 *
 * The wait is uniform in [`minMs` / 4, min(`maxMs`, `minMs` · 2^`attempt`)], rounded up to whole
 * milliseconds. Full jitter spreads clients that lost the same server over the whole interval. Its
 * usual lower bound is 0; a quarter of `minMs` keeps an unlucky draw from becoming a busy loop, and
 * takes little from the spread.
 *
 * @param attempt 0-based number of the failed attempt, any safe integer
 * @returns milliseconds, at least 1
 * @throws {RangeError} when an argument, or a number drawn from `random`, is out of its range.
 */
export function backoffDelayMs(attempt: number, options: BackoffOptions): number {
  const { minMs, maxMs, random = Math.random } = options;
  if (!Number.isSafeInteger(attempt) || attempt < 0) {
    throw new RangeError(`Cannot back off: attempt ${attempt} is not a whole number from 0`);
  }
  if (!(minMs >= 1 && minMs <= MAX_TIMER_MS)) {
    throw new RangeError(`Cannot back off: minMs ${minMs} is not in 1 to ${MAX_TIMER_MS}`);
  }
  if (!(maxMs >= minMs && maxMs <= MAX_TIMER_MS)) {
    throw new RangeError(`Cannot back off: maxMs ${maxMs} is not in ${minMs} to ${MAX_TIMER_MS}`);
  }
  const drawn = random();
  if (!(drawn >= 0 && drawn <= 1)) {
    throw new RangeError(`Cannot back off: random() gave ${drawn}, which is not in 0 to 1`);
  }
  // 2 ** attempt ends at Infinity, which the smaller maxMs replaces.
  const ceiling = Math.min(maxMs, minMs * 2 ** attempt);
  const floor = minMs / 4;
  return Math.min(ceiling, Math.ceil(floor + drawn * (ceiling - floor)));
}
