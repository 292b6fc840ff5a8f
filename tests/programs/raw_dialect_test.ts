// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The dialect of the Go programs: peers that know no other find not one byte that differs. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { RAW_ALPN } from "../../lib/qrht/dialect.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { ConnectionClosedError, StreamResetError, StreamStoppedError } from "../../lib/quic/mod.ts";
import { eventually } from "../support/eventually.ts";
import { readExactly, readToEnd } from "../support/memory_duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import {
  assertReads,
  logLines,
  NOBODY,
  OK,
  readText,
  readUntilOver,
  requestFor,
  sendText,
  soon,
} from "../support/network.ts";
import {
  hex,
  linesWith,
  type ScriptedNetwork,
  type ScriptedPeer,
  scriptedTest as test,
} from "../support/scripted_peer.ts";

const raw = { alpn: [RAW_ALPN] };

/** Whether a unidirectional stream has come; to be asked when it would have. */
function watchUniStreams(peer: ScriptedPeer): { readonly came: boolean } {
  const seen = { came: false };
  peer.connection.acceptUniStream().then(() => seen.came = true, (error) => {
    assert(error instanceof ConnectionClosedError);
  });
  return seen;
}

/** Opens more unidirectional streams than there is credit for at a time, with more in each than a window holds. */
async function assertUniStreamsAreIgnored(peer: ScriptedPeer): Promise<void> {
  for (let i = 0; i < 10; i++) {
    const stream = await eventually("there is credit", () => peer.connection.openUniStream());
    await writeAll(stream, new Uint8Array(100_000).fill(i));
    await stream.finish(Uint8Array.of(i));
  }
  assertEquals(peer.connection.closeInfo, undefined);
}

// ---- The server, and an agent of the raw dialect ----

async function serverAndAgent(net: ScriptedNetwork) {
  const server = await net.server();
  const agent = await net.scriptedAgent(server, raw);
  assertEquals(agent.connection.alpn, RAW_ALPN);
  return { server, agent };
}

test("runServer() shows a raw agent no stream before the client's first byte", async (net) => {
  using lines = logLines(4);
  const { server, agent } = await serverAndAgent(net);
  const silent = await net.client(server);
  await eventually("it has a stream", () => linesWith(lines, '"stream opened"').length === 1);
  const speaks = await net.client(server);
  await sendText(speaks, "2");
  const second = await agent.stream();
  assertEquals(second.id, 5);
  await assertReads(second, "2");
  await sendText(silent, "1");
  const first = await agent.stream();
  assertEquals(first.id, 1);
  await assertReads(first, "1");
});

for (const [up, down] of [[0, 0], [1, 0], [0, 1], [5, 7], [5_000, 300_000], [700_000, 5_000]]) {
  test(`runServer() carries ${up} bytes to a raw agent and ${down} back, and nothing else`, async (net) => {
    const { server, agent } = await serverAndAgent(net);
    const seen = watchUniStreams(agent);
    const client = await net.client(server);
    const [request, answer] = [pattern(up!, 1), pattern(down!, 2)];
    const sending = writeAll(client, request).then(() => client.closeWrite());
    const stream = await agent.stream();
    assertSameBytes(await soon("the client's bytes", readToEnd(stream)), request);
    await sending;
    const receiving = readToEnd(client);
    await writeAll(stream, answer);
    await stream.closeWrite();
    assertSameBytes(await soon("the agent's bytes", receiving), answer);
    assertEquals(seen.came, false);
  });
}

test("runServer() carries on what a raw agent sends after the client's end, and before", async (net) => {
  const { server, agent } = await serverAndAgent(net);
  const client = await net.client(server);
  await sendText(client, "request");
  const stream = await agent.stream();
  await assertReads(stream, "request");
  await sendText(stream, "early");
  await assertReads(client, "early");
  await client.closeWrite();
  assertEquals(await soon("FIN", stream.read(new Uint8Array(1))), null);
  await sendText(stream, "late");
  await assertReads(client, "late");
  await stream.closeWrite();
  assertEquals(await readText(client), "");

  // The agent ends first.
  const other = await net.client(server);
  await sendText(other, "request");
  const answered = await agent.stream();
  await answered.closeWrite();
  assertEquals(await readText(other), "");
  await sendText(other, " and more");
  await other.closeWrite();
  assertEquals(await readText(answered), "request and more");
});

test("runServer() opens no unidirectional stream to a raw agent, and ignores those it opens", async (net) => {
  const { server, agent } = await serverAndAgent(net);
  const seen = watchUniStreams(agent);
  await assertUniStreamsAreIgnored(agent);
  const client = await net.client(server);
  await sendText(client, "hello");
  const stream = await agent.stream();
  await assertReads(stream, "hello");
  await sendText(stream, "answer");
  await assertReads(client, "answer");
  assertEquals(seen.came, false);
});

test("runServer() closes the client when a raw agent resets its stream", async (net) => {
  const { server, agent } = await serverAndAgent(net);
  for (const how of ["reset", "abort"] as const) {
    for (const code of [0, 1, 77]) {
      const client = await net.client(server);
      await sendText(client, "hello");
      const stream = await agent.stream();
      await sendText(stream, "half an ");
      await assertReads(client, "half an ");
      stream[how](code);
      assertEquals(await soon("the client's end", readUntilOver(client)), "");
      stream.abort();
    }
  }
  assertEquals(agent.connection.closeInfo, undefined);
});

test("runServer() resets the stream of a raw agent when nobody reads it any more", async (net) => {
  const { server, agent } = await serverAndAgent(net);
  const client = await net.client(server);
  await sendText(client, "hello");
  const stream = await agent.stream();
  await assertReads(stream, "hello");
  client.abort();
  const error = await eventually(
    "its writes fail",
    () => sendText(stream, "is anybody there?").then(() => undefined, (error) => error),
  );
  assert(error instanceof StreamStoppedError, String(error));
});

test("runServer() takes the leaving of a raw agent with code 100 for what it is", async (net) => {
  using lines = logLines(2);
  const { server, agent } = await serverAndAgent(net);
  const client = await net.client(server);
  await sendText(client, "hello");
  await agent.stream();
  // What the Go programs say.
  agent.connection.close(100, "bye");
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  await eventually("it is logged", () =>
    linesWith(
      lines,
      ' INF server "agent disconnected" agent=agent-1 ',
      'reason="connection closed by the peer: code 100 (bye)" agents=0',
    ).length === 1);
  assertEquals(lines.filter((line) => / (?:WRN|ERR) /.test(line)), []);
  const next = await net.scriptedAgent(server, raw);
  const again = await net.client(server);
  await sendText(again, "again");
  await assertReads(await next.stream(), "again");
});

test("runServer() does not try another agent for what a raw one has reset", async (net) => {
  const { server, agent } = await serverAndAgent(net);
  const other = await net.scriptedAgent(server, raw);
  const streams = other.serve(() => Promise.resolve());
  const client = await net.client(server);
  await sendText(client, "hello");
  (await agent.stream()).abort(1);
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  assertEquals(streams.length, 0);
});

// ---- The agent, and a server of the raw dialect ----

async function agentAtServer(net: ScriptedNetwork, config = {}) {
  const server = net.scriptedServer(raw);
  const program = net.agentOf(server, config);
  const agent = await server.accept();
  assertEquals(agent.connection.alpn, RAW_ALPN);
  return { program, agent };
}

for (const length of [0, 1, 5_000, 400_000]) {
  test(`runAgent() answers a raw CONNECT with 200 and the target's ${length} bytes, and nothing else`, async (net) => {
    const { agent } = await agentAtServer(net);
    const seen = watchUniStreams(agent);
    const bytes = pattern(length);
    const target = net.servingTarget(async (connection) => {
      await writeAll(connection, bytes);
      await connection.closeWrite();
      assertEquals(await readText(connection), "from the client");
    });
    const stream = agent.open();
    await sendText(stream, requestFor(target.authority));
    assertEquals(
      hex(await soon("the head", readExactly(stream, OK.length))),
      "485454502f312e3120323030204f4b0d0a0d0a",
    );
    assertSameBytes(await soon("the target's bytes", readToEnd(stream)), bytes);
    await sendText(stream, "from the client");
    await stream.closeWrite();
    assertEquals(seen.came, false);
  });
}

test("runAgent() hands on what comes with a raw CONNECT, and the end", async (net) => {
  const { agent } = await agentAtServer(net);
  const target = net.target();
  const stream = agent.open();
  await sendText(stream, `${requestFor(target.authority)}\x00\x01\x02\x03early`);
  await stream.closeWrite();
  const atTarget = await target.accept();
  assertEquals(await soon("the client's bytes", readText(atTarget)), "\x00\x01\x02\x03early");
  await sendText(atTarget, "answer");
  await atTarget.closeWrite();
  assertEquals(await soon("the answer", readText(stream)), `${OK}answer`);
});

/** An answer other than 200, as documented. */
const refusal = (status: string, details: string, error: string, more: string[] = []) =>
  [
    `HTTP/1.1 ${status}`,
    ...more,
    `Proxy-Status: quic-tunnel-agent; ${error}details="${details}"`,
    "Content-Length: 0",
    "Connection: close",
    "",
    "",
  ].join("\r\n");

test("runAgent() refuses a raw request with the documented answer, and the end", async (net) => {
  const { agent } = await agentAtServer(net, { headTimeoutMs: 300 });
  const nobody = `${NOBODY}: connection refused`;
  const noPort = 'bad address "no-port": no port';
  const cut = "the request ends within its head";
  const late = "request head not complete in 300 ms";
  const cases: [request: string, answer: string, ends: boolean][] = [
    [requestFor(NOBODY), refusal(`502 ${nobody}`, nobody, "error=connection_refused; "), false],
    [
      "CONNECT no-port HTTP/1.1\r\n\r\n",
      refusal(
        `400 ${noPort}`,
        noPort.replaceAll('"', '\\"'),
        "error=http_request_error; ",
      ),
      false,
    ],
    [`CONNECT ${NOBODY}`, refusal(`400 ${cut}`, cut, ""), true],
    [`CONNECT ${NOBODY}`, refusal(`408 ${late}`, late, ""), false],
  ];
  for (const [request, answer, ends] of cases) {
    const stream = agent.open();
    await sendText(stream, request);
    if (ends) await stream.closeWrite();
    assertEquals(await soon("the answer", readText(stream)), answer);
  }
  // A client that leaves without a word is told nothing.
  const silent = agent.open();
  await silent.closeWrite();
  assertEquals(await soon("the end", readText(silent)), "");
  assertEquals(agent.connection.closeInfo, undefined);
});

test("runAgent() ignores the unidirectional streams of a raw server", async (net) => {
  const { agent } = await agentAtServer(net);
  await assertUniStreamsAreIgnored(agent);
  const target = net.servingTarget((connection) => sendText(connection, "here"));
  const stream = agent.open();
  await sendText(stream, requestFor(target.authority));
  assertEquals(await soon("the answer", readText(stream)), `${OK}here`);
});

test("runAgent() leaves a raw server with code 100", async (net) => {
  const { program, agent } = await agentAtServer(net);
  const target = net.target();
  const stream = agent.open();
  await sendText(stream, requestFor(target.authority));
  await assertReads(stream, OK);
  await program.stop();
  const { by, application, code } = await agent.closed();
  assertEquals([by, application, code], ["peer", true, 100]);
});

test("runAgent() serves raw streams also while it drains, since their clients can go nowhere else", async (net) => {
  using lines = logLines(0);
  const { program, agent } = await agentAtServer(net, { drainTimeoutMs: 20_000 });
  const seen = watchUniStreams(agent);
  const target = net.target();
  const connect = async () => {
    const stream = agent.open();
    await sendText(stream, requestFor(target.authority));
    await soon("the answer", assertReads(stream, OK));
    return { stream, atTarget: await target.accept() };
  };
  const finish = async ({ stream, atTarget }: Awaited<ReturnType<typeof connect>>) => {
    await sendText(stream, "still here");
    await stream.closeWrite();
    assertEquals(await soon("the client's end", readText(atTarget)), "still here");
    await sendText(atTarget, "the last");
    await atTarget.closeWrite();
    assertEquals(await soon("the target's end", readText(stream)), "the last");
  };
  const early = await connect();
  program.abort();
  await eventually("it drains", () => linesWith(lines, '"draining"', " tunnels=1").length === 1);
  const late = await connect();
  await finish(early);
  assertEquals(agent.connection.closeInfo, undefined);
  await finish(late);
  assertEquals((await agent.closed()).code, 100);
  assertEquals(seen.came, false);
  await soon("the program's end", program.done);
});

test("the agents offer qrht/1 first, and a server that knows the raw dialect only gets that", async (net) => {
  const ways: [alpn: string[], spoken: string][] = [
    [[RAW_ALPN], RAW_ALPN],
    [["qrht/1"], "qrht/1"],
    // The agent's order counts, not the server's.
    [[RAW_ALPN, "qrht/1"], "qrht/1"],
    [["qrht/1", RAW_ALPN], "qrht/1"],
    [["another", RAW_ALPN], RAW_ALPN],
  ];
  for (const [alpn, spoken] of ways) {
    const server = net.scriptedServer({ alpn });
    const programs = [net.agentOf(server), net.passthroughOf(server, 1)];
    for (const _ of programs) assertEquals((await server.accept()).connection.alpn, spoken);
    for (const program of programs) await program.stop();
  }
});

// ---- The passthrough agent, and a server of the raw dialect ----

async function passthroughAtServer(net: ScriptedNetwork, upstreamPort: number, config = {}) {
  const server = net.scriptedServer(raw);
  const program = net.passthroughOf(server, upstreamPort, config);
  const agent = await server.accept();
  assertEquals(agent.connection.alpn, RAW_ALPN);
  return { program, agent };
}

for (const [up, down] of [[1, 0], [1, 1], [5_000, 300_000], [700_000, 5_000]]) {
  test(`runPassthrough() carries ${up} raw bytes to the upstream and ${down} back, and nothing else`, async (net) => {
    const upstream = net.target();
    const { agent } = await passthroughAtServer(net, upstream.port);
    const seen = watchUniStreams(agent);
    const [request, answer] = [pattern(up!, 1), pattern(down!, 2)];
    const stream = agent.open();
    const sending = writeAll(stream, request).then(() => stream.closeWrite());
    const atUpstream = await upstream.accept();
    assertSameBytes(await soon("the client's bytes", readToEnd(atUpstream)), request);
    await sending;
    const receiving = readToEnd(stream);
    await writeAll(atUpstream, answer);
    await atUpstream.closeWrite();
    assertSameBytes(await soon("the upstream's bytes", receiving), answer);
    assertEquals(seen.came, false);
  });
}

test("runPassthrough() lets either end of a raw stream go on alone", async (net) => {
  const upstream = net.target();
  const { agent } = await passthroughAtServer(net, upstream.port);
  const stream = agent.open();
  await sendText(stream, "first");
  const atUpstream = await upstream.accept();
  await atUpstream.closeWrite();
  assertEquals(await soon("the upstream's end", readText(stream)), "");
  await sendText(stream, ", last");
  await stream.closeWrite();
  assertEquals(await soon("the client's end", readText(atUpstream)), "first, last");

  const other = agent.open();
  await other.closeWrite();
  const atOther = await upstream.accept();
  assertEquals(await soon("the client's end", readText(atOther)), "");
  for (const message of ["late", "later"]) {
    await sendText(atOther, message);
    await assertReads(other, message);
  }
  await atOther.closeWrite();
  assertEquals(await soon("the upstream's end", readText(other)), "");
});

test("runPassthrough() resets a raw stream with code 1 when it cannot reach the upstream", async (net) => {
  using lines = logLines(0);
  const { agent, program } = await passthroughAtServer(net, 1);
  for (let i = 0; i < 3; i++) {
    const stream = agent.open();
    await sendText(stream, "hello");
    const error = await soon("its end", readToEnd(stream).catch((error) => error));
    assert(error instanceof StreamResetError, String(error));
    assertEquals(error.code, 1);
    const stopped = await eventually(
      "it is stopped",
      () => sendText(stream, "more").then(() => undefined, (error) => error),
    );
    assert(stopped instanceof StreamStoppedError, String(stopped));
    assertEquals(stopped.code, 1);
  }
  const [line] = linesWith(lines, ' WRN passthrough "cannot reach the upstream" ');
  assertMatch(
    line!,
    / stream=1 cid=[0-9a-f]{16} by=target reason=refused result=refused error="127\.0\.0\.1:1: connection refused"$/,
  );
  await program.stop();
  assertEquals((await agent.closed()).code, 100);
});

for (
  const [proxyProtocol, header] of [
    ["v1", "50524f585920554e4b4e4f574e0d0a"],
    ["v2", "0d0a0d0a000d0a515549540a21000000"],
  ] as const
) {
  test(`runPassthrough() says by PROXY ${proxyProtocol} that it does not know a raw client`, async (net) => {
    const upstream = net.target();
    const { agent } = await passthroughAtServer(net, upstream.port, { proxyProtocol });
    const stream = agent.open();
    await sendText(stream, "hello");
    await stream.closeWrite();
    const atUpstream = await upstream.accept();
    const read = hex(await soon("header and bytes", readToEnd(atUpstream)));
    assertEquals(read, `${header}68656c6c6f`);
    await sendText(atUpstream, "answer");
    await atUpstream.closeWrite();
    assertEquals(await soon("the answer", readText(stream)), "answer");
  });
}
