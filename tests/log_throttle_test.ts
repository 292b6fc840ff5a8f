// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { LogThrottle } from "../lib/log_throttle.ts";

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
