// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What a tunnel carries, and how it ends. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { eventually } from "../support/eventually.ts";
import { assertCarriesBothWays, readExactly, readToEnd } from "../support/memory_duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import {
  assertReads,
  logLines,
  OK,
  openTunnel,
  readText,
  readUntilOver,
  requestFor,
  sendText,
  soon,
  test,
} from "../support/network.ts";
import { ResettableTarget } from "../support/tcp_pair.ts";

test("a tunnel carries bytes both ways at once", async (net) => {
  const { client, atTarget } = await openTunnel(net);
  await assertCarriesBothWays([client, atTarget], 6 << 20);
});

test("a tunnel leaves one line in the log of each program, when it has ended", async (net) => {
  using lines = logLines(2);
  const { client, atTarget, target } = await openTunnel(net);
  await sendText(client, "hello");
  await assertReads(atTarget, "hello");
  await sendText(atTarget, "bye");
  await atTarget.closeWrite();
  assertEquals(await readText(client), "bye");
  await client.closeWrite();
  const endings = () => lines.filter((line) => line.includes('"tunnel ended"'));
  await eventually("both have written theirs", () => endings().length >= 2);
  await net.end();
  assertEquals(endings().length, 2);
  const [ofAgent] = endings().filter((line) => line.includes(" DBG agent "));
  assertMatch(ofAgent!, / sent=5 received=3 durationMs=\d+ by=target reason=end$/);
  assertStringIncludes(ofAgent!, ` target=${target.authority} `);
  const [ofServer] = endings().filter((line) => line.includes(" DBG server "));
  const [sent, received] = [requestFor(target.authority).length + 5, OK.length + 3];
  assertMatch(
    ofServer!,
    new RegExp(` sent=${sent} received=${received} durationMs=\\d+ by=target reason=end$`),
  );
  assertStringIncludes(ofServer!, " agent=agent-1 ");
});

test("many tunnels at a time keep their bytes apart", async (net) => {
  const server = await net.serverWithAgent();
  const echo = net.servingTarget(async (connection) => {
    await writeAll(connection, await readToEnd(connection));
    await connection.closeWrite();
  });
  await Promise.all(Array.from({ length: 40 }, async (_, i) => {
    const client = await net.client(server);
    const bytes = pattern(20_000 + i, i);
    await sendText(client, requestFor(echo.authority));
    await writeAll(client, bytes);
    await client.closeWrite();
    await assertReads(client, OK);
    assertSameBytes(await readToEnd(client), bytes);
  }));
});

for (const how of ["and closes", "by a reset"] as const) {
  test(`a tunnel delivers the answer of a target that refuses an upload ${how}`, async (net) => {
    const server = await net.serverWithAgent();
    await using target = await ResettableTarget.listen();
    for (let i = 0; i < 10; i++) {
      const client = await net.client(server);
      await sendText(client, requestFor(target.authority));
      await assertReads(client, OK);
      net.flood(client);
      const atTarget = await target.accept();
      await readExactly(atTarget, 100_000);
      // What most programs do that close with bytes unread: the answer, and a reset right behind.
      await sendText(atTarget, "too large");
      if (how === "by a reset") atTarget.abort();
      else await atTarget[Symbol.asyncDispose]();
      assertEquals(await soon("the client's end", readUntilOver(client)), "too large");
      client.abort();
      await atTarget[Symbol.asyncDispose]();
    }
  });
}

test("the programs stop while neither end of a tunnel reads", async (net) => {
  const { server, agent, client, atTarget } = await openTunnel(net);
  const sent = { client: 0, target: 0 };
  const flood = async (from: "client" | "target", to: Duplex) => {
    const bytes = new Uint8Array(64 << 10);
    for (;;) sent[from] += await to.write(bytes);
  };
  // Settled from the start: they fail while the programs stop.
  const floods = Promise.allSettled([flood("client", client), flood("target", atTarget)]);
  let before = "";
  await eventually("both directions are full", async () => {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const now = JSON.stringify(sent);
    return now === before || (before = now, false);
  });
  await agent.stop();
  await server.stop();
  await Promise.allSettled([readUntilOver(client), readUntilOver(atTarget)]);
  await floods;
});
