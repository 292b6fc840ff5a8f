// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What proxy-passthrough does for the clients of a server. */

import { assertEquals } from "@std/assert";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { readText, sendText, test } from "../support/network.ts";

test("runPassthrough() connects each client to the upstream, both ways", async (net) => {
  const server = await net.server();
  const upstream = net.target();
  net.passthrough(server, upstream.port);
  for (let i = 0; i < 2; i++) {
    const client = await net.client(server);
    const bytes = pattern(500_000, i);
    const sending = Promise.try(() => writeAll(client, bytes)).then(() => client.closeWrite());
    const atUpstream = await upstream.accept();
    assertSameBytes(await readToEnd(atUpstream), bytes);
    await sending;
    await sendText(atUpstream, "late answer");
    await atUpstream.closeWrite();
    assertEquals(await readText(client), "late answer");
  }
});

test("runPassthrough() lets the upstream end first", async (net) => {
  const server = await net.server();
  const upstream = net.target();
  net.passthrough(server, upstream.port);
  const client = await net.client(server);
  await sendText(client, "hello");
  const atUpstream = await upstream.accept();
  await atUpstream.closeWrite();
  assertEquals(await readText(client), "");
  await sendText(client, ", world");
  await client.closeWrite();
  assertEquals(await readText(atUpstream), "hello, world");
});
