// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { formatDuration, parseDuration } from "../../lib/cli/duration.ts";
import { UsageError } from "../../lib/errors.ts";
import { pureTest as test } from "../support/pure_test.ts";

test("parseDuration() reads what Go reads", () => {
  const cases: [string, number][] = [
    ["0", 0],
    ["-0", 0],
    ["0s", 0],
    ["2s", 2000],
    ["+2s", 2000],
    ["-2s", -2000],
    ["300ms", 300],
    ["1m30s", 90_000],
    ["1.5h", 5_400_000],
    [".5s", 500],
    ["1.s", 1000],
    ["2.3s", 2300],
    ["30s1m", 90_000],
    ["250us", 0.25],
    ["250\u00b5s", 0.25],
    ["250\u03bcs", 0.25],
    ["5ns", 0.000005],
    ["0.33333333333333333333h", 1_199_999.999999],
  ];
  for (const [text, ms] of cases) assertEquals(parseDuration(text), ms, text);
  for (
    const text of ["", "3", "-", "+", "s", ".", "-.", ".s", "+.s", "1d", "1s ", " 1s", "1 s"]
      .concat(["2s-3s", "--2s", "1e3s", "1.2.3s", "1S", "\u0661s", "1s2", "00"])
  ) {
    assertThrows(() => parseDuration(text), UsageError);
  }
});

test("formatDuration() writes what parseDuration() reads back", () => {
  assertEquals(formatDuration(0), "0");
  assertEquals(formatDuration(90_000), "1m30s");
  assertEquals(formatDuration(-1500), "-1s500ms");
  assertEquals(formatDuration(0.25), "250us");
  fc.assert(fc.property(fc.integer(), (ms) => {
    assertEquals(parseDuration(formatDuration(ms)), ms);
  }));
  fc.assert(fc.property(fc.integer({ min: 0, max: (2 ** 31 - 1) * 1e6 }), (ns) => {
    assertEquals(parseDuration(formatDuration(ns / 1e6)), ns / 1e6);
  }));
});
