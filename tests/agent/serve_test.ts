// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertRejects } from "@std/assert";
import { connectAndCarry } from "../../lib/agent/serve.ts";
import { logger } from "../../lib/log.ts";
import { Monitor } from "../../lib/observe/monitor.ts";
import { HttpExchange } from "../../lib/tunnel/http/exchange.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { memoryPair } from "../support/memory_duplex.ts";
import { loopback, readUntilOver, utf8 } from "../support/network.ts";

Deno.test("connectAndCarry() sends no plain request before the server knows that its target is connected", async () => {
  const listener = Deno.listen(loopback(0));
  const target = loopback(listener.addr.port);
  const [carrier, far] = memoryPair({ stop: false });
  const request = { method: "POST", path: "/", target, host: "a", minor: 1, fields: [] };
  const head = utf8.encode("POST / HTTP/1.1\r\n\r\n");
  const monitor = new Monitor("proxy-agent");
  const carrying = connectAndCarry(
    {
      carrier,
      open: {},
      fields: {},
      record: monitor.begin(),
      mayBeAbandoned: false,
      connected: () => {},
      sendConnected: () => Promise.reject(new Error("the server is gone")),
      failed: () => Promise.resolve(),
    },
    {
      target,
      name: "a",
      since: performance.now(),
      client: carrier,
      header: head,
      exchange: (upstream) => new HttpExchange(upstream, request, { head, framing: 0 }),
    },
    {
      dialTimeoutMs: 5_000,
      tcpKeepaliveMs: 0,
      timeouts: { halfOpenTimeoutMs: 0, idleTimeoutMs: 0, writeTimeoutMs: 0 },
      log: logger("agent"),
    },
    new AbortController().signal,
  );
  const [connection] = await Promise.all([
    listener.accept(),
    assertRejects(() => carrying, Error, "the server is gone"),
  ]);
  listener.close();
  await using atTarget = tcpDuplex(connection);
  assertEquals(await readUntilOver(atTarget), "");
  carrier.abort();
  far.abort();
});
