// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertGreater, assertThrows } from "@std/assert";
import fc from "fast-check";
import { backoffDelayMs } from "../lib/backoff.ts";

const lowest = () => 0;
const highest = () => 1;

Deno.test({
  name: "backoffDelayMs() doubles the upper bound with each attempt up to maxMs",
  permissions: "none",
  fn() {
    const delays = [0, 1, 2, 3, 4, 5, 6].map((attempt) =>
      backoffDelayMs(attempt, { minMs: 100, maxMs: 3000, random: highest })
    );
    assertEquals(delays, [100, 200, 400, 800, 1600, 3000, 3000]);
  },
});

Deno.test({
  name: "backoffDelayMs() keeps a quarter of minMs as the lower bound of every attempt",
  permissions: "none",
  fn() {
    for (const attempt of [0, 1, 10, 1e6]) {
      assertEquals(backoffDelayMs(attempt, { minMs: 100, maxMs: 3000, random: lowest }), 25);
    }
    assertEquals(backoffDelayMs(0, { minMs: 1, maxMs: 1, random: lowest }), 1);
  },
});

Deno.test({
  name: "backoffDelayMs() draws once, evenly between the bounds",
  permissions: "none",
  fn() {
    let draws = 0;
    const random = () => {
      draws++;
      return 0.5;
    };
    assertEquals(backoffDelayMs(1, { minMs: 100, maxMs: 3000, random }), Math.ceil((25 + 200) / 2));
    assertEquals(draws, 1);
  },
});

Deno.test({
  name: "backoffDelayMs() uses its own randomness when none is given",
  permissions: "none",
  fn() {
    const delays = Array.from(
      { length: 50 },
      () => backoffDelayMs(20, { minMs: 100, maxMs: 1e6 }),
    );
    assertGreater(new Set(delays).size, 1);
  },
});

Deno.test({
  name: "backoffDelayMs() stays within its bounds for any attempt",
  permissions: "none",
  fn() {
    const longest = 2 ** 31 - 1;
    const bounds = fc.tuple(
      fc.integer({ min: 1, max: longest }),
      fc.integer({ min: 1, max: longest }),
    ).map(([a, b]) => ({ minMs: Math.min(a, b), maxMs: Math.max(a, b) }));
    fc.assert(
      fc.property(
        fc.maxSafeNat(),
        bounds,
        fc.double({ min: 0, max: 1, noNaN: true }),
        (attempt, { minMs, maxMs }, drawn) => {
          const delay = backoffDelayMs(attempt, { minMs, maxMs, random: () => drawn });
          return Number.isInteger(delay) && delay >= Math.max(1, minMs / 4) && delay <= maxMs;
        },
      ),
      { examples: [[Number.MAX_SAFE_INTEGER, { minMs: longest, maxMs: longest }, 1]] },
    );
  },
});

Deno.test({
  name: "backoffDelayMs() refuses what is out of range",
  permissions: "none",
  fn() {
    const good = { minMs: 100, maxMs: 3000 };
    for (const attempt of [-1, 0.5, NaN, Infinity, 2 ** 53]) {
      assertThrows(() => backoffDelayMs(attempt, good), RangeError, "attempt");
    }
    for (const minMs of [0, -1, 0.5, NaN, Infinity]) {
      assertThrows(() => backoffDelayMs(0, { ...good, minMs }), RangeError, "minMs");
    }
    for (const maxMs of [99, NaN, Infinity, 2 ** 31]) {
      assertThrows(() => backoffDelayMs(0, { ...good, maxMs }), RangeError, "maxMs");
    }
    for (const drawn of [-0.1, 1.1, NaN]) {
      assertThrows(() => backoffDelayMs(0, { ...good, random: () => drawn }), RangeError, "random");
    }
  },
});
