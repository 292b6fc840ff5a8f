// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Durations as Go writes them. */
import { MAX_TIMER_MS } from "../wait.ts";
import { UsageError } from "../errors.ts";
import { type Flag, type FlagOptions, makeFlag, type ValueOf } from "./flag.ts";
import { inRange, rangeNotes } from "./flag_kinds.ts";
import { quote } from "../printable.ts";

/**
 * A duration in Go's form, such as `1m30s`. Its value, and the bounds, are milliseconds: end the
 * name of the property with `Ms`. The default is written as one would type it.
 *
 * `minMs` is 0 by default, so a negative duration needs a negative one; `maxMs` is 2^31 - 1, the
 * longest that a timer can wait for.
 */
export function durationFlag<
  const O extends FlagOptions<string> & { readonly minMs?: number; readonly maxMs?: number },
>(name: string, options: O): Flag<ValueOf<number, O>> {
  const { minMs = 0, maxMs = MAX_TIMER_MS } = options;
  return makeFlag<number, O>(name, options, {
    kind: "duration",
    valueName: "duration",
    notes: rangeNotes(options.minMs, options.maxMs, formatDuration),
    defaultText: options.default,
    parse: (text) => inRange(parseDuration(text), minMs, maxMs, formatDuration),
  });
}

/** Nanoseconds in a unit, largest first. The micro sign and the Greek letter both stand for µ. */
const UNIT_NS: ReadonlyMap<string, bigint> = new Map([
  ["h", 3_600_000_000_000n],
  ["m", 60_000_000_000n],
  ["s", 1_000_000_000n],
  ["ms", 1_000_000n],
  ["us", 1_000n],
  ["\u00b5s", 1_000n],
  ["\u03bcs", 1_000n],
  ["ns", 1n],
]);

/** A fraction of an hour needs 13 digits to be exact to the nanosecond; Go drops the rest too. */
const FRACTION_DIGITS = 13;

/**
 * Reads a duration in the form of Go's `time.ParseDuration`: `300ms`, `1.5h`, `1m30s`, `-2s`, `0`.
 *
 * @returns milliseconds, exact to the nanosecond.
 * @throws {UsageError} with the bare reason, for instance when a number has no unit.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { parseDuration } from "./duration.ts";
 *
 * assertEquals(parseDuration("1m30.5s"), 90_500);
 * ```
 */
export function parseDuration(text: string): number {
  const start = /^[-+]/.test(text) ? 1 : 0;
  if (text.slice(start) === "0") return 0;
  // Whole numbers of nanoseconds: 2.3 * 1000 in floating point need not be 2300.
  let ns = 0n;
  const part = /([0-9]*)(?:\.([0-9]*))?([^.0-9]*)/y;
  part.lastIndex = start;
  do {
    const [, whole = "", fraction = "", unit = ""] = part.exec(text) ?? [];
    if (whole + fraction === "") throw new UsageError("not a duration like 300ms, 2s or 1m30s");
    if (unit === "") throw new UsageError("missing unit: write a duration like 300ms, 2s or 1m30s");
    const size = UNIT_NS.get(unit);
    if (size === undefined) throw new UsageError(`unknown unit ${quote(unit)}`);
    const digits = fraction.slice(0, FRACTION_DIGITS);
    ns += BigInt(whole) * size + BigInt(digits) * size / 10n ** BigInt(digits.length);
  } while (part.lastIndex < text.length);
  return Number(text.startsWith("-") ? -ns : ns) / 1e6;
}

/**
 * Writes a finite number of milliseconds as `parseDuration()` reads it: `1m30s`, `500us`, `0`.
 * What is less than a nanosecond is rounded.
 */
export function formatDuration(ms: number): string {
  let ns = BigInt(Math.round(Math.abs(ms) * 1e6));
  let text = "";
  for (const [unit, size] of UNIT_NS) {
    if (ns >= size) text += `${ns / size}${unit}`;
    ns %= size;
  }
  return text === "" ? "0" : ms < 0 ? `-${text}` : text;
}
