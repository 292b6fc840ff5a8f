// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What proxy-server does with its clients. */

import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { UsageError } from "../../lib/errors.ts";
import { QuicEndpoint, StreamOpenError } from "../../lib/quic/mod.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { eventually } from "../support/eventually.ts";
import {
  ask,
  assertReads,
  linesWith,
  lineWith,
  logLines,
  loopback,
  NOBODY,
  OK,
  OWN,
  readText,
  readUntilOver,
  requestFor,
  sendText,
  type Server,
  soon,
  test,
} from "../support/network.ts";
import { ALPN, clientTls } from "../support/quic.ts";

test("runServer() closes a client when there is no agent for agentWaitMs", async (net) => {
  for (const agentWaitMs of [0, 50]) {
    const server = await net.server({ agentWaitMs });
    const client = await net.client(server);
    await sendText(client, requestFor(NOBODY)).catch(() => {});
    assertEquals(await soon("the client's end", readUntilOver(client)), "");
  }
});

test("runServer() without a host takes agents and clients of both families", async (net) => {
  const anyHost = { hostname: "", port: 0 };
  for (const hostname of ["127.0.0.1", "::1"]) {
    const server = await net.server({ listenQuic: anyHost, listenTcp: [anyHost] });
    const agent = net.agent(server, { servers: [{ hostname, port: server.quicPort }] });
    const target = net.greeter();
    assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
    const client = net.own(tcpDuplex(await Deno.connect({ hostname, port: server.tcpPort })));
    await sendText(client, requestFor(target.authority));
    await assertReads(client, `${OK}here`);
    await agent.stop();
  }
});

test("runServer() says which address it cannot listen on", async (net) => {
  const taken = net.target();
  const { quicPort } = await net.server();
  for (
    const [config, expected] of [
      [{ listenTcp: [loopback(taken.port)] }, `--listen-tcp 127.0.0.1:${taken.port}`],
      [{ listenQuic: loopback(quicPort) }, `--listen-quic 127.0.0.1:${quicPort}`],
    ] as const
  ) {
    await assertRejects(
      () => net.server(config),
      UsageError,
      `cannot listen on ${expected}: `,
    );
  }
});

test("runServer() serves a client whose agent comes within agentWaitMs", async (net) => {
  const server = await net.server();
  const target = net.greeter();
  const asking = ask(net, server, requestFor(target.authority));
  net.agent(server);
  assertEquals(await asking, `${OK}here`);
});

async function clientsAccepted(lines: readonly string[], count: number): Promise<void> {
  await eventually(
    `${count} clients are accepted`,
    () => lines.filter((line) => line.includes("accepted tcp connection")).length === count,
  );
}

test("runServer() stops while a client waits for an agent", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ agentWaitMs: 15_000 });
  const client = await net.client(server);
  await clientsAccepted(lines, 1);
  await server.stop();
  assertEquals(await readUntilOver(client), "");
});

test("runServer() allows agents no streams of their own", async (net) => {
  const server = await net.server();
  const address = { hostname: "127.0.0.1", port: server.quicPort };
  await using endpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  const options = { tls: clientTls, alpn: OWN };
  const agent = await endpoint.connect(address, "quic-tunnel-server", options);
  assertThrows(() => agent.openStream(), StreamOpenError);
});

/** An agent that takes one stream at a time and does nothing about it. */
async function narrowAgent(server: Server) {
  const endpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  const connection = await endpoint.connect(
    { hostname: "127.0.0.1", port: server.quicPort },
    "quic-tunnel-server",
    { tls: clientTls, alpn: ALPN, maxStreams: 1 },
  );
  return { connection, [Symbol.asyncDispose]: () => endpoint.close() };
}

test("runServer() has a client wait until its agent has room for a stream", async (net) => {
  using lines = logLines(2);
  const server = await net.server();
  await using agent = await narrowAgent(server);
  const first = await net.client(server), second = await net.client(server);
  await clientsAccepted(lines, 2);
  await sendText(second, "second");
  await sendText(first, "first");
  for (const client of [first, second]) {
    const stream = await agent.connection.acceptStream();
    await sendText(stream, "answer");
    await stream.closeWrite();
    stream.stop(0);
    assertEquals(await soon("the answer", readText(client)), "answer");
    client.abort();
  }
});

test("runServer() has an agent that joins serve a client that waits for a full one", async (net) => {
  using lines = logLines(2);
  const server = await net.server();
  await using _full = await narrowAgent(server);
  await net.client(server);
  await clientsAccepted(lines, 1);
  const waiting = ask(net, server, "?");
  await clientsAccepted(lines, 2);
  net.passthrough(server, net.greeter().port);
  assertEquals(await soon("its answer", waiting), "here");
});

test("runServer() closes a client when its agent has no room for openTimeoutMs", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ openTimeoutMs: 50 });
  await using _agent = await narrowAgent(server);
  const served = await net.client(server);
  await clientsAccepted(lines, 1);
  const refused = await net.client(server);
  assertEquals(await soon("the client's end", readUntilOver(refused)), "");
  assertMatch(
    await lineWith(lines, ' WRN server "client refused" '),
    / by=server reason=no-agent error="no agent has a free stream within 50 ms"$/,
  );
  // The one that has the stream goes on.
  await sendText(served, "still here");
  assertEquals(linesWith(lines, '"client refused"').length, 1);
});

test("runServer() stops while a client waits for room at its agent", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ agentWaitMs: 15_000, openTimeoutMs: 15_000 });
  await using _agent = await narrowAgent(server);
  const clients = [await net.client(server), await net.client(server)];
  await clientsAccepted(lines, 2);
  await server.stop();
  for (const client of clients) assertEquals(await readUntilOver(client), "");
});

test("runServer() spreads clients over agents in turn, and over those that are left", async (net) => {
  const server = await net.server();
  const upstreams = ["A", "B"].map((name) =>
    net.servingTarget(async (connection) => {
      await assertReads(connection, "?");
      await sendText(connection, name);
    })
  );
  const [agentA] = upstreams.map(({ port }) => net.passthrough(server, port));
  const names = async (count: number) => {
    let names = "";
    while (names.length < count) names += await ask(net, server, "?");
    return names;
  };
  await eventually("both agents are connected", async () => new Set(await names(4)).size === 2);
  assertMatch(await names(6), /^(?:ABABAB|BABABA)$/);
  await agentA!.stop();
  await eventually("the server has noticed", async () => await names(2) === "BB");
  assertEquals(await names(3), "BBB");
});

test("runServer() waits for an agent anew when all have gone", async (net) => {
  using lines = logLines(0);
  const server = await net.server();
  const target = net.greeter();
  const first = net.agent(server);
  assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
  await first.stop();
  await lineWith(lines, '"agent disconnected"');
  const asking = ask(net, server, requestFor(target.authority));
  net.agent(server);
  assertEquals(await asking, `${OK}here`);
});

test("runServer() is not held up by clients that leave before they are accepted", async (net) => {
  using lines = logLines(2);
  const server = await net.serverWithAgent();
  const target = net.greeter();
  assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
  const script = new URL("../support/reset_clients.ts", import.meta.url);
  // Nothing is accepted meanwhile: this thread waits.
  const { success } = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--allow-net=127.0.0.1", script.href, `${server.tcpPort}`, "100"],
  }).outputSync();
  assert(success);
  assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
  await eventually(
    "all who left were counted",
    () =>
      lines.filter((line) => line.includes("disconnected before it was accepted")).length === 100,
  );
  assertEquals(lines.filter((line) => line.includes(" ERR ")), []);
}, ["qrht/1"]);

test("runServer() logs ten failed handshakes a second, and how many there were", async (net) => {
  using lines = logLines(0);
  const server = await net.server();
  await using stranger = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  const peer = { hostname: "127.0.0.1", port: server.quicPort };
  const options = { tls: clientTls, alpn: ["nobody speaks this"] };
  const fail = () => assertRejects(() => stranger.connect(peer, "quic-tunnel-server", options));
  const startedAt = performance.now();
  const attempts = 40;
  for (let i = 0; i < attempts; i += 10) await Promise.all(Array.from({ length: 10 }, fail));
  const refused = () => lines.filter((line) => line.includes('WRN server "agent refused" '));
  const seconds = (performance.now() - startedAt) / 1_000;
  assert(refused().length <= 1 + 10 * seconds, `${refused().length} lines in ${seconds} s`);
  // The next line, some time later, tells of those that had none.
  let more = 0;
  const total = await eventually("the sum is told", async () => {
    await fail();
    more++;
    const times = refused().map((line) => Number(/ times=(\d+)$/.exec(line)?.[1] ?? 1));
    const sum = times.reduce((a, b) => a + b);
    return sum === attempts + more && sum;
  });
  assert(refused().length < total);
}, ["qrht/1"]);
