// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { writeAll } from "../lib/duplex.ts";
import { assertNothingLive, connectPair } from "./support/quic.ts";

Deno.test("QuicConnection carries bytes of a stream that the server opened, both ways", async () => {
  {
    await using pair = await connectPair();
    const here = await pair.server.openStream();
    await writeAll(here, new TextEncoder().encode("ping"));
    await here.closeWrite();
    const there = await pair.client.acceptStream();
    const buffer = new Uint8Array(16);
    assertEquals(await there.read(buffer), 4);
    assertEquals(await there.read(buffer), null);
    await writeAll(there, new TextEncoder().encode("pong!"));
    await there.closeWrite();
    assertEquals(await here.read(buffer), 5);
    assertEquals(await here.read(buffer), null);
  }
  assertNothingLive();
});
