// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { LineWriter, type LineWriterOptions } from "../../lib/cli/line_writer.ts";
import { FakeTime } from "../support/fake_time.ts";

/** A reader that stalls, goes on, and goes away. */
class Sink {
  text = "";
  writes = 0;
  /** How many bytes one call takes at most. */
  room = Infinity;
  error: Error | undefined;
  #open = Promise.withResolvers<void>();

  constructor({ stalled = false } = {}) {
    if (!stalled) this.#open.resolve();
  }

  stall(): void {
    this.#open = Promise.withResolvers();
  }

  resume(): void {
    this.#open.resolve();
  }

  async write(bytes: Uint8Array): Promise<number> {
    await this.#open.promise;
    this.writes++;
    if (this.error) throw this.error;
    const taken = bytes.subarray(0, this.room);
    this.text += new TextDecoder().decode(taken);
    return taken.length;
  }
}

function test(name: string, fn: (time: FakeTime) => Promise<void>): void {
  Deno.test({
    name: `a line writer ${name}`,
    permissions: "none",
    async fn() {
      using time = new FakeTime();
      await fn(time);
      assertEquals(time.pending, 0, "a timer is left");
    },
  });
}

/** A writer that says in a line how many were dropped, as the programs do. */
function writerTo(sink: Sink, options: LineWriterOptions = {}): LineWriter {
  const writer: LineWriter = new LineWriter(sink, {
    dropped: (lines) => writer.write(`${lines} dropped`),
    ...options,
  });
  return writer;
}

test("writes what waits in one piece, in its order, in as many calls as the sink needs", async () => {
  const sink = new Sink();
  const writer = writerTo(sink);
  for (const line of ["one", "two", "three"]) writer.write(line);
  await writer.flush(1_000);
  assertEquals([sink.text, sink.writes], ["one\ntwo\nthree\n", 2]);
  sink.room = 2;
  writer.write("é four");
  await writer.flush(1_000);
  assertEquals(sink.text, "one\ntwo\nthree\né four\n");
});

test("drops what does not fit, counts it, and says so in its place when the reader goes on", async (time) => {
  const sink = new Sink({ stalled: true });
  const writer = writerTo(sink, { maxQueued: 10 });
  for (const line of ["going", "12345", "6789", "dropped", "0"]) writer.write(line);
  writer.write("dropped");
  assertEquals(writer.dropped, 2);
  await time.settle();
  assertEquals(sink.text, "");
  sink.resume();
  await writer.flush(1_000);
  writer.write("later");
  await writer.flush(1_000);
  assertEquals(sink.text, "going\n12345\n6789\n0\n2 dropped\nlater\n");
  assertEquals(writer.dropped, 2);
});

test("waits for its reader at the end, but not for long", async (time) => {
  const sink = new Sink({ stalled: true });
  const writer = writerTo(sink);
  await writer.flush(1_000);
  writer.write("line");
  let flushed = false;
  const flush = writer.flush(1_000).then(() => flushed = true);
  await time.pass(999);
  assertEquals(flushed, false);
  await time.pass(1);
  assertEquals([flushed, sink.text], [true, ""]);
  await flush;
  sink.resume();
  await writer.flush(1_000);
  assertEquals(sink.text, "line\n");
});

test("goes on without a reader, and counts what nobody got", async () => {
  const sink = new Sink();
  sink.error = new Deno.errors.BrokenPipe();
  const writer = writerTo(sink);
  for (const line of ["one", "two"]) writer.write(line);
  await writer.flush(1_000);
  assertEquals([writer.dropped, sink.text], [2, ""]);
});

test("tries again if a sink is full and says so", async (time) => {
  const sink = new Sink();
  sink.error = new Deno.errors.WouldBlock();
  const writer = writerTo(sink);
  writer.write("line");
  await time.pass(120);
  assertEquals([sink.text, sink.writes], ["", 3]);
  sink.error = undefined;
  const flush = writer.flush(1_000);
  await time.pass(50);
  await flush;
  assertEquals([writer.dropped, sink.text], [0, "line\n"]);
});
