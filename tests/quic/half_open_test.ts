// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { addressKey, HalfOpen } from "../../lib/quic/handshake/half_open.ts";
import { RateLimit } from "../../lib/quic/handshake/rate_limit.ts";

/** Handshakes with the clock in the test's hand. */
function halfOpenAt(limits: { maxHandshakes: number; maxPerAddress?: number; maxBytes?: number }) {
  const clock = { now: 0 };
  const handshakes = new HalfOpen<number>(
    { maxPerAddress: 1000, maxBytes: 1_000_000, ...limits },
    () => clock.now,
  );
  let last = 0;
  /** Begins as many as may be, and says how many those were. */
  const fill = (host: string) => {
    let begun = 0;
    for (; handshakes.judge(host, 0) === "yes"; begun++) handshakes.add(++last, host);
    return begun;
  };
  return { clock, handshakes, fill };
}

Deno.test("HalfOpen gives an address no more handshakes than it leaves for others", () => {
  const { handshakes, fill } = halfOpenAt({ maxHandshakes: 1000 });
  assertEquals(fill("192.0.2.1"), 500);
  assertEquals(fill("192.0.2.2"), 250);
  assertEquals(fill("192.0.2.3"), 125);
  assertEquals(handshakes.judge("192.0.2.1", 0), "too many of the address");
  // Anybody else gets in until all are gone.
  let others = 0;
  while (handshakes.judge(`198.51.100.${others}`, 0) === "yes") {
    handshakes.add(-++others, `198.51.100.${others - 1}`);
  }
  assertEquals(others, 125);
  assertEquals([handshakes.size, handshakes.judge("203.0.113.1", 0)], [1000, "too many"]);
});

Deno.test("HalfOpen gives an address maxPerAddress handshakes at most", () => {
  const { fill } = halfOpenAt({ maxHandshakes: 1000, maxPerAddress: 30 });
  assertEquals([fill("192.0.2.1"), fill("192.0.2.2")], [30, 30]);
});

Deno.test("HalfOpen frees what a complete handshake took at once, and what a failed one took in a second", () => {
  const { clock, handshakes, fill } = halfOpenAt({ maxHandshakes: 100, maxPerAddress: 2 });
  assertEquals(fill("192.0.2.1"), 2);
  for (const connection of [1, 2]) assert(handshakes.receive(connection, 1000));
  handshakes.complete(1);
  assertEquals([handshakes.size, handshakes.recent, handshakes.bytes], [1, 1, 1000]);
  handshakes.fail(2);
  assertEquals([handshakes.size, handshakes.recent, handshakes.bytes], [0, 1, 1000]);
  // Once is enough.
  handshakes.fail(2);
  handshakes.complete(1);
  assertEquals(fill("192.0.2.1"), 1);
  clock.now = 999;
  assertEquals(fill("192.0.2.1"), 0);
  clock.now = 1_000;
  assertEquals([handshakes.recent, handshakes.bytes], [1, 0]);
  assertEquals(fill("192.0.2.1"), 1);
});

Deno.test("HalfOpen bounds the bytes of all handshakes, and of an address by what it leaves", () => {
  const { handshakes } = halfOpenAt({ maxHandshakes: 100, maxBytes: 10_000 });
  handshakes.add(1, "192.0.2.1");
  handshakes.add(2, "192.0.2.1");
  handshakes.add(3, "192.0.2.2");
  const take = (connection: number) => {
    let taken = 0;
    while (handshakes.receive(connection, 1_000)) taken++;
    return taken;
  };
  assertEquals([take(1), take(2), take(3)], [5, 0, 3]);
  assertEquals(handshakes.bytes, 8_000);
  assertEquals(handshakes.judge("192.0.2.1", 1_000), "too many of the address");
  assertEquals(handshakes.judge("192.0.2.3", 2_000), "yes");
  assertEquals(handshakes.judge("192.0.2.3", 2_001), "too many");
  // Of a handshake that is over, or was never begun here, nothing is counted.
  handshakes.complete(1);
  assert(handshakes.receive(1, 1_000_000) && handshakes.receive(4, 1_000_000));
  assertEquals(handshakes.bytes, 3_000);
  assertEquals(take(2), 4);
});

Deno.test("addressKey() is one for an IPv4 address, and for 64 bits of an IPv6 one", () => {
  const same = [
    ["192.0.2.1", "::ffff:192.0.2.1"],
    ["2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff"],
    ["fe80::1%2", "fe80::1%2"],
  ] as const;
  for (const [a, b] of same) assertEquals(addressKey(a), addressKey(b));
  const all = [...same.map(([a]) => a), "192.0.2.2", "2001:db8:0:2::1", "fe80::1%3"];
  assertEquals(new Set(all.map(addressKey)).size, all.length);
});

Deno.test("RateLimit allows so many a second, and as many at once after a rest", () => {
  let now = 0;
  const limit = new RateLimit(10, { now: () => now });
  const take = () => {
    let taken = 0;
    while (limit.take()) taken++;
    return taken;
  };
  assertEquals(take(), 10);
  now = 99;
  assertEquals(take(), 0);
  now = 100;
  assertEquals(take(), 1);
  now = 450;
  assertEquals(take(), 3);
  now = 1e9;
  assertEquals(take(), 10);
});
