// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Agents of several servers, and servers that come and go. */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async/delay";
import { QRHT_ALPN } from "../../lib/qrht/dialect.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { type Lookup, Resolver } from "../../lib/net/resolver.ts";
import { openTunnel as openFramed } from "../../lib/qrht/tunnel.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import {
  ask,
  assertReads,
  assertServed,
  linesWith,
  lineWith,
  logLines,
  loopback,
  OK,
  readText,
  readUntilOver,
  requestFor,
  sendText,
  type Server,
  soon,
  type Target,
  test,
} from "../support/network.ts";
import { frames, type ScriptedPeer, scriptedTest } from "../support/scripted_peer.ts";

const quick = { backoff: { minMs: 5, maxMs: 50 } };

const resolver = (lookup: Lookup) => new Resolver({ lookup });

const connectedTo = ({ quicPort }: Pick<Server, "quicPort">, lines: readonly string[]) =>
  linesWith(lines, ' "connected to quic server" ', ` server=127.0.0.1:${quicPort} `).length;

test("runAgent() serves the clients of all its servers", async (net) => {
  using lines = logLines(0);
  const servers = [await net.server(), await net.server(), await net.server()];
  const addresses = servers.map(({ quicPort }) => loopback(quicPort));
  const agent = net.agent(servers[0]!, { servers: [...addresses, addresses[0]!] });
  for (const server of servers) {
    await assertServed(net, server);
  }
  // And the others, when one has gone.
  await servers[1]!.stop();
  for (const server of [servers[0]!, servers[2]!]) {
    await assertServed(net, server);
  }
  assertEquals(servers.map((server) => connectedTo(server, lines)), [1, 1, 1]);
  await agent.stop();
  assertEquals(linesWith(lines, '"disconnected from quic server"').length, 3);
}, ["qrht/1", "raw"]);

test(
  "runAgent() dials both addresses of a name, and is quiet about the one where nobody listens",
  async (net) => {
    using lines = logLines(2);
    const server = await net.server();
    const asked: string[] = [];
    net.agent(server, {
      servers: [{ hostname: "localhost", port: server.quicPort }],
      serverResolver: resolver((name) => {
        asked.push(name);
        return Promise.resolve(["127.0.0.1", "::1"]);
      }),
      ...quick,
    });
    await assertServed(net, server);
    const failures = () => linesWith(lines, '"cannot connect to the server"');
    await eventually("it has failed three times", () => failures().length === 3, 20_000);
    const level = (line: string) => line.split(" ")[1];
    assertEquals(failures().map(level), ["WRN", "WRN", "DBG"]);
    for (const line of failures()) assertStringIncludes(line, ` server=[::1]:${server.quicPort} `);
    assertEquals(connectedTo(server, lines), 1);
    // Each failure has the name resolved again.
    await eventually("it is resolved again", () => asked.length > 1);
    assertEquals(new Set(asked), new Set(["localhost"]));
  },
  ["qrht/1"],
);

test(
  "runAgent() follows the addresses of its servers' names, and lets a connection go on to one that has vanished",
  async (net) => {
    using lines = logLines(0);
    const [a, b] = [await net.server(), await net.server({ agentWaitMs: 20_000 })];
    // An address where nobody listens.
    const nobody = "127.66.0.1";
    const dns: Record<string, string[]> = { "a.test": ["127.0.0.1"], "b.test": [nobody] };
    net.agent(a, {
      servers: [
        { hostname: "a.test", port: a.quicPort },
        { hostname: "b.test", port: b.quicPort },
      ],
      serverResolver: resolver((name) => Promise.resolve(dns[name]!)),
      refreshMs: 20,
      ...quick,
    });
    const { client, target, atTarget } = await net.tunnel(a);
    // Now it is the other.
    dns["a.test"] = [nobody];
    dns["b.test"] = ["127.0.0.1"];
    await net.tunnel(b, target);
    // The connection to the first one goes on, also for new clients: the server is there.
    await lineWith(lines, '"server resolved"', "server=a.test:", nobody);
    await sendText(client, "still there?");
    await assertReads(atTarget, "still there?");
    await net.tunnel(a, target);
    // But once it has ended, that was it.
    await a.stop();
    await soon("the client's end", readUntilOver(client));
    const again = await net.server({ listenQuic: loopback(a.quicPort), agentWaitMs: 300 });
    assertEquals(await ask(net, again, requestFor(target.authority)), "");
    assertEquals([connectedTo(a, lines), connectedTo(b, lines)], [1, 1]);
  },
  ["qrht/1", "raw"],
);

test(
  "runAgent() goes on with the addresses that it knows when names do not resolve any more",
  async (net) => {
    using lines = logLines(0);
    const server = await net.server();
    let resolves = true;
    net.agent(server, {
      servers: [{ hostname: "a.test", port: server.quicPort }],
      serverResolver: resolver(() =>
        resolves ? Promise.resolve(["127.0.0.1"]) : Promise.reject(new Error("no DNS"))
      ),
      refreshMs: 20,
      ...quick,
    });
    await assertServed(net, server);
    resolves = false;
    await lineWith(lines, 'WRN agent "cannot resolve the server"', 'error="no DNS"');
    await server.stop();
    const again = await net.server({ listenQuic: loopback(server.quicPort) });
    await assertServed(net, again);
  },
  ["qrht/1"],
);

test("runAgent() finds a server by name with the system's resolver", async (net) => {
  const server = await net.server();
  net.agent(server, { servers: [{ hostname: "localhost", port: server.quicPort }] });
  await assertServed(net, server);
}, ["qrht/1"]);

test("runAgent() stops while it looks a name up", async (net) => {
  const server = await net.server();
  const looking = Promise.withResolvers<void>();
  const agent = net.agent(server, {
    servers: [{ hostname: "a.test", port: 1 }],
    serverResolver: resolver(() => {
      looking.resolve();
      return new Promise(() => {});
    }),
  });
  await looking.promise;
  const since = performance.now();
  await agent.stop();
  assert(performance.now() - since < 2_000);
}, ["qrht/1"]);

// ---- Servers that drain ----

/** Both ends of a tunnel that a scripted server has opened. */
async function open(agent: ScriptedPeer, target: Target) {
  const stream = await agent.open();
  const tunnelId = crypto.getRandomValues(new Uint8Array(16));
  const { carrier, result } = openFramed(stream, QRHT_ALPN, { tunnelId });
  await sendText(carrier, requestFor(target.authority));
  assertEquals((await soon("RESULT", result)).code, "connected");
  await assertReads(carrier, OK);
  return { carrier, atTarget: await target.accept() };
}

/** Ends a tunnel in order, its client first. */
async function end({ carrier, atTarget }: Awaited<ReturnType<typeof open>>): Promise<void> {
  await carrier.closeWrite();
  assertEquals(await readText(atTarget), "");
  await atTarget.closeWrite();
  assertEquals(await readText(carrier), "");
}

scriptedTest(
  "runAgent() connects anew to a server that drains, and goes on with what that has",
  async (net) => {
    using lines = logLines(0);
    const server = net.scriptedServer();
    const target = net.target();
    const program = net.agent(server, { drainedIdleMs: 300, ...quick });
    const first = await server.accept();
    const early = await open(first, target);
    await first.control(frames.hello(), frames.drain);
    const second = await server.accept();
    assertEquals(linesWith(lines, 'INF agent "server is draining"', " tunnels=1").length, 1);
    assertEquals(first.connection.closeInfo, undefined);
    // A stream that has come a little later than DRAIN is served, too.
    const crossing = await open(first, target);
    const late = await open(second, target);
    for (const { carrier, atTarget } of [early, crossing, late]) {
      await sendText(carrier, "ping");
      await assertReads(atTarget, "ping");
      await sendText(atTarget, "pong");
      await assertReads(carrier, "pong");
    }
    // The agent leaves a server that does not end the connection, some time after the last tunnel has.
    for (const tunnel of [early, crossing]) {
      await delay(350);
      assertEquals(first.connection.closeInfo, undefined);
      await end(tunnel);
    }
    const { by, code, reason } = await first.closed();
    assertEquals([by, code, reason], ["peer", 100, "the server is draining"]);
    assertEquals(second.connection.closeInfo, undefined);
    await sendText(late.carrier, "still here");
    await assertReads(late.atTarget, "still here");
    assertEquals(linesWith(lines, 'INF agent "disconnected from quic server"').length, 1);
    await program.stop();
    assertEquals((await second.closed()).code, 100);
  },
);

scriptedTest("runAgent() leaves it to a server that drains to end the connection", async (net) => {
  using lines = logLines(0);
  const server = net.scriptedServer();
  net.agent(server, quick);
  const first = await server.accept();
  await first.control(frames.hello(), frames.drain, frames.drain);
  const second = await server.accept();
  await delay(100);
  assertEquals(first.connection.closeInfo, undefined);
  first.connection.close(0, "server stopped");
  await lineWith(lines, 'INF agent "disconnected from quic server"', "code 0");
  assertEquals(second.connection.closeInfo, undefined);
});

scriptedTest("runAgent() stops also the connections that drain", async (net) => {
  const server = net.scriptedServer();
  const target = net.target();
  const program = net.agent(server, { drainTimeoutMs: 20_000, ...quick });
  const first = await server.accept();
  await first.control(frames.hello(), frames.drain);
  const early = await open(first, target);
  const second = await server.accept();
  // It is not only the server that believes them to be connected.
  await soon("HELLO", second.connection.acceptUniStream());
  program.abort();
  assertEquals((await second.closed()).code, 100);
  await sendText(early.carrier, "still here");
  await assertReads(early.atTarget, "still here");
  await end(early);
  assertEquals((await first.closed()).code, 100);
  await soon("the program's end", program.done);
});

scriptedTest(
  "runAgent() has few connections to a server that says each time that it drains",
  async (net) => {
    const server = net.scriptedServer();
    const program = net.agent(server, { backoff: { minMs: 1, maxMs: 1 } });
    const peers: ScriptedPeer[] = [];
    for (let i = 0; i < 9; i++) {
      const peer = await server.accept();
      await peer.control(frames.hello(), frames.drain);
      peers.push(peer);
    }
    const more = server.accept().catch(() => undefined);
    await delay(200);
    assert(peers.every((peer) => !peer.connection.closeInfo));
    // Nobody has come meanwhile; when the last one ends, the next does.
    peers.at(-1)!.connection.close(0);
    assert(await more);
    await program.stop();
  },
);

test("runAgent() comes to the server that takes the place of one that drains", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ drainTimeoutMs: 20_000 });
  net.agent(server, quick);
  const { client, atTarget } = await net.tunnel(server);
  await eventually("both have said hello", () => linesWith(lines, "hello from").length === 2);
  server.abort();
  await lineWith(lines, '"server is draining"');
  const refused = await lineWith(lines, 'WRN agent "cannot connect to the server"');
  assertStringIncludes(refused!, 'error="the server accepts no more agents: ');
  assertStringIncludes(refused!, "code 103 (the server is draining)");
  // What was under way goes on, byte for byte.
  const bytes = pattern(3_000_000);
  const sending = Promise.try(() => writeAll(atTarget, bytes)).then(() => atTarget.closeWrite());
  assertSameBytes(await readToEnd(client), bytes);
  await sending;
  await client.closeWrite();
  await soon("the server's end", server.done);
  const again = await net.server({ listenQuic: loopback(server.quicPort) });
  await assertServed(net, again);
}, ["qrht/1"]);

// ---- Servers that send agents away ----

scriptedTest(
  "runAgent() soon tries again where a server accepts no further agents",
  async (net) => {
    const server = net.scriptedServer();
    net.agent(server, { backoff: { minMs: 60_000, maxMs: 60_000 } });
    for (let i = 0; i < 2; i++) {
      (await soon("it", server.accept())).connection.close(
        103,
        "scripted",
      );
    }
    assertEquals((await soon("it", server.accept())).connection.closeInfo, undefined);
  },
);

scriptedTest("runAgent() says why a server does not take it, and tries again", async (net) => {
  using lines = logLines(2);
  const server = net.scriptedServer();
  net.agent(server, quick);
  const reasons = { 102: "not admitted by the server", 103: "accepts no more agents" };
  for (const [code, words] of Object.entries(reasons)) {
    for (let i = 0; i < 3; i++) {
      const { connection } = await server.accept();
      connection.close(Number(code), "scripted");
    }
    await eventually(
      "it is logged",
      () => linesWith(lines, words, `code ${code} (scripted)`).length === 3,
    );
  }
  assertEquals((await server.accept()).connection.closeInfo, undefined);
});

// ---- Servers that are started anew ----

scriptedTest(
  "runAgent() notices a server that does not know it any more, ends its tunnels at their targets, and connects again",
  async (net) => {
    using lines = logLines(0);
    const server = net.scriptedServer();
    const target = net.target();
    net.agent(server, quick);
    const agent = await server.accept();
    const { atTarget } = await open(agent, target);
    const since = performance.now();
    agent.vanish();
    assertEquals(await soon("the target's end", readUntilOver(atTarget)), "");
    const tookMs = performance.now() - since;
    assert(tookMs < 3_000, `${tookMs} ms`);
    const words = "connection lost: the peer does not know it any more";
    assertEquals(linesWith(lines, "WRN", '"disconnected from quic server"', words).length, 1);
    const again = await open(await server.accept(), target);
    await sendText(again.carrier, "hello");
    await assertReads(again.atTarget, "hello");
  },
);

test("runAgent() drains at all its servers", async (net) => {
  using lines = logLines(0);
  const servers = [await net.server(), await net.server()];
  const agent = net.agent(servers[0]!, {
    servers: servers.map(({ quicPort }) => loopback(quicPort)),
    drainTimeoutMs: 20_000,
  });
  const tunnels = await Promise.all(servers.map((server) => net.tunnel(server)));
  agent.abort();
  await eventually("both drain", () => linesWith(lines, '"draining"', "tunnels=1").length === 2);
  for (const { client, atTarget } of tunnels) {
    await client.closeWrite();
    assertEquals(await soon("the client's end", readText(atTarget)), "");
    await sendText(atTarget, "the last");
    await atTarget.closeWrite();
  }
  for (const { client } of tunnels) assertEquals(await readText(client), "the last");
  await soon("the agent's end", agent.done);
}, ["qrht/1", "raw"]);
