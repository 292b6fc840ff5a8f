// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { largeDatagramsArrive, losesLarge } from "../lib/large_datagrams.ts";
import { QRHT_ALPN } from "../lib/dialect.ts";
import { ALPN } from "./support/quic.ts";
import { withRelayedPair } from "./support/relayed_pair.ts";

const none = { sentPackets: 0, lostPackets: 0, sentBytes: 0, lostBytes: 0 };

Deno.test({
  name: "losesLarge() wants some packets lost, large ones, and more bytes than were kept",
  permissions: "none",
  fn() {
    const lost = { sentPackets: 30, lostPackets: 10, sentBytes: 15_000, lostBytes: 13_500 };
    assert(losesLarge(none, lost));
    assert(!losesLarge(none, { ...lost, lostPackets: 4, lostBytes: 5_400 }), "few");
    assert(!losesLarge(none, { ...lost, lostBytes: 11_000 }), "small ones");
    assert(!losesLarge(none, { ...lost, sentBytes: 1_000_000 }), "most arrive");
    assert(!losesLarge(lost, lost), "none since");
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

Deno.test("largeDatagramsArrive() cannot tell in the raw dialect, nor of a connection that has ended", async () => {
  await withRelayedPair({}, {}, async ({ client }) => {
    assertEquals(client.alpn, ALPN[0]);
    assertEquals(await largeDatagramsArrive(client), undefined);
  });
  await withRelayedPair({}, ends, async ({ client }) => {
    const arrive = largeDatagramsArrive(client);
    client.close(0);
    assertEquals(await arrive, undefined);
    assertEquals(await largeDatagramsArrive(client), undefined);
  });
});
