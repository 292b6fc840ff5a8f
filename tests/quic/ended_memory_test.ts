// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What streams hold goes with their connection, and not with the garbage that it becomes. */

import { assertLess } from "@std/assert";
import { deadline } from "@std/async/deadline";
import type { QuicConnection, QuicStream } from "../../lib/quic/mod.ts";
import { assertNothingLive, connectPair } from "../support/quic.ts";

const STUCK_MS = 60_000;
const MIB = 1 << 20;

const STREAMS = 80;

/** Less than a stream may have under way unread. */
const STREAM_BYTES = 240 << 10;

/** How a connection ends whose streams hold bytes that nobody has read. */
const ends: Record<string, (server: QuicConnection, client: QuicConnection) => void> = {
  "the peer closes it": (_, client) => client.close(0),
  "this end closes it": (server) => server.close(0),
};

for (const [what, end] of Object.entries(ends)) {
  for (const accepted of [false, true]) {
    Deno.test(
      `QuicConnection holds nothing of streams ${
        accepted ? "that were accepted" : "that nobody accepted"
      } after ${what}`,
      async () => {
        /** So that no garbage collector frees them. */
        const held: QuicConnection[] = [];
        const round = async () => {
          await using pair = await connectPair();
          const { server, client } = pair;
          held.push(server, client);
          const streams: QuicStream[] = [];
          for (let i = 0; i < STREAMS; i++) {
            const stream = client.openStream();
            const bytes = new Uint8Array(STREAM_BYTES);
            for (let at = 0; at < bytes.length;) at += await stream.write(bytes.subarray(at));
            if (accepted) streams.push(await server.acceptStream());
          }
          await client.settled(STUCK_MS);
          end(server, client);
          await Promise.all([server.closed, client.closed]);
          for (const stream of streams) stream.abort();
        };
        await deadline(round().then(round), STUCK_MS);
        const before = Deno.memoryUsage().rss;
        for (let i = 0; i < 5; i++) await deadline(round(), STUCK_MS);
        const grownBytes = Deno.memoryUsage().rss - before;
        // It would be 5 times 19 MiB, and as much for the other end.
        assertLess(grownBytes, 40 * MIB);
        assertNothingLive();
      },
    );
  }
}
