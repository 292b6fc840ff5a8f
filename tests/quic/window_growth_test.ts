// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { WindowGrowth } from "../../lib/quic/quiche/window_growth.ts";

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
