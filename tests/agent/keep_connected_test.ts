// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Agents of several servers, and servers that come and go. */

import { assert, assertEquals, assertGreater, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async/delay";
import { QRHT_ALPN } from "../../lib/qrht/dialect.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { type Lookup, Resolver } from "../../lib/net/resolver.ts";
import { openTunnel as openFramed } from "../../lib/qrht/tunnel.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import {
  ask,
  assertReads,
  linesWith,
  logLines,
  loopback,
  Network,
  OK,
  openTunnel,
  readText,
  readUntilOver,
  requestFor,
  sendText,
  type Server,
  soon,
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
  const target = net.servingTarget((connection) => sendText(connection, "here"));
  const addresses = servers.map(({ quicPort }) => loopback(quicPort));
  const agent = net.agent(servers[0]!, { servers: [...addresses, addresses[0]!] });
  for (const server of servers) {
    assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
  }
  // And the others, when one has gone.
  await servers[1]!.stop();
  for (const server of [servers[0]!, servers[2]!]) {
    assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
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
    const target = net.servingTarget((connection) => sendText(connection, "here"));
    const asked: string[] = [];
    net.agent(server, {
      servers: [{ hostname: "localhost", port: server.quicPort }],
      serverResolver: resolver((name) => {
        asked.push(name);
        return Promise.resolve(["127.0.0.1", "::1"]);
      }),
      ...quick,
    });
    assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
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
    const target = net.target();
    const client = await net.client(a);
    await sendText(client, requestFor(target.authority));
    await assertReads(client, OK);
    const atTarget = await target.accept();
    // Now it is the other.
    dns["a.test"] = [nobody];
    dns["b.test"] = ["127.0.0.1"];
    const other = await net.client(b);
    await sendText(other, requestFor(target.authority));
    await assertReads(other, OK);
    await target.accept();
    // The connection to the first one goes on, also for new clients: the server is there.
    await eventually(
      "it has learned that",
      () => linesWith(lines, '"server resolved"', "server=a.test:", nobody).length === 1,
    );
    await sendText(client, "still there?");
    await assertReads(atTarget, "still there?");
    const more = await net.client(a);
    await sendText(more, requestFor(target.authority));
    await assertReads(more, OK);
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
    const target = net.servingTarget((connection) => sendText(connection, "here"));
    assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
    resolves = false;
    await eventually(
      "it cannot resolve it",
      () => linesWith(lines, 'WRN agent "cannot resolve the server"', 'error="no DNS"').length > 0,
    );
    await server.stop();
    const again = await net.server({ listenQuic: loopback(server.quicPort) });
    assertEquals(await ask(net, again, requestFor(target.authority)), `${OK}here`);
  },
  ["qrht/1"],
);

test("runAgent() finds a server by name with the system's resolver", async (net) => {
  const server = await net.server();
  net.agent(server, { servers: [{ hostname: "localhost", port: server.quicPort }] });
  const target = net.servingTarget((connection) => sendText(connection, "here"));
  assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
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

/** A tunnel that a scripted server has opened. */
async function open(agent: ScriptedPeer, authority: string): Promise<Duplex> {
  const stream = await agent.open();
  const tunnelId = crypto.getRandomValues(new Uint8Array(16));
  const { carrier, result } = openFramed(stream, QRHT_ALPN, { tunnelId });
  await sendText(carrier, requestFor(authority));
  assertEquals((await soon("RESULT", result)).code, "connected");
  await assertReads(carrier, OK);
  return carrier;
}

scriptedTest(
  "runAgent() connects anew to a server that drains, and goes on with what that has",
  async (net) => {
    using lines = logLines(0);
    const server = net.scriptedServer();
    const target = net.target();
    const program = net.agentOf(server, { drainedIdleMs: 300, ...quick });
    const first = await server.accept();
    const early = await open(first, target.authority);
    const atEarly = await target.accept();
    await first.control(frames.hello(), frames.drain);
    const second = await server.accept();
    assertEquals(linesWith(lines, 'INF agent "server drains"', " tunnels=1").length, 1);
    assertEquals(first.connection.closeInfo, undefined);
    // A stream that has come a little later than DRAIN is served, too.
    const crossing = await open(first, target.authority);
    const atCrossing = await target.accept();
    const late = await open(second, target.authority);
    const atLate = await target.accept();
    for (const [carrier, atTarget] of [[early, atEarly], [crossing, atCrossing], [late, atLate]]) {
      await sendText(carrier!, "ping");
      await assertReads(atTarget!, "ping");
      await sendText(atTarget!, "pong");
      await assertReads(carrier!, "pong");
    }
    // The agent leaves a server that does not end the connection, some time after the last tunnel has.
    for (const [carrier, atTarget] of [[early, atEarly], [crossing, atCrossing]]) {
      await delay(350);
      assertEquals(first.connection.closeInfo, undefined);
      await carrier!.closeWrite();
      assertEquals(await readText(atTarget!), "");
      await atTarget!.closeWrite();
      assertEquals(await readText(carrier!), "");
    }
    const { by, code, reason } = await first.closed();
    assertEquals([by, code, reason], ["peer", 100, "the server drains"]);
    assertEquals(second.connection.closeInfo, undefined);
    await sendText(late, "still here");
    await assertReads(atLate, "still here");
    assertEquals(linesWith(lines, 'INF agent "disconnected from quic server"').length, 1);
    await program.stop();
    assertEquals((await second.closed()).code, 100);
  },
);

scriptedTest("runAgent() leaves it to a server that drains to end the connection", async (net) => {
  using lines = logLines(0);
  const server = net.scriptedServer();
  net.agentOf(server, quick);
  const first = await server.accept();
  await first.control(frames.hello(), frames.drain, frames.drain);
  const second = await server.accept();
  await delay(100);
  assertEquals(first.connection.closeInfo, undefined);
  first.connection.close(0, "server stopped");
  await eventually(
    "it knows",
    () => linesWith(lines, 'INF agent "disconnected from quic server"', "code 0").length === 1,
  );
  assertEquals(second.connection.closeInfo, undefined);
});

scriptedTest("runAgent() stops also the connections that drain", async (net) => {
  const server = net.scriptedServer();
  const target = net.target();
  const program = net.agentOf(server, { drainTimeoutMs: 20_000, ...quick });
  const first = await server.accept();
  await first.control(frames.hello(), frames.drain);
  const early = await open(first, target.authority);
  const atTarget = await target.accept();
  const second = await server.accept();
  // It is not only the server that believes them to be connected.
  await soon("HELLO", second.connection.acceptUniStream());
  program.abort();
  assertEquals((await second.closed()).code, 100);
  await sendText(early, "still here");
  await assertReads(atTarget, "still here");
  await early.closeWrite();
  assertEquals(await readText(atTarget), "");
  await atTarget.closeWrite();
  assertEquals(await readText(early), "");
  assertEquals((await first.closed()).code, 100);
  await soon("the program's end", program.done);
});

scriptedTest(
  "runAgent() has few connections to a server that says each time that it drains",
  async (net) => {
    const server = net.scriptedServer();
    const program = net.agentOf(server, { backoff: { minMs: 1, maxMs: 1 } });
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
  const target = net.target();
  const client = await net.client(server);
  await sendText(client, requestFor(target.authority));
  await assertReads(client, OK);
  const atTarget = await target.accept();
  await eventually("both have said hello", () => linesWith(lines, "says hello").length === 2);
  server.abort();
  await eventually("the agent knows", () => linesWith(lines, '"server drains"').length === 1);
  const [refused] = await eventually("it tries again", () => {
    const found = linesWith(lines, 'WRN agent "cannot connect to the server"');
    return found.length > 0 && found;
  });
  assertStringIncludes(refused!, 'error="the server takes no further agents: ');
  assertStringIncludes(refused!, "code 103 (the server drains)");
  // What was under way goes on, byte for byte.
  const bytes = pattern(3_000_000);
  const sending = writeAll(atTarget, bytes).then(() => atTarget.closeWrite());
  assertSameBytes(await readToEnd(client), bytes);
  await sending;
  await client.closeWrite();
  await soon("the server's end", server.done);
  const again = await net.server({ listenQuic: loopback(server.quicPort) });
  const asking = ask(net, again, requestFor(target.authority));
  const atTargetAgain = await target.accept();
  await sendText(atTargetAgain, "back again");
  await atTargetAgain.closeWrite();
  assertEquals(await asking, `${OK}back again`);
}, ["qrht/1"]);

// ---- Servers that send agents away ----

scriptedTest("runAgent() says why a server does not take it, and tries again", async (net) => {
  using lines = logLines(2);
  const server = net.scriptedServer();
  net.agentOf(server, quick);
  const reasons = { 102: "does not let this agent in", 103: "takes no further agents" };
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

// ---- Servers that vanish ----

scriptedTest(
  "runAgent() notices a server that has vanished, ends its tunnels at their targets, and connects again",
  async (net) => {
    using lines = logLines(0);
    const server = net.scriptedServer({ idleTimeoutMs: 1_000, keepAliveMs: 200 });
    const target = net.target();
    net.agentOf(server, quick);
    const agent = await server.accept();
    await open(agent, target.authority);
    const atTarget = await target.accept();
    const since = performance.now();
    agent.vanish();
    assertEquals(await soon("the target's end", readUntilOver(atTarget)), "");
    const tookMs = performance.now() - since;
    assert(tookMs > 500 && tookMs < 3_000, `${tookMs} ms`);
    assertEquals(linesWith(lines, "WRN", '"disconnected from quic server"', "timed out").length, 1);
    const again = await open(await server.accept(), target.authority);
    const atTargetAgain = await target.accept();
    await sendText(again, "hello");
    await assertReads(atTargetAgain, "hello");
  },
);

// ---- Agents that are replaced ----

/** Clients, one after the other, that ask an echo for what they send; each that does not get it fails the test. */
function load(net: Network, server: Server, authority: string, until: AbortSignal) {
  let served = 0;
  const one = async (message: string) => {
    const client = await net.client(server);
    await sendText(client, requestFor(authority));
    await assertReads(client, OK);
    await sendText(client, message);
    await client.closeWrite();
    assertEquals(await readText(client), message);
    client.abort();
    served++;
  };
  const clients = Promise.all(Array.from({ length: 6 }, async (_, i) => {
    for (let n = 0; !until.aborted; n++) {
      await soon(`request ${i}.${n}`, one(`${i}.${n} `.repeat(1 + n % 200)));
      // Now and then nothing is under way.
      if (n % 7 === i) await delay(2);
    }
  }));
  clients.catch(() => {});
  return { clients, served: () => served };
}

test(
  "runAgent() is replaced under load by another one, again and again, and no client notices",
  async (net) => {
    using lines = logLines(0);
    const server = await net.server();
    const echo = net.servingTarget(async (connection) => {
      await writeAll(connection, await readToEnd(connection));
      await connection.closeWrite();
    });
    const started = () => linesWith(lines, '"agent connected"').length;
    const start = async () => {
      const before = started();
      const agent = net.agent(server, { drainTimeoutMs: 10_000 });
      await eventually("it is there", () => started() > before);
      return agent;
    };
    const agents = [await start(), await start()];
    const stop = new AbortController();
    const { clients, served } = load(net, server, echo.authority, stop.signal);
    for (let round = 0; round < 8; round++) {
      const before = served();
      await Promise.race([clients, eventually("clients are served", () => served() > before + 30)]);
      agents.push(await start());
      const leaving = agents.shift()!;
      leaving.abort();
      await soon("it has drained", leaving.done);
    }
    stop.abort();
    await clients;
    assertGreater(served(), 200);
    assertEquals(linesWith(lines, "tunnels are cut off"), []);
  },
  ["qrht/1"],
);

test("runAgent() drains at all its servers", async (net) => {
  using lines = logLines(0);
  const first = await openTunnel(net);
  await first.agent.stop();
  await soon("its end", readUntilOver(first.client));
  const servers = [first.server, await net.server()];
  const agent = net.agent(servers[0]!, {
    servers: servers.map(({ quicPort }) => loopback(quicPort)),
    drainTimeoutMs: 20_000,
  });
  const target = net.target();
  const tunnels = await Promise.all(servers.map(async (server) => {
    const client = await net.client(server);
    await sendText(client, requestFor(target.authority));
    await assertReads(client, OK);
    return { client, atTarget: await target.accept() };
  }));
  agent.abort();
  await eventually("both drain", () => linesWith(lines, '"draining"', "tunnels=1").length === 2);
  for (const { client } of tunnels) {
    await client.closeWrite();
    await delay(20);
  }
  for (const { atTarget } of tunnels) {
    assertEquals(await soon("the client's end", readText(atTarget)), "");
    await sendText(atTarget, "the last");
    await atTarget.closeWrite();
  }
  for (const { client } of tunnels) assertEquals(await readText(client), "the last");
  await soon("the agent's end", agent.done);
}, ["qrht/1", "raw"]);
