// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { getOption, libc, SOL_SOCKET } from "../../lib/net/libc.ts";
import { setAcceptedOptions } from "../../lib/net/tcp_listener.ts";
import { logTcpKeepalive, setTcpKeepalive } from "../../lib/net/tcp_keepalive.ts";
import { descriptorOf } from "../../lib/net/tcp_reset.ts";
import { logger } from "../../lib/log.ts";
import { logLines } from "../support/network.ts";
import { tcpPair } from "../support/tcp_pair.ts";

const SO_KEEPALIVE = 9;
const SO_LINGER = 13;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
/** Idle time, interval and count: tcp(7). */
const TIMES = [4, 5, 6];

const ignore = !libc;

for (
  const [ms, expected] of [
    [15_000, [1, 15, 15, 9]],
    [1, [1, 1, 1, 9]],
    [1_500, [1, 2, 2, 9]],
    [32_767_000, [1, 32_767, 32_767, 9]],
  ] as const
) {
  Deno.test({
    name: `setTcpKeepalive() sets ${ms} ms at both ends of a connection`,
    ignore,
    async fn() {
      for (const connection of await tcpPair()) {
        setTcpKeepalive(connection, ms);
        const fd = descriptorOf(connection)!;
        const times = TIMES.map((name) => getOption(fd, IPPROTO_TCP, name));
        assertEquals<unknown>([getOption(fd, SOL_SOCKET, SO_KEEPALIVE), ...times], expected);
        connection.close();
      }
    },
  });
}

Deno.test({
  name: "setTcpKeepalive() switches probes off with 0",
  ignore,
  async fn() {
    for (const connection of await tcpPair()) {
      setTcpKeepalive(connection, 1_000);
      const fd = descriptorOf(connection)!;
      setTcpKeepalive(connection, 0);
      assertEquals(getOption(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
      connection.close();
    }
  },
});

Deno.test({
  name: "setAcceptedOptions() sets the options of the connections that a listener accepts",
  ignore,
  async fn() {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    assert(setAcceptedOptions(listener, 15_000));
    const { port } = listener.addr as Deno.NetAddr;
    const [peer, own] = await Promise.all([
      Deno.connect({ hostname: "127.0.0.1", port }),
      listener.accept(),
    ]);
    const fd = descriptorOf(own)!;
    const options = [TCP_NODELAY, ...TIMES].map((name) => getOption(fd, IPPROTO_TCP, name));
    assertEquals(options, [1, 15, 15, 9]);
    assertEquals([SO_KEEPALIVE, SO_LINGER].map((name) => getOption(fd, SOL_SOCKET, name)), [1, 1]);
    own.close();
    peer.close();
  },
});

Deno.test({
  name: "setAcceptedOptions() reports that options cannot be set on a listener",
  ignore: !ignore,
  fn() {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    assert(!setAcceptedOptions(listener, 15_000));
  },
});

Deno.test("logTcpKeepalive() logs once that the interval is the system's, where it cannot be set", () => {
  using lines = logLines(0);
  logTcpKeepalive(logger("server"), { tcpKeepaliveMs: 15_000 });
  logTcpKeepalive(logger("server"), { tcpKeepaliveMs: 0 });
  assertEquals(lines.length, libc ? 0 : 1);
  if (!libc) assertStringIncludes(lines[0]!, '"tcp keepalive has the system\'s interval"');
});
