// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Frames that no honest end sends, in packets that are properly protected, and packets that no server sends. */

import { assert, assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import fc from "fast-check";
import { encodeVarint, MAX_WRITTEN_VARINT } from "../../lib/varint.ts";
import type { QuicConnection } from "../../lib/quic/mod.ts";
import { parseLongHeader } from "../../lib/quic/handshake/packet.ts";
import { Attacker, authenticate, InitialForger } from "../support/attacker.ts";
import { concat } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import { runs } from "../support/fuzz.ts";
import { assertNothingLive, connectPair, type QuicPair } from "../support/quic.ts";
import { newConnectionIdFrame } from "../support/quic_packets.ts";
import { withRelayedPair } from "../support/relayed_pair.ts";

/** Beyond what the longest form takes. */
const STUCK_MS = 280_000;

/** The connection beside which it happens would fall asleep. */
const ALIVE = { keepAliveMs: 1_000 };

function fuzzTest(name: string, fn: () => Promise<void>): void {
  Deno.test(name, async () => {
    await deadline(fn(), STUCK_MS);
    assertNothingLive();
  });
}

// ---- Frames ----

const bytes = (maxLength: number, minLength = 0) => fc.uint8Array({ minLength, maxLength });

const number = fc.oneof(
  fc.nat({ max: 20 }),
  fc.nat({ max: MAX_WRITTEN_VARINT }),
  fc.constant(MAX_WRITTEN_VARINT),
).map((n) => Uint8Array.from(encodeVarint(n)));

/** The largest integer there is (RFC 9000 §16). */
const greatest = fc.constant(new Uint8Array(8).fill(0xff));

const integer = fc.oneof({ weight: 8, arbitrary: number }, { weight: 1, arbitrary: greatest });

const PING = Uint8Array.of(0x01);

const withLength = (data: Uint8Array) => concat(Uint8Array.from(encodeVarint(data.length)), data);

/** How many integers a frame of each type begins with (RFC 9000 §19), and whether bytes follow. */
const frameForms: readonly (readonly [type: number, integers: number, data?: "sized" | 8 | 24])[] =
  [
    [0x00, 0],
    [0x01, 0],
    [0x02, 4],
    [0x03, 7],
    [0x04, 3],
    [0x05, 2],
    [0x06, 1, "sized"],
    [0x07, 0, "sized"],
    [0x08, 1],
    [0x0a, 1, "sized"],
    [0x0e, 2, "sized"],
    [0x0f, 2, "sized"],
    [0x10, 1],
    [0x11, 2],
    [0x12, 1],
    [0x13, 1],
    [0x14, 1],
    [0x15, 2],
    [0x16, 1],
    [0x17, 1],
    [0x18, 2, 24],
    [0x19, 1],
    [0x1a, 0, 8],
    [0x1b, 0, 8],
    [0x1c, 2, "sized"],
    [0x1d, 1, "sized"],
    [0x1e, 0],
  ];

/** A frame of a known type with any values in it. */
const likelyFrame = fc.constantFrom(...frameForms).chain(([type, integers, data]) =>
  fc.tuple(
    fc.array(integer, { minLength: integers, maxLength: integers }),
    data === "sized" ? bytes(60).map(withLength) : bytes(data ?? 0, data ?? 0),
  ).map(([values, rest]) => concat(Uint8Array.of(type), ...values, rest))
);

const frame = fc.oneof({ weight: 9, arbitrary: likelyFrame }, {
  weight: 1,
  arbitrary: bytes(40, 1),
});

/** Packets, each of a few frames. */
const packets = fc.array(fc.array(frame, { minLength: 1, maxLength: 6 }), {
  minLength: 1,
  maxLength: 6,
});

// ---- Tests ----

/** Carries some bytes there and back. */
async function roundTrip(a: QuicConnection, b: QuicConnection): Promise<void> {
  const sent = Uint8Array.of(1, 2, 3);
  const buffer = new Uint8Array(8);
  const here = a.openStream();
  await here.write(sent);
  const there = await b.acceptStream();
  const length = await there.read(buffer);
  await there.write(buffer.subarray(0, length!));
  assertEquals(await here.read(buffer), 3);
  assertEquals(buffer.subarray(0, 3), sent);
  here.abort();
  there.abort();
}

async function assertUnharmed({ server, client }: QuicPair): Promise<void> {
  await roundTrip(server, client);
  assertEquals([server.closeInfo, client.closeInfo], [undefined, undefined]);
}

fuzzTest("QuicEndpoint stands any frames in Initial packets", async () => {
  await using pair = await connectPair({ server: { handshakeTimeoutMs: 300 }, client: ALIVE });
  const { serverEndpoint: endpoint } = pair;
  await using attacker = new Attacker(endpoint);
  await fc.assert(
    fc.asyncProperty(packets, async (packets) => {
      const forger = new InitialForger();
      for (const frames of packets) await attacker.send(forger.next(...frames));
    }),
    runs(500),
  );
  await attacker.received();
  await assertUnharmed(pair);
  await eventually("nothing is left", () => endpoint.stats.halfOpen === 0);
});

fuzzTest(
  "QuicConnection stands any frames of a peer with a certificate, or is closed",
  async () => {
    await using pair = await connectPair({ client: ALIVE });
    const { serverEndpoint: endpoint } = pair;
    const address = { hostname: "127.0.0.1", port: endpoint.addr.port };
    const ends: Record<string, number> = {};
    await fc.assert(
      fc.asyncProperty(packets, async (packets) => {
        await using attacker = new Attacker(endpoint);
        const [connection, next] = await Promise.all([
          endpoint.accept(),
          authenticate(attacker, address),
        ]);
        for (const frames of packets) await attacker.send(next(...frames));
        await attacker.received();
        const { closeInfo } = connection;
        connection.close(0);
        const how = closeInfo
          ? `${closeInfo.by} ${closeInfo.application} ${closeInfo.code}`
          : "open";
        ends[how] = (ends[how] ?? 0) + 1;
      }),
      // One that is allowed, as the others seldom are.
      { ...runs(150), examples: [[[[PING]]]] },
    );
    // Or the frames were not what they are meant to be.
    assert(ends["open"] && Object.keys(ends).length > 3, JSON.stringify(ends));
    await assertUnharmed(pair);
  },
);

fuzzTest("QuicConnection stands NEW_CONNECTION_ID in any order, or is closed", async () => {
  await using pair = await connectPair({ client: ALIVE });
  const { serverEndpoint: endpoint } = pair;
  const address = { hostname: "127.0.0.1", port: endpoint.addr.port };
  const small = fc.nat({ max: 6 });
  // quiche 0.18.0 would send for ever, had it to retire the id that it sends to (CVE-2025-7054).
  const issued = fc.tuple(small, small).map(([sequenceNumber, before]) =>
    newConnectionIdFrame(
      sequenceNumber,
      Math.max(0, sequenceNumber - before),
      new Uint8Array(8).fill(sequenceNumber),
    )
  );
  await fc.assert(
    fc.asyncProperty(fc.array(issued, { minLength: 1, maxLength: 20 }), async (frames) => {
      await using attacker = new Attacker(endpoint);
      const [connection, next] = await Promise.all([
        endpoint.accept(),
        authenticate(attacker, address),
      ]);
      for (const frame of frames) await attacker.send(next(frame));
      await attacker.received();
      connection.close(0);
    }),
    runs(100),
  );
  await assertUnharmed(pair);
});

fuzzTest("QuicEndpoint connect() and its connection stand packets of strangers", async () => {
  await withRelayedPair({ capture: 20 }, { client: ALIVE }, async (pair, relay) => {
    await assertUnharmed(pair);
    const { dcid, scid } = parseLongHeader(relay.captured[0]!)!;
    const id = fc.constantFrom(scid, dcid, new Uint8Array(0));
    const version = fc.constantFrom([0, 0, 0, 0], [0, 0, 0, 1], [0x1a, 0x2a, 0x3a, 0x4a]);
    const long = fc.tuple(fc.nat({ max: 0xff }), version, id, id, bytes(100)).map(
      ([first, version, to, from, rest]) =>
        Uint8Array.of(first | 0x80, ...version, to.length, ...to, from.length, ...from, ...rest),
    );
    const short = fc.tuple(fc.nat({ max: 0x7f }), id, bytes(100)).map(
      ([first, to, rest]) => Uint8Array.of(first, ...to, ...rest),
    );
    const changed = fc.tuple(fc.nat(), fc.nat(), fc.nat({ max: 0xff })).map(
      ([which, at, value]) => {
        const packet = relay.captured[which % relay.captured.length]!.slice();
        packet[at % packet.length] = value;
        return packet;
      },
    );
    const { clientEndpoint } = pair;
    await fc.assert(
      fc.asyncProperty(fc.oneof(long, short, changed), async (packet) => {
        const { received } = clientEndpoint.stats;
        relay.injectToClients(packet);
        await eventually(
          "it has arrived",
          () => packet.length === 0 || clientEndpoint.stats.received > received,
        );
      }),
      runs(200),
    );
    await assertUnharmed(pair);
  });
});
