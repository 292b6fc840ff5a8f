// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What proxy-server does when there is more of something than it takes. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { eventually } from "../support/eventually.ts";
import {
  ask,
  assertReads,
  linesWith,
  lineWith,
  logLines,
  loopback,
  type Network,
  OK,
  readUntilOver,
  requestFor,
  sendText,
  type Server,
  soon,
  test,
} from "../support/network.ts";
import { QuicEndpoint } from "../../lib/quic/mod.ts";
import { clientTls } from "../support/quic.ts";

const FIRST_ONLY = ["qrht/1"];

/** A tunnel to a target that says what it is told. */
async function openEcho(net: Network, server: Server) {
  const target = net.servingTarget(async (connection) => {
    const buffer = new Uint8Array(100);
    for (let n; (n = await connection.read(buffer)) !== null;) {
      await connection.write(buffer.subarray(0, n));
    }
  });
  const client = await net.client(server);
  await sendText(client, requestFor(target.authority));
  await assertReads(client, OK);
  return client;
}

test("runServer() closes a client at once when maxConnections are served", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ maxConnections: 2 });
  net.agent(server);
  const first = await openEcho(net, server);
  await openEcho(net, server);
  for (let i = 0; i < 3; i++) {
    assertEquals(await soon("its end", readUntilOver(await net.client(server))), "");
  }
  // The first of them is told at once; the others wait for the next line.
  const [line] = linesWith(lines, "clients refused");
  assertMatch(
    line!,
    /WRN server "clients refused" client=127\S+ error="2 clients are already connected" times=1/,
  );
  await sendText(first, "still here");
  await assertReads(first, "still here");
  first.abort();
  const target = net.greeter();
  await eventually(
    "there is room again",
    async () =>
      await ask(net, server, requestFor(target.authority)).catch(() => "") === `${OK}here`,
  );
});

test("runServer() sends an agent away when maxAgents are connected, until one leaves", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ maxAgents: 1 });
  const upstreams = ["A", "B"].map((name) =>
    net.servingTarget((connection) => sendText(connection, name))
  );
  const first = net.passthrough(server, upstreams[0]!.port);
  assertEquals(await ask(net, server, "?"), "A");
  net.passthrough(server, upstreams[1]!.port);
  await lineWith(lines, "agent refused");
  assertMatch(
    linesWith(lines, "agent refused")[0]!,
    /WRN server "agent refused" agent=agent-1 .*reason="1 agents are already connected"/,
  );
  await eventually(
    "it says why",
    () =>
      lines.some((line) => /cannot connect.*code 103 \(1 agents are already connected/.test(line)),
  );
  assertEquals(await ask(net, server, "?"), "A");
  await first.stop();
  await eventually("the other is taken", async () => await ask(net, server, "?") === "B");
});

test("runServer() refuses a client at once when maxPending wait for an agent", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ maxPending: 2 });
  const target = net.greeter();
  const waiting = [1, 2].map(() => ask(net, server, requestFor(target.authority)));
  await eventually("both wait", () => linesWith(lines, "accepted tcp connection").length === 2);
  assertEquals(await soon("its end", readUntilOver(await net.client(server))), "");
  assertMatch(
    linesWith(lines, "client refused")[0]!,
    /error="no agent is connected, and 2 clients are already waiting"/,
  );
  net.agent(server);
  assertEquals(await Promise.all(waiting), [`${OK}here`, `${OK}here`]);
});

test("runServer() leaves a log that is bounded when clients are refused in masses", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ maxConnections: 1 });
  net.agent(server);
  await openEcho(net, server);
  const since = performance.now();
  for (let i = 0; i < 200; i++) {
    const client = await net.client(server);
    assertEquals(await soon("its end", readUntilOver(client)), "");
    client.abort();
  }
  const seconds = (performance.now() - since) / 1_000;
  assert(linesWith(lines, "clients refused").length <= seconds + 1);
}, FIRST_ONLY);

/** Warnings with a message, the events that they count, and lines with it of any level. */
function counted(lines: readonly string[], message: string) {
  const warnings = linesWith(lines, " WRN ", message);
  const times = warnings.map((line) => Number(/ times=(\d+)/.exec(line)?.[1] ?? 1));
  return {
    warnings: warnings.length,
    events: times.reduce((sum, n) => sum + n, 0),
    lines: linesWith(lines, message).length,
  };
}

test(
  "runServer() warns of ten clients a second that no agent takes, and of how many there were",
  async (net) => {
    using lines = logLines(2);
    const server = await net.server({ agentWaitMs: 0 });
    const since = performance.now();
    let clients = 0;
    const leave = async () => {
      clients++;
      assertEquals(await soon("its end", readUntilOver(await net.client(server))), "");
    };
    for (let i = 0; i < 60; i++) await leave();
    const { warnings } = counted(lines, '"client refused"');
    const seconds = Math.ceil((performance.now() - since) / 1_000);
    assert(warnings >= 1 && warnings <= 10 * (seconds + 1) && warnings < clients, `${warnings}`);
    await eventually("the others are counted", async () => {
      await leave();
      const { events, lines: all } = counted(lines, '"client refused"');
      return events === clients && all === clients;
    });
  },
  FIRST_ONLY,
);

test(
  "runServer() warns of ten agents a second that it does not admit, and of how many there were",
  async (net) => {
    using lines = logLines(2);
    const server = await net.server({ agentNames: ["nobody.example"] });
    await using endpoint = new QuicEndpoint(loopback(0));
    const options = { tls: clientTls, alpn: FIRST_ONLY };
    let agents = 0;
    const knock = async () => {
      agents++;
      const address = loopback(server.quicPort);
      const connected = endpoint.connect(address, "quic-tunnel-server", options);
      // It learns of the refusal before it is connected, or after that.
      await soon("its end", connected.then(({ closed }) => closed, () => {}));
    };
    const since = performance.now();
    for (let i = 0; i < 40; i++) await knock();
    const { warnings } = counted(lines, '"agent refused"');
    const seconds = Math.ceil((performance.now() - since) / 1_000);
    assert(warnings >= 1 && warnings <= 10 * (seconds + 1) && warnings < agents, `${warnings}`);
    await eventually("the others are counted", async () => {
      await knock();
      return counted(lines, '"agent refused"').events === agents;
    });
  },
  FIRST_ONLY,
);
