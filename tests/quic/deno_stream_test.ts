// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Streams of agents on Deno's own QUIC, to a server on the binding. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { StreamEndedError, StreamResetError, StreamStoppedError } from "../../lib/quic/mod.ts";
import { sleep } from "../../lib/wait.ts";
import { assertSameBytes, concat, pattern } from "../support/bytes.ts";
import { connectDenoPair, openDenoStream } from "../support/deno_quic.ts";
import { eventually } from "../support/eventually.ts";
import { assertCarriesBothWays, readToEnd } from "../support/memory_duplex.ts";
import { soon } from "../support/network.ts";
import { quicTest as test } from "../support/quic_streams.ts";

const byte = (value = 0) => Uint8Array.of(value);

test("DenoQuicStream carries bytes both ways at once, and each direction ends on its own", async () => {
  await using pair = await connectDenoPair();
  const { there, here } = await openDenoStream(pair);
  await assertCarriesBothWays([here, there], 3 << 20);
  assertEquals(await here.read(new Uint8Array(1)), null);
  await assertRejects(async () => await here.write(byte()), StreamEndedError, "closed for writing");
});

test("DenoQuicStream half-closes: the other direction goes on", async () => {
  await using pair = await connectDenoPair();
  const { there, here } = await openDenoStream(pair);
  await here.finish(Uint8Array.of(1, 2, 3));
  assertEquals(await readToEnd(there), Uint8Array.of(1, 2, 3));
  for (const value of [4, 5]) {
    await there.write(byte(value));
    const buffer = new Uint8Array(8);
    assertEquals([await here.read(buffer), buffer[0]], [1, value]);
  }
  await there.closeWrite();
  assertEquals(await here.read(new Uint8Array(8)), null);
});

test("DenoQuicStream.read() fills the buffer it is given, whatever its size, and no more", async () => {
  await using pair = await connectDenoPair();
  const { there, here } = await openDenoStream(pair);
  const sent = pattern(10_000);
  await there.write(sent);
  const parts: Uint8Array[] = [];
  for (const length of [1, 1, 7, 4_096, 512]) {
    const room = new Uint8Array(length + 4).fill(9);
    const n = await here.read(room.subarray(2, 2 + length));
    assert(n !== null && n > 0 && n <= length);
    assertEquals([room[0], room[1], room[2 + length]], [9, 9, 9]);
    parts.push(room.slice(2, 2 + n));
  }
  await there.closeWrite();
  assertSameBytes(concat(...parts, await readToEnd(here)), sent);
  here.abort();
});

test("DenoQuicStream tells the codes that the peer resets and stops with", async () => {
  await using pair = await connectDenoPair();
  const { there, here } = await openDenoStream(pair);
  const reading = assertRejects(async () => await here.read(byte()), StreamResetError);
  there.reset(9);
  assertEquals((await soon("the reset", reading)).code, 9);
  there.stop(3);
  await eventually("a write fails", async () => {
    const error = await Promise.try(() => here.write(byte())).then(
      () => undefined,
      (error) => error,
    );
    if (error === undefined) return false;
    assert(error instanceof StreamStoppedError, `${error}`);
    assertEquals(error.code, 3);
    return true;
  });
  await assertRejects(async () => await here.write(byte()), StreamStoppedError);
  await assertRejects(async () => await here.read(byte()), StreamResetError);
});

test("DenoQuicStream.abort() takes back a read that waits, and the peer may send no more", async () => {
  await using pair = await connectDenoPair();
  const { there, here } = await openDenoStream(pair);
  const reading = assertRejects(async () => await here.read(byte()), StreamEndedError, "stopped");
  here.abort(5);
  await soon("the read", reading);
  await assertRejects(async () => await here.read(byte()), StreamEndedError, "stopped");
  await assertRejects(async () => await here.write(byte()), StreamEndedError, "reset");
  assertEquals(await readToEnd(there), new Uint8Array(0));
  await there.write(byte());
  await eventually("the peer is stopped", () => there.isReset());
});

test("DenoQuicStream.abort() takes back a write that waits for room, whose bytes nobody else's replace", async () => {
  await using pair = await connectDenoPair();
  const { there, here } = await openDenoStream(pair);
  const buffer = new Uint8Array(64 << 10).fill(1);
  let written = 0;
  let waiting: Promise<unknown> | undefined;
  while (!waiting) {
    let isOver = false;
    const write = Promise.try(() => here.write(buffer)).then((n) => {
      isOver = true;
      written += n;
    });
    await Promise.race([write, sleep(300)]);
    if (!isOver) waiting = assertRejects(() => write, StreamEndedError, "reset");
  }
  await assertRejects(async () => await here.write(byte()), TypeError, "already being written");
  here.reset(0);
  await soon("the write", waiting);
  // The caller uses its buffer for another tunnel now.
  buffer.fill(2);
  const got = await readToEnd(there);
  assert(got.length >= written && got.length <= written + buffer.length);
  assert(got.every((value) => value === 1));
  here.stop(0);
  there.abort();
});

test("DenoQuicStream refuses a second read, and a close, while one is under way", async () => {
  await using pair = await connectDenoPair();
  const { there, here } = await openDenoStream(pair);
  const reading = here.read(byte());
  await assertRejects(async () => await here.read(byte()), TypeError, "already being read");
  await there.write(byte(7));
  assertEquals(await reading, 1);
  await assertRejects(async () => await here.finish(new Uint8Array(0)), TypeError, "no last byte");
  assertEquals(await here.write(new Uint8Array(0)), 0);
  await here[Symbol.asyncDispose]();
  await here[Symbol.asyncDispose]();
  here.abort();
  there.abort();
});

test("DenoQuicConnection gives every stream back that was aborted, by whichever end", async () => {
  await using pair = await connectDenoPair({ client: { maxStreams: 20 } });
  for (let i = 0; i < 200; i++) {
    await soon("credit", pair.server.credit());
    const { there, here } = await openDenoStream(pair);
    const reading = Promise.try(() => here.read(byte())).catch(() => {});
    if (i % 3 === 0) there.abort(0);
    else here.abort();
    if (i % 3 === 1) await here[Symbol.asyncDispose]();
    await reading;
    here.abort();
    there.abort(0);
    assertEquals(pair.client.streamCount, 0);
  }
});
