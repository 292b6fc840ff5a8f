// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { LoneFins } from "../../lib/quic/quiche/lone_fins.ts";
import type { NativeConnection } from "../../lib/quic/quiche/native.ts";

const IDLE_TIMEOUT_MS = 5_000;

/** A connection of which only that is true that FINs depend on. */
class FakeNative {
  sent = 0;
  lost = 0;
  nothingInFlight = false;
  capacity = 1_000;
  readonly fins: number[] = [];

  stats = () => ({ sent: this.sent, lost: this.lost });
  pathStats = () => [{ rtt: 1 }];
  timeout = () => this.nothingInFlight ? IDLE_TIMEOUT_MS : 10;
  streamCapacity = () => this.capacity;
  streamSend = (id: number) => (this.fins.push(id), 0);
}

function setUp() {
  const native = new FakeNative();
  const fins = new LoneFins();
  const released: number[] = [];
  return {
    native,
    fins,
    released,
    add: (id: number, readEnded: boolean) =>
      fins.add(native as unknown as NativeConnection, id, readEnded),
    /** @param idleForMs since the peer was last heard of */
    advance: (now: number, idleForMs = 0) =>
      fins.advance(
        native as unknown as NativeConnection,
        now,
        idleForMs,
        IDLE_TIMEOUT_MS,
        (id) => released.push(id),
      ),
  };
}

const pure = (name: string, fn: () => void) => Deno.test({ name, permissions: "none", fn });

pure(
  "LoneFins sends a FIN at once while the peer's direction goes on, and holds its stream until it has arrived",
  () => {
    const { native, fins, released, add, advance } = setUp();
    add(1, false);
    assert(!fins.holds(1));
    assert(advance(0));
    assertEquals(native.fins, [1]);
    assert(fins.holds(1));
    assert(!advance(1));
    native.nothingInFlight = true;
    assert(!advance(2));
    assertEquals([released, fins.pending, fins.holds(1)], [[1], false, false]);
  },
);

pure(
  "LoneFins sends a FIN once more that left before its bytes had arrived, if packets were lost meanwhile",
  () => {
    const { native, fins, released, add, advance } = setUp();
    add(1, false);
    assert(advance(0));
    native.lost = 1;
    assert(!advance(1));
    native.nothingInFlight = true;
    assert(advance(2));
    assertEquals([native.fins, released], [[1, 1], []]);
    // Everything before it has arrived: quiche takes care of this one.
    native.lost = 2;
    assert(!advance(3));
    assertEquals([native.fins, released, fins.pending], [[1, 1], [1], false]);
  },
);

pure("LoneFins sends a FIN once that left after its bytes had arrived, whatever is lost", () => {
  const { native, released, add, advance } = setUp();
  native.nothingInFlight = true;
  add(1, false);
  assert(advance(0));
  native.nothingInFlight = false;
  native.lost = 1;
  assert(!advance(1));
  native.nothingInFlight = true;
  assert(!advance(2));
  assertEquals([native.fins, released], [[1], [1]]);
});

pure(
  "LoneFins sends a FIN after the peer's direction is over once all before it has arrived",
  () => {
    const { native, fins, add, advance } = setUp();
    add(1, true);
    assert(!advance(0));
    assertEquals(native.fins, []);
    native.nothingInFlight = true;
    assert(advance(1));
    assertEquals([native.fins, fins.pending], [[1], false]);
  },
);

pure(
  "LoneFins waits for what came before a FIN when the peer's direction ends while it waits for room",
  () => {
    const { native, fins, add, advance } = setUp();
    native.capacity = 0;
    add(1, false);
    assert(!advance(0));
    fins.readEnded(1);
    native.capacity = 1_000;
    // The acknowledgement of the bytes would have the FIN dropped.
    assert(!advance(1));
    assertEquals(native.fins, []);
    native.nothingInFlight = true;
    assert(advance(2));
    assertEquals([native.fins, fins.pending], [[1], false]);
  },
);

/** Round trips of 1 ms take at most so long to answer. */
const ANSWER_MS = 52;

pure(
  "LoneFins takes a FIN for arrived on a busy connection that the peer went on with, without a loss, after later packets",
  () => {
    const { native, released, add, advance } = setUp();
    add(1, false);
    advance(0);
    native.sent = 7;
    for (let now = 1; now <= 200; now++) advance(now);
    assertEquals(released, [], "too few packets were sent after it");
    native.sent = 8;
    for (let now = 200; now < 200 + ANSWER_MS; now++) advance(now);
    assertEquals(released, []);
    advance(200 + ANSWER_MS);
    assertEquals([released, native.fins], [[1], [1]]);
  },
);

pure("LoneFins begins anew when a packet was lost on a busy connection, up to four times", () => {
  const { native, released, add, advance } = setUp();
  add(1, true);
  for (let now = 0; native.fins.length === 0; now++) {
    native.sent++;
    if (now % 20 === 0) native.lost++;
    advance(now);
    assert(now < 1_000);
    if (now < 4 * ANSWER_MS) assertEquals(native.fins, []);
  }
  assertEquals(released, []);
});

pure("LoneFins takes no silence and no interruption for the arrival of a FIN", () => {
  const { native, released, add, advance } = setUp();
  add(1, false);
  advance(0);
  native.sent = 100;
  advance(1);
  // Nothing is received for a second, though the timers of loss detection run.
  for (let now = 2; now <= 1_000; now++) advance(now, now - 1);
  // What was sent before that is received first.
  for (let now = 1_001; now <= 1_003; now++) advance(now);
  assertEquals(released, []);
  for (let now = 1_004; now <= 1_003 + ANSWER_MS; now++) advance(now);
  assertEquals(released, [1]);
});

pure(
  "LoneFins hands over no more FINs at a time than leave together, and the others soon after",
  () => {
    const { native, add, advance, fins } = setUp();
    native.nothingInFlight = true;
    for (let id = 1; id <= 100; id++) add(id, true);
    let turns = 0;
    for (let now = 0; fins.pending; now = fins.nextLookAt) {
      const before = native.fins.length;
      assert(advance(now));
      assert(native.fins.length - before <= 32);
      assert(fins.nextLookAt <= now + 10 || !fins.pending);
      assert(++turns < 10);
    }
    assertEquals(native.fins, Array.from({ length: 100 }, (_, i) => i + 1));
  },
);
