// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import {
  connectResultOf,
  handshakeResultOf,
  Monitor,
  type Observer,
  type TunnelRecord,
} from "../../lib/observe/monitor.ts";
import { ConnectionClosedError } from "../../lib/quic/mod.ts";
import { FakeTime } from "../support/fake_time.ts";

const OVER = { by: "client", reason: "end" } as const;

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

test("Monitor counts the tunnels that are under way, and those that are connected", () => {
  const monitor = new Monitor("proxy-server");
  const [first, second] = [monitor.begin(), monitor.begin()];
  assertEquals([monitor.tunnels.size, monitor.established], [2, 0]);
  first.connected();
  first.connected();
  assertEquals([monitor.tunnels.size, monitor.established], [2, 1]);
  first.end(OVER);
  first.end(OVER);
  assertEquals([monitor.tunnels.size, monitor.established], [1, 0]);
  second.end(OVER);
  second.connected();
  assertEquals([monitor.tunnels.size, monitor.established], [0, 0]);
});

test("Monitor sums the bytes of tunnels that are open and of those that have ended", () => {
  const monitor = new Monitor("proxy-server");
  const pipe = { aToB: 1, bToA: 10 };
  const tunnel = monitor.begin();
  tunnel.watch(pipe);
  const other = monitor.begin();
  other.watch({ aToB: 100, bToA: 1_000 });
  assertEquals(monitor.carried, { aToB: 101, bToA: 1_010 });
  pipe.aToB = 2;
  assertEquals(monitor.carried, { aToB: 102, bToA: 1_010 });
  other.end(OVER);
  tunnel.end(OVER);
  assertEquals(monitor.carried, { aToB: 102, bToA: 1_010 });
});

test("Monitor tells its observers of each tunnel once, with the time since connecting began", async () => {
  using time = new FakeTime();
  const monitor = new Monitor("proxy-server");
  const told: unknown[] = [];
  const observer: Observer = {
    connected: (tunnel, seconds) => told.push([tunnel, seconds]),
    ended: (tunnel, ending) => told.push([tunnel, ending]),
  };
  monitor.observe(observer);
  monitor.observe({});
  const direct: TunnelRecord = monitor.begin();
  await time.pass(1_000);
  direct.connected();
  const late = monitor.begin({ id: "7" });
  await time.pass(5_000);
  late.connecting("target:1");
  await time.pass(250);
  late.connected();
  for (let i = 0; i < 2; i++) late.end(OVER);
  assertEquals(told, [[direct, 1], [late, 0.25], [late, OVER]]);
  assertEquals(late.facts, { id: "7", target: "target:1" });
});

test("handshakeResultOf() and connectResultOf() tell TLS from silence and the rest", () => {
  const closed = { application: false, code: 0, reason: "" } as const;
  const alert = { ...closed, by: "peer", code: 0x100 + 48 } as const;
  const silent = { ...closed, by: "timeout" } as const;
  const refused = { ...closed, by: "peer", application: true } as const;
  for (const [info, result] of [[alert, "tls"], [silent, "timeout"], [refused, "error"]] as const) {
    assertEquals(handshakeResultOf(info), result);
    const error = new ConnectionClosedError(info);
    assertEquals(connectResultOf(error), result);
    assertEquals(connectResultOf(new Error("in other words", { cause: error })), result);
  }
  assertEquals(connectResultOf(new TypeError("no such address")), "error");
});
