// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What is special about unidirectional streams; stream_test.ts has what they share with others. */
import { assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import {
  ConnectionClosedError,
  live,
  type QuicConnection,
  StreamEndedError,
  StreamResetError,
  StreamStoppedError,
} from "../../lib/quic/mod.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import { readExactly, readToEnd } from "../support/memory_duplex.ts";
import { soon } from "../support/network.ts";
import { connectPair } from "../support/quic.ts";
import { echo, openUni, quicTest, text } from "../support/quic_streams.ts";

/** What the peer of a receiver may have under way at first. */
const UNI_WINDOW_BYTES = 16 << 10;

/** From whom, and to whom. */
interface Way {
  readonly from: QuicConnection;
  readonly to: QuicConnection;
}

/** A test of either end's streams. */
function uniTest(
  name: string,
  body: (way: Way) => Promise<void>,
  options: Parameters<typeof connectPair>[0] = {},
): void {
  for (const opener of ["server", "client"] as const) {
    quicTest(`${name} (opened by the ${opener})`, async () => {
      await using pair = await connectPair(options);
      const { server, client } = pair;
      await body(
        opener === "server" ? { from: server, to: client } : { from: client, to: server },
      );
    });
  }
}

const noneLeft = () => eventually("no stream is left", () => live.uniStreams === 0);

uniTest("openUniStream() numbers its streams as RFC 9000 has it", async ({ from, to }) => {
  const low = from.role === "server" ? 3 : 2;
  const here = [openUni(from), openUni(from), openUni(from)];
  assertEquals(here.map(({ id }) => id), [low, low + 4, low + 8]);
  for (const stream of here.toReversed()) await stream.write(Uint8Array.of(stream.id));
  for (const { id } of here) {
    const there = await soon("a stream", to.acceptUniStream());
    assertEquals(there.id, id);
    assertEquals(await readExactly(there, 1), Uint8Array.of(id));
  }
});

uniTest(
  "acceptUniStream() gives streams in the order of their ids, or of their bytes",
  async ({ from, to }) => {
    const [first, second] = [openUni(from), openUni(from)];
    await second.write(text("2"));
    // The first has not shown itself yet.
    const thereSecond = await soon("the second", to.acceptUniStream());
    assertEquals(thereSecond.id, second.id);
    await first.write(text("1"));
    const thereFirst = await soon("the first", to.acceptUniStream());
    assertEquals(thereFirst.id, first.id);
    assertEquals(await readExactly(thereFirst, 1), text("1"));
    assertEquals(await readExactly(thereSecond, 1), text("2"));
  },
);

uniTest(
  "acceptUniStream() takes no bidirectional streams, nor acceptStream() others",
  async ({ from, to }) => {
    const uni = openUni(from);
    const both = from.openStream();
    const accepted: string[] = [];
    const acceptingBoth = soon("the stream", to.acceptStream()).then(async (stream) => {
      accepted.push(`both ${stream.id === both.id}`);
      await readToEnd(stream);
      await stream.closeWrite();
    });
    const acceptingUni = soon("the stream", to.acceptUniStream()).then(async (stream) => {
      accepted.push(`uni ${stream.id === uni.id}`);
      await readToEnd(stream);
    });
    await uni.write(text("u"));
    await both.write(text("b"));
    await uni.closeWrite();
    await both.closeWrite();
    await Promise.all([acceptingBoth, acceptingUni]);
    assertEquals(accepted.sort(), ["both true", "uni true"]);
    assertEquals((await readToEnd(both)).length, 0);
  },
);

uniTest("openUniStream() is undefined where the peer's credit allows none", async (way) => {
  const { from, to } = way;
  for (let i = 0; i < 3; i++) assertEquals(from.openUniStream(), undefined);
  assertEquals(live.uniStreams, 0);
  await echo(from, to);
}, { server: { maxUniStreams: 0 }, client: { maxUniStreams: 0 } });

uniTest(
  "openUniStream() stops at the peer's credit, which comes back with the streams' ends",
  async (way) => {
    const { from, to } = way;
    const streams = [openUni(from), openUni(from), openUni(from)];
    assertEquals(from.openUniStream(), undefined);
    for (const [i, stream] of streams.entries()) {
      await stream.write(text("x"));
      if (i === 0) await stream.closeWrite();
      if (i === 1) stream.reset(1);
    }
    assertEquals((await readToEnd(await to.acceptUniStream())).length, 1);
    await assertRejects(async () => readToEnd(await to.acceptUniStream()), StreamResetError);
    (await to.acceptUniStream()).stop(0);
    for (let i = 0; i < 30; i++) {
      const next = await eventually("there is credit again", () => from.openUniStream());
      await next.write(text(`${i}`));
      const there = await soon("the stream", to.acceptUniStream());
      if (i % 2) await next.closeWrite();
      else next.reset(i);
      const got = await readToEnd(there).catch((error) => error);
      if (i % 2) assertEquals(got, text(`${i}`));
      else assertInstanceOf(got, StreamResetError);
    }
  },
);

uniTest("a unidirectional stream goes one way only", async ({ from, to }) => {
  const here = openUni(from);
  await assertRejects(
    async () => await here.read(new Uint8Array(1)),
    StreamEndedError,
    "is write-only",
  );
  await here.write(text("x"));
  const there = await soon("the stream", to.acceptUniStream());
  await assertRejects(async () => await there.write(text("x")), StreamEndedError, "is read-only");
  await assertRejects(async () => await there.finish(text("x")), StreamEndedError, "is read-only");
  await there.closeWrite();
  there.reset(1);
  here.stop(1);
  assertEquals(await readExactly(there, 1), text("x"));
  await here.write(text("still open"));
  assertEquals(await readExactly(there, 10), text("still open"));
  await here.closeWrite();
  assertEquals(await soon("the end", there.read(new Uint8Array(1))), null);
  await noneLeft();
});

uniTest(
  "stop() brings its code to a writer that has something in flight",
  async ({ from, to }) => {
    const here = openUni(from);
    const writing = (async () => {
      for (;;) await here.write(new Uint8Array(1 << 10));
    })().catch((error) => error);
    const there = await soon("the stream", to.acceptUniStream());
    there.stop(4);
    const error = await soon("the write's end", writing);
    assertInstanceOf(error, StreamStoppedError);
    assertEquals(error.code, 4);
  },
  // Datagrams of several turns; else nothing is in flight, and quiche 0.18.0 forgets stream and code.
  { server: { mtu: 1378 }, client: { mtu: 1378 } },
);

uniTest(
  "a unidirectional stream nobody reads, or accepts, does not disturb others",
  async (way) => {
    const { from, to } = way;
    const [unread, unaccepted] = [openUni(from), openUni(from)];
    const sent = [0, 0];
    const floods = [unread, unaccepted].map(async (stream, i) => {
      for (;;) sent[i]! += await stream.write(new Uint8Array(1 << 10));
    });
    for (const flood of floods) flood.catch(() => {});
    const there = await soon("the stream", to.acceptUniStream());
    await eventually(
      "both windows are full",
      () => sent.every((bytes) => bytes >= UNI_WINDOW_BYTES),
    );
    for (let i = 0; i < 5; i++) {
      await echo(from, to, 200_000);
    }
    await echo(to, from, 200_000);
    // Each has what is promised, and no more: memory for a peer is bounded.
    assertEquals(sent, [UNI_WINDOW_BYTES, UNI_WINDOW_BYTES]);
    const third = openUni(from);
    await third.finish(text("third"));
    const [second, last] = [await to.acceptUniStream(), await to.acceptUniStream()];
    assertEquals(second.id, unaccepted.id);
    assertEquals(await soon("the third", readToEnd(last)), text("third"));
    for (const stream of [unread, unaccepted]) stream.abort();
    await Promise.allSettled(floods);
    for (const stream of [there, second]) {
      await assertRejects(() => soon("its end", readToEnd(stream)), StreamResetError);
    }
  },
);

for (const closer of ["from", "to"] as const) {
  uniTest(
    `close() by ${
      closer === "from" ? "its opener" : "its reader"
    } ends every call on unidirectional streams`,
    async (way) => {
      const { from, to } = way;
      const [reading, writing] = [openUni(from), openUni(from)];
      await reading.write(text("x"));
      const there = await soon("the stream", to.acceptUniStream());
      await readExactly(there, 1);
      const calls: Promise<unknown>[] = [
        Promise.resolve(there.read(new Uint8Array(1))),
        (async () => {
          for (;;) await writing.write(new Uint8Array(1 << 10));
        })(),
        from.acceptUniStream(),
        // The stream that is being written, then none.
        to.acceptUniStream().then(() => to.acceptUniStream()),
      ];
      for (const call of calls) call.catch(() => {});
      // Written into the window, and seen by the peer.
      await echo(from, to);
      way[closer].close(42, "that's it");
      for (const call of calls) {
        const error = await assertRejects(
          () => soon("the call's end", call),
          ConnectionClosedError,
        );
        assertEquals([error.info.application, error.info.code], [true, 42]);
      }
      await soon("both ends know", Promise.all([from.closed, to.closed]));
      assertEquals(live.uniStreams, 0);
      for (const connection of [from, to]) {
        assertThrows(() => connection.openUniStream(), ConnectionClosedError);
        await assertRejects(() => connection.acceptUniStream(), ConnectionClosedError);
      }
      await assertRejects(async () => await reading.write(text("x")), ConnectionClosedError);
    },
  );
}

uniTest("unidirectional streams of both ends do not mix", async ({ from, to }) => {
  const there = openUni(to);
  const here = openUni(from);
  await here.finish(text("from"));
  await there.finish(text("to"));
  assertEquals(await readToEnd(await soon("a stream", to.acceptUniStream())), text("from"));
  assertEquals(await readToEnd(await soon("a stream", from.acceptUniStream())), text("to"));
  await noneLeft();
});

uniTest(
  "live.uniStreams goes back to 0 after many unidirectional streams at a time",
  async ({ from, to }) => {
    const streams = Array.from({ length: 100 }, () => openUni(from));
    assertEquals(from.openUniStream(), undefined);
    await Promise.all([
      ...streams.map(async (stream, i) => {
        await writeAll(stream, pattern(i * 300, i));
        await stream.finish(Uint8Array.of(i));
      }),
      ...streams.map(async () => {
        const there = await soon("a stream", to.acceptUniStream());
        const i = (there.id - streams[0]!.id) / 4;
        const bytes = await soon("its bytes", readToEnd(there));
        assertSameBytes(bytes, Uint8Array.of(...pattern(i * 300, i), i));
      }),
    ]);
    assertEquals(live.uniStreams, 0);
  },
  { server: { maxUniStreams: 100 }, client: { maxUniStreams: 100 } },
);
