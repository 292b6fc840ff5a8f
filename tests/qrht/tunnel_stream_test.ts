// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { TunnelError } from "../../lib/tunnel/errors.ts";
import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import fc from "fast-check";
import { QRHT_ALPN, RAW_ALPN } from "../../lib/qrht/dialect.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { socketAddress } from "../../lib/net/ip_address.ts";
import { encodeFrame, FrameType, ProtocolError } from "../../lib/qrht/frame.ts";
import { encodeOpen, encodeResult, type Open } from "../../lib/qrht/messages.ts";
import { TunnelStream } from "../../lib/qrht/tunnel_stream.ts";
import { StreamCode } from "../../lib/qrht/codes.ts";
import { acceptTunnel, openFields, openTunnel } from "../../lib/qrht/tunnel.ts";
import type { Failure } from "../../lib/tunnel/failure.ts";
import { assertSameBytes, concat, pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import {
  carrierPair,
  cut,
  type MemoryCarrier,
  ScriptedCarrier,
} from "../support/memory_carrier.ts";
import {
  MemoryDuplexError,
  type MemoryPairOptions,
  readExactly,
  readToEnd,
} from "../support/memory_duplex.ts";
import { isPending, pureTest as test, settled } from "../support/pure_test.ts";
import type { Awaitable } from "../../lib/wait.ts";

const empty = new Uint8Array(0);
const OPEN_PAYLOAD = encodeOpen({ tunnelId: new Uint8Array(16).fill(7) });
const OPEN = encodeFrame(FrameType.Open, OPEN_PAYLOAD);
const CONNECTED_PAYLOAD = encodeResult({ code: "connected", text: "" });
const CONNECTED = encodeFrame(FrameType.Result, CONNECTED_PAYLOAD);
const END = encodeFrame(FrameType.End, empty);

function data(bytes: Uint8Array | string): Uint8Array {
  return encodeFrame(FrameType.Data, typeof bytes === "string" ? utf8.encode(bytes) : bytes);
}

const utf8 = new TextEncoder();
const text = new TextDecoder();

/** A server's tunnel stream, the far end that a test speaks from as an agent, and the other way round. */
function tunnelOver(
  first: typeof FrameType.Open | typeof FrameType.Result,
  options?: MemoryPairOptions,
): [tunnel: TunnelStream, far: MemoryCarrier, carrier: MemoryCarrier] {
  const [carrier, far] = carrierPair(options);
  return [new TunnelStream(carrier, first), far, carrier];
}

/** An agent's tunnel stream that has read OPEN. */
async function begun(
  options?: MemoryPairOptions,
): Promise<[tunnel: TunnelStream, far: MemoryCarrier, carrier: MemoryCarrier]> {
  const [tunnel, far, carrier] = tunnelOver(FrameType.Open, options);
  const [payload] = await Promise.all([tunnel.receiveFirst(), writeAll(far, OPEN)]);
  assertEquals(payload, OPEN_PAYLOAD);
  return [tunnel, far, carrier];
}

/** The same from chunks, of which each is one read. */
async function scripted(...chunks: Uint8Array[]): Promise<[TunnelStream, ScriptedCarrier]> {
  const carrier = new ScriptedCarrier(chunks);
  const tunnel = new TunnelStream(carrier, FrameType.Open);
  assertEquals(await tunnel.receiveFirst(), OPEN_PAYLOAD);
  return [tunnel, carrier];
}

async function sendPieces(to: Duplex, pieces: readonly Uint8Array[]): Promise<void> {
  for (const piece of pieces) await writeAll(to, piece);
  await to.closeWrite();
}

async function assertViolates(
  act: () => Promise<unknown>,
  carrier: MemoryCarrier | ScriptedCarrier,
  problem: string,
): Promise<void> {
  const error = await assertRejects(act, ProtocolError, problem);
  assertEquals(error.name, "ProtocolError");
  assertEquals(carrier.codes, [StreamCode.ProtocolError, StreamCode.ProtocolError]);
}

test("TunnelStream reads the same from frames of any size, cut and buffered in any way", async () => {
  const frame = fc.oneof(
    fc.uint8Array({ maxLength: 30 }).map((bytes) => ({ data: bytes })),
    fc.uint8Array({ maxLength: 10 }).map((bytes) => ({ unknown: bytes })),
  );
  const sizes = fc.array(fc.integer({ min: 1, max: 40 }));
  const readSizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 });
  await fc.assert(
    fc.asyncProperty(fc.array(frame), sizes, readSizes, async (frames, sizes, readSizes) => {
      const wire = concat(
        OPEN,
        ...frames.map((frame) =>
          "data" in frame ? data(frame.data) : encodeFrame(0x21, frame.unknown)
        ),
        END,
      );
      const carrier = new ScriptedCarrier(cut(wire, sizes));
      const tunnel = new TunnelStream(carrier, FrameType.Open);
      assertEquals(await tunnel.receiveFirst(), OPEN_PAYLOAD);
      const read: number[] = [];
      for (let i = 0;; i++) {
        // Fresh memory each time: nothing may depend on what an earlier read has left in it.
        const buffer = new Uint8Array(readSizes[i % readSizes.length]!).fill(0xee);
        const n = await tunnel.read(buffer);
        if (n === null) break;
        assert(n > 0 && n <= buffer.length);
        read.push(...buffer.subarray(0, n));
      }
      const sent = frames.flatMap((frame) => "data" in frame ? [...frame.data] : []);
      assertEquals(read, sent);
      assertEquals(carrier.codes, [undefined, undefined]);
    }),
    { numRuns: 300 },
  );
});

for (const size of [1, 2, 63, 64, 4095, 4096, 4097, 16_383, 16_384, 200_000]) {
  test(`TunnelStream.write() sends ${size} bytes as one DATA frame`, async () => {
    const [tunnel, far] = await begun({ capacity: 1_000 });
    const bytes = pattern(size);
    const write = writeAll(tunnel, bytes);
    assertSameBytes(await readExactly(far, data(bytes).length), data(bytes));
    await write;
    assertSameBytes(bytes, pattern(size));
    tunnel.abort();
  });
}

test("TunnelStream.write() sends nothing for no bytes, and read() takes none into no room", async () => {
  const [tunnel, far] = await begun();
  assertEquals(await tunnel.write(empty), 0);
  assertEquals(await tunnel.read(empty), 0);
  await tunnel.closeWrite();
  assertEquals(await readToEnd(far), END);
});

test("TunnelStream.write() takes what there is room for, and then the rest of the same frame", async () => {
  for (const size of [50, 4096, 5_000]) {
    const [tunnel, far] = await begun({ capacity: 20 });
    const bytes = pattern(size);
    let taken = await tunnel.write(bytes);
    assert(taken > 0 && taken <= 20, `${taken} of ${size} bytes`);
    const received = readExactly(far, data(bytes).length);
    // More than the rest has to wait for the next frame.
    const more = concat(bytes, pattern(4));
    while (taken < size) taken += await tunnel.write(more.subarray(taken));
    assertEquals(taken, size);
    assertSameBytes(await received, data(bytes));
    tunnel.abort();
  }
});

test("TunnelStream does not end in the middle of a frame, and is disposed of with a reset", async () => {
  const [tunnel, far, carrier] = await begun({ capacity: 30 });
  await tunnel.write(pattern(100));
  await assertRejects(async () => await tunnel.closeWrite(), TypeError, "in the middle");
  await tunnel[Symbol.asyncDispose]();
  assertEquals(carrier.codes, [StreamCode.Aborted, StreamCode.Aborted]);
  await assertRejects(() => readToEnd(far), MemoryDuplexError, "code 0");
});

test("TunnelStream.write() throws when the peer takes no more bytes, and the other direction goes on", async () => {
  for (const [size, before] of [[1, 0], [5_000, 0], [1_000, 250], [5_000, 250]] as const) {
    const [tunnel, far] = await begun({ capacity: 100 });
    if (before === 0) far.stop(9);
    const write = assertRejects(
      async () => await writeAll(tunnel, pattern(size)),
      MemoryDuplexError,
      "code 9",
    );
    if (before > 0) await readExactly(far, before);
    far.stop(9);
    await write;
    await assertRejects(async () => await tunnel.write(pattern(size)), MemoryDuplexError);
    await sendPieces(far, [data("late"), END]);
    assertEquals(text.decode(await readToEnd(tunnel)), "late");
    await tunnel[Symbol.asyncDispose]();
  }
});

test("TunnelStream.write() throws after closeWrite() and abort()", async () => {
  for (const end of ["closeWrite", "abort"] as const) {
    for (const size of [1, 5_000]) {
      const [tunnel] = await begun();
      await tunnel[end]();
      await assertRejects(async () => await tunnel.write(pattern(size)), MemoryDuplexError);
      tunnel.abort();
    }
  }
});

test("TunnelStream.closeWrite() sends END once and the end of the stream with it", async () => {
  const [tunnel, far, carrier] = await begun();
  await tunnel.write(utf8.encode("x"));
  await tunnel.closeWrite();
  await tunnel.closeWrite();
  assert(carrier.isFinished);
  assertEquals(await readToEnd(far), concat(data("x"), END));
  tunnel.abort();
  await tunnel.closeWrite();
  assertEquals(carrier.codes, [undefined, StreamCode.Aborted]);
});

test("TunnelStream.read() takes END for the end, whether or not that of the stream has come", async () => {
  const [tunnel, far] = await begun();
  await writeAll(far, concat(data("x"), END));
  assertEquals(text.decode(await readToEnd(tunnel)), "x");
  assertEquals(await tunnel.read(new Uint8Array(1)), null);
  // Late, or never.
  await far.closeWrite();
  assertEquals(await tunnel.read(new Uint8Array(1)), null);
  await tunnel[Symbol.asyncDispose]();
});

test("TunnelStream.read() throws when the stream ends without END", async () => {
  for (
    const wire of [
      empty,
      data("x"),
      data("xyz").subarray(0, 3),
      data("xyz").subarray(0, 1),
      END.subarray(0, 1),
      encodeFrame(0x21, Uint8Array.of(1, 2)),
      encodeFrame(0x21, Uint8Array.of(1, 2)).subarray(0, 3),
    ]
  ) {
    const [tunnel, far, carrier] = await begun();
    await writeAll(far, wire);
    await far.closeWrite();
    const error = await assertRejects(
      () => readToEnd(tunnel),
      TunnelError,
      "the stream ends without END",
    );
    // As a reset does, which not every library can send.
    assertEquals([error.by, error.reason], [undefined, "reset"]);
    await assertRejects(async () => await tunnel.read(new Uint8Array(1)), TunnelError);
    // What has been read to its end is not stopped.
    assertEquals(carrier.codes, [StreamCode.Aborted, undefined]);
  }
});

test("TunnelStream.read() throws what the carrier throws when the peer resets it", async () => {
  const [tunnel, far] = await begun();
  await writeAll(far, data("x"));
  assertEquals(await readExactly(tunnel, 1), utf8.encode("x"));
  const read = tunnel.read(new Uint8Array(1));
  far.reset(3);
  await assertRejects(async () => await read, MemoryDuplexError, "code 3");
  await assertRejects(
    async () => await tunnel.read(new Uint8Array(1)),
    MemoryDuplexError,
    "code 3",
  );
  // The other direction goes on.
  await tunnel.write(utf8.encode("y"));
  await tunnel[Symbol.asyncDispose]();
  assertEquals(await readToEnd(far), concat(data("y"), END));
});

test("TunnelStream.read() refuses what has no place in a tunnel, and goes on refusing", async () => {
  const one = Uint8Array.of(1);
  for (
    const [problem, ...chunks] of [
      ["bytes after END", concat(END, data("x"))],
      ["bytes after END", concat(data("x"), END, END)],
      ["bytes after END", concat(END, encodeFrame(0x21, empty))],
      ["bytes after END", concat(END, one)],
      ["END has a payload", encodeFrame(FrameType.End, one)],
      ["a frame of type 2 in a tunnel", OPEN],
      ["a frame of type 3 in a tunnel", CONNECTED],
      ["a frame of type 16 in a tunnel", encodeFrame(FrameType.Hello, one)],
      ["a frame of type 17 in a tunnel", concat(data("x"), encodeFrame(FrameType.Drain, empty))],
      ["a frame of type 33 has 4097 bytes", Uint8Array.of(0x21, 0x50, 0x01)],
      ["a frame of type 0 has 1073741824 bytes", Uint8Array.of(0, 0xc0, 0, 0, 0, 0x40, 0, 0, 0)],
    ] as const
  ) {
    // Behind the first frame in one read, in one of its own, and in buffers in which it does not fit.
    for (const together of [[concat(OPEN, ...chunks)], [OPEN, ...chunks]]) {
      const [tunnel, carrier] = await scripted(...together);
      await assertViolates(() => readToEnd(tunnel), carrier, problem);
      for (const size of [1, 3]) {
        await assertRejects(async () => await tunnel.read(new Uint8Array(size)));
      }
    }
    for (const size of [1, 3]) {
      const [tunnel, carrier] = await scripted(concat(OPEN, ...chunks));
      await assertViolates(() => readToEnd(tunnel, size), carrier, problem);
      await assertRejects(async () => await tunnel.read(new Uint8Array(size)));
    }
  }
});

test("TunnelStream.read() refuses to begin before the first frame", async () => {
  const [tunnel] = tunnelOver(FrameType.Open);
  const error = await assertRejects(async () => await tunnel.read(new Uint8Array(1)), TypeError);
  assertEquals(error.message, "frame 2 has not been received");
});

test("TunnelStream.receiveFirst() takes the largest first frame, byte by byte", async () => {
  const payload = Uint8Array.of(...OPEN_PAYLOAD, 9, 0x4f, 0xec, ...pattern(4_076));
  assertEquals(payload.length, 4_096);
  const frame = encodeFrame(FrameType.Open, payload);
  for (const size of [1, 2_048, 5_000]) {
    const carrier = new ScriptedCarrier(
      cut(concat(frame, data("x"), END), Array(6_000).fill(size)),
    );
    const tunnel = new TunnelStream(carrier, FrameType.Open);
    assertSameBytes((await tunnel.receiveFirst())!, payload);
    assertEquals(text.decode(await readToEnd(tunnel)), "x");
  }
});

test("TunnelStream.parseOrReset() resets the stream at a violation and gives what is none", async () => {
  const [tunnel, , carrier] = await begun();
  assertEquals(tunnel.parseOrReset(() => 5), 5);
  assertEquals(carrier.codes, [undefined, undefined]);
  await assertViolates(
    // deno-lint-ignore require-await
    async () =>
      tunnel.parseOrReset(() => {
        throw new ProtocolError("nonsense");
      }),
    carrier,
    "nonsense",
  );
});

test("TunnelStream.abort() ends both directions with its code, and what waits on them", async () => {
  for (const [given, code] of [[undefined, StreamCode.Aborted], [StreamCode.Moved, 3]] as const) {
    const [tunnel, far, carrier] = await begun({ capacity: 30 });
    const read = assertRejects(async () => await tunnel.read(new Uint8Array(1)), MemoryDuplexError);
    const write = assertRejects(
      async () => await writeAll(tunnel, pattern(100)),
      MemoryDuplexError,
    );
    await settled();
    tunnel.abort(given);
    tunnel.abort(99);
    await Promise.all([read, write]);
    assertEquals(carrier.codes, [code, code]);
    await assertRejects(
      async () => await far.read(new Uint8Array(1)),
      MemoryDuplexError,
      `code ${code}`,
    );
    await assertRejects(
      async () => await far.write(new Uint8Array(1)),
      MemoryDuplexError,
      `code ${code}`,
    );
    // No END any more.
    await tunnel.closeWrite();
    await tunnel[Symbol.asyncDispose]();
    assert(!carrier.isFinished);
  }
});

test("TunnelStream.abort() and stop() drop what came with the first frame and was not read", async () => {
  for (const end of ["abort", "stop"] as const) {
    const [tunnel] = await scripted(concat(OPEN, data("client's bytes"), END));
    assertEquals(text.decode(await readExactly(tunnel, 6)), "client");
    tunnel[end](0);
    await assertRejects(async () => await tunnel.read(new Uint8Array(100)));
  }
});

test("TunnelStream.stop() ends the reading direction alone", async () => {
  const [tunnel, far, carrier] = await begun();
  const read = assertRejects(async () => await tunnel.read(new Uint8Array(1)), MemoryDuplexError);
  await settled();
  tunnel.stop(4);
  await read;
  assertEquals(carrier.codes, [undefined, 4]);
  await tunnel.write(utf8.encode("x"));
  await tunnel.closeWrite();
  assertEquals(await readToEnd(far), concat(data("x"), END));
  await assertRejects(async () => await far.write(new Uint8Array(1)), MemoryDuplexError, "code 4");
});

test("TunnelStream is disposed of with END when there is room for it", async () => {
  for (const capacity of [30, 64 << 10]) {
    const [tunnel, far, carrier] = await begun({ capacity });
    await tunnel.write(utf8.encode("x"));
    await tunnel[Symbol.asyncDispose]();
    assertEquals(carrier.codes, [undefined, StreamCode.Aborted]);
    assertEquals(await readToEnd(far), concat(data("x"), END));
    await assertRejects(
      async () => await far.write(new Uint8Array(1)),
      MemoryDuplexError,
      "code 0",
    );
    await tunnel[Symbol.asyncDispose]();
  }
});

test("TunnelStream is disposed of with a reset when there is no room for END, whatever waits for room", async () => {
  type Waiting = (tunnel: TunnelStream) => Awaitable<unknown>;
  const cases: [bytes: number, waiting?: Waiting][] = [
    // A frame that leaves no room, and one that leaves room for half of END.
    [28],
    [27],
    [100, (tunnel) => writeAll(tunnel, pattern(100))],
    [28, (tunnel) => tunnel.closeWrite()],
  ];
  for (const [bytes, waiting] of cases) {
    const [tunnel, far, carrier] = await begun({ capacity: 30 });
    if (bytes < 30) await tunnel.write(pattern(bytes));
    const waited = waiting && assertRejects(async () => await waiting(tunnel), MemoryDuplexError);
    await settled();
    await tunnel[Symbol.asyncDispose]();
    await waited;
    assertEquals(carrier.codes, [StreamCode.Aborted, StreamCode.Aborted]);
    assert(!carrier.isFinished);
    await assertRejects(() => readToEnd(far), MemoryDuplexError, "code 0");
  }
});

test("TunnelStream is disposed of without a word once both directions have ended", async () => {
  const [tunnel, far, carrier] = await begun();
  await sendPieces(far, [END]);
  assertEquals(await tunnel.read(new Uint8Array(1)), null);
  await tunnel.closeWrite();
  await tunnel[Symbol.asyncDispose]();
  assertEquals(carrier.resetCode, undefined);
  assertEquals(await readToEnd(far), END);
});

test("TunnelStream is disposed of although the peer takes no more, or has reset", async () => {
  const [stopped, far, carrier] = await begun();
  far.stop(0);
  await stopped[Symbol.asyncDispose]();
  assertEquals(carrier.stopCode, StreamCode.Aborted);
  const [reset, farOfReset] = await begun();
  farOfReset.abort(0);
  await reset[Symbol.asyncDispose]();
});

const open: Open = {
  tunnelId: Uint8Array.from({ length: 16 }, (_, i) => i),
  client: socketAddress("192.0.2.1", 50000)!,
  listener: socketAddress("2001:db8::1", 443)!,
};
const failure: Failure = { code: "refused", text: "the target refuses" };
const REFUSED = encodeFrame(FrameType.Result, encodeResult(failure));

const openResult = (stream: MemoryCarrier) => openTunnel(stream, QRHT_ALPN, open).result;
const acceptOpen = (stream: MemoryCarrier) => acceptTunnel(stream, QRHT_ALPN);

test("openTunnel() sends OPEN at once, and the client's bytes before there is a result", async () => {
  const [stream, far] = carrierPair();
  const { carrier, result } = openTunnel(stream, QRHT_ALPN, open);
  await settled();
  await writeAll(carrier, utf8.encode("early"));
  await carrier.closeWrite();
  const sent = concat(encodeFrame(FrameType.Open, encodeOpen(open)), data("early"), END);
  assertEquals(await readToEnd(far), sent);
  assert(await isPending(result));
  await sendPieces(far, [CONNECTED, data("answer"), END]);
  assertEquals(await result, { code: "connected", text: "" });
  assertEquals(text.decode(await readToEnd(carrier)), "answer");
});

test("openTunnel() takes the client's bytes and end while OPEN waits for room", async () => {
  for (const pieces of [[utf8.encode("early "), pattern(5_000)], []]) {
    const [stream, far] = carrierPair({ capacity: 7 });
    const { carrier } = openTunnel(stream, QRHT_ALPN, open);
    await eventually("OPEN waits", () => stream.isFull);
    const [received] = await Promise.all([readToEnd(far), sendPieces(carrier, pieces)]);
    const wire = concat(encodeFrame(FrameType.Open, encodeOpen(open)), ...pieces.map(data), END);
    assertSameBytes(received, wire);
    carrier.abort();
  }
});

test("openTunnel() gives what the agent says, and then its answer", async () => {
  const [stream, far] = carrierPair();
  const { carrier, result } = openTunnel(stream, QRHT_ALPN, open);
  await sendPieces(far, [concat(REFUSED, data("502"), END)]);
  assertEquals(await result, failure);
  assertEquals(text.decode(await readToEnd(carrier)), "502");
  await carrier[Symbol.asyncDispose]();
});

test("openTunnel() rejects its result when the agent is gone or the tunnel is aborted", async () => {
  type End = (far: MemoryCarrier, carrier: Duplex) => void;
  const cases: [how: string, end: End, capacity?: number][] = [
    // The write of OPEN may be told first.
    ["by the peer with code 0", (far) => far.abort()],
    ["without a result", (far) => void far.closeWrite()],
    ["stopped by the peer", (far) => far.stop(0), 5],
    ["stopped", (_, carrier) => carrier.abort()],
  ];
  for (const [how, end, capacity = 64 << 10] of cases) {
    const [stream, far] = carrierPair({ capacity });
    const { carrier, result } = openTunnel(stream, QRHT_ALPN, open);
    await settled();
    end(far, carrier);
    const error = await assertRejects(() => result, Error, how);
    assert(!(error instanceof ProtocolError));
    carrier.abort();
    await assertRejects(async () => await carrier.read(new Uint8Array(1)));
  }
});

test("openTunnel() leaves no unhandled rejection when nobody asks for the result", async () => {
  const [stream, far] = carrierPair();
  const { carrier } = openTunnel(stream, QRHT_ALPN, open);
  far.abort();
  await new Promise((resolve) => setTimeout(resolve));
  carrier.abort();
});

test("openTunnel() and acceptTunnel() add nothing in the raw dialect", async () => {
  for (const alpn of [RAW_ALPN, "my-own", "qrht/2"]) {
    const [stream, far] = carrierPair();
    const { carrier, result } = openTunnel(stream, alpn, open);
    assert(carrier === stream);
    assertEquals(await result, { code: "connected", text: "" });
    const incoming = await acceptTunnel(far, alpn);
    assert(incoming?.carrier === far);
    assertEquals(incoming.open, {});
    incoming.connected();
    for (const [from, to] of [[carrier, far], [far, carrier]] as const) {
      await sendPieces(from, [OPEN, pattern(5_000)]);
      assertSameBytes(await readToEnd(to), concat(OPEN, pattern(5_000)));
    }
  }
});

/** The agent's end of a tunnel of which the server has sent this much, and the server's. */
async function accepted(
  alpn: string,
  wire = alpn === RAW_ALPN ? empty : OPEN,
  options?: MemoryPairOptions,
) {
  const [stream, far] = carrierPair(options);
  const [tunnel] = await Promise.all([acceptTunnel(stream, alpn), writeAll(far, wire)]);
  assert(tunnel);
  return { tunnel, stream, far };
}

test("acceptTunnel() gives what OPEN says, and the bytes behind it", async () => {
  const { tunnel, far } = await accepted(
    QRHT_ALPN,
    concat(encodeFrame(FrameType.Open, encodeOpen(open)), data("request")),
  );
  assertEquals(tunnel.open, open);
  assertEquals(text.decode(await readExactly(tunnel.carrier, 7)), "request");
  tunnel.connected();
  await writeAll(tunnel.carrier, utf8.encode("answer"));
  await tunnel.carrier.closeWrite();
  assertEquals(await readToEnd(far), concat(CONNECTED, data("answer"), END));
  tunnel.carrier.abort();
});

test("acceptTunnel() gives nothing for a stream that ends without a word, and gives it back", async () => {
  const [stream, far] = carrierPair();
  await far.closeWrite();
  assertEquals(await acceptTunnel(stream, QRHT_ALPN), undefined);
  assertEquals(stream.resetCode, StreamCode.Aborted);
});

test("openTunnel() and acceptTunnel() reset a stream that does not begin as it has to", async () => {
  const cases: [begin: typeof openResult | typeof acceptOpen, wire: Uint8Array, problem: string][] =
    [
      [openResult, data("HTTP/1.1 200 OK"), "first"],
      [openResult, Uint8Array.of(3, 3, 0, 2, 0x61), "too early"],
      [acceptOpen, utf8.encode("CONNECT a:1 HTTP/1.1\r\n\r\n"), "first"],
      [acceptOpen, Uint8Array.of(2, 3, 1, 0, 1), "too early"],
      [acceptOpen, Uint8Array.of(2, 1, 2), "version 2"],
    ];
  for (const [begin, wire, problem] of cases) {
    const [stream, far] = carrierPair();
    const begun = begin(stream);
    await settled();
    await writeAll(far, wire);
    await assertRejects(() => begun, ProtocolError, problem);
    assertEquals(stream.codes, [StreamCode.ProtocolError, StreamCode.ProtocolError]);
    await assertRejects(
      async () => await far.write(new Uint8Array(1)),
      MemoryDuplexError,
      "code 2",
    );
  }
});

test("openTunnel() and acceptTunnel() reset a stream that ends within its first frame", async () => {
  for (const [begin, frame] of [[openResult, CONNECTED], [acceptOpen, OPEN]] as const) {
    for (let length = 1; length < frame.length; length++) {
      const [stream, far] = carrierPair();
      const begun = begin(stream);
      await settled();
      await sendPieces(far, [frame.subarray(0, length)]);
      await assertRejects(() => begun, ProtocolError, "the stream ends within its first frame");
      assertEquals(stream.codes, [StreamCode.ProtocolError, undefined]);
    }
  }
});

test("acceptTunnel() gives up an OPEN that is not complete in timeoutMs", async () => {
  const frame = encodeFrame(FrameType.Open, encodeOpen(open));
  for (const length of [0, 1, 2, 20, frame.length - 1]) {
    const [stream, far] = carrierPair();
    await writeAll(far, frame.subarray(0, length));
    await assertRejects(
      () => acceptTunnel(stream, QRHT_ALPN, 5),
      ProtocolError,
      "the first frame is not complete within 5 ms",
    );
    assertEquals(stream.codes, [StreamCode.ProtocolError, StreamCode.ProtocolError]);
    await assertRejects(async () => await far.write(frame), MemoryDuplexError, "code 2");
  }
});

test("acceptTunnel() counts timeoutMs from the beginning, however the bytes dribble in", async () => {
  const [stream, far] = carrierPair();
  const accept = acceptTunnel(stream, QRHT_ALPN, 40);
  const dribble = async () => {
    for (const byte of encodeFrame(FrameType.Open, new Uint8Array(4_000))) {
      await writeAll(far, Uint8Array.of(byte));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  };
  const dribbled = assertRejects(dribble, MemoryDuplexError, "code 2");
  await assertRejects(() => accept, ProtocolError, "not complete within 40 ms");
  await dribbled;
});

test("acceptTunnel() leaves no timer behind, whatever comes of it", async () => {
  // The sanitizer tells.
  const { tunnel } = await accepted(QRHT_ALPN);
  tunnel.carrier.abort();
  const [stream, far] = carrierPair();
  far.abort(3);
  await assertRejects(() => acceptTunnel(stream, QRHT_ALPN), MemoryDuplexError, "code 3");
});

test("IncomingTunnel.failed() sends the result, the answer if there is one, and END", async () => {
  const text = utf8.encode("HTTP/1.1 502 Bad\r\n\r\n");
  const cases: [alpn: string, answer: Uint8Array | undefined, wire: Uint8Array][] = [
    [QRHT_ALPN, text, concat(REFUSED, data(text), END)],
    [QRHT_ALPN, empty, concat(REFUSED, END)],
    [QRHT_ALPN, undefined, concat(REFUSED, END)],
    // In the raw dialect, the answer alone.
    [RAW_ALPN, text, text],
    [RAW_ALPN, empty, empty],
  ];
  for (const [alpn, answer, wire] of cases) {
    const { tunnel, stream, far } = await accepted(alpn);
    await tunnel.failed(failure, answer);
    assertEquals(await readToEnd(far), wire);
    // It takes nothing more from the server, and has nothing left to do.
    assertEquals(stream.codes, [undefined, StreamCode.Aborted]);
    await assertRejects(
      async () => await far.write(new Uint8Array(1)),
      MemoryDuplexError,
      "code 0",
    );
  }
});

test("IncomingTunnel.failed() waits for room for its answer and END", async () => {
  const head = REFUSED.length + data("502").length;
  const cases: [alpn: string, answer: Uint8Array, capacity: number][] = [
    [QRHT_ALPN, pattern(10_000), 50],
    [RAW_ALPN, pattern(10_000), 50],
    // Room for none of END, and for half of it.
    [QRHT_ALPN, utf8.encode("502"), head],
    [QRHT_ALPN, utf8.encode("502"), head + 1],
  ];
  for (const [alpn, answer, capacity] of cases) {
    const { tunnel, stream, far } = await accepted(alpn, undefined, { capacity });
    const failed = tunnel.failed(failure, answer);
    assert(await isPending(failed));
    const wire = alpn === RAW_ALPN ? answer : concat(REFUSED, data(answer), END);
    assertSameBytes(await readToEnd(far), wire);
    await failed;
    assertEquals(stream.resetCode, undefined);
  }
});

test("IncomingTunnel.failed() resets a raw tunnel with code 1 when there is no answer", async () => {
  const { tunnel, stream, far } = await accepted(RAW_ALPN);
  await tunnel.failed(failure);
  assertEquals(stream.codes, [1, 1]);
  await assertRejects(async () => await far.read(new Uint8Array(1)), MemoryDuplexError, "code 1");
});

test("IncomingTunnel.failed() does not reject when the server is gone", async () => {
  for (const alpn of [QRHT_ALPN, RAW_ALPN]) {
    for (const answer of [undefined, empty, pattern(10_000)]) {
      const { tunnel, stream, far } = await accepted(alpn, OPEN);
      far.abort(3);
      await tunnel.failed(failure, answer);
      await eventually("the stream is given back", () => stream.stopCode !== undefined);
    }
  }
});

test("IncomingTunnel.connected() is sent before the target's bytes, and without any soon", async () => {
  for (const [bytes, expected] of [["x", concat(CONNECTED, data("x"))], ["", CONNECTED]] as const) {
    const { tunnel, far } = await accepted(QRHT_ALPN);
    tunnel.connected();
    await writeAll(tunnel.carrier, utf8.encode(bytes));
    assertEquals(await readExactly(far, expected.length), expected);
    tunnel.carrier.abort();
  }
});

test("IncomingTunnel.sendConnected() is sent at once, and once", async () => {
  const { tunnel, far } = await accepted(QRHT_ALPN);
  await tunnel.sendConnected();
  assertEquals(await readExactly(far, CONNECTED.length), CONNECTED);
  tunnel.connected();
  await tunnel.sendConnected();
  await writeAll(tunnel.carrier, utf8.encode("x"));
  assertEquals(await readExactly(far, data("x").length), data("x"));
  tunnel.carrier.abort();
});

test("IncomingTunnel.connected() is sent with END when the target ends without a byte", async () => {
  for (const isLate of [false, true]) {
    for (const end of ["closeWrite", "dispose"] as const) {
      const { tunnel, stream, far } = await accepted(QRHT_ALPN);
      tunnel.connected();
      if (isLate) assertEquals(await readExactly(far, CONNECTED.length), CONNECTED);
      if (end === "closeWrite") await tunnel.carrier.closeWrite();
      else await tunnel.carrier[Symbol.asyncDispose]();
      assertEquals(stream.resetCode, undefined, `${end}, ${isLate ? "late" : "at once"}`);
      assertEquals(await readToEnd(far), isLate ? END : concat(CONNECTED, END));
      tunnel.carrier.abort();
    }
  }
});

test("IncomingTunnel.connected() has whoever writes next told that the server is gone", async () => {
  const { tunnel, far } = await accepted(QRHT_ALPN);
  far.abort(3);
  const tell = async () => {
    tunnel.connected();
    await writeAll(tunnel.carrier, utf8.encode("x"));
  };
  await assertRejects(tell, MemoryDuplexError, "code 3");
  tunnel.carrier.abort();
});

test("openTunnel() and acceptTunnel() carry bytes both ways through any cuts, buffers and room", async () => {
  const size = fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 6_000 }));
  const sizes = fc.array(size, { maxLength: 8 });
  const readSize = fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 9, max: 8_000 }));
  const end = fc.record({ sizes, readSize });
  const alpn = fc.constantFrom(QRHT_ALPN, RAW_ALPN);
  const capacity = fc.oneof(fc.integer({ min: 1, max: 100 }), fc.constant(64 << 10));
  await fc.assert(
    fc.asyncProperty(alpn, capacity, end, end, async (alpn, capacity, client, target) => {
      const [near, far] = carrierPair({ capacity });
      const fromClient = pattern(client.sizes.reduce((sum, n) => sum + n, 0), 1);
      const fromTarget = pattern(target.sizes.reduce((sum, n) => sum + n, 0), 2);
      const serve = async () => {
        const tunnel = await acceptTunnel(far, alpn);
        tunnel!.connected();
        const [received] = await Promise.all([
          readToEnd(tunnel!.carrier, target.readSize),
          sendPieces(tunnel!.carrier, cut(fromTarget, target.sizes)),
        ]);
        await tunnel!.carrier[Symbol.asyncDispose]();
        return received;
      };
      const use = async () => {
        const { carrier, result } = openTunnel(near, alpn, open);
        const [received] = await Promise.all([
          result.then(() => readToEnd(carrier, client.readSize)),
          sendPieces(carrier, cut(fromClient, client.sizes)),
        ]);
        await carrier[Symbol.asyncDispose]();
        return received;
      };
      const [atTarget, atClient] = await Promise.all([serve(), use()]);
      assertSameBytes(atTarget, fromClient);
      assertSameBytes(atClient, fromTarget);
      assertEquals([near.resetCode, far.resetCode], [undefined, undefined]);
    }),
    { numRuns: 120 },
  );
});

test("openFields() gives what a log line can show", () => {
  assertEquals(openFields(open), {
    tunnel: "000102030405060708090a0b0c0d0e0f",
    client: "192.0.2.1:50000",
  });
  assertEquals(openFields({}), { tunnel: undefined, client: undefined });
  assertInstanceOf(open.tunnelId, Uint8Array);
  return Promise.resolve();
});
