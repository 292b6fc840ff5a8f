// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { FailureStreak } from "../../lib/agent/failure_streak.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("FailureStreak.add() has failures that are alike be news ever less often", () => {
  const streak = new FailureStreak();
  const news = Array.from({ length: 1_000 }, (_, i) => streak.add("refused") ? i + 1 : 0)
    .filter((n) => n > 0);
  assertEquals(news, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
  assertEquals(streak.failures, 1_000);
});

test("FailureStreak.add() has one be news that differs from the one before", () => {
  const streak = new FailureStreak();
  const story = ["a", "a", "a", "b", "b", "b", "a", "a", "a"];
  assertEquals(story.map((failure) => streak.add(failure)), [
    ...[true, true, false],
    ...[true, true, false],
    ...[true, true, false],
  ]);
  assertEquals(streak.failures, 9);
});

test("FailureStreak.end() has the next failure be the first", () => {
  const streak = new FailureStreak();
  for (let i = 0; i < 3; i++) streak.add("refused");
  streak.end();
  assertEquals(streak.failures, 0);
  assertEquals([streak.add("refused"), streak.failures], [true, 1]);
  streak.add("refused");
  assertEquals([streak.add("refused"), streak.failures], [false, 3]);
});
