// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The dialect of the Go programs: peers that know no other find not one byte that differs. What tunnels do in either
 * dialect is in the tests that run in all combinations of them, such as endings_test.ts.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { RAW_ALPN } from "../../lib/qrht/dialect.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { ConnectionClosedError, StreamResetError, StreamStoppedError } from "../../lib/quic/mod.ts";
import { eventually } from "../support/eventually.ts";
import { readExactly, readToEnd } from "../support/memory_duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import {
  assertReads,
  linesWith,
  lineWith,
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
  type ScriptedNetwork,
  type ScriptedPeer,
  scriptedTest as test,
} from "../support/scripted_peer.ts";

const raw = { alpn: [RAW_ALPN] };

const serverAndAgent = (net: ScriptedNetwork) => net.serverAndAgent({}, raw);
const agentAtServer = (net: ScriptedNetwork, config = {}) => net.agentAtServer(config, raw);
const passthroughAtServer = (net: ScriptedNetwork, upstreamPort: number, config = {}) =>
  net.passthroughAtServer(upstreamPort, config, raw);

/** Whether a unidirectional stream has come; to be asked when it would have. */
function watchUniStreams(peer: ScriptedPeer): { readonly came: boolean } {
  const seen = { came: false };
  peer.connection.acceptUniStream().then(() => seen.came = true, (error) => {
    assert(error instanceof ConnectionClosedError);
  });
  return seen;
}

test("runServer() shows a raw agent no stream before the client's first byte", async (net) => {
  using lines = logLines(4);
  const { server, agent } = await serverAndAgent(net);
  const silent = await net.client(server);
  await lineWith(lines, '"stream opened"');
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

/** Who begins a tunnel, and, once that has begun to send, who is at its other end. */
interface Ends {
  readonly peer: ScriptedPeer;
  readonly first: Duplex;
  readonly second: () => Promise<Duplex>;
}

const programs: Readonly<Record<string, (net: ScriptedNetwork) => Promise<Ends>>> = {
  async runServer(net) {
    const { server, agent: peer } = await serverAndAgent(net);
    return { peer, first: await net.client(server), second: () => peer.stream() };
  },
  async runPassthrough(net) {
    const upstream = net.target();
    const { agent: peer } = await passthroughAtServer(net, upstream.port);
    return { peer, first: peer.open(), second: () => upstream.accept() };
  },
};

for (const [program, start] of Object.entries(programs)) {
  for (const [up, down] of [[0, 0], [1, 0], [0, 1], [5_000, 300_000], [700_000, 5_000]] as const) {
    test(`${program}() carries ${up} raw bytes on and ${down} back, and nothing else`, async (net) => {
      const { peer, first, second } = await start(net);
      const seen = watchUniStreams(peer);
      const [request, answer] = [pattern(up, 1), pattern(down, 2)];
      const sending = Promise.try(() => writeAll(first, request)).then(() => first.closeWrite());
      const far = await second();
      assertSameBytes(await soon("the request", readToEnd(far)), request);
      await sending;
      const receiving = readToEnd(first);
      await writeAll(far, answer);
      await far.closeWrite();
      assertSameBytes(await soon("the answer", receiving), answer);
      assertEquals(seen.came, false);
    });
  }

  test(`${program}() ignores the unidirectional streams of a raw peer`, async (net) => {
    const { peer, first, second } = await start(net);
    // More of them than there is credit for at a time, with more in each than a window holds.
    for (let i = 0; i < 10; i++) {
      const stream = await eventually("there is credit", () => peer.connection.openUniStream());
      await writeAll(stream, new Uint8Array(100_000).fill(i));
      await stream.finish(Uint8Array.of(i));
    }
    await sendText(first, "hello");
    await assertReads(await second(), "hello");
    assertEquals(peer.connection.closeInfo, undefined);
  });
}

test("runServer() takes the leaving of a raw agent with code 100 for what it is", async (net) => {
  using lines = logLines(2);
  const { server, agent } = await serverAndAgent(net);
  const client = await net.client(server);
  await sendText(client, "hello");
  await agent.stream();
  // What the Go programs say.
  agent.connection.close(100, "bye");
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  await lineWith(
    lines,
    ' INF server "agent disconnected" agent=agent-1 ',
    'reason="connection closed by the peer: code 100 (bye)" agents=0',
  );
  assertEquals(lines.filter((line) => / (?:WRN|ERR) /.test(line)), []);
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

for (const length of [0, 5_000, 400_000]) {
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
  await lineWith(lines, '"draining"', " tunnels=1");
  const late = await connect();
  await finish(early);
  assertEquals(agent.connection.closeInfo, undefined);
  await finish(late);
  const { by, application, code } = await agent.closed();
  assertEquals([by, application, code], ["peer", true, 100]);
  assertEquals(seen.came, false);
  await soon("the program's end", program.done);
});

test("runPassthrough() resets a raw stream with code 1 when it cannot reach the upstream", async (net) => {
  using lines = logLines(0);
  const { agent } = await passthroughAtServer(net, 1);
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

/** As the Go programs are seen: they grant more unidirectional streams than ends of this project. */
const go = { ...raw, maxUniStreams: 10_000 };

test("runAgent() and runServer() reset a tunnel that a Go program has ended and takes no more of, and no other", async (net) => {
  using lines = logLines(2);
  const target = net.target();
  const download = async ({ agent }: { agent: ScriptedPeer }) => {
    const stream = agent.open();
    await sendText(stream, requestFor(target.authority));
    await soon("the answer", assertReads(stream, OK));
    net.flood(await target.accept());
    return stream;
  };
  const upload = async ({ server, agent }: Awaited<ReturnType<typeof net.serverAndAgent>>) => {
    const client = await net.client(server);
    await sendText(client, "hello");
    const stream = await agent.stream();
    net.flood(client);
    return stream;
  };
  const goServer = await net.agentAtServer({}, go);
  const paused = await download(goServer);
  const others = [
    await download(await agentAtServer(net)),
    await upload(await serverAndAgent(net)),
  ];
  const abandoned = [
    await download(goServer),
    await upload(await net.serverAndAgent({}, go)),
  ];
  for (const stream of [...others, ...abandoned]) await stream.closeWrite();
  await lineWith(lines, ' DBG agent "tunnel ended" ', " by=client reason=half-open");
  await lineWith(lines, ' DBG server "tunnel ended" ', " by=target reason=half-open");
  for (const stream of abandoned) {
    await assertRejects(() => soon("the reset", readToEnd(stream)), StreamResetError);
  }
  for (const stream of [paused, ...others]) {
    assertEquals(await soon("bytes", stream.read(new Uint8Array(1))), 1);
  }
  assertEquals(linesWith(lines, '"tunnel ended"').length, 2);
});

test("runAgent() ends what it cannot answer because the server's flow control is used up", async (net) => {
  using lines = logLines(2);
  const { agent } = await net.agentAtServer({}, { ...go, streamWindowBytes: 4 });
  const target = net.target();
  const connected = agent.open();
  await sendText(connected, requestFor(target.authority));
  const refused = agent.open();
  await sendText(refused, requestFor(NOBODY));
  const atTarget = await target.accept();
  const ended = [' DBG agent "tunnel refused" ', " by=server reason=write-timeout "];
  await eventually("the tunnel is ended", () => linesWith(lines, ...ended)[0], 15_000);
  await soon("the target's end", readUntilOver(atTarget));
  for (const stream of [connected, refused]) {
    await assertRejects(() => soon("the reset", readToEnd(stream)), StreamResetError);
  }
});
