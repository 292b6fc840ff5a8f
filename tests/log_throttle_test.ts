// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { LogThrottle, timesOf, tunnelThrottle, warnOrDebug } from "../lib/log_throttle.ts";

Deno.test({
  name:
    "LogThrottle.pass() lets the first event through, and then one in an interval with the count",
  permissions: "none",
  fn() {
    let now = 5_000;
    const throttle = new LogThrottle(100, () => now);
    const at = (time: number) => {
      now = 5_000 + time;
      return throttle.pass();
    };
    assertEquals([0, 0, 1, 99].map(at), [1, undefined, undefined, undefined]);
    assertEquals([100, 150, 199].map(at), [4, undefined, undefined]);
    assertEquals([200, 1_000].map(at), [3, 1]);
  },
});

Deno.test({
  name: "a throttle with a burst lets that many through in an interval, and the rest to debug",
  permissions: "none",
  fn() {
    let now = 0;
    const throttle = new LogThrottle(100, () => now, 3);
    const at = (time: number) => {
      now = time;
      const times = throttle.pass();
      return `${warnOrDebug(times)} ${timesOf(times) ?? ""}`.trim();
    };
    assertEquals([0, 1, 50, 51, 99].map(at), ["warn", "warn", "warn", "debug", "debug"]);
    assertEquals([100, 101, 102, 103].map(at), ["warn 3", "warn", "warn", "debug"]);
    const warnings = Array.from({ length: 10_000 }, () => 0);
    const ofTunnels = tunnelThrottle();
    const passed = warnings.filter(() => ofTunnels.pass() !== undefined).length;
    assertEquals(passed >= 10 && passed <= 100, true, `${passed}`);
  },
});
