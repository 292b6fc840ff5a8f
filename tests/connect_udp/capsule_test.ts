// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Datagrams in capsules (RFC 9297, RFC 9298 §5): the writer, and the parser. */

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { CapsuleError } from "../../lib/connect_udp/capsule.ts";
import { CapsuleParser, type SkippedCapsules } from "../../lib/connect_udp/capsule_parser.ts";
import { BLOCK_BYTES, CapsuleWriter } from "../../lib/connect_udp/capsule_writer.ts";
import { concat, pattern } from "../support/bytes.ts";
import { runs } from "../support/fuzz.ts";
import { pureTest, settled } from "../support/pure_test.ts";
import { someCuts } from "../support/push_parser.ts";

/** A varint in a form of 1, 2, 4 or 8 bytes (RFC 9000 §16). */
function varint(value: number | bigint, length = 8): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
  const form = bytes.slice(8 - length);
  form[0]! |= Math.log2(length) << 6;
  return form;
}

interface Capsule {
  readonly type: number;
  readonly value: Uint8Array;
  /** Lengths of the two varints. */
  readonly forms: readonly [number, number];
}

const encode = ({ type, value, forms: [a, b] }: Capsule) =>
  concat(varint(type, a), varint(value.length, b), value);

/** What a parser makes of bytes that come in pieces, with what it has not taken in front of each. */
function parse(bytes: Uint8Array, cuts: readonly number[] = []) {
  const datagrams: Uint8Array[] = [];
  const parser = new CapsuleParser((payload) => datagrams.push(payload.slice()));
  const ends = [...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  let held = new Uint8Array();
  let start = 0;
  for (const end of ends) {
    const piece = concat(held, bytes.subarray(start, end));
    held = piece.slice(parser.push(piece));
    start = end;
  }
  return { datagrams, held, skipped: parser.skipped, isSkipping: parser.isSkipping };
}

/** The same, slowly: of capsules that are complete and known to be allowed. */
function expected(capsules: readonly Capsule[]) {
  const datagrams: Uint8Array[] = [];
  const skipped: SkippedCapsules = { types: 0, contexts: 0, long: 0 };
  for (const { type, value } of capsules) {
    if (type !== 0) {
      skipped.types++;
      continue;
    }
    const idBytes = 1 << (value[0]! >> 6);
    const [first, ...more] = value.slice(0, idBytes);
    if ((first! & 0x3f) !== 0 || more.some((byte) => byte !== 0)) skipped.contexts++;
    else if (value.length - idBytes > 16_384) skipped.long++;
    else datagrams.push(value.slice(idBytes));
  }
  return { datagrams, skipped };
}

const form = fc.constantFrom(1, 2, 4, 8);
const content = fc.oneof(
  { weight: 8, arbitrary: fc.uint8Array({ maxLength: 40 }) },
  fc.integer({ min: 0, max: 40_000 }).map((length) => new Uint8Array(length)),
);
const datagramCapsule = fc.tuple(fc.constantFrom(0, 0, 0, 0, 1, 2, 77), form, content).map(
  ([context, idBytes, payload]) => ({
    type: 0,
    value: concat(varint(context, context > 63 && idBytes === 1 ? 2 : idBytes), payload),
  }),
);
const otherCapsule = fc.record({ type: fc.integer({ min: 1, max: 2 ** 30 }), value: content });
const capsule: fc.Arbitrary<Capsule> = fc.tuple(
  fc.oneof({ weight: 4, arbitrary: datagramCapsule }, otherCapsule),
  form,
  form,
).map(([{ type, value }, a, b]) => ({
  type,
  value,
  forms: [formFor(type, a), formFor(value.length, b)],
}));

const formFor = (value: number, least: number) =>
  [1, 2, 4, 8].find((length) => length >= least && value < 2 ** (8 * length - 2))!;

pureTest("CapsuleParser hands on all datagrams in order, however the bytes are cut", () => {
  fc.assert(
    fc.property(fc.array(capsule, { maxLength: 12 }), someCuts, (capsules, cuts) => {
      const got = parse(concat(...capsules.map(encode)), cuts);
      assertEquals(got, { ...expected(capsules), held: new Uint8Array(), isSkipping: false });
    }),
    runs(300),
  );
});

pureTest("CapsuleParser takes bytes one by one", () => {
  const value = concat(varint(0, 4), pattern(300));
  const bytes = concat(
    encode({ type: 0, value, forms: [8, 4] }),
    encode({ type: 9, value: pattern(100), forms: [1, 2] }),
    encode({ type: 0, value: varint(0, 1), forms: [1, 1] }),
  );
  const { datagrams, held, skipped } = parse(bytes, Array.from(bytes, (_, i) => i));
  assertEquals(datagrams, [pattern(300), new Uint8Array()]);
  assertEquals([held.length, skipped.types], [0, 1]);
});

pureTest("CapsuleParser holds less than a capsule, whatever comes", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), someCuts, (bytes, cuts) => {
      try {
        const { held } = parse(concat(bytes, new Uint8Array(40_000)), cuts);
        assertEquals(held.length < 24 + 16_384, true);
      } catch (error) {
        if (!(error instanceof CapsuleError)) throw error;
      }
    }),
    runs(300),
  );
});

pureTest("CapsuleParser refuses what is too long, or no datagram", () => {
  const cases: [bytes: Uint8Array, message: string][] = [
    [concat(varint(0), varint(65_528 + 1, 4), varint(0, 1)), "a datagram of 65528 bytes"],
    [concat(varint(0), varint(65_536, 4)), "a datagram of 65536 bytes"],
    [concat(varint(0), varint(2n ** 62n - 1n)), "a datagram of 4611686018427388000 bytes"],
    [concat(varint(0), varint(0)), "a DATAGRAM capsule has no context id"],
    [concat(varint(0), varint(1), varint(0)), "a context id is cut off"],
    [
      concat(varint(0x29), varint(2 ** 20 + 1)),
      "a capsule of type 0x29 has 1048577 bytes, more than 1048576",
    ],
  ];
  for (const [bytes, message] of cases) {
    assertThrows(() => parse(bytes), CapsuleError, message);
  }
  // Skipped, and neither handed on nor held.
  const long = concat(varint(0), varint(65_528, 4), varint(0, 1), new Uint8Array(30_000));
  assertEquals(parse(long), {
    datagrams: [],
    held: new Uint8Array(),
    skipped: { types: 0, contexts: 0, long: 1 },
    isSkipping: true,
  });
});

/** Takes what is written when it is told to, or fails. */
class SlowSink {
  readonly writes: Uint8Array[] = [];
  #waiting: PromiseWithResolvers<void> | undefined;
  isOpen = false;

  async write(bytes: Uint8Array): Promise<number> {
    if (!this.isOpen) await (this.#waiting = Promise.withResolvers()).promise;
    // Not all of it at once.
    const n = Math.ceil(bytes.length / 2);
    this.writes.push(bytes.slice(0, n));
    return n;
  }

  open(): void {
    this.isOpen = true;
    this.#waiting?.resolve();
  }

  fail(): void {
    this.#waiting!.reject(new Error("broken"));
  }
}

function writerTo(sink: SlowSink, maxBytes = BLOCK_BYTES) {
  const events: string[] = [];
  const writer = new CapsuleWriter(sink, {
    writable: () => events.push("writable"),
    failed: (error) => events.push(`${error}`),
  }, maxBytes);
  const send = (payload: Uint8Array, mustLeave?: boolean) => {
    const place = writer.reserve(payload.length, mustLeave);
    place?.set(payload);
    if (place) writer.commit(payload.length);
    return place !== undefined;
  };
  return { writer, events, send };
}

pureTest(
  "CapsuleWriter writes what CapsuleParser reads, with what came during a write",
  async () => {
    const payload = fc.oneof(
      { weight: 4, arbitrary: fc.uint8Array({ minLength: 1, maxLength: 100 }) },
      fc.integer({ min: 1, max: 16_382 }).map(pattern),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(payload, { maxLength: 10 }),
        fc.boolean(),
        async (payloads, slow) => {
          const sink = new SlowSink();
          if (!slow) sink.open();
          const { writer, send, events } = writerTo(sink, 8 * BLOCK_BYTES);
          for (const payload of payloads) {
            assertEquals(send(payload), true);
            writer.flush();
          }
          sink.open();
          await writer.drained();
          assertEquals(parse(concat(...sink.writes)).datagrams, payloads);
          assertEquals([events, writer.datagrams], [[], payloads.length]);
        },
      ),
      runs(100),
    );
  },
);

pureTest("CapsuleWriter sends many small datagrams with one write", async () => {
  const sink = new SlowSink();
  const { writer, send } = writerTo(sink, 2 * BLOCK_BYTES);
  send(pattern(10));
  writer.flush();
  for (let i = 0; i < 1_000; i++) send(pattern(20));
  writer.flush();
  sink.open();
  await writer.drained();
  const { datagrams } = parse(concat(...sink.writes));
  assertEquals(datagrams.length, 1_001);
  // The first one alone, then all others; each write is taken in halves.
  assertEquals(sink.writes.length < 30, true);
});

pureTest("CapsuleWriter drops nothing: it has no room, and tells when there is some", async () => {
  const sink = new SlowSink();
  const { writer, send, events } = writerTo(sink, 2 * BLOCK_BYTES);
  let sent = 0;
  while (send(pattern(16_376))) {
    sent++;
    writer.flush();
  }
  assertEquals(sent >= 5 && sent <= 8, true, `${sent}`);
  assertEquals([send(pattern(1_200)), events], [false, []]);
  assertEquals(send(pattern(50), true), true);
  sink.open();
  await settled();
  assertEquals(events, ["writable"]);
  assertEquals(parse(concat(...sink.writes)).datagrams.length, sent + 1);
  assertEquals(send(pattern(16_376)), true);
  await writer.drained();
  assertEquals(events, ["writable"]);
});

pureTest("CapsuleWriter sends nothing for what was reserved and not committed", async () => {
  const sink = new SlowSink();
  sink.open();
  const { writer, send } = writerTo(sink);
  writer.reserve(100)!.fill(1);
  await writer.drained();
  writer.reserve(100)!.fill(1);
  send(pattern(10));
  writer.reserve(100)!.fill(1);
  await writer.drained();
  assertEquals(parse(concat(...sink.writes)).datagrams, [pattern(10)]);
});

pureTest(
  "CapsuleWriter tells once that a write has failed, and has no room after that",
  async () => {
    const sink = new SlowSink();
    const { writer, send, events } = writerTo(sink);
    send(pattern(10));
    writer.flush();
    send(pattern(20));
    sink.fail();
    await writer.drained();
    assertEquals([send(pattern(10)), events], [false, ["Error: broken"]]);
    writer.flush();
    await settled();
    assertThrows(() => writer.reserve(16_383), RangeError, "16383 bytes, more than 16382");
  },
);
