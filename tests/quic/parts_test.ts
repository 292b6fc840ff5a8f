// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Parts of the driver that work without a peer. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { TimeBudget } from "../../lib/quic/streams/time_budget.ts";
import { addressKey, HalfOpen } from "../../lib/quic/handshake/half_open.ts";
import { KeepAlive } from "../../lib/quic/path/keep_alive.ts";
import { ConnectionClosedError, QuicEndpoint } from "../../lib/quic/mod.ts";
import type { NativeConnection } from "../../lib/quic/quiche/native.ts";
import { PathMtu } from "../../lib/quic/path/path_mtu.ts";
import { PacketSender } from "../../lib/quic/path/packet_sender.ts";
import { PeerAddress } from "../../lib/quic/path/peer_address.ts";
import { RateLimit } from "../../lib/quic/handshake/rate_limit.ts";
import { StreamPriorities, YOUNG_BYTES } from "../../lib/quic/streams/stream_priorities.ts";
import { StreamQueue } from "../../lib/quic/streams/stream_queue.ts";
import { WindowGrowth } from "../../lib/quic/quiche/window_growth.ts";
import { ALPN, assertNothingLive, clientTls } from "../support/quic.ts";

const home = { hostname: "192.0.2.1", port: 1000 };
const away = { hostname: "192.0.2.1", port: 2000 };
const stranger = { hostname: "198.51.100.1", port: 3000 };

Deno.test("QuicEndpoint counts sends that the system refuses and goes on", async () => {
  {
    await using endpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
    // An IPv4 socket cannot send there.
    const peer = { hostname: "::1", port: 9 };
    const options = { tls: clientTls, alpn: ALPN, handshakeTimeoutMs: 100 };
    const error = await assertRejects(
      () => endpoint.connect(peer, "quic-tunnel-server", options),
      ConnectionClosedError,
    );
    assertEquals(error.info.by, "timeout");
    assert(endpoint.stats.dropped["send-error"] > 0);
  }
  assertNothingLive();
});

Deno.test("PeerAddress follows a peer that moves, and trusts the address from its second packet on", () => {
  const address = new PeerAddress(home);
  assert(!address.concerns(home));
  assert(address.concerns(away));
  assert(address.authentic(away, 100, 0));
  assertEquals([address.current, address.previous], [away, home]);
  assertEquals(address.maxPacketBytes, 300);
  address.sent(280);
  assertEquals(address.maxPacketBytes, 0);
  assert(!address.authentic(away, 50, 10));
  assertEquals(address.maxPacketBytes, Infinity);
  address.settle(address.movingUntil);
  assertEquals([address.current, address.previous], [away, undefined]);
  assert(!address.concerns(away));
});

Deno.test("PeerAddress goes back when the new address does not prove itself", () => {
  const address = new PeerAddress(home);
  address.authentic(stranger, 1200, 0);
  address.settle(address.movingUntil - 1);
  assertEquals(address.current, stranger);
  address.settle(address.movingUntil);
  assertEquals([address.current, address.previous], [home, undefined]);
  assertEquals(address.maxPacketBytes, Infinity);
});

Deno.test("PeerAddress goes back at once, without a limit, when the old address speaks", () => {
  const address = new PeerAddress(home);
  address.authentic(stranger, 1200, 0);
  assert(!address.authentic(home, 40, 1));
  assertEquals([address.current, address.maxPacketBytes], [home, Infinity]);
});

Deno.test("PeerAddress keeps the last proven address through several moves", () => {
  const address = new PeerAddress(home);
  address.authentic(away, 100, 0);
  address.authentic(stranger, 100, 1);
  assertEquals([address.current, address.previous], [stranger, home]);
  address.settle(address.movingUntil);
  assertEquals(address.current, home);
});

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

// ---- Handshakes under way ----

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

Deno.test("WindowGrowth has windows grow while a stream begins to carry much over a long path", () => {
  const windows = new WindowGrowth();
  let rtt = 50;
  const native = {
    destinationId: () => new Uint8Array(16),
    pathStats: () => [{ rtt }],
    stats: () => ({ sent: 10 }),
  };
  const growsAfter = (now: number, bytes = 32 << 10, id = 0) => {
    windows.read(id, bytes, now);
    return windows.emptyPacketBytes(native, now) !== undefined;
  };
  assert(!growsAfter(0, 1_500));
  assert(growsAfter(1));
  assertEquals(windows.emptyPacketBytes(native, 2), undefined);
  assert(growsAfter(500, (8 << 20) - (32 << 10)));
  assert(!growsAfter(501));
  assert(growsAfter(501, 32 << 10, 4));
  assert(!growsAfter(1_500));
  // After a pause, and when another one takes its place.
  assert(growsAfter(2_501));
  assert(!growsAfter(2_502, 8 << 20));
  windows.ended(0);
  assert(growsAfter(2_503));
  rtt = 9;
  assert(!growsAfter(2_603, 32 << 10, 8));
});

Deno.test("WindowGrowth asks for packets that hold less than MAX_STREAM_DATA, whatever their number takes", () => {
  for (
    const [sent, numberBytes] of [[0, 1], [254, 1], [255, 2], [65_535, 3], [2 ** 24, 4]] as const
  ) {
    for (const idBytes of [0, 4, 16]) {
      const windows = new WindowGrowth();
      windows.read(0, 64 << 10, 0);
      const packet = windows.emptyPacketBytes({
        destinationId: () => new Uint8Array(idBytes),
        pathStats: () => [{ rtt: 100 }],
        stats: () => ({ sent }),
      }, 0);
      // First byte, connection id, packet number and tag (RFC 9000 §17.3.1); the frame takes six at least (§19.10).
      assertEquals(packet! - (1 + idBytes + numberBytes + 16), 4);
    }
  }
});

/** A sender whose connection has packets of these sizes, cut to the room that there is, and the datagrams it sends. */
function senderOf(packets: number[], { room = Infinity, peer = new PeerAddress(home) } = {}) {
  const sent: number[] = [];
  let turns = 0;
  const sender = new PacketSender({
    native: {
      send: (buffer: Uint8Array) => {
        const next = packets.shift();
        return next === undefined ? null : [Math.min(next, buffer.length), {} as never];
      },
    },
    socket: {
      reserve: (bytes: number) => sent.length < room ? new Uint8Array(bytes) : undefined,
      commit: (bytes: number) => void sent.push(bytes),
      flush: () => {},
    },
    peer,
    path: new PathMtu(1400),
    more: () => turns++,
  });
  return { sender, sent, turns: () => turns };
}

Deno.test("PacketSender sends until there is nothing more, and tells the largest", () => {
  const { sender, sent, turns } = senderOf([1400, 9000, 70]);
  assertEquals(sender.send(0), 1400);
  assertEquals([sent, sender.isCut, turns()], [[1400, 1400, 70], false, 0]);
  assertEquals(sender.send(0), 0);
});

Deno.test("PacketSender leaves what is more than 64 packets to another turn", () => {
  const { sender, sent, turns } = senderOf(new Array(100).fill(1000));
  sender.send(0);
  assertEquals([sent.length, sender.isCut, turns()], [64, true, 1]);
  sender.send(0);
  assertEquals([sent.length, sender.isCut, turns()], [100, false, 1]);
});

Deno.test("PacketSender is cut where the socket has no room, or the peer's address may get no more", () => {
  const full = senderOf([1000, 1000, 1000], { room: 2 });
  full.sender.send(0);
  assertEquals([full.sent.length, full.sender.isCut, full.turns()], [2, true, 0]);
  const peer = new PeerAddress(home);
  peer.authentic(stranger, 100, 0);
  const unproven = senderOf([1000, 1000], { peer });
  unproven.sender.tryOne(301);
  assertEquals(unproven.sent, []);
  unproven.sender.send(0);
  // And once more to the address that it had before.
  assertEquals([unproven.sent, unproven.sender.isCut], [[300, 300], true]);
});

Deno.test("PacketSender sends small datagrams once when an acknowledgement is missing", () => {
  const packets = [1400, 1400, 1400];
  const { sender, sent } = senderOf(packets);
  sender.late();
  sender.send(0);
  assertEquals(sent, [1200, 1200, 1200]);
  packets.push(1400);
  sender.send(0);
  assertEquals(sent.at(-1), 1400);
});

Deno.test("KeepAlive is due when nothing of the peer's came for the interval, nor a PING went", () => {
  const keepAlive = new KeepAlive(100, 0);
  let recv = 0;
  const native = { stats: () => ({ recv }) as ReturnType<NativeConnection["stats"]> };
  assertEquals(keepAlive.dueAt, 100);
  assert(!keepAlive.isDue(99, native, 50));
  recv = 1;
  assert(!keepAlive.isDue(100, native, 60));
  assertEquals(keepAlive.dueAt, 160);
  // What came since was not the peer's.
  assert(keepAlive.isDue(160, native, 159));
  assertEquals(keepAlive.dueAt, 260);
  recv = 2;
  assert(keepAlive.isDue(300, native, 190));
});

Deno.test("KeepAlive without an interval is never due", () => {
  assertEquals(new KeepAlive(0, 0).dueAt, Infinity);
});
