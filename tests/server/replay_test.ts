// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertLess, assertRejects } from "@std/assert";
import { Replay } from "../../lib/server/replay.ts";
import { pattern } from "../support/bytes.ts";
import { carrierPair } from "../support/memory_carrier.ts";
import { MemoryDuplexError, readExactly, readToEnd } from "../support/memory_duplex.ts";

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name: `Replay${name}`, permissions: "none", fn });
}

// The first test here, so that there is no garbage of others, of which less would be left at the end.
test(" needs little more memory than it keeps bytes, however small the pieces are", () => {
  const memoryBytes = () => {
    const { heapUsed, external } = Deno.memoryUsage();
    return heapUsed + external;
  };
  const one = pattern(1);
  const before = memoryBytes();
  const replays = Array.from({ length: 20 }, () => {
    const replay = new Replay(64 << 10);
    for (let i = 0; i < 64 << 10; i++) replay.add(one);
    return replay;
  });
  assertLess((memoryBytes() - before) / replays.length, 4 << 20);
});

test(".add() takes bytes up to maxBytes together, and none behind the end or once it is fixed", () => {
  const replay = new Replay(10);
  const taken = [4, 7, 6, 0, 1].map((length) => replay.add(pattern(length)));
  assertEquals(taken, [true, false, true, true, false]);
  assert(!replay.isFixed);
  for (const how of ["end", "fix"] as const) {
    const over = new Replay(10);
    over[how]();
    assertEquals([over.add(pattern(1)), over.isFixed], [false, how === "fix"]);
  }
});

test(".feed() hands everything on, to several and whenever they begin", async () => {
  const replay = new Replay(1_000);
  const feeds: Promise<void>[] = [];
  const reads: Promise<Uint8Array>[] = [];
  for (let i = 0; i < 3; i++) {
    const [near, far] = carrierPair({ capacity: 7 });
    replay.add(pattern(20, i));
    feeds.push(replay.feed(near));
    reads.push(readToEnd(far));
    await new Promise((resolve) => setTimeout(resolve));
  }
  replay.add(pattern(20, 9));
  replay.end();
  // What has come before goes on.
  replay.fix();
  await Promise.all(feeds);
  const expected = Uint8Array.of(...[0, 1, 2, 9].flatMap((seed) => [...pattern(20, seed)]));
  for (const read of reads) assertEquals(await read, expected);
});

test(".feed() ends once it is fixed and all is handed on, and leaves the direction open", async () => {
  const replay = new Replay(1_000);
  const [near, far] = carrierPair({ capacity: 7 });
  let isOver = false;
  const feed = replay.feed(near).then(() => isOver = true);
  replay.add(pattern(20));
  replay.fix();
  assertEquals(await readExactly(far, 13), pattern(20).subarray(0, 13));
  assert(!isOver);
  assertEquals(await readExactly(far, 7), pattern(20).subarray(13));
  await feed;
  assert(!near.isFinished);
});

test(".feed() throws what the carrier throws, and others go on", async () => {
  const replay = new Replay(1_000);
  const [near, far] = carrierPair({ capacity: 7 });
  const feed = assertRejects(() => replay.feed(near), MemoryDuplexError, "code 4");
  replay.add(pattern(20));
  await readExactly(far, 7);
  far.stop(4);
  await feed;
  const [next, nextFar] = carrierPair();
  replay.end();
  await replay.feed(next);
  assertEquals(await readToEnd(nextFar), pattern(20));
});
