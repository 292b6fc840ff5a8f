// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How soon a connection is given up whose peer is gone, and that a live one is not. */

import { assert, assertEquals } from "@std/assert";
import { QuicEndpoint } from "../../lib/quic/mod.ts";
import { sleep } from "../../lib/wait.ts";
import { eventually } from "../support/eventually.ts";
import { soon } from "../support/network.ts";
import { ALPN, assertNothingLive, clientTls, connectPair, type QuicPair } from "../support/quic.ts";
import { withRelayedPair } from "../support/relayed_pair.ts";
import type { UdpRelay, UdpRelayOptions } from "../support/udp_relay.ts";

/** Whether ICMP is heard of. */
const hearsIcmp = Deno.build.os === "linux" &&
  Deno.permissions.querySync({ name: "ffi", path: "libc.so.6" }).state === "granted";

const client = { keepAliveMs: 600, maxStreams: 100 };

function lossTest(name: string, fn: () => Promise<void>): void {
  Deno.test(name, async () => {
    await fn();
    assertNothingLive();
  });
}

function relayed(
  options: UdpRelayOptions,
  body: (pair: QuicPair, relay: UdpRelay) => Promise<void>,
): Promise<void> {
  return withRelayedPair(options, { client }, body);
}

/** How the server's connection ends after something was done, and after how many milliseconds. */
async function endAfter({ server }: QuicPair, act: () => void) {
  const since = performance.now();
  act();
  const { by, reason } = await soon("the end", server.closed);
  return { by, reason, tookMs: performance.now() - since };
}

lossTest(
  "QuicConnection gives up a silent peer that has a successor within 1.2 s",
  () =>
    relayed({}, async (pair, relay) => {
      relay.cut();
      const { by, reason, tookMs } = await endAfter(pair, () => pair.server.doubt());
      assertEquals(by, "timeout");
      assert(reason.includes("another connection with its certificate"), reason);
      assert(tookMs > 1_150 && tookMs < 2_500, `${tookMs} ms`);
    }),
);

lossTest(
  "QuicConnection gives up a peer that does not acknowledge within 1.5 s, if it may be spared",
  () =>
    relayed({}, async (pair, relay) => {
      pair.server.maySpare = () => true;
      relay.cut();
      // Each packet puts the timer for acknowledgements off.
      const stream = pair.server.openStream();
      const timer = setInterval(
        () => Promise.try(() => stream.write(new Uint8Array(100))).catch(() => {}),
        10,
      );
      const { reason, tookMs } = await endAfter(pair, () => {});
      clearInterval(timer);
      assertEquals(reason, "no answer to what was sent");
      assert(tookMs > 1_350 && tookMs < 2_700, `${tookMs} ms`);
    }),
);

if (hearsIcmp) {
  lossTest(
    "QuicConnection gives up a peer with a successor at once when its port is closed",
    async () => {
      await using pair = await connectPair({ client });
      await pair.clientEndpoint.socket.close();
      const { reason, tookMs } = await endAfter(pair, () => pair.server.doubt());
      assertEquals(reason, "port closed (ICMP port unreachable)");
      assert(tookMs > 250 && tookMs < 1_000, `${tookMs} ms`);
    },
  );

  lossTest("QuicConnection of a client gives up a server whose port is closed", async () => {
    await using pair = await connectPair({ client: { ...client, keepAliveMs: 50 } });
    await pair.serverEndpoint.socket.close();
    const since = performance.now();
    const info = await soon("the end", pair.client.closed);
    const tookMs = performance.now() - since;
    assertEquals([info.by, info.isRefused], ["timeout", true]);
    assert(tookMs > 250 && tookMs < 1_500, `${tookMs} ms`);
  });

  lossTest(
    "QuicEndpoint tells within 0.3 s that nobody listens, and connects after that",
    async () => {
      await using endpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
      const since = performance.now();
      const peer = { hostname: "127.0.0.1", port: 1 };
      const options = { tls: clientTls, alpn: ALPN };
      const error = await endpoint.connect(peer, "quic-tunnel-server", options).catch((e) => e);
      assertEquals(error.info.isRefused && error.info.isUnanswered, true);
      assert(performance.now() - since < 1_500);
    },
  );
}

lossTest(
  "QuicConnection moves with a peer whose old port is closed, whatever is sent there",
  () =>
    relayed({}, async (pair, relay) => {
      pair.server.maySpare = () => true;
      const stream = pair.server.openStream();
      for (let i = 0; i < 3; i++) {
        relay.rebind();
        await stream.write(new Uint8Array(100));
        const { receivedPackets } = pair.server.stats();
        await eventually(
          "it moves",
          () => pair.server.stats().receivedPackets > receivedPackets + 1,
        );
      }
      assertEquals(pair.server.closeInfo, undefined);
    }),
);

/** A tunnel that always has something to be acknowledged, and a peer that is doubted all the time. */
async function keepDoubting({ server }: QuicPair, forMs: number): Promise<void> {
  server.maySpare = () => true;
  const stream = server.openStream();
  const until = performance.now() + forMs;
  while (performance.now() < until && !server.closeInfo) {
    server.doubt();
    void Promise.try(() => stream.write(new Uint8Array(100))).catch(() => {});
    await sleep(20);
  }
  assertEquals(server.closeInfo, undefined);
}

lossTest(
  "QuicConnection gives no live peer up on a path of 300 ms with 5 % loss",
  () =>
    relayed({ delayMs: 150 }, async (pair, relay) => {
      // Only now: handshakes have a time limit of their own.
      relay.impair({ delayMs: 150, loss: 0.05 });
      await keepDoubting(pair, 10_000);
    }),
);

lossTest(
  "QuicConnection gives no peer up that is silent for a second",
  () =>
    relayed({}, async (pair, relay) => {
      const doubting = keepDoubting(pair, 5_000);
      for (let i = 0; i < 2; i++) {
        await sleep(1_000);
        relay.cut();
        await sleep(1_000);
        relay.restore();
      }
      await doubting;
    }),
);
