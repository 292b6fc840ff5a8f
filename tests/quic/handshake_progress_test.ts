// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { HandshakeProgress } from "../../lib/quic/handshake/progress.ts";

const LIMITS = { server: 64 << 10, client: 256 << 10 };

for (const role of ["server", "client"] as const) {
  Deno.test({
    name: `HandshakeProgress bounds bytes and time until a ${role} is done`,
    permissions: "none",
    fn() {
      const handshake = new HandshakeProgress(role, 2_000, 100);
      assertEquals([handshake.isUnanswered, handshake.dueAt], [true, 2_100]);
      assertEquals(handshake.timeoutReason, "no answer after 2000 ms");
      assert(!handshake.receive(LIMITS[role]));
      assertEquals(handshake.isUnanswered, false);
      assertEquals(handshake.timeoutReason, "handshake not complete after 2000 ms");
      assert(handshake.receive(1));
      handshake.established();
      assert(!handshake.receive(1));
      assertEquals(handshake.dueAt, 2_100, "the peer may refuse this end yet");
      handshake.confirmed();
      assertEquals(handshake.dueAt, Infinity);
    },
  });
}
