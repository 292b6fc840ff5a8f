// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What clients get from a listener that they may not have. */

import { assertEquals, assertGreater, assertLessOrEqual } from "@std/assert";
import { deadline } from "@std/async/deadline";
import type { Authority } from "../../lib/net/authority.ts";
import { hostPort, quiche } from "../../lib/quic/quiche/native.ts";
import { nativeConfig, transportSettings } from "../../lib/quic/options.ts";
import { Attacker, authenticate, randomBytes } from "../support/attacker.ts";
import { eventually } from "../support/eventually.ts";
import { ALPN, assertNothingLive, clientTls, listen } from "../support/quic.ts";
import { streamFrame } from "../support/quic_packets.ts";

/** Nothing here takes this long unless it hangs. */
const STUCK_MS = 30_000;

function listenerTest(name: string, fn: () => Promise<void>): void {
  Deno.test(name, async () => {
    await deadline(fn(), STUCK_MS);
    assertNothingLive();
  });
}

/** The first datagram of a client that is never heard of again. */
function clientHello(from: Authority, to: Authority): Uint8Array {
  const config = nativeConfig(transportSettings({ tls: clientTls, alpn: ALPN }));
  const native = quiche.Connection.connect(
    "quic-tunnel-server",
    randomBytes(16),
    hostPort(from),
    hostPort(to),
    config,
  );
  const buffer = new Uint8Array(1500);
  const [length] = native.send(buffer)!;
  return buffer.slice(0, length);
}

for (const other of ["127.0.0.3", "127.0.0.2"]) {
  const what = other === "127.0.0.2" ? "another port" : "another address";

  listenerTest(
    `QuicEndpoint sends 3 times what an address has sent, whatever comes from ${what}`,
    async () => {
      await using target = listen();
      const { endpoint, failures } = target;
      await using attacker = new Attacker(endpoint, other);
      const victim = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.2", port: 0 });
      let got = 0;
      const counting = (async () => {
        for await (const [bytes] of victim) got += bytes.length;
      })();
      const hello = clientHello(victim.addr as Deno.NetAddr, endpoint.addr);
      await victim.send(hello, { transport: "udp", ...endpoint.addr });
      await eventually("the handshake has begun", () => endpoint.stats.halfOpen === 1);
      let sent = 0;
      // As long as the handshake may take, which is when the server sends again what it has sent.
      while (failures.length === 0) {
        await attacker.send(hello);
        await attacker.received();
        sent++;
      }
      assertEquals(failures.map(({ by }) => by), ["timeout"]);
      assertGreater(sent, 10);
      assertGreater(got, 0);
      assertLessOrEqual(got, 3 * hello.length);
      // The last one or two may have come after the end.
      assertGreater(endpoint.stats.dropped["other-address"], sent - 3);
      await eventually("nothing is left", () => endpoint.stats.halfOpen === 0);
      victim.close();
      await counting;
    },
  );
}

listenerTest("QuicConnection is closed when a peer opens a stream without credit", async () => {
  await using target = listen({ maxStreams: 0 });
  await using attacker = new Attacker(target.endpoint);
  const [connection, next] = await Promise.all([
    target.endpoint.accept(),
    authenticate(attacker, target.address),
  ]);
  await attacker.send(next(streamFrame(0, 0, randomBytes(500))));
  const { by, application, code } = await connection.closed;
  // STREAM_LIMIT_ERROR (RFC 9000 §20.1)
  assertEquals([by, application, code], ["local", false, 0x4]);
});
