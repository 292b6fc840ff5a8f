// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { DatagramWatch, largeDatagramsArrive } from "../lib/large_datagrams.ts";
import { QRHT_ALPN } from "../lib/dialect.ts";
import { withRelayedPair } from "./support/relayed_pair.ts";

const none = { sentPackets: 0, receivedPackets: 0, lostPackets: 0, sentBytes: 0, lostBytes: 0 };

Deno.test({
  name: "DatagramWatch.look() wants some packets lost, large ones, and more bytes than were kept",
  permissions: "none",
  fn() {
    const lost = {
      sentPackets: 30,
      receivedPackets: 1,
      lostPackets: 10,
      sentBytes: 15_000,
      lostBytes: 13_500,
    };
    const look = (counts: typeof none) => new DatagramWatch(none, 1).look(counts);
    assert(look(lost));
    assert(!look({ ...lost, lostPackets: 4, lostBytes: 5_400 }), "few");
    assert(!look({ ...lost, lostBytes: 11_000 }), "small ones");
    assert(!look({ ...lost, sentBytes: 1_000_000 }), "most arrive");
    assert(!look({ ...lost, receivedPackets: 0 }), "nothing was heard");
  },
});

/** The counts after so many rounds in which large packets were lost, and the peer was heard. */
const after = (rounds: number) => ({
  sentPackets: 15 * rounds,
  receivedPackets: rounds,
  lostPackets: 10 * rounds,
  sentBytes: 15_000 * rounds,
  lostBytes: 13_500 * rounds,
});

Deno.test({
  name: "DatagramWatch.look() wants losses again and again, and of late",
  permissions: "none",
  fn() {
    const watch = new DatagramWatch(none);
    assertEquals([1, 1, 1].map((rounds) => watch.look(after(rounds))), [false, false, false]);
    assertEquals([2, 2, 3].map((rounds) => watch.look(after(rounds))), [false, false, true]);
    for (let i = 0; i < 4; i++) assert(watch.look(after(3)));
    assert(!watch.look(after(3)), "none of late");
    assert(!watch.look(after(4)));
  },
});

Deno.test({
  name: "DatagramWatch.fellSilent() is for a peer that was not heard of since the first large ones",
  permissions: "none",
  fn() {
    const watch = new DatagramWatch({ ...none, receivedPackets: 1, sentBytes: 4_000 });
    const heard = { ...none, receivedPackets: 2, sentBytes: 12_000 };
    // They may have been sent since it was heard.
    watch.look(heard);
    assert(watch.fellSilent({ ...heard, sentBytes: 14_000 }));
    watch.look({ ...heard, receivedPackets: 3 });
    assert(!watch.fellSilent({ ...heard, sentBytes: 14_000 }), "few bytes");
    assert(!watch.fellSilent({ ...heard, sentBytes: 20_000 }), "more have arrived");
  },
});

const alpn = [QRHT_ALPN];
const ends = { server: { alpn }, client: { alpn, keepAliveMs: 200 } };

Deno.test("largeDatagramsArrive() is true on a link that carries them, with loss and delay too", async () => {
  await withRelayedPair({}, ends, async ({ client, server }) => {
    assertEquals(
      await Promise.all([largeDatagramsArrive(client), largeDatagramsArrive(server)]),
      [true, true],
    );
  });
  await withRelayedPair({ loss: 0.1, delayMs: 20, seed: 1 }, ends, async ({ client }) => {
    assertEquals(await largeDatagramsArrive(client), true);
  });
});

Deno.test("largeDatagramsArrive() is false at both ends of a link that drops them", async () => {
  await withRelayedPair({ maxBytes: 1280 }, ends, async ({ client, server }) => {
    assertEquals(
      await Promise.all([largeDatagramsArrive(client), largeDatagramsArrive(server)]),
      [false, false],
    );
  });
});

Deno.test("largeDatagramsArrive() cannot tell of a connection that has ended", async () => {
  await withRelayedPair({}, ends, async ({ client }) => {
    const arrive = largeDatagramsArrive(client);
    client.close(0);
    assertEquals(await arrive, undefined);
    assertEquals(await largeDatagramsArrive(client), undefined);
  });
});
