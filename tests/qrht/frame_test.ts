// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertLessOrEqual,
  assertThrows,
} from "@std/assert";
import fc from "fast-check";
import { Buffer } from "node:buffer";
import {
  ipBytes,
  mapIp,
  type SocketAddress,
  socketAddress,
  unmapIp,
} from "../../lib/net/ip_address.ts";
import {
  encodeFrame,
  type FrameEvent,
  frameHead,
  FrameParser,
  FrameType,
  MAX_DATA_BYTES,
  MAX_PAYLOAD_BYTES,
  ProtocolError,
} from "../../lib/qrht/frame.ts";
import {
  decodeArrived,
  decodeDrain,
  decodeHello,
  decodeOpen,
  decodePing,
  decodePong,
  decodeResult,
  encodeArrived,
  encodeDrain,
  encodeHello,
  encodeOpen,
  encodePing,
  encodePong,
  encodeResult,
  resultNumbers,
} from "../../lib/qrht/messages.ts";
import { decodeVarint, encodeVarint, MAX_WRITTEN_VARINT, varintLength } from "../../lib/varint.ts";
import { runs } from "../support/fuzz.ts";
import { cut } from "../support/memory_carrier.ts";
import { pureTest as test } from "../support/pure_test.ts";

/** Bytes from hexadecimal digits; spaces are for the eye. */
function fromHex(digits: string): Uint8Array {
  return new Uint8Array(Buffer.from(digits.replaceAll(" ", ""), "hex"));
}

const utf8 = new TextEncoder();

/** A varint in a form of 1, 2, 4 or 8 bytes, whether or not that is the shortest. */
function varint(value: number | bigint, length: number): number[] {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
  const form = bytes.slice(8 - length);
  form[0]! |= Math.log2(length) << 6;
  return [...form];
}

/** Lengths of a varint that can hold a value. */
function lengthsFor(value: number | bigint): number[] {
  return [1, 2, 4, 8].filter((length) => value < 2 ** (8 * length - 2));
}

const anyLength = fc.constantFrom(1, 2, 4, 8);

/** A value and one of the forms that it has. */
const anyForm = fc.tuple(fc.maxSafeNat(), anyLength).map(([value, length]) => {
  const bounded = value % 2 ** Math.min(53, 8 * length - 2);
  return { value: bounded, bytes: varint(bounded, length) };
});

test("decodeVarint() reads, and encodeVarint() writes, the examples of RFC 9000 appendix A.1", () => {
  for (const [value, hex] of [[494_878_333, "9d7f3e7d"], [15_293, "7bbd"], [37, "25"]] as const) {
    assertEquals(decodeVarint(fromHex(hex)), value);
    assertEquals(encodeVarint(value), [...fromHex(hex)]);
  }
  assertEquals(decodeVarint(fromHex("4025")), 37);
  // More than a number holds: rounded.
  assertEquals(decodeVarint(fromHex("c2197c5eff14e88c")), Number(151_288_809_941_952_652n));
});

test("encodeVarint() refuses what it cannot write", () => {
  for (const value of [-1, -0.5, 0.5, NaN, Infinity, 2 ** 30, 2 ** 53]) {
    assertThrows(() => encodeVarint(value), RangeError, "is not in 0 to 1073741823");
  }
});

test("decodeVarint() reads what encodeVarint() has written in the shortest form", () => {
  const boundary = fc.constantFrom(0, 0x3f, 0x40, 0x3fff, 0x4000, MAX_WRITTEN_VARINT);
  const any = fc.oneof(boundary, fc.integer({ min: 0, max: MAX_WRITTEN_VARINT }));
  fc.assert(fc.property(any, (value) => {
    const bytes = Uint8Array.from(encodeVarint(value));
    assertEquals(varintLength(bytes[0]!), bytes.length);
    assertEquals(bytes.length, lengthsFor(value)[0]!);
    assertEquals(decodeVarint(bytes), value);
  }));
});

test("decodeVarint() reads every form, and nothing behind it", () => {
  fc.assert(fc.property(anyForm, fc.uint8Array(), ({ value, bytes }, behind) => {
    assertEquals(varintLength(bytes[0]!), bytes.length);
    assertEquals(decodeVarint(Uint8Array.of(...bytes, ...behind)), value);
  }));
});

test("decodeVarint() rounds what is above 2^53 to no more than a few parts in 2^53", () => {
  const large = fc.bigInt({ min: 2n ** 53n, max: 2n ** 62n - 1n });
  fc.assert(fc.property(large, (value) => {
    const read = decodeVarint(Uint8Array.from(varint(value, 8)));
    assertLess(Math.abs(read / Number(value) - 1), 2 ** -50);
  }));
});

interface WrittenFrame {
  readonly type: number;
  readonly payload: Uint8Array;
  /** Lengths of its type and length on the wire. */
  readonly forms: readonly [number, number];
}

function write({ type, payload, forms }: WrittenFrame): number[] {
  const form = (value: number, length: number) =>
    varint(value, Math.max(length, lengthsFor(value)[0]!));
  return [...form(type, forms[0]), ...form(payload.length, forms[1]), ...payload];
}

const knownTypes: readonly number[] = Object.values(FrameType);

const anyType = fc.oneof(
  fc.constantFrom(...knownTypes),
  fc.maxSafeNat(),
  fc.integer({ min: 0, max: 0x40 }),
);

const anyFrame: fc.Arbitrary<WrittenFrame> = fc.record({
  type: anyType,
  payload: fc.uint8Array({ maxLength: 40 }),
  forms: fc.tuple(anyLength, anyLength),
});

/** A frame of a known type but DATA, such as comes first. */
const firstFrame: fc.Arbitrary<WrittenFrame> = fc.record({
  type: fc.constantFrom(...knownTypes.filter((type) => type !== FrameType.Data)),
  payload: fc.uint8Array({ maxLength: 40 }),
  forms: fc.tuple(anyLength, anyLength),
});

/** Reads chunks to their end. Data of one frame that was cut is put together again. */
function parse(parser: FrameParser, chunks: Iterable<Uint8Array>): FrameEvent[] {
  const events: FrameEvent[] = [];
  for (const { buffer, byteOffset, length } of chunks) {
    const chunk = new Uint8Array(buffer.slice(byteOffset, byteOffset + length));
    for (let at = 0; at < chunk.length;) {
      const { event, taken } = parser.next(chunk.subarray(at));
      assert(taken > 0 && at + taken <= chunk.length, `took ${taken} bytes`);
      if (event?.kind === "data") {
        assertEquals(event.bytes, chunk.subarray(at + taken - event.bytes.length, at + taken));
        events.push({ kind: "data", bytes: event.bytes.slice() });
      } else if (event) events.push(event);
      else assertEquals(at + taken, chunk.length, "bytes were left without an event");
      at += taken;
    }
    // What is kept must not be the caller's.
    chunk.fill(0xee);
  }
  return joined(events);
}

/** Puts neighbouring data together: the parser does not tell where one of two DATA frames ends. */
function joined(events: readonly FrameEvent[]): FrameEvent[] {
  const all: FrameEvent[] = [];
  for (const event of events) {
    const last = all.at(-1);
    if (event.kind === "data" && last?.kind === "data") {
      all[all.length - 1] = { kind: "data", bytes: Uint8Array.of(...last.bytes, ...event.bytes) };
    } else all.push(event);
  }
  return all;
}

test("FrameParser gives the frames of any sequence, cut in any way", () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 30 }));
  fc.assert(
    fc.property(firstFrame, fc.array(anyFrame, { maxLength: 12 }), sizes, (first, more, sizes) => {
      const frames = [first, ...more];
      const bytes = Uint8Array.from(frames.flatMap(write));
      const expected = joined(
        frames.flatMap(({ type, payload }): FrameEvent[] => {
          if (type === FrameType.Data) return [{ kind: "data", bytes: payload }];
          return knownTypes.includes(type) ? [{ kind: "frame", type, payload }] : [];
        }),
      );
      for (const cuts of [[], sizes, Array<number>(bytes.length).fill(1)]) {
        const parser = new FrameParser(first.type);
        assert(parser.isFresh);
        assertEquals(parse(parser, cut(bytes, cuts)), expected);
        assert(!parser.isFresh);
      }
    }),
    runs(300),
  );
});

test("FrameParser gives DATA without bytes, too, and what follows it", () => {
  const wire = [encodeFrame(FrameType.Open, new Uint8Array(0)), Uint8Array.of(0, 0, 0, 0, 1, 0)];
  for (const cuts of [[], Array<number>(10).fill(1)]) {
    const events = parse(new FrameParser(FrameType.Open), wire.flatMap((part) => cut(part, cuts)));
    assertEquals(events.map((event) => event.kind), ["frame", "data", "frame"]);
  }
});

test("FrameParser says that no byte has come until one has", () => {
  const parser = new FrameParser(FrameType.Hello);
  assertEquals(parser.next(new Uint8Array(0)), { taken: 0 });
  assert(parser.isFresh);
  parser.next(Uint8Array.of(FrameType.Hello));
  assert(!parser.isFresh);
});

test("FrameParser throws nothing but ProtocolError at any bytes, and gives no oversized frame", () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    // Likelier to get past the first frame.
    fc.uint8Array({ maxLength: 300 }).map((more) => Uint8Array.of(2, 0, ...more)),
  );
  fc.assert(
    fc.property(bytes, fc.array(fc.integer({ min: 1, max: 50 })), (bytes, sizes) => {
      const parser = new FrameParser(FrameType.Open);
      try {
        for (const event of parse(parser, cut(bytes, sizes))) {
          if (event.kind === "frame") {
            assert(knownTypes.includes(event.type) && event.type !== FrameType.Data);
            assertLessOrEqual(event.payload.length, MAX_PAYLOAD_BYTES);
          }
        }
      } catch (error) {
        assertInstanceOf(error, ProtocolError);
      }
    }),
    runs(1_000),
  );
});

test("FrameParser refuses a frame whose payload is too long as soon as its head has come", () => {
  const first = encodeFrame(FrameType.Open, new Uint8Array(0));
  const largest = 2n ** 62n - 1n;
  for (
    const [type, most] of [
      [FrameType.Data, MAX_DATA_BYTES],
      [FrameType.End, MAX_PAYLOAD_BYTES],
      [FrameType.Open, MAX_PAYLOAD_BYTES],
      [FrameType.Drain, MAX_PAYLOAD_BYTES],
      [0x3f, MAX_PAYLOAD_BYTES],
      [2 ** 40, MAX_PAYLOAD_BYTES],
      [largest, MAX_PAYLOAD_BYTES],
    ] as const
  ) {
    const typeBytes = varint(type, 8);
    for (const length of [most + 1, 2 ** 31, 2 ** 32, 2 ** 32 + 1, 2 ** 53 - 1, largest]) {
      for (const lengthBytes of lengthsFor(length).map((n) => varint(length, n))) {
        const parser = new FrameParser(FrameType.Open);
        const head = Uint8Array.of(...first, ...typeBytes, ...lengthBytes);
        parse(parser, [head.slice(0, -1)]);
        assertThrows(
          () => parser.next(head.subarray(-1)),
          ProtocolError,
          `a frame of type ${Number(type)} has ${Number(length)} bytes, more than ${most}`,
        );
      }
    }
    // The longest possible is fine; of DATA its beginning will do.
    const parser = new FrameParser(FrameType.Open);
    const payload = new Uint8Array(Math.min(most, MAX_PAYLOAD_BYTES)).fill(7);
    const head = [...typeBytes, ...varint(most, 8)];
    const events = parse(parser, [first, Uint8Array.of(...head, ...payload)]).slice(1);
    if (type === FrameType.Data) assertEquals(events, [{ kind: "data", bytes: payload }]);
    else if (!knownTypes.includes(Number(type))) assertEquals(events, []);
    else assertEquals(events, [{ kind: "frame", type: Number(type), payload }]);
  }
});

test("FrameParser refuses another first frame as soon as its head has come", () => {
  for (const first of [FrameType.Open, FrameType.Result, FrameType.Hello]) {
    for (const type of [...knownTypes, 0x3f, 2 ** 40].filter((type) => type !== first)) {
      const head = Uint8Array.of(...varint(type, 8), ...varint(200, 2));
      const parser = new FrameParser(first);
      parse(parser, [head.slice(0, -1)]);
      assertThrows(
        () => parser.next(head.subarray(-1)),
        ProtocolError,
        `the first frame has type ${type}, not ${first}`,
      );
    }
  }
});

test("FrameParser holds no more than one payload, whatever it is given", () => {
  const unknown = encodeFrame(0x3f, new Uint8Array(MAX_PAYLOAD_BYTES));
  const flood = Uint8Array.from(Array.from({ length: 16 }, () => [...unknown]).flat());
  const parser = new FrameParser(FrameType.Open);
  parse(parser, [encodeFrame(FrameType.Open, new Uint8Array(0))]);
  const before = memoryBytes();
  for (let i = 0; i < 1_000; i++) {
    assertEquals(parser.next(flood), { taken: flood.length });
  }
  // 64 MB have passed.
  assertLess(memoryBytes() - before, 8 << 20);
});

function memoryBytes(): number {
  const { heapUsed, external } = Deno.memoryUsage();
  return heapUsed + external;
}

test("frameHead() and encodeFrame() write type, length and payload", () => {
  assertEquals(frameHead(0x11, 0x40), [0x11, 0x40, 0x40]);
  assertEquals(encodeFrame(0x40, Uint8Array.of(1, 2)), Uint8Array.of(0x40, 0x40, 2, 1, 2));
  assertEquals(frameHead(FrameType.Data, MAX_DATA_BYTES), [0, 0xbf, 0xff, 0xff, 0xff]);
});

const address: fc.Arbitrary<SocketAddress> = fc.record({
  ip: fc.oneof(
    fc.uint8Array({ minLength: 4, maxLength: 4 }),
    fc.uint8Array({ minLength: 16, maxLength: 16 }).map(unmapIp),
  ),
  port: fc.nat({ max: 65535 }),
});

const tunnelId = fc.uint8Array({ minLength: 16, maxLength: 16 });
const ID = Uint8Array.from({ length: 16 }, (_, i) => i);

/** A payload of OPEN with these fields behind the tunnel id. */
function openWith(...fields: readonly (readonly number[])[]): Uint8Array {
  return Uint8Array.of(1, ...ID, ...fields.flat());
}

function helloWith(...fields: readonly (readonly number[])[]): Uint8Array {
  return Uint8Array.of(1, ...fields.flat());
}

function field(type: number, value: Iterable<number>): number[] {
  const bytes = [...value];
  return [...encodeVarint(type), ...encodeVarint(bytes.length), ...bytes];
}

test("decodeOpen() reads what encodeOpen() has written", () => {
  const open = fc.record({ tunnelId, client: address, listener: address }, {
    requiredKeys: ["tunnelId"],
  });
  fc.assert(fc.property(open, (open) => {
    const payload = encodeOpen(open);
    const read = decodeOpen(payload);
    payload.fill(0xee);
    assertEquals(read, open);
  }));
});

test("decodeOpen() reads addresses as whoever compares them needs them: without the mapped form", () => {
  const ip = mapIp(ipBytes("192.0.2.1")!);
  assertEquals(ip.length, 16);
  const { client, listener } = decodeOpen(
    openWith(field(0, [...ip, 0xc3, 0x50]), field(1, [...ip, 0, 80])),
  );
  assertEquals(client, socketAddress("192.0.2.1", 50000)!);
  assertEquals(listener, socketAddress("192.0.2.1", 80)!);
});

test("decodeOpen() refuses addresses of any other length than 6 and 18 bytes", () => {
  for (let length = 0; length <= 40; length++) {
    for (const type of [0, 1]) {
      const payload = openWith(field(type, Array<number>(length).fill(1)));
      if (length === 6 || length === 18) decodeOpen(payload);
      else {
        assertThrows(() => decodeOpen(payload), ProtocolError, `OPEN has an address of ${length}`);
      }
    }
  }
});

test("decodeOpen() takes its fields in any order, and skips those that it does not know", () => {
  const client = field(0, [192, 0, 2, 1, 0, 80]), listener = field(1, [192, 0, 2, 2, 1, 187]);
  const unknown = field(0x4123, utf8.encode("later"));
  const expected = {
    tunnelId: ID,
    client: socketAddress("192.0.2.1", 80)!,
    listener: socketAddress("192.0.2.2", 443)!,
  };
  assertEquals(decodeOpen(openWith(unknown, listener, unknown, client, unknown)), expected);
  assertEquals(decodeOpen(openWith(client, listener)), expected);
});

const decoders = {
  OPEN: { decode: decodeOpen, prefix: [1, ...ID] },
  RESULT: { decode: decodeResult, prefix: [0, 0] },
  HELLO: { decode: decodeHello, prefix: [1] },
  DRAIN: { decode: decodeDrain, prefix: [...encodeDrain()] },
  ARRIVED: { decode: decodeArrived, prefix: [...encodeArrived(1_280)] },
  PING: { decode: decodePing, prefix: [...encodePing()] },
  PONG: { decode: decodePong, prefix: [...encodePong(300)] },
} as const;

for (const [frame, { decode, prefix }] of Object.entries(decoders)) {
  const decoder = `${decode.name}()`;

  test(`${decoder} throws nothing but ProtocolError at any payload`, () => {
    const small = fc.constantFrom(0, 1, 2, 3, 6, 18, 0x40, 0xc0);
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: MAX_PAYLOAD_BYTES, size: "small" }),
      fc.array(small, { maxLength: 60 }).map((rest) => Uint8Array.of(...prefix, ...rest)),
      fc.uint8Array({ maxLength: 60 }).map((rest) => Uint8Array.of(...prefix, ...rest)),
    );
    fc.assert(
      fc.property(bytes, (payload) => {
        try {
          decode(payload);
        } catch (error) {
          assertInstanceOf(error, ProtocolError);
          assert(error.message.startsWith(`${frame} `), error.message);
        }
      }),
      runs(1_000),
    );
  });

  test(`${decoder} skips unknown fields of any length, content and number`, () => {
    const unknown = [field(4, Array<number>(3_000).fill(0xff)), field(0x4000, []), field(4, [1])];
    const payload = Uint8Array.of(...prefix, ...unknown.flat());
    assertEquals<unknown>(decode(payload), decode(Uint8Array.from(prefix)));
  });

  test(`${decoder} refuses what ends within a field`, () => {
    const whole = Uint8Array.of(...prefix, ...field(0x4444, [1, 2, 3]));
    decode(whole);
    for (let length = prefix.length + 1; length < whole.length; length++) {
      assertThrows(
        () => decode(whole.subarray(0, length)),
        ProtocolError,
        `${frame} ends too early`,
      );
    }
  });
}

test("decodeOpen() and decodeHello() refuse every other version, and an empty payload", () => {
  for (const frame of ["OPEN", "HELLO"] as const) {
    const { decode, prefix } = decoders[frame];
    for (const version of [0, 2, 0x40, 0xff]) {
      const payload = Uint8Array.of(version, ...prefix.slice(1));
      const problem = `${frame} has version ${version}, not 1`;
      assertThrows(() => decode(payload), ProtocolError, problem);
    }
    assertThrows(() => decode(new Uint8Array(0)), ProtocolError, `${frame} ends too early`);
  }
});

test("decodeResult() and decodeHello() take texts of up to 255 bytes, in UTF-8", () => {
  const result = (text: number[]) =>
    decodeResult(Uint8Array.of(2, ...encodeVarint(text.length), ...text)).text;
  const hello = (type: number) => (text: number[]) => {
    const { program, version, name, features } = decodeHello(helloWith(field(type, text)));
    return [program, version, name, features[0]][type];
  };
  const readers = [["RESULT", result], ...[0, 1, 2, 3].map((type) => ["HELLO", hello(type)])];
  for (const [frame, read] of readers as [string, (text: number[]) => string][]) {
    assertEquals(read(Array(255).fill(0x61)), "a".repeat(255));
    assertEquals(read([0xef, 0xbb, 0xbf, 0x78]), "\ufeffx", "a byte order mark is kept");
    assertThrows(
      () => read(Array(256).fill(0x61)),
      ProtocolError,
      `${frame} has a text of 256 bytes`,
    );
    for (const hex of ["ff", "c3", "c0af", "eda080", "f4908080", "61c3"]) {
      const bad = () => read([...fromHex(hex)]);
      assertThrows(bad, ProtocolError, `${frame} has a text that is not UTF-8`);
    }
  }
});

const codes = [...resultNumbers.keys()];

/** Text that comes through UTF-8 as it is. */
const wellFormed = fc.string({ unit: "binary", maxLength: 100 }).map((text) => text.toWellFormed());

test("decodeResult() reads every code, and takes any other for internal-error", () => {
  for (let number = 0; number < 300; number++) {
    for (const length of lengthsFor(number)) {
      const code = codes[number] ?? "internal-error";
      const payload = Uint8Array.of(...varint(number, length), 1, 0x78);
      assertEquals(decodeResult(payload), { code, text: "x" });
    }
  }
  for (const number of [2 ** 30, 2 ** 53 - 1, 2n ** 62n - 1n]) {
    const payload = Uint8Array.of(...varint(number, 8), 0);
    assertEquals(decodeResult(payload), { code: "internal-error", text: "" });
  }
});

test("encodeResult() cuts long texts between two characters", () => {
  const long = fc.array(fc.constantFrom("x", "é", "€", "𝄞", "\ufeff"), {
    minLength: 60,
    maxLength: 400,
    size: "max",
  });
  fc.assert(fc.property(long, (characters) => {
    const whole = characters.join("");
    const { text: cut } = decodeResult(encodeResult({ code: "refused", text: whole }));
    const bytes = utf8.encode(cut).length;
    assert(whole.startsWith(cut));
    assertLessOrEqual(bytes, 255);
    if (cut === whole) return;
    const next = String.fromCodePoint(whole.codePointAt(cut.length)!);
    assert(bytes + utf8.encode(next).length > 255, "cut more than it had to");
  }));
});

test("decodeResult() reads what encodeResult() has written, which is text whatever it was given", () => {
  const any = fc.string({ unit: fc.nat({ max: 0xffff }).map((code) => String.fromCharCode(code)) });
  fc.assert(fc.property(fc.constantFrom(...codes), any, (code, text) => {
    assertEquals(decodeResult(encodeResult({ code, text })), { code, text: text.toWellFormed() });
  }));
});

test("decodeHello() reads what encodeHello() has written", () => {
  const short = wellFormed.filter((text) => text !== "" && utf8.encode(text).length <= 255);
  const hello = fc.record(
    { program: short, version: short, name: short, features: fc.array(short, { maxLength: 32 }) },
    { requiredKeys: ["features"] },
  );
  fc.assert(fc.property(hello, (hello) => {
    assertEquals(decodeHello(encodeHello(hello)), hello);
  }));
});

test("encodeHello() leaves out what is empty, and cuts what is too long", () => {
  assertEquals(encodeHello({ program: "", name: "", features: [] }), Uint8Array.of(1));
  const { name } = decodeHello(encodeHello({ name: "€".repeat(100), features: [] }));
  assertEquals(name, "€".repeat(85));
});

test("decodeHello() takes 32 features and refuses 33", () => {
  const features = Array.from({ length: 33 }, (_, i) => `f${i}`);
  const fields = features.map((feature) => field(3, utf8.encode(feature)));
  assertEquals(decodeHello(helloWith(...fields.slice(0, 32))).features, features.slice(0, 32));
  assertThrows(
    () => decodeHello(helloWith(...fields)),
    ProtocolError,
    "HELLO names 33 features",
  );
});

test("decodeOpen() and decodeHello() take known fields once, but features as often as they come", () => {
  const drain = field(3, utf8.encode("drain"));
  assertEquals(decodeHello(helloWith(drain, field(0, []), drain)), {
    program: "",
    features: ["drain", "drain"],
  });
  for (const type of [0, 1, 2]) {
    const payload = helloWith(field(type, [0x61]), drain, field(9, []), field(type, [0x61]));
    assertThrows(() => decodeHello(payload), ProtocolError, `HELLO has field ${type} twice`);
  }
  for (const type of [0, 1]) {
    const address = field(type, [192, 0, 2, 1, 0, 80]);
    const payload = openWith(address, field(9, []), address);
    assertThrows(() => decodeOpen(payload), ProtocolError, `OPEN has field ${type} twice`);
  }
});
