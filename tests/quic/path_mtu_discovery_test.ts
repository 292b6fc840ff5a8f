// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Datagrams as large as the path carries, over links that carry some, and then others. */
import { assert, assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import type { QuicConnection } from "../../lib/quic/mod.ts";
import { BASE_DATAGRAM_BYTES, MIN_DATAGRAM_BYTES } from "../../lib/quic/path/path_mtu.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { assertNothingLive, type QuicPair } from "../support/quic.ts";
import { withRelayedPair } from "../support/relayed_pair.ts";
import type { UdpRelay, UdpRelayOptions } from "../support/udp_relay.ts";

/** More than all of it takes on a slow machine; a black hole must not be a matter of luck. */
const STUCK_MS = 30_000;

const isBatching = Deno.build.os === "linux";
const ends = { client: { keepAliveMs: 200 } };

/** Each end tells the other what arrives, as control streams do. */
function tellEachOther({ client, server }: QuicPair): void {
  const tell = (from: QuicConnection, to: QuicConnection) => {
    from.path.onLargerReceived = () => to.path.confirmed(from.path.largestReceived);
    to.path.allowProbes();
  };
  tell(client, server);
  tell(server, client);
}

/** Sends much from the server to the client, all of which has to arrive. */
async function transfer({ client, server }: QuicPair, bytes: number): Promise<void> {
  const sent = pattern(bytes);
  const to = server.openStream();
  const writing = Promise.try(() => writeAll(to, sent)).then(() => to.closeWrite());
  const from = await client.acceptStream();
  assertSameBytes(await readToEnd(from), sent);
  await writing;
  from.abort();
}

function test(
  name: string,
  options: UdpRelayOptions,
  body: (pair: QuicPair, relay: UdpRelay) => Promise<void>,
): void {
  Deno.test({
    name: `QuicConnection ${name}`,
    ignore: !isBatching,
    async fn() {
      await withRelayedPair(
        options,
        ends,
        (pair, relay) => deadline(body(pair, relay), STUCK_MS),
      );
      assertNothingLive();
    },
  });
}

for (const [maxBytes, found] of [[65_535, 16_376], [9_000, 8_972]] as const) {
  test(`finds out that a path carries ${found} bytes`, { maxBytes }, async (pair) => {
    assertEquals(pair.server.path.datagramBytes, BASE_DATAGRAM_BYTES);
    tellEachOther(pair);
    await eventually("it is found", async () => {
      await transfer(pair, 300_000);
      return pair.server.path.datagramBytes === found;
    }, 30_000);
    assertEquals(pair.client.path.datagramBytes, BASE_DATAGRAM_BYTES, "it had nothing to send");
    await transfer(pair, 3_000_000);
    assertEquals(pair.client.path.largestReceived, found);
  });
}

test("sends no larger datagrams to a peer that tells nothing", {}, async (pair) => {
  await transfer(pair, 1_000_000);
  assertEquals(pair.client.path.largestReceived, BASE_DATAGRAM_BYTES);
});

test("goes on when the path carries less all at once", {}, async (pair, relay) => {
  tellEachOther(pair);
  await eventually("large ones", async () => {
    await transfer(pair, 300_000);
    return pair.server.path.datagramBytes > 9_000;
  });
  relay.impair({ maxBytes: 1_400 });
  await transfer(pair, 2_000_000);
  assertEquals(pair.server.path.datagramBytes, BASE_DATAGRAM_BYTES);
});

test("goes on over a path that carries the smallest datagrams alone, and tells so", {
  maxBytes: MIN_DATAGRAM_BYTES,
}, async (pair) => {
  let times = 0;
  pair.server.path.onBlackHole = () => times++;
  await transfer(pair, 300_000);
  assertEquals(pair.server.path.datagramBytes, MIN_DATAGRAM_BYTES);
  assert(times > 0);
});

test("takes an outage of all for no lack of room", {}, async (pair, relay) => {
  let times = 0;
  pair.server.path.onBlackHole = () => times++;
  const transferring = transfer(pair, 20_000_000);
  await eventually("it is under way", () => pair.server.stats().sentBytes > 1e6);
  relay.cut();
  await eventually(
    "it has become careful",
    () => pair.server.path.datagramBytes < BASE_DATAGRAM_BYTES,
  );
  // More than what an answer to the smaller ones may take.
  await new Promise((resolve) => setTimeout(resolve, 500));
  relay.restore();
  await transferring;
  assertEquals(times, 0);
});
