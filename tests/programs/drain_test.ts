// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What proxy-server does when it is told to stop. */

import { assert, assertEquals, assertLess, assertMatch, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { live } from "../../lib/quic/mod.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import { readExactly, readToEnd } from "../support/memory_duplex.ts";
import {
  ask,
  assertReads,
  assertServed,
  linesWith,
  lineWith,
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
import { frames, scriptedTest } from "../support/scripted_peer.ts";
import { Site } from "../support/site.ts";

const LONG_MS = 60_000;

test("runServer() lets tunnels end in their time, and serves new clients until then", async (net) => {
  using lines = logLines(0);
  const { server, client, atTarget } = await openTunnel(net, { drainTimeoutMs: LONG_MS });
  server.abort();
  await lineWith(lines, 'server "draining"');
  await assertServed(net, server);
  const up = pattern(1 << 20, 1), down = pattern(3 << 20, 2);
  const send = async () => {
    await writeAll(client, up);
    await client.closeWrite();
  };
  const answer = async () => {
    assertSameBytes(await readToEnd(atTarget), up);
    await writeAll(atTarget, down);
    await atTarget.closeWrite();
  };
  const [, , read] = await Promise.all([send(), answer(), readToEnd(client)]);
  assertSameBytes(read, down);
  await soon("its stop", server.done);
  await assertRejects(() => net.client(server), Deno.errors.ConnectionRefused);
  assertMatch(lines.find((line) => line.includes('server "draining"'))!, / tunnels=1 /);
  assert(!lines.some((line) => line.includes("cut off")));
});

test("runServer() closes its listeners when it drains and the last agent has left", async (net) => {
  const { server, agent, client } = await openTunnel(net, { drainTimeoutMs: LONG_MS });
  server.abort();
  await assertServed(net, server);
  agent.abort();
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  await assertRejects(() => net.client(server), Deno.errors.ConnectionRefused);
  await soon("its stop", server.done);
});

test("runServer() cuts a silent tunnel before the end of the drain, and takes no clients then", async (net) => {
  using lines = logLines(2);
  const { server, client, atTarget } = await openTunnel(net, { drainTimeoutMs: 3_000 });
  const since = performance.now();
  server.abort();
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  const tookMs = performance.now() - since;
  assert(tookMs > 1_900 && tookMs < 2_900, `${tookMs} ms`);
  await assertRejects(() => net.client(server), Deno.errors.ConnectionRefused);
  assertEquals(await soon("the target's end", readUntilOver(atTarget)), "");
  await soon("its stop", server.done);
  await lineWith(lines, 'server "tunnel ended"', "by=server reason=stopped");
  assert(!lines.some((line) => line.includes("resetting tunnels")));
});

test("runServer() cuts off what outlasts the drain", async (net) => {
  using lines = logLines(0);
  const { server, client, atTarget } = await openTunnel(net, { drainTimeoutMs: 100 });
  // A target that reads nothing: bytes wait, and the tunnel is not silent.
  let sent = 0;
  const send = async () => {
    for (;;) sent += await client.write(new Uint8Array(64 << 10));
  };
  const sending = send().catch(() => {});
  await eventually("no more is taken", async () => {
    const before = sent;
    await delay(200);
    return before > 0 && sent === before;
  });
  server.abort();
  await soon("its stop", server.done);
  await sending;
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  await soon("the target's end", readToEnd(atTarget).catch(() => {}));
  assert(
    lines.some((line) =>
      /WRN server "resetting tunnels after the drain timeout" tunnels=1 /.test(line)
    ),
  );
});

test("runServer() stops at once when there are no tunnels, however long they might take", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ drainTimeoutMs: LONG_MS });
  net.agent(server);
  await assertServed(net, server);
  await eventually("its tunnel has ended", () => live.streams === 0);
  const since = performance.now();
  await server.stop();
  assertLess(performance.now() - since, 1_000);
  assertEquals(linesWith(lines, ' server "draining"'), []);
});

test("runServer() sends away agents that come while it drains", async (net) => {
  using lines = logLines(0);
  const { server, client, atTarget } = await openTunnel(net, { drainTimeoutMs: LONG_MS });
  server.abort();
  const late = net.agent(server);
  await eventually(
    "it says why",
    () => lines.some((line) => /cannot connect.*code 103 \(the server is draining\)/.test(line)),
  );
  late.abort();
  await sendText(client, "hello");
  assertEquals(new TextDecoder().decode(await readExactly(atTarget, 5)), "hello");
  for (const end of [client, atTarget]) await end.closeWrite();
  assertEquals(await readText(client), "");
  await soon("its stop", server.done);
});

test(
  "runServer() serves or refuses each client when it closes its listener, and resets none",
  async (net) => {
    const { server } = await openTunnel(net, { drainTimeoutMs: 2_000 });
    const target = net.greeter();
    let isOver = false, served = 0;
    const load = async () => {
      while (!isOver) {
        try {
          assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
          served++;
        } catch (error) {
          if (!(error instanceof Deno.errors.ConnectionRefused)) throw error;
          isOver = true;
        }
      }
    };
    const loads = Promise.all(Array.from({ length: 20 }, load));
    await eventually("some are served", () => served > 100);
    server.abort();
    await soon("the loads", loads);
    await soon("its stop", server.done);
  },
  ["qrht/1"],
);

scriptedTest("runServer() tells its agents that it drains", async (net) => {
  const server = await net.server({ drainTimeoutMs: LONG_MS });
  const agents = [await net.scriptedAgent(server), await net.scriptedAgent(server)];
  for (const agent of agents) await agent.control(frames.hello());
  const client = await net.client(server);
  const streams = agents.map((agent) => agent.stream());
  await soon("a stream to one of them", Promise.any(streams));
  server.abort();
  for (const agent of agents) await soon("DRAIN", agent.readDrain());
  for (const agent of agents) agent.connection.close(100, "agent stopped");
  await Promise.allSettled(streams);
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  await soon("its stop", server.done);
});

Deno.test("a server that drains ends at once at a second SIGTERM", async () => {
  await using site = await Site.start();
  const { program, tcpPort, quic } = await site.server();
  await site.agent(quic);
  const client = await site.request(tcpPort, 1_000_000_000);
  program.kill("SIGTERM");
  await program.line(/INF server "draining" tunnels=1 drainTimeoutMs=30000/);
  await assertReads(client, "HTTP/1.1 200 OK\r\n");
  program.kill("SIGTERM");
  assertEquals((await soon("its end", program.status)).code, 143);
  client.abort();
});
