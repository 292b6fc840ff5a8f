// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Connections over a network that loses, doubles, reorders and delays, and one that others meddle with. */

import { assertEquals, assertGreater, assertNotEquals, assertStrictEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { concat } from "@std/bytes/concat";
import { parseLongHeader } from "../../lib/quic/handshake/packet.ts";
import { live, type QuicConnection, type QuicStream } from "../../lib/quic/mod.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { ALPN, assertNothingLive, clientTls, type QuicPair } from "../support/quic.ts";
import { echo, exchange, openUni, text } from "../support/quic_streams.ts";
import { withRelayedPair } from "../support/relayed_pair.ts";
import { seededRandom, type UdpRelay, type UdpRelayOptions } from "../support/udp_relay.ts";

/** Nothing here takes this long unless it hangs. */
const STUCK_MS = 30_000;

/** A flood ends after a number of datagrams, which takes longer on a loaded machine. */
const FLOOD_STUCK_MS = 300_000;

/** Loss before a connection is there only costs time: nothing of the handshake is under test, unless a test says so. */
const PATIENT = { handshakeTimeoutMs: 20_000, idleTimeoutMs: 20_000, maxUniStreams: 300 };

/** A test with a relay between both ends, whose connections and streams are all gone at its end. */
function relayTest(
  name: string,
  options: UdpRelayOptions,
  body: (pair: QuicPair, relay: UdpRelay) => Promise<void>,
  stuckMs = STUCK_MS,
): void {
  Deno.test(name, async () => {
    let running = Promise.resolve();
    try {
      await withRelayedPair(
        options,
        { server: PATIENT, client: PATIENT },
        (pair, relay) => deadline(running = body(pair, relay), stuckMs),
      );
    } finally {
      // A body that is late closes what it has opened, now that its connections are closed.
      await deadline(running, STUCK_MS).catch(() => {});
    }
    assertNothingLive();
  });
}

/** Carries `bytes` each way on each of some streams of the server's, and checks every one of them. */
async function transfer(
  { server, client }: { server: QuicConnection; client: QuicConnection },
  streams: number,
  bytes: number,
): Promise<void> {
  const sent = Array.from({ length: 2 * streams }, (_, i) => pattern(bytes, 1 + i));
  const accepting = Promise.all(Array.from({ length: streams }, async () => {
    const there = await client.acceptStream();
    // The first byte tells which of the patterns is to go back.
    const first = new Uint8Array(1);
    assertEquals(await there.read(first), 1);
    const got = await exchange(there, sent[2 * first[0]! + 1]!);
    assertSameBytes(got, sent[2 * first[0]!]!);
  }));
  await Promise.all([
    accepting,
    ...Array.from({ length: streams }, async (_, i) => {
      const here = server.openStream();
      await here.write(new Uint8Array([i]));
      assertSameBytes(await exchange(here, sent[2 * i]!), sent[2 * i + 1]!);
    }),
  ]);
}

// What a bad network does

const networks: Record<string, UdpRelayOptions> = {
  "3 % loss": { loss: 0.03 },
  "reordering": { reorder: 0.2, reorderDepth: 12 },
  "duplication": { duplicate: 0.2 },
  "delay and jitter": { delayMs: 10, jitterMs: 15 },
  "loss, reordering, duplication, delay and jitter": {
    loss: 0.02,
    reorder: 0.1,
    duplicate: 0.1,
    delayMs: 5,
    jitterMs: 10,
  },
};

for (const [network, options] of Object.entries(networks)) {
  relayTest(
    `QuicConnection carries 1 MB both ways on 4 streams, byte for byte, with ${network}`,
    options,
    async (pair, relay) => {
      await transfer(pair, 4, 256 << 10);
      const { toServer, toClient } = relay.counters;
      for (const { lost, reordered, duplicated } of [toServer, toClient]) {
        assertEquals([lost > 0, reordered > 0, duplicated > 0], [
          options.loss !== undefined,
          options.reorder !== undefined,
          options.duplicate !== undefined,
        ]);
      }
    },
  );
}

// Stream ends that travel alone are what quiche loses most easily: see lib/quic/quiche/lone_fins.ts.
relayTest(
  "QuicStream closeWrite() reaches the peer on each of 200 streams through 5 % loss",
  { loss: 0.05 },
  async ({ server, client }) => {
    const request = pattern(600, 1), answer = pattern(3000, 2);
    const serving = Promise.all(Array.from({ length: 200 }, async () => {
      const there = await client.acceptStream();
      // On every other stream both ends close without waiting for the other's end.
      if (there.id % 8 < 4) return assertSameBytes(await exchange(there, answer), request);
      assertSameBytes(await readToEnd(there), request);
      await writeAll(there, answer);
      await there.closeWrite();
    }));
    let opened = 0;
    const ask = async () => {
      while (opened < 200) {
        const alone = opened++ % 3 === 0;
        const here = server.openStream();
        if (!alone) {
          assertSameBytes(await exchange(here, request), answer);
          continue;
        }
        await writeAll(here, request);
        const answered = readToEnd(here);
        // By then the request has left, and its end goes alone.
        await new Promise((resolve) => setTimeout(resolve, 2));
        await here.closeWrite();
        assertSameBytes(await answered, answer);
      }
    };
    await Promise.all([serving, ...Array.from({ length: 10 }, ask)]);
    await eventually(
      "nothing is left of the streams",
      () => server.stats().streams === 0 && client.stats().streams === 0,
    );
  },
);

// An end that goes alone may be lost, or sent once more with bytes that have arrived before: whoever waits for it has to
// see it all the same, and whoever sent it may not forget it.
relayTest(
  "QuicStream closeWrite() reaches the peer, in any order of the ends, through 10 % loss and reordering",
  { loss: 0.1, reorder: 0.1, duplicate: 0.05 },
  async ({ server, client }) => {
    const streams = 1500;
    const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
    const close = async (stream: QuicStream, bytes: number, pauseMs: number) => {
      if (bytes > 0) await writeAll(stream, new Uint8Array(bytes));
      // The bytes leave, and the end follows.
      await pause(pauseMs);
      await stream.closeWrite();
    };
    const ways: ((stream: QuicStream, bytes: number, pauseMs: number) => Promise<number>)[] = [
      async (stream, bytes, pauseMs) => {
        const { length } = await readToEnd(stream);
        await close(stream, bytes, pauseMs);
        return length;
      },
      async (stream, bytes, pauseMs) => {
        await close(stream, bytes, pauseMs);
        return (await readToEnd(stream)).length;
      },
      async (stream, bytes, pauseMs) =>
        (await Promise.all([readToEnd(stream), close(stream, bytes, pauseMs)]))[0].length,
    ];
    // What the end that opened stream `i` sends, and the other; 0 of the latter for every fourth.
    const sizes = (i: number) => [1 + (i * 7919) % 3000, i % 4 === 0 ? 0 : 1 + (i * 104729) % 5000];
    const unfinished = new Set<string>();
    const run = async (stream: QuicStream, opened: boolean, way: number) => {
      const i = stream.id >> 2;
      const [there, here] = opened ? sizes(i) : sizes(i).reverse();
      const name = `${opened ? "opener" : "other"} of ${i}, way ${way}`;
      unfinished.add(name);
      assertEquals(await ways[way]!(stream, there!, i % 5), here, name);
      unfinished.delete(name);
    };
    const accepting = (async () => {
      const running: Promise<void>[] = [];
      for (let i = 0; i < streams; i++) {
        const stream = await client.acceptStream();
        const ran = run(stream, false, (stream.id >> 2) % 3);
        // Looked at when all have been accepted.
        ran.catch(() => {});
        running.push(ran);
      }
      await Promise.all(running);
    })();
    let left = streams;
    const open = async () => {
      while (left-- > 0) {
        const stream = server.openStream();
        // One of both has to begin.
        await run(stream, true, 1 + (stream.id >> 4) % 2);
      }
    };
    await deadline(Promise.all([accepting, ...Array.from({ length: 20 }, open)]), 25_000)
      .catch((error) => {
        const some = [...unfinished].slice(0, 10).join("; ");
        throw new Error(`${unfinished.size} ends are unfinished: ${some}`, { cause: error });
      });
    await eventually(
      "nothing is left of the streams",
      () => server.stats().streams === 0 && client.stats().streams === 0,
    );
  },
);

for (
  const [what, impairment] of [
    ["loses 10 %", { loss: 0.1 }],
    ["reorders and doubles", { reorder: 0.3, duplicate: 0.1 }],
    ["loses 5 % over 10 ms", { loss: 0.05, delayMs: 10, jitterMs: 5 }],
  ] as const
) {
  relayTest(
    `QuicStream finish() ends 300 streams through a relay that ${what}`,
    impairment,
    async (pair) => {
      const serve = async () => {
        for (let i = 0; i < 300; i++) {
          const there = await pair.client.acceptStream();
          // The answer begins when the request is over.
          readToEnd(there).then((bytes) => there.finish(bytes)).catch(() => there.abort());
        }
      };
      const serving = serve();
      await Promise.all(Array.from({ length: 300 }, async (_, i) => {
        const here = pair.server.openStream();
        const bytes = pattern(1 + i * 7 % 3_000, i);
        const before = bytes.length > 100 ? bytes.length - 2 : 0;
        await writeAll(here, bytes.subarray(0, before));
        await here.finish(bytes.subarray(before));
        assertSameBytes(await readToEnd(here), bytes);
      }));
      await serving;
      await eventually("no stream is left", () => live.streams === 0);
    },
  );
}

relayTest(
  "QuicStream finish() ends 300 unidirectional streams through a relay that loses 10 %",
  { loss: 0.1 },
  async (pair) => {
    const received = Promise.all(Array.from({ length: 300 }, async () => {
      const there = await pair.client.acceptUniStream();
      const i = (there.id - 3) / 4;
      assertSameBytes(await readToEnd(there), pattern(1 + i % 50, i));
    }));
    for (let i = 0; i < 300; i++) await openUni(pair.server).finish(pattern(1 + i % 50, i));
    await received;
    await eventually("no stream is left", () => live.uniStreams === 0);
  },
);

relayTest(
  "QuicStream finish() ends small streams one by one through a relay that loses 20 %",
  {},
  async (pair, relay) => {
    // Not before: a handshake that loses packets takes the round trip for a second, and probes for losses as late.
    relay.impair({ loss: 0.2 });
    // Nothing else is under way that would carry a lost end along.
    for (let i = 0; i < 15; i++) {
      const here = pair.server.openStream();
      await here.finish(text("?"));
      const there = await pair.client.acceptStream();
      assertEquals(await readToEnd(there), text("?"));
      await there.finish(text("!"));
      assertEquals(await readToEnd(here), text("!"));
    }
  },
);

for (const rebinds of [1, 5]) {
  relayTest(
    `QuicConnection goes on when a NAT moves the client ${rebinds} times`,
    { delayMs: 2 },
    async (pair, relay) => {
      const transferring = transfer(pair, 4, 512 << 10);
      // Looked at in the end, if all goes well until then.
      transferring.catch(() => {});
      const seen = new Set([pair.server.remoteAddr.port]);
      for (let i = 0; i < rebinds; i++) {
        const { receivedPackets } = pair.server.stats();
        await eventually(
          "some packets have come",
          () => pair.server.stats().receivedPackets > receivedPackets + 20,
        );
        relay.rebind();
        const [port] = relay.ports;
        await eventually(
          "the server sends to the new port",
          () => pair.server.remoteAddr.port === port,
        );
        seen.add(port!);
      }
      await transferring;
      assertEquals(seen.size, rebinds + 1);
      assertStrictEquals(pair.server.closeInfo, undefined);
    },
  );
}

relayTest(
  "QuicConnection with keepalive is found again by the server after a NAT moved the idle client",
  {},
  async ({ server, clientEndpoint, serverEndpoint }, relay) => {
    const options = { tls: clientTls, alpn: ALPN, keepAliveMs: 50 };
    const [moved, client] = await Promise.all([
      serverEndpoint.accept(),
      clientEndpoint.connect(relay.addr, "quic-tunnel-server", options),
    ]);
    const before = moved.remoteAddr.port;
    relay.rebind();
    await eventually("the server knows the new port", () => moved.remoteAddr.port !== before);
    await echo(moved, client);
    // The other connection of that client said nothing since.
    assertEquals(server.remoteAddr.port, before);
  },
);

// What others do

/** Someone who knows what went over the network and sends to the server from an address of their own. */
class Stranger implements AsyncDisposable {
  readonly answers: Uint8Array[] = [];
  readonly #socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  readonly #server: Deno.NetAddr;
  readonly #receiving = this.#receive();

  constructor(port: number) {
    this.#server = { transport: "udp", hostname: "127.0.0.1", port };
  }

  get port(): number {
    return (this.#socket.addr as Deno.NetAddr).port;
  }

  async send(datagram: Uint8Array): Promise<void> {
    await this.#socket.send(datagram, this.#server);
  }

  async #receive(): Promise<void> {
    try {
      for (const buffer = new Uint8Array(2048);;) {
        const [bytes] = await this.#socket.receive(buffer);
        if (this.answers.length < 1000) this.answers.push(bytes.slice());
      }
    } catch {
      // Closed.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.close();
    await this.#receiving;
  }
}

/** Datagrams that look more or less like QUIC; `known` are some that went over the network. */
function mutator(random: () => number, known: readonly Uint8Array[]): () => Uint8Array {
  const below = (limit: number) => Math.floor(random() * limit);
  const fill = (bytes: Uint8Array) => {
    for (let i = 0; i < bytes.length; i++) bytes[i] = below(256);
  };
  const copy = () => known[below(known.length)]!.slice();
  const kinds = [
    // Anything of any length, none included.
    () => {
      const bytes = new Uint8Array(below(1501));
      fill(bytes);
      return bytes;
    },
    // A few bytes differ, anywhere.
    () => {
      const bytes = copy();
      for (let i = below(8); i >= 0; i--) bytes[below(bytes.length)] = below(256);
      return bytes;
    },
    // A few bytes of the header differ: flags, version, connection ids, lengths.
    () => {
      const bytes = copy();
      for (let i = below(3); i >= 0; i--) bytes[below(Math.min(50, bytes.length))] = below(256);
      return bytes;
    },
    // For a connection that is not there yet, with a payload that nobody sealed.
    () => {
      const bytes = known[0]!.slice();
      fill(bytes.subarray(6, 6 + bytes[5]!));
      return bytes;
    },
    // Cut off.
    () => {
      const bytes = copy();
      return bytes.subarray(0, below(bytes.length));
    },
    // One behind the other, as coalesced packets are.
    () => {
      const [a, b] = [copy(), copy()];
      return concat([a, b]).subarray(0, 1500);
    },
    // As it was.
    copy,
  ];
  return () => kinds[below(kinds.length)]!();
}

relayTest(
  "QuicEndpoint stands 100 000 random, mutated and replayed datagrams during a transfer",
  { capture: 400 },
  async (pair, relay) => {
    const { serverEndpoint, clientEndpoint, server, client } = pair;
    await echo(server, client, 50_000);
    await echo(client, server, 50_000);
    const remotePort = server.remoteAddr.port;
    // The handshake, and packets of the connection.
    assertGreater(relay.captured.length, 20);
    const next = mutator(seededRandom(relay.seed), relay.captured);
    let flooding = true;
    const transferring = (async () => {
      try {
        do await deadline(transfer(pair, 4, 64 << 10), STUCK_MS); while (flooding);
      } finally {
        flooding = false;
      }
    })();
    transferring.catch(() => {});

    await using stranger = new Stranger(serverEndpoint.addr.port);
    const receivedBefore = serverEndpoint.stats.received;
    // A transfer that fails ends the flood.
    for (let sent = 0; flooding && sent < 100_000;) {
      const batch = Math.min(50, 100_000 - sent);
      const { received } = serverEndpoint.stats;
      for (let i = 0; i < batch; i++) await stranger.send(next());
      sent += batch;
      // Few are to be lost in the socket's buffer, and the transfer is to have its turns.
      const waitUntil = performance.now() + 50;
      while (serverEndpoint.stats.received < received + batch && performance.now() < waitUntil) {
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    flooding = false;
    await transferring;

    const { stats } = serverEndpoint;
    assertGreater(stats.received - receivedBefore, 90_000);
    assertGreater(stats.dropped.invalid, 1000);
    assertGreater(stats.dropped["unknown-connection"], 1000);
    assertEquals(stats.dropped["send-error"], 0);
    await eventually("no handshake is under way", () => serverEndpoint.stats.halfOpen === 0);
    // Whatever strangers do, the connection is the same, and between the same addresses.
    assertEquals([server.closeInfo, client.closeInfo], [undefined, undefined]);
    assertEquals(server.remoteAddr.port, remotePort);
    await echo(server, client);
    // And others get in.
    const [second, secondClient] = await Promise.all([
      serverEndpoint.accept(),
      clientEndpoint.connect(relay.addr, "quic-tunnel-server", { tls: clientTls, alpn: ALPN }),
    ]);
    await echo(second, secondClient);
  },
  FLOOD_STUCK_MS,
);

relayTest(
  "QuicConnection ignores its own packets when another address sends them once more",
  { capture: 1000 },
  async ({ server, client, serverEndpoint }, relay) => {
    await echo(server, client, 100_000);
    await echo(client, server, 100_000);
    const remotePort = server.remoteAddr.port;
    await using stranger = new Stranger(serverEndpoint.addr.port);
    assertNotEquals(stranger.port, remotePort);
    const replayed = relay.captured.slice();
    assertGreater(replayed.length, 50);
    for (const packet of replayed) {
      const { received } = serverEndpoint.stats;
      await stranger.send(packet);
      await eventually("it has arrived", () => serverEndpoint.stats.received > received);
    }
    await echo(server, client);
    assertEquals(server.remoteAddr.port, remotePort);
    assertEquals(serverEndpoint.stats.halfOpen, 0);
    assertEquals(stranger.answers.length, 0);
  },
);

relayTest(
  "QuicConnection stays with its client when a copy from elsewhere overtakes its packets",
  { capture: 1000 },
  async ({ server, client, serverEndpoint }, relay) => {
    await echo(server, client);
    const remotePort = server.remoteAddr.port;
    await using stranger = new Stranger(serverEndpoint.addr.port);
    // What the client sends now is seen by the stranger alone, who passes it on from elsewhere.
    const here = client.openStream();
    await echo(server, client);
    relay.cut("toServer");
    const { length } = relay.captured;
    await here.write(pattern(100, 3));
    const { received } = serverEndpoint.stats;
    await eventually("a packet was caught", () => relay.captured.length > length);
    for (const packet of relay.captured.slice(length)) await stranger.send(packet);
    await eventually("it has arrived", () => serverEndpoint.stats.received > received);
    const there = await server.acceptStream();
    // Nothing tells it from a client that was moved by a NAT.
    await eventually("the server sends there", () => server.remoteAddr.port === stranger.port);
    relay.restore();
    await eventually("the server sends to the client again", async () => {
      await here.write(new Uint8Array(1));
      return server.remoteAddr.port === remotePort;
    });
    here.abort();
    there.abort();
    for (let i = 0; i < 5; i++) await echo(server, client, 10_000);
    assertEquals(server.remoteAddr.port, remotePort);
    assertEquals([server.closeInfo, client.closeInfo], [undefined, undefined]);
  },
);

Deno.test("QuicConnection sends its keepalive while packets come that are not the peer's", async () => {
  const client = { ...PATIENT, keepAliveMs: 100 };
  await withRelayedPair({ capture: 1 }, { server: PATIENT, client }, async (pair, relay) => {
    await echo(pair.server, pair.client);
    const { scid } = parseLongHeader(relay.captured[0]!)!;
    const forged = new Uint8Array([0x40, ...scid, ...new Uint8Array(40)]);
    const { toServer } = relay.counters;
    const before = toServer.received;
    await eventually("five more have gone out", () => {
      relay.injectToClients(forged);
      return toServer.received >= before + 5;
    }, STUCK_MS);
    assertGreater(pair.clientEndpoint.stats.received, 50);
  });
  assertNothingLive();
});
