// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertGreater } from "@std/assert";
import { processMemory, trimWhenIdle } from "../../lib/cli/idle_memory.ts";
import { libc } from "../../lib/net/libc.ts";
import { FakeTime } from "../support/fake_time.ts";

const INTERVAL_MS = 7_000;

Deno.test("trimWhenIdle() trims once after each time in which the program was busy", async () => {
  using time = new FakeTime();
  const controller = new AbortController();
  let [cpuMs, trimmed] = [500, 0];
  trimWhenIdle(controller.signal, { cpuMs: () => cpuMs, trim: () => trimmed++ });
  const trimmedAfter = async (...takenMs: number[]) => {
    const counts: number[] = [];
    for (const ms of takenMs) {
      cpuMs += ms;
      await time.pass(INTERVAL_MS);
      counts.push(trimmed);
    }
    return counts;
  };
  assertEquals(await trimmedAfter(300, 10, 199, 10), [0, 1, 1, 1], "after the start");
  assertEquals(await trimmedAfter(7_000, 7_000, 200), [1, 1, 1], "not while it is busy");
  assertEquals(await trimmedAfter(10, 10), [2, 2]);
  controller.abort();
  assertEquals(await trimmedAfter(300, 10), [2, 2], "not after the end");
});

Deno.test("trimWhenIdle() does nothing without the C library, or after the end", () => {
  using time = new FakeTime();
  trimWhenIdle(new AbortController().signal, undefined);
  trimWhenIdle(AbortSignal.abort(), { cpuMs: () => 0, trim: () => {} });
  assertEquals(time.started, 0);
});

Deno.test("processMemory is there with the C library, and can be used", () => {
  assertEquals(processMemory !== undefined, libc !== undefined);
  processMemory?.trim();
  assertGreater(processMemory?.cpuMs() ?? 1, 0);
});
