// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { largeDatagramsArrive } from "../../lib/cli/check/large_datagrams.ts";
import { QRHT_ALPN } from "../../lib/qrht/dialect.ts";
import { withRelayedPair } from "../support/relayed_pair.ts";

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
