// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Median and extremes of some numbers. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { median, min: sorted[0]!, max: sorted.at(-1)! };
}

/** The smallest of some numbers that so many of a hundred do not exceed. */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const rank = Math.ceil((percent / 100) * sorted.length);
  return sorted[Math.min(Math.max(rank, 1), sorted.length) - 1]!;
}

/** The ratio of the medians, with the extremes of the ratios of runs next to each other. */
export function ratioOf(a: readonly number[], b: readonly number[]): Spread {
  return combine(a, b, (x, y) => x / y);
}

/** The same with differences. */
export function differenceOf(a: readonly number[], b: readonly number[]): Spread {
  return combine(a, b, (x, y) => x - y);
}

/** A subject with fewer runs than the other is compared in its last one from then on. */
function combine(
  a: readonly number[],
  b: readonly number[],
  operation: (x: number, y: number) => number,
): Spread {
  const at = (values: readonly number[], i: number) => values[Math.min(i, values.length - 1)]!;
  const length = Math.max(a.length, b.length);
  const pairs = Array.from({ length }, (_, i) => operation(at(a, i), at(b, i)));
  const median = operation(spreadOf(a).median, spreadOf(b).median);
  // With odd pairs the ratio of the medians may be outside of the ratios.
  return { median, min: Math.min(median, ...pairs), max: Math.max(median, ...pairs) };
}
