// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { getOption } from "../../lib/net/libc.ts";
import { setCarrierOptions } from "../../lib/net/tcp_carrier.ts";
import { connectTcp, descriptorOf } from "../../lib/net/tcp_reset.ts";

Deno.test({
  name: "setCarrierOptions() has a connection send at once, and hold little that is not sent",
  ignore: Deno.build.os !== "linux",
  async fn() {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    using connected = await connectTcp({ hostname: "127.0.0.1", port: listener.addr.port });
    using accepted = await listener.accept();
    for (const connection of [connected, accepted]) {
      const fd = descriptorOf(connection)!;
      setCarrierOptions(fd);
      // TCP_NODELAY, TCP_NOTSENT_LOWAT
      assertEquals([1, 25].map((name) => getOption(fd, 6, name)), [1, 128 << 10]);
    }
  },
});
