// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertGreater } from "@std/assert";
import fc from "fast-check";
import { backoffDelayMs } from "../lib/backoff.ts";
import { MAX_TIMER_MS } from "../lib/wait.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name: `backoffDelayMs() ${name}`, permissions: "none", fn });
}

const delaysOf = (attempts: readonly number[], random: () => number) =>
  attempts.map((attempt) => backoffDelayMs(attempt, { minMs: 100, maxMs: 3000, random }));

test("doubles the upper bound with each attempt up to maxMs", () => {
  const delays = delaysOf([0, 1, 2, 3, 4, 5, 6], () => 1);
  assertEquals(delays, [100, 200, 400, 800, 1600, 3000, 3000]);
});

test("keeps a quarter of minMs as the lower bound of every attempt", () => {
  assertEquals(delaysOf([0, 1, 10, 1e6], () => 0), [25, 25, 25, 25]);
});

test("draws evenly between the bounds", () => {
  assertEquals(delaysOf([1], () => 0.5), [Math.ceil((25 + 200) / 2)]);
});

test("uses its own randomness when none is given", () => {
  const delays = Array.from(
    { length: 50 },
    () => backoffDelayMs(20, { minMs: 100, maxMs: 1e6 }),
  );
  assertGreater(new Set(delays).size, 1);
});

test("stays within its bounds for any attempt", () => {
  const ms = fc.integer({ min: 1, max: MAX_TIMER_MS });
  fc.assert(
    fc.property(
      fc.maxSafeNat(),
      fc.tuple(ms, ms).map(([a, b]) => ({ minMs: Math.min(a, b), maxMs: Math.max(a, b) })),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (attempt, { minMs, maxMs }, drawn) => {
        const delay = backoffDelayMs(attempt, { minMs, maxMs, random: () => drawn });
        return Number.isInteger(delay) && delay >= Math.max(1, minMs / 4) && delay <= maxMs;
      },
    ),
    { examples: [[Number.MAX_SAFE_INTEGER, { minMs: MAX_TIMER_MS, maxMs: MAX_TIMER_MS }, 1]] },
  );
});
