// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Connections through carriers, which take the place of UDP. */

import { assert, assertEquals } from "@std/assert";
import { type QuicConnection, QuicEndpoint } from "../../lib/quic/mod.ts";
import { sleep } from "../../lib/wait.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { MemoryCarriers } from "../support/datagram_carrier.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd, writeToEnd } from "../support/memory_duplex.ts";
import { soon } from "../support/network.ts";
import {
  ALPN,
  assertNothingLive,
  CARRIED_PEER,
  clientTls,
  connectCarried,
  listen,
} from "../support/quic.ts";

interface Carried {
  readonly carriers: MemoryCarriers;
  readonly client: QuicConnection;
  readonly server: QuicConnection;
  readonly endpoint: QuicEndpoint;
}

function carrierTest(
  name: string,
  body: (carried: Carried) => Promise<void>,
  { maxBytes }: { maxBytes: number | undefined } = { maxBytes: 16_376 },
): void {
  Deno.test(name, async () => {
    {
      await using listening = listen();
      const { endpoint } = listening;
      const carriers = new MemoryCarriers(endpoint, maxBytes);
      await using own = new QuicEndpoint({ carrier: carriers.open });
      await body({ carriers, endpoint, ...await connectCarried(own, endpoint) });
    }
    assertNothingLive();
  });
}

/** Sends bytes from the server to the client, and checks what arrives. */
async function transfer(
  { client, server }: Carried,
  bytes: number,
  meanwhile = () => Promise.resolve(),
): Promise<void> {
  const sent = pattern(bytes);
  const writing = writeToEnd(server.openStream(), sent);
  const received = await client.acceptStream();
  const reading = readToEnd(received);
  await meanwhile();
  const [got] = await Promise.all([soon("all of it", reading), writing]);
  await received.closeWrite();
  assertSameBytes(got, sent);
}

carrierTest(
  "QuicConnection through a carrier uses its datagrams from the start",
  async (carried) => {
    const { client, server } = carried;
    assertEquals([client.isCarried, server.isCarried], [true, true]);
    assertEquals(server.remoteAddr.hostname, "192.0.2.9");
    assertEquals([client.path.datagramBytes, server.path.datagramBytes], [16_376, 16_376]);
    await transfer(carried, 3 << 20);
    assertEquals(client.path.largestReceived, 16_376);
  },
);

carrierTest(
  "QuicConnection through a carrier of unknown size sends datagrams that most paths carry",
  async (carried) => {
    await transfer(carried, 1 << 20);
    assertEquals(carried.server.path.datagramBytes, 1350);
    assertEquals(carried.client.path.largestReceived, 1350);
  },
  { maxBytes: undefined },
);

carrierTest("QuicConnection outlives a carrier that stalls for 3 s", async (carried) => {
  const { carriers, client, server } = carried;
  // As where another agent could take its place, and where the agent has connected once more.
  server.maySpare = () => true;
  await transfer(carried, 8 << 20, async () => {
    carriers.stall();
    server.doubt();
    await sleep(3_000);
    carriers.resume();
  });
  assertEquals([client.closeInfo, server.closeInfo], [undefined, undefined]);
  assertEquals(server.path.datagramBytes, 16_376);
});

carrierTest(
  "QuicConnection goes on through a carrier that takes the place of a lost one",
  async (carried) => {
    const { carriers, client, server } = carried;
    await transfer(carried, 8 << 20, async () => {
      carriers.cut();
      assert(server.isDoubted);
      await sleep(500);
      carriers.replace();
    });
    assertEquals([client.closeInfo, server.closeInfo, server.isDoubted], [
      undefined,
      undefined,
      false,
    ]);
    assertEquals(server.remoteAddr.port, 1001);
  },
);

carrierTest("QuicConnection ends 2 s after its carrier, if no other one comes", async (carried) => {
  const { carriers, client, server } = carried;
  const since = performance.now();
  carriers.cut();
  const { by, reason } = await soon("the end", server.closed);
  const tookMs = performance.now() - since;
  assertEquals([by, reason], ["timeout", "the carrier is gone, and no other one has come"]);
  assert(tookMs >= 1_990 && tookMs < 3_500, `${tookMs} ms`);
  carriers.lose();
  assertEquals((await soon("the end", client.closed)).by, "timeout");
});

carrierTest(
  "QuicEndpoint tells which carriers are in use",
  async ({ client, endpoint, server }) => {
    const { socket } = server.remoteAddr;
    assertEquals([...endpoint.carriersInUse], [socket]);
    client.close(0);
    await eventually("none is", () => endpoint.carriersInUse.size === 0);
  },
);

Deno.test("QuicEndpoint gives up a handshake when its carrier is lost", async () => {
  await using listening = listen();
  const carriers = new MemoryCarriers(listening.endpoint, 16_376);
  await using own = new QuicEndpoint({ carrier: carriers.open });
  carriers.stall();
  const connecting = own.connect(CARRIED_PEER, "quic-tunnel-server", {
    tls: clientTls,
    alpn: ALPN,
  });
  const since = performance.now();
  carriers.lose();
  const error = await soon("the error", connecting.catch((error) => error));
  assertEquals(error.info.by, "timeout");
  assert(performance.now() - since < 1_000);
});
