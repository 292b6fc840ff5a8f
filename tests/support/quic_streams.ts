// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What tests of QUIC streams share. */
import { assert, assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import type { QuicConnection, QuicStream } from "../../lib/quic/mod.ts";
import { assertSameBytes, pattern } from "./bytes.ts";
import { eventually } from "./eventually.ts";
import { readExactly, readToEnd } from "./memory_duplex.ts";
import { soon } from "./network.ts";
import { assertNothingLive } from "./quic.ts";

/** Nothing takes this long unless it hangs. */
export const STUCK_MS = 18_000;

export const text = (value: string) => new TextEncoder().encode(value);

/** A test whose connections and streams are all gone at its end. */
export function quicTest(name: string, fn: () => Promise<void>): void {
  Deno.test(name, async () => {
    await deadline(fn(), STUCK_MS);
    assertNothingLive();
  });
}

/** Both ends of a stream; `here` is the one that opened it. */
export interface Ends {
  readonly here: QuicStream;
  readonly there: QuicStream;
}

/** Opens a bidirectional stream that both ends know of: one byte has gone from `here` to `there`. */
export function openEnds(from: QuicConnection, to: QuicConnection): Promise<Ends> {
  return meet(from.openStream(), () => to.acceptStream());
}

/** The same with a unidirectional stream. */
export function openUniEnds(from: QuicConnection, to: QuicConnection): Promise<Ends> {
  return meet(openUni(from), () => to.acceptUniStream());
}

async function meet(here: QuicStream, accept: () => Promise<QuicStream>): Promise<Ends> {
  await here.write(text("!"));
  const there = await soon("the stream", accept());
  assertEquals(there.id, here.id);
  assertEquals(await readExactly(there, 1), text("!"));
  return { here, there };
}

export function openUni(connection: QuicConnection): QuicStream {
  const stream = connection.openUniStream();
  assert(stream, "there is no credit");
  return stream;
}

/** A byte there and one back: whatever was sent before has been dealt with by then. */
export async function roundTrip({ here, there }: Ends): Promise<void> {
  await here.write(text("?"));
  assertEquals(await readExactly(there, 1), text("?"));
  await there.write(text("."));
  assertEquals(await readExactly(here, 1), text("."));
}

/** Writes until the stream takes no more, and returns what it threw. */
export function writeUntilError(stream: QuicStream): Promise<unknown> {
  return eventually(
    "the write fails",
    () => Promise.try(() => stream.write(text("more"))).then(() => undefined, (error) => error),
  );
}

/**
 * Writes until the peer's window is full and a write waits.
 *
 * @returns what that write fails with
 */
export async function blockWriter(
  stream: QuicStream,
  windowBytes = 256 << 10,
): Promise<{ failure: Promise<unknown> }> {
  const chunk = new Uint8Array(8 << 10);
  let accepted = 0;
  const failure = (async () => {
    for (;;) accepted += await stream.write(chunk);
  })().catch((error) => error);
  // Up to the bytes that the test has written before.
  await eventually("a write waits", () => accepted > windowBytes - 100);
  return { failure };
}

/** Writes all and the end, and reads to the end meanwhile. */
export async function exchange(stream: QuicStream, send: Uint8Array): Promise<Uint8Array> {
  const received = readToEnd(stream);
  received.catch(() => {});
  await writeAll(stream, send);
  await stream.closeWrite();
  return await received;
}

/** Sends bytes there and back on a bidirectional stream of their own. */
export async function echo(
  from: QuicConnection,
  to: QuicConnection,
  length = 1_000,
): Promise<void> {
  const sent = pattern(length, 7);
  const here = from.openStream();
  const [there, back] = await Promise.all([
    to.acceptStream().then((stream) => exchange(stream, sent)),
    exchange(here, sent),
  ]);
  for (const got of [there, back]) assertSameBytes(got, sent);
}
