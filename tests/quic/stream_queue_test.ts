// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { StreamPriorities, YOUNG_BYTES } from "../../lib/quic/streams/stream_priorities.ts";
import { StreamQueue } from "../../lib/quic/streams/stream_queue.ts";
import { TimeBudget } from "../../lib/quic/streams/time_budget.ts";

function spin(ms: number): void {
  for (const until = performance.now() + ms; performance.now() < until;);
}

Deno.test("TimeBudget puts work off that has taken more than its share, and tells until when", () => {
  const budget = new TimeBudget(0.1);
  const start = performance.now();
  let runs = 0;
  const work = () => (runs++, spin(12));
  budget.run(start, work);
  assertEquals(budget.dueAt(start), Infinity);
  budget.run(start + 1, work);
  assertEquals(runs, 1);
  // It had saved up 2 ms; the other 10 take it 100.
  const dueAt = budget.dueAt(start + 1);
  assert(dueAt >= start + 95, `${dueAt - start}`);
  budget.run(dueAt + 1, () => runs++);
  assertEquals(runs, 2);
  assertEquals(budget.dueAt(dueAt + 1), Infinity);
});

Deno.test("StreamQueue tries all of a few, and of many those that were ready lately", () => {
  const queue = new StreamQueue<number>();
  for (let i = 0; i < 10; i++) queue.add(i);
  const tried: number[] = [];
  queue.serve((stream) => (tried.push(stream), stream === 3));
  assertEquals(tried, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assertEquals(queue.size, 9);

  for (let i = 0; i < 1000; i++) queue.add(i);
  tried.length = 0;
  queue.serve((stream) => (tried.push(stream), true));
  assertEquals(tried, [3]);
  assertEquals(queue.size, 999);
});

Deno.test("StreamQueue looks through the others, and puts it off when that takes too long", () => {
  const queue = new StreamQueue<number>();
  for (let i = 0; i < 1000; i++) queue.add(i);
  queue.serve(() => false);
  const start = performance.now();
  queue.sweep(start, (stream) => {
    if (stream === 999) spin(20);
    return stream === 500;
  });
  assertEquals(queue.size, 999);
  let tries = 0;
  queue.sweep(start + 1, () => (tries++, false));
  assertEquals(tries, 0);
  const dueAt = queue.dueAt(start + 1);
  assert(dueAt > start + 100);
  queue.sweep(dueAt + 1, () => (tries++, false));
  assertEquals(tries, 999);
  assertEquals(queue.dueAt(dueAt + 1), Infinity);
  queue.scan(dueAt + 1, (stream) => stream === 7, () => [6, 7, 500]);
  assertEquals(queue.size, 998);
});

Deno.test("StreamQueue with a small budget tries all that wait within a bound, whatever that takes", () => {
  const queue = new StreamQueue<number>(new TimeBudget(0.01, 1));
  for (let i = 0; i < 1000; i++) queue.add(i);
  queue.serve(() => false);
  const start = performance.now();
  queue.sweep(start, (stream) => (stream === 0 && spin(20), false));
  queue.sweep(start + 1, () => false);
  const dueAt = queue.dueAt(start + 1);
  assert(dueAt > start + 50 && dueAt <= start + 101, `${dueAt - start}`);
});

Deno.test("StreamQueue forgets what it has put off when there is nothing to look for any more", () => {
  const queue = new StreamQueue<number>();
  const slow = () => (spin(20), false);
  const start = performance.now();
  for (let i = 0; i < 1000; i++) queue.add(i);
  queue.serve(() => false);
  for (const now of [start, start + 1]) {
    queue.scan(now, slow, () => [1]);
    queue.sweep(now, (stream) => stream === 1 && slow());
  }
  assert(queue.dueAt(start + 1) < Infinity);
  for (let i = 0; i < 990; i++) queue.forget(i);
  // The rest was not tried.
  queue.sweep(start + 2, slow);
  assert(queue.dueAt(start + 2) < Infinity);
  queue.serve(() => false);
  queue.scan(start + 2, slow, undefined);
  queue.sweep(start + 2, slow);
  assertEquals(queue.dueAt(start + 2), Infinity);
});

Deno.test("StreamQueue looks through others less often where all that wait are tried anyway", () => {
  const queue = new StreamQueue<number>();
  queue.add(1);
  queue.serve(() => false);
  const start = performance.now();
  queue.scan(start, () => (spin(20), false), () => [1]);
  queue.scan(start + 1, () => false, () => [1]);
  const few = queue.dueAt(start + 1);
  assert(few > start + 10 && few < start + 25, `${few - start}`);
  for (let i = 0; i < 1000; i++) queue.add(i);
  queue.serve(() => false);
  queue.scan(start + 1, () => false, () => [1]);
  assertEquals(queue.dueAt(start + 1), Infinity);
});

Deno.test("StreamPriorities lets a stream go first until it has sent much, and says so once", () => {
  const priorities = new StreamPriorities();
  const told: unknown[] = [];
  const native = { streamPriority: (...call: unknown[]) => void told.push(call) };
  for (const id of [1, 5]) priorities.opened(id);
  priorities.sent(native, 1, YOUNG_BYTES - 1);
  assert(priorities.isYoung(1));
  assertEquals(told, []);
  for (const bytes of [1, 1, 100_000]) priorities.sent(native, 1, bytes);
  assert(!priorities.isYoung(1) && priorities.isYoung(5));
  assertEquals(told, [[1, 128, true]]);
  priorities.ended(5);
  assert(!priorities.isYoung(5));
});
