// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** QUIC connections through carriers over TLS on loopback. */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { CarrierSocket } from "../../lib/connect_udp/carrier_socket.ts";
import { dialCarrier } from "../../lib/connect_udp/dial_carrier.ts";
import { RedialingSocket } from "../../lib/connect_udp/redialing_socket.ts";
import { ConnectionClosedError, QuicEndpoint } from "../../lib/quic/mod.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { carrierListener, close } from "../support/carrier_server.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd, writeToEnd } from "../support/memory_duplex.ts";
import { loopback, soon, text } from "../support/network.ts";
import { TcpRelay } from "../support/tcp_relay.ts";
import {
  assertNothingLive,
  CARRIED_PEER,
  clientTls,
  connectCarried,
  type HandshakeTimes,
  listen,
} from "../support/quic.ts";

interface CarriedOptions {
  /** Of either end. */
  readonly times?: HandshakeTimes;
  /** How long bytes take either way. */
  readonly delayMs?: number;
}

/** An endpoint that carriers lead to, and a client's endpoint with one. */
async function carried({ times = {}, delayMs = 0 }: CarriedOptions = {}) {
  const listening = listen(times);
  const { endpoint: server } = listening;
  await using started = new AsyncDisposableStack();
  started.use(listening);
  const listener = started.use(
    carrierListener((carrier) =>
      server.attach((events) => new CarrierSocket(carrier, events)) as CarrierSocket
    ),
  );
  const relay = started.use(new TcpRelay(loopback(listener.port), { delayMs }));
  const dial = (signal: AbortSignal) =>
    dialCarrier({
      server: delayMs > 0 ? relay.addr : loopback(listener.port),
      resolve: () => Promise.resolve([]),
      serverName: "quic-tunnel-server",
      caCerts: [text.decode(clientTls.ca)],
      target: CARRIED_PEER,
    }, signal);
  const first = await dial(new AbortController().signal);
  const broken: unknown[] = [];
  const endpoint = new QuicEndpoint({
    carrier: (events) =>
      new RedialingSocket(
        first,
        { dial, peer: CARRIED_PEER, broken: (error) => broken.push(error) },
        events,
      ),
  });
  started.defer(async () => {
    await endpoint.close();
    await eventually(
      "the carriers are closed",
      () => listener.ended === listener.connections.length,
    );
  });
  const both = await connectCarried(endpoint, server, times);
  const keep = started.move();
  return { listener, broken, ...both, [Symbol.asyncDispose]: () => keep.disposeAsync() };
}

type Carried = Awaited<ReturnType<typeof carried>>;

/** Sends bytes from the client to the server, and all of them back. */
async function echo({ client, server }: Carried, bytes: number, meanwhile?: () => void) {
  const sent = pattern(bytes);
  const writing = writeToEnd(server.openStream(), sent);
  const received = await client.acceptStream();
  const half = new Uint8Array(bytes / 2);
  for (let at = 0; at < half.length;) at += (await received.read(half.subarray(at)))!;
  meanwhile?.();
  const [rest] = await Promise.all([soon("all of it", readToEnd(received)), writing]);
  await received.closeWrite();
  assertSameBytes(half, sent.subarray(0, half.length));
  assertSameBytes(rest, sent.subarray(half.length));
}

Deno.test("QuicConnection through a carrier over TLS carries bytes in large datagrams", async () => {
  {
    await using both = await carried();
    await echo(both, 32 << 20);
    assertEquals(both.client.path.largestReceived, 16_376);
    assertEquals([both.listener.connections.length, both.broken], [1, []]);
  }
  assertNothingLive();
});

Deno.test("QuicConnection through a carrier has more time for the handshake than over UDP", async () => {
  {
    const delayMs = 60;
    await using both = await carried({ delayMs, times: { handshakeTimeoutMs: 100 } });
    await echo(both, 2_000);
    const times = { handshakeTimeoutMs: 10_000, carrierHandshakeTimeoutMs: 100 };
    const late = await assertRejects(() => carried({ delayMs, times }), ConnectionClosedError);
    const { by, reason, isCarried } = late.info;
    assertEquals([by, reason, isCarried], ["timeout", "no answer after 100 ms", true]);
  }
  assertNothingLive();
});

Deno.test("QuicConnection goes on when its carrier is lost and dialled again", async () => {
  {
    await using both = await carried();
    for (let carriers = 1; carriers < 4; carriers++) {
      await echo(both, 8 << 20, () => close(both.listener.connections.at(-1)!));
      await eventually("another carrier", () => both.listener.connections.length === carriers + 1);
    }
    assertEquals([both.client.closeInfo, both.server.closeInfo], [undefined, undefined]);
    assertEquals(both.broken.length, 3);
    assertMatch(`${both.broken[0]}`, /ended|eof|reset/i);
  }
  assertNothingLive();
});

Deno.test("QuicConnection learns that no carrier takes the place of its own", async () => {
  {
    await using both = await carried();
    const { listener, client } = both;
    await listener[Symbol.asyncDispose]();
    const { by } = await soon("the end", client.closed);
    assertEquals(by, "timeout");
    assert(both.broken.length > 0);
  }
  assertNothingLive();
});
