// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { History } from "../../lib/observe/history.ts";
import { Monitor } from "../../lib/observe/monitor.ts";
import { FakeTime } from "../support/fake_time.ts";
import { fakePeer } from "../support/peers.ts";

const OVER = { by: "client", reason: "end" } as const;
const INTERVAL_MS = 5_000;

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name: `History ${name}`, permissions: "none", fn });
}

/** A history whose intervals end when a test says so. */
function start() {
  const monitor = new Monitor("proxy-server");
  const history = new History(monitor);
  monitor.observe(history);
  let now = Date.parse(history.status().at);
  return { monitor, history, tick: (ms = INTERVAL_MS) => history.tick(now += ms) };
}

test("has the bytes of each interval per second, of whatever length it was", () => {
  const { monitor, history, tick } = start();
  const pipe = { aToB: 0, bToA: 0 };
  const tunnel = monitor.begin();
  tunnel.watch(pipe);
  pipe.aToB = 5_000;
  tick();
  pipe.bToA = 20_000;
  tick(10_000);
  tunnel.end(OVER);
  tick();
  const { sentBytesPerSecond, receivedBytesPerSecond, open, intervalMs } = history.status();
  assertEquals(sentBytesPerSecond, [1_000, 0, 0]);
  assertEquals(receivedBytesPerSecond, [0, 2_000, 0]);
  assertEquals(open, [1, 1, 0]);
  assertEquals(intervalMs, INTERVAL_MS);
});

test("counts tunnels that were connected, and those that could not be", () => {
  const { monitor, history, tick } = start();
  const [connected, failed] = [monitor.begin(), monitor.begin()];
  connected.connected();
  failed.end({ by: "target", reason: "refused", result: "refused" });
  tick();
  connected.end(OVER);
  tick();
  assertEquals(history.status().connected, [1, 0]);
  assertEquals(history.status().failed, [1, 0]);
});

test("has median and 99th percentile of the times to connect, by the nearest rank", async () => {
  using time = new FakeTime();
  const { monitor, history, tick } = start();
  tick();
  // 1 to 200 ms, the longest first.
  const tunnels = Array.from({ length: 200 }, () => monitor.begin());
  for (const tunnel of tunnels) {
    await time.pass(1);
    tunnel.connected();
  }
  tick();
  const one = monitor.begin();
  await time.pass(7);
  one.connected();
  tick();
  const { connectP50Ms, connectP99Ms } = history.status();
  assertEquals(connectP50Ms.map((ms) => ms && Math.round(ms)), [null, 100, 7]);
  assertEquals(connectP99Ms.map((ms) => ms && Math.round(ms)), [null, 198, 7]);
});

test("keeps a thousand times of an interval, of all parts of it", async () => {
  using time = new FakeTime();
  const { monitor, history, tick } = start();
  for (const ms of [1, 1_000]) {
    const tunnels = Array.from({ length: 2_000 }, () => monitor.begin());
    await time.pass(ms);
    for (const tunnel of tunnels) tunnel.connected();
  }
  tick();
  assertEquals(history.status().connected, [4_000]);
  assertEquals(Math.round(history.status().connectP99Ms[0]!), 1_000);
});

test("has the rates of each peer over the last interval, from 0 for one that is new", () => {
  const { monitor, history, tick } = start();
  const peer = fakePeer("a", { sentBytes: 5_000, receivedBytes: 10_000 });
  assertEquals(history.ratesOf(peer), { sent: 0, received: 0 });
  monitor.peers.add(peer);
  tick();
  assertEquals(history.ratesOf(peer), { sent: 1_000, received: 2_000 });
  peer.now.sentBytes = 5_500;
  tick();
  assertEquals(history.ratesOf(peer), { sent: 100, received: 0 });
  monitor.peers.delete(peer);
  tick();
  assertEquals(history.ratesOf(peer), { sent: 0, received: 0 });
});

test("has ten minutes at most", () => {
  const { monitor, history, tick } = start();
  for (let i = 0; i < 130; i++) {
    monitor.begin();
    tick();
  }
  const { open, at } = history.status();
  assertEquals(open, Array.from({ length: 120 }, (_, i) => i + 11));
  assert(Date.parse(at) > Date.now());
});

test("takes a clock that was set back for an interval without length", () => {
  const { monitor, history, tick } = start();
  monitor.begin().watch({ aToB: 1, bToA: 0 });
  tick(-3_600_000);
  assertEquals(history.status().sentBytesPerSecond, [1_000]);
});

test("run() ends an interval every 5 s until its signal aborts", async () => {
  using time = new FakeTime();
  const { monitor, history } = start();
  const stop = new AbortController();
  history.run(stop.signal);
  monitor.begin();
  await time.pass(2 * INTERVAL_MS);
  assertEquals(history.status().open, [1, 1]);
  stop.abort();
  await time.pass(INTERVAL_MS);
  assertEquals(history.status().open, [1, 1]);
});
