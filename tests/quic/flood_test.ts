// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Floods of those that have not authenticated themselves: they are refused, and agents get in meanwhile. */

import { assert, assertEquals, assertGreater, assertLess, assertLessOrEqual } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { QuicEndpoint } from "../../lib/quic/mod.ts";
import { quiche } from "../../lib/quic/quiche/native.ts";
import { parseLongHeader } from "../../lib/quic/handshake/packet.ts";
import { Attacker, authenticate, InitialForger, randomBytes } from "../support/attacker.ts";
import { concat } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import { ALPN, assertNothingLive, clientTls, listen, type Listening } from "../support/quic.ts";
import {
  cryptoFrame,
  newConnectionIdFrame,
  pathChallengeFrame,
  pingFrame,
  retireConnectionIdFrame,
} from "../support/quic_packets.ts";

/** Nothing here takes this long unless it hangs. */
const STUCK_MS = 30_000;

/** A flood must not keep an agent out for longer. */
const FEW_SECONDS = 10_000;

const MIB = 1 << 20;

/** A test whose connections are all gone at its end. */
function floodTest(name: string, fn: () => Promise<void>): void {
  Deno.test(name, async () => {
    await deadline(fn(), STUCK_MS);
    assertNothingLive();
  });
}

/** An agent tries until it gets in, as agents do. */
async function connectAgent({ endpoint, address }: Listening, hostname: string): Promise<void> {
  await using agent = new QuicEndpoint({ hostname, port: 0 });
  const accepted = endpoint.accept();
  await eventually("an agent gets in", async () => {
    const options = { tls: clientTls, alpn: ALPN, handshakeTimeoutMs: 1_200 };
    await agent.connect(address, "quic-tunnel-server", options);
    return true;
  }, FEW_SECONDS);
  assert((await accepted).isEstablished);
}

/** Each byte of a packet's payload is of one CRYPTO frame or another, each with one byte and a hole behind it. */
function fragments(from: number): Uint8Array {
  const frames: Uint8Array[] = [];
  for (let i = 0, offset = from; i < 150; i++, offset += 2) {
    frames.push(cryptoFrame(offset, Uint8Array.of(1)));
  }
  return concat(...frames);
}

// ---- CRYPTO frames in Initial packets ----

const tooMuch = "the peer sent too much before it authenticated itself";

floodTest(
  "QuicEndpoint refuses CRYPTO frames with gaps at growing offsets after 64 KiB",
  async () => {
    await using target = listen({ handshakeTimeoutMs: 20_000 });
    const { endpoint, failures } = target;
    await using attacker = new Attacker(endpoint);
    const forger = new InitialForger();
    for (let i = 0; i < 200 && failures.length === 0; i++) {
      await attacker.send(forger.next(cryptoFrame(1 + i * 5_000_000, new Uint8Array(1000))));
      await attacker.received();
    }
    assertEquals(failures.map(({ by, reason }) => [by, reason]), [["local", tooMuch]]);
    assertLessOrEqual(endpoint.stats.received * 1200, (64 << 10) + 1200);
    assertEquals(endpoint.stats.halfOpen, 0);
    await connectAgent(target, "127.0.0.1");
  },
);

floodTest("QuicEndpoint refuses a ClientHello that does not end", async () => {
  await using target = listen({ handshakeTimeoutMs: 20_000 });
  const { endpoint, failures } = target;
  await using attacker = new Attacker(endpoint);
  const forger = new InitialForger();
  // A handshake message of type 1 and of the greatest length that can be written (RFC 8446 §4).
  const hello = new Uint8Array(1000);
  hello.set([1, 0xff, 0xff, 0xff]);
  for (let i = 0; i < 200 && failures.length === 0; i++) {
    await attacker.send(forger.next(cryptoFrame(i * 1000, hello)));
    await attacker.received();
  }
  assertEquals(failures.length, 1);
  assertEquals(failures[0]!.by, "local");
  assertLessOrEqual(endpoint.stats.received * 1200, (64 << 10) + 1200);
  assertEquals(endpoint.stats.halfOpen, 0);
});

floodTest(
  "QuicEndpoint bounds the memory that CRYPTO frames of many connections take, and lets an agent in meanwhile",
  async () => {
    const maxHalfOpenBytes = MIB / 2;
    await using target = listen({
      maxHalfOpenBytes,
      retryAfterHalfOpen: 1000,
      handshakeTimeoutMs: 2_000,
    });
    const { endpoint, failures } = target;
    await using attacker = new Attacker(endpoint, "127.0.0.2");
    const before = Deno.memoryUsage().rss;
    let sentBytes = 0;
    const attack = async () => {
      for (let connection = 0; connection < 100; connection++) {
        const forger = new InitialForger();
        for (let i = 0; i < 40; i++) {
          const datagram = forger.next(fragments(1 + i * 300));
          sentBytes += datagram.length;
          await attacker.send(datagram);
        }
      }
    };
    await Promise.all([attack(), connectAgent(target, "127.0.0.1")]);
    assertGreater(sentBytes, 4 * MIB);
    assertGreater(endpoint.stats.dropped["address-limit"], 1000);
    // Without a bound it would be 60 times what was sent: 280 MiB.
    assertLess(Deno.memoryUsage().rss - before, 120 * MIB);
    await eventually("nothing is left", () => endpoint.stats.halfOpen === 0);
    for (const { by } of failures) assertEquals(by, "timeout");
  },
);

// ---- Many connections ----

floodTest(
  "QuicEndpoint has the ports of one address share, and answers with Retry from retryAfterHalfOpen on",
  async () => {
    await using target = listen({ retryAfterHalfOpen: 10, handshakeTimeoutMs: 2_500 });
    const { endpoint } = target;
    await using stack = new AsyncDisposableStack();
    const attackers = Array.from(
      { length: 30 },
      () => stack.use(new Attacker(endpoint, "127.0.0.2")),
    );
    for (let round = 0; round < 3; round++) {
      for (const attacker of attackers) await attacker.send(new InitialForger().next(pingFrame()));
    }
    await eventually("all were received", () => endpoint.stats.received === 90);
    assertEquals(endpoint.stats.halfOpen, 10);
    assertEquals(endpoint.stats.retries, 80);
    await Promise.all(["127.0.0.1", "127.0.0.2"].map((host) => connectAgent(target, host)));
    await eventually("nothing is left", () => endpoint.stats.halfOpen === 0);
  },
);

/** An Initial packet with a token that the server has given to this address. */
async function afterRetry(attacker: Attacker): Promise<InitialForger> {
  await attacker.send(new InitialForger().next(pingFrame()));
  const retry = await attacker.receive();
  const dcid = parseLongHeader(retry)!.scid.slice();
  return new InitialForger({ dcid, token: quiche.Header.fromSlice(retry, 16).token! });
}

floodTest(
  "QuicEndpoint gives an address that it knows to be true its share of the handshakes and no more",
  async () => {
    await using target = listen({
      retryAfterHalfOpen: 0,
      maxHalfOpen: 100,
      maxHalfOpenPerAddress: 12,
      handshakeTimeoutMs: 2_000,
    });
    const { endpoint } = target;
    await using attacker = new Attacker(endpoint, "127.0.0.2");
    const forgers: InitialForger[] = [];
    for (let i = 0; i < 20; i++) forgers.push(await afterRetry(attacker));
    for (const forger of forgers) await attacker.send(forger.next(pingFrame()));
    await attacker.received();
    assertEquals([endpoint.stats.halfOpen, endpoint.stats.dropped["address-limit"]], [12, 8]);
    await connectAgent(target, "127.0.0.1");
    await eventually("nothing is left", () => endpoint.stats.halfOpen === 0);
  },
);

floodTest("QuicEndpoint lets all agents behind one address in that come at once", async () => {
  await using target = listen({
    retryAfterHalfOpen: 10,
    maxHalfOpen: 40,
    maxHalfOpenPerAddress: 15,
  });
  const agents = 60;
  const startedAt = performance.now();
  await Promise.all(Array.from({ length: agents }, () => connectAgent(target, "127.0.0.1")));
  assertLess(performance.now() - startedAt, FEW_SECONDS);
  const { retries } = target.endpoint.stats;
  assertGreater(retries, 0);
  await eventually("nothing is left", () => target.endpoint.stats.halfOpen === 0);
});

floodTest("QuicEndpoint takes a token for one connection, also when that is gone", async () => {
  await using target = listen({ retryAfterHalfOpen: 0, handshakeTimeoutMs: 1_000 });
  const { endpoint, failures } = target;
  await using attacker = new Attacker(endpoint);
  const datagram = (await afterRetry(attacker)).next(pingFrame());
  await attacker.send(datagram);
  await attacker.received();
  assertEquals(endpoint.stats.halfOpen, 1);
  // The connection's own, while there is one.
  await attacker.send(datagram);
  await attacker.received();
  assertEquals([endpoint.stats.halfOpen, endpoint.stats.dropped["bad-token"]], [1, 0]);
  await eventually("it has timed out", () => failures.length === 1);
  await eventually("copies are dropped", async () => {
    await attacker.send(datagram);
    await attacker.received();
    return endpoint.stats.dropped["bad-token"] === 3;
  });
  assertEquals([endpoint.stats.halfOpen, failures.length], [0, 1]);
});

floodTest(
  "QuicEndpoint sends maxAnswersPerSecond Retry and Version Negotiation packets",
  async () => {
    await using target = listen({ retryAfterHalfOpen: 0, maxAnswersPerSecond: 20 });
    await using attacker = new Attacker(target.endpoint);
    const startedAt = performance.now();
    for (let i = 0; i < 100; i++) {
      const datagram = new InitialForger().next(pingFrame());
      if (i % 2) datagram.set([0x1a, 0x2a, 0x3a, 0x4a], 1);
      await attacker.send(datagram);
    }
    await attacker.received();
    const seconds = (performance.now() - startedAt) / 1_000;
    const { dropped, retries } = target.endpoint.stats;
    const answered = 100 - dropped["answer-limit"];
    assertLessOrEqual(answered, 20 + 20 * seconds);
    assertGreater(answered, 19);
    assert(retries > 0 && retries < answered, `${retries} of ${answered}`);
    await connectAgent(target, "127.0.0.1");
  },
);

// ---- Peers with a certificate ----

/** What a peer that has authenticated itself may not do, and the transport error that it gets (RFC 9000 §20.1). */
const violations: Record<string, { frame: () => Uint8Array; code: number }> = {
  "retires the connection id that it uses": { frame: () => retireConnectionIdFrame(0), code: 0xa },
  "retires a connection id that it was never given": {
    frame: () => retireConnectionIdFrame(77),
    code: 0xa,
  },
  "gives out a third connection id": {
    frame: () =>
      concat(...[1, 2, 3].map((number) => newConnectionIdFrame(number, 0, randomBytes(8)))),
    // quiche 0.18.0 does not say CONNECTION_ID_LIMIT_ERROR.
    code: 0xa,
  },
};

for (const [what, { frame, code }] of Object.entries(violations)) {
  floodTest(`QuicConnection is closed when a peer ${what}`, async () => {
    await using target = listen();
    await using attacker = new Attacker(target.endpoint);
    const [connection, next] = await Promise.all([
      target.endpoint.accept(),
      authenticate(attacker, target.address),
    ]);
    await attacker.send(next(frame()));
    const info = await connection.closed;
    assertEquals([info.by, info.application, info.code], ["local", false, code]);
  });
}

floodTest(
  "QuicEndpoint serves others while a peer floods it with PATH_CHALLENGE, NEW_CONNECTION_ID and CRYPTO",
  async () => {
    await using target = listen();
    const { endpoint } = target;
    await using attacker = new Attacker(endpoint);
    const [connection, next] = await Promise.all([
      endpoint.accept(),
      authenticate(attacker, target.address),
    ]);
    const flood = async () => {
      for (let i = 0; i < 100; i++) {
        const challenges = Array.from({ length: 120 }, () => pathChallengeFrame(randomBytes(8)));
        await attacker.send(next(...challenges));
        // Each retires the one before it.
        const numbers = Array.from({ length: 30 }, (_, k) => 1 + i * 30 + k);
        await attacker.send(
          next(...numbers.map((n) => newConnectionIdFrame(n, n, randomBytes(8)))),
        );
        await attacker.send(next(fragments(1 + i * 300)));
      }
    };
    await Promise.all([flood(), connectAgent(target, "127.0.0.2")]);
    // It is a peer like any other, and its connection bears it.
    assertEquals(connection.closeInfo, undefined);
    connection.close(0);
    assertEquals((await connection.closed).by, "local");
  },
);
