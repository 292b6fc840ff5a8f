// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertGreater, assertLessOrEqual } from "@std/assert";
import { TaskGroup } from "../../lib/task_group.ts";
import { drain, type DrainOptions } from "../../lib/tunnel/drain.ts";

const LONG_MS = 60_000;

/** A drain whose tunnels come and end as a test says: `arriving` while its peers acknowledge what was sent before. */
function start(
  timeoutMs: number,
  open: number,
  arriving: number,
  options: Partial<DrainOptions> = {},
) {
  const tunnels = new TaskGroup();
  const ends: (() => void)[] = [];
  const add = () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    ends.push(resolve);
    tunnels.add(promise);
  };
  for (let i = 0; i < open; i++) add();
  const settled: number[] = [];
  let done: boolean | undefined;
  const ended = drain(tunnels, {
    timeoutMs,
    settled(ms) {
      settled.push(ms);
      if (settled.length <= arriving) add();
      return Promise.resolve();
    },
    cutSilent: () => {},
    ...options,
  }).then((all) => done = all);
  return { ends, settled, ended, add, isDone: () => done !== undefined };
}

const turn = () => new Promise((resolve) => setTimeout(resolve));

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

test("drain() waits for open tunnels, for those that arrive meanwhile, and for what they have sent", async () => {
  for (const [open, arriving] of [[0, 0], [0, 1], [2, 0], [2, 2]] as const) {
    const { ends, settled, ended, isDone } = start(LONG_MS, open, arriving);
    for (let ending = 0; ending < open + arriving; ending++) {
      await turn();
      assertEquals(isDone(), false);
      ends[ending]!();
    }
    assertEquals(await ended, true);
    assertEquals(settled.length, 1 + arriving);
    // Without a tunnel, only those that cross with the announcement are waited for.
    if (open === 0) assertLessOrEqual(settled[0]!, 1_000);
    else assertGreater(settled[0]!, 1_000);
  }
});

test("drain() gives up when its time is over", async () => {
  const { ends, settled, ended } = start(5, 2, 0);
  ends[0]!();
  assertEquals(await ended, false);
  assertEquals(settled, []);
  ends[1]!();
});

test("drain() cuts silent tunnels in its last third, and for less silence near its end", async () => {
  const silences: number[] = [];
  const began = performance.now();
  let firstAfterMs = 0;
  const { ended, ends } = start(600, 1, 0, {
    cutSilent(ms) {
      if (silences.push(ms) === 1) firstAfterMs = performance.now() - began;
      if (ms < 10) ends[0]!();
    },
  });
  assertEquals(await ended, true);
  assertGreater(firstAfterMs, 390);
  // A tenth of what is left, which may be a little more than the third: timers round down.
  assertLessOrEqual(silences[0]!, 20 + 2 * 0.1);
  assertEquals(silences, silences.toSorted((a, b) => b - a));
  assertGreater(silences.length, 1);
  // Nothing is left of it.
  const { length } = silences;
  await turn();
  assertEquals(silences.length, length);
});

test("drain() stops accepting when no tunnel is open, nobody serves, or silent ones are cut", async () => {
  const never = new Promise<void>(() => {});
  for (const why of ["ended", "unserved", "late"] as const) {
    const unserved = why === "unserved" ? Promise.resolve() : never;
    const stops: number[] = [];
    const began = performance.now();
    const drained = start(why === "late" ? 60 : LONG_MS, 1, 0, {
      accepting: {
        unserved,
        stop: () => (stops.push(performance.now() - began), Promise.resolve()),
      },
    });
    await turn();
    assertEquals(stops.length, why === "unserved" ? 1 : 0);
    if (why === "ended") {
      drained.add();
      drained.ends[0]!();
      await turn();
      assertEquals(stops.length, 0);
      drained.ends[1]!();
    } else if (why === "unserved") drained.ends[0]!();
    assertEquals(await drained.ended, why !== "late");
    assertEquals(stops.length, 1);
    if (why === "late") assertGreater(stops[0]!, 35);
    drained.ends[0]!();
  }
});
