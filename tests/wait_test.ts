// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertRejects, assertThrows, fail } from "@std/assert";
import { andThen, type Awaitable, sleep, within } from "../lib/wait.ts";
import { FakeTime } from "./support/fake_time.ts";

const late = () => new Error("too late");

function test(name: string, fn: (time: FakeTime) => Promise<void>): void {
  Deno.test({
    name,
    permissions: "none",
    async fn() {
      using time = new FakeTime();
      await fn(time);
      assertEquals(time.pending, 0, "a timer is left");
    },
  });
}

test("within() gives what the promise gives, and throws what it throws", async (time) => {
  assertEquals(await within(0, Promise.resolve(5), late), 5);
  const failed = Promise.reject(new TypeError("failed"));
  await assertRejects(() => within(10, failed, late), TypeError, "failed");
  const slow = within(10, sleep(9).then(() => "slow"), late);
  await time.pass(9);
  assertEquals(await slow, "slow");
});

test("within() and andThen() give at once what is there", async (time) => {
  assertEquals(within(10, 5 as Awaitable<number>, late), 5);
  assertEquals(time.pending, 0);
  assertEquals(andThen(5, (n) => n + 1), 6);
  assertEquals(await andThen(Promise.resolve(5), (n) => n + 1), 6);
  assertThrows(() => andThen(5, () => fail("failed")), Error, "failed");
});

test("within() throws when the promise takes longer, and makes its error only then", async (time) => {
  let made = 0;
  const make = () => {
    made++;
    return late();
  };
  const never = new Promise<void>(() => {});
  const waiting = assertRejects(() => within(10, never, make), Error, "too late");
  await time.pass(9);
  assertEquals(made, 0);
  await time.pass(1);
  await waiting;
});

test("within() asks for no negative time, of which the runtime would complain on stderr", async () => {
  const { setTimeout } = globalThis;
  const asked: (number | undefined)[] = [];
  globalThis.setTimeout = ((callback: () => void, ms?: number) => {
    asked.push(ms);
    return setTimeout(callback, ms);
  }) as typeof setTimeout;
  await within(-5, Promise.resolve(), late);
  assertEquals(asked, [0]);
});

test("within() leaves no rejection that nobody handles when the promise fails later", async (time) => {
  // Later, or in the same turn.
  for (const afterMs of [2, 1]) {
    const { promise, reject } = Promise.withResolvers<void>();
    setTimeout(() => reject(new Error("failed")), afterMs);
    const waiting = assertRejects(() => within(1, promise, late));
    await time.pass(2);
    await waiting;
  }
});

test("sleep() resolves after its time, or when the signal aborts", async (time) => {
  for (const [abortMs, overMs] of [[Infinity, 10], [4, 4], [0, 0]] as const) {
    const controller = new AbortController();
    if (abortMs === 0) controller.abort();
    let isOver = false;
    const sleeping = sleep(10, controller.signal).then(() => isOver = true);
    await time.pass(Math.max(0, overMs - 1));
    assertEquals(isOver, overMs === 0);
    if (abortMs === overMs) controller.abort();
    else await time.pass(1);
    await sleeping;
    assert(isOver);
  }
});
