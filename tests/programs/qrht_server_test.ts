// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the server does in `qrht/1` with agents that follow a script: good ones, and others. */

import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import { delay } from "@std/async/delay";
import { concat } from "@std/bytes/concat";
import { parseCidr } from "../../lib/net/cidr.ts";
import { QRHT_ALPN, RAW_ALPN } from "../../lib/qrht/dialect.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { ipBytes, socketAddress } from "../../lib/net/ip_address.ts";
import { formatProxyHeader } from "../../lib/tunnel/proxy_protocol.ts";
import {
  live,
  QuicEndpoint,
  type QuicStream,
  StreamResetError,
  StreamStoppedError,
} from "../../lib/quic/mod.ts";
import { type IncomingTunnel } from "../../lib/qrht/tunnel.ts";
import { type FailureCode, failureCodes } from "../../lib/tunnel/failure.ts";
import { eventually } from "../support/eventually.ts";
import { readExactly, readToEnd } from "../support/memory_duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import {
  assertReads,
  linesWith,
  lineWith,
  logLines,
  loopback,
  readText,
  readUntilOver,
  sendText,
  soon,
  utf8,
} from "../support/network.ts";
import { clientTls } from "../support/quic.ts";
import {
  block,
  elsewhere,
  exchange,
  frames,
  garbage,
  hex,
  type ScriptedNetwork,
  type ScriptedPeer,
  scriptedTest as test,
} from "../support/scripted_peer.ts";
import { ResettableTcp } from "../support/tcp_pair.ts";

// ---- What the server tells an agent ----

const addressOf = (addr: Deno.NetAddr) => socketAddress(addr.hostname, addr.port)!;

for (const hostname of ["127.0.0.1", "::1"]) {
  test(`runServer() tells an agent of a client at once, and who it is (${hostname})`, async (net) => {
    const { server, agent } = await net.serverAndAgent({ listenTcp: [{ hostname, port: 0 }] });
    const { client, from, to } = await net.clientWithAddresses(server, hostname);
    // The client has not sent a byte.
    const stream = await agent.stream();
    const address = (type: string, addr: Deno.NetAddr) => {
      const { ip, port } = addressOf(addr);
      return `${type}${hex(Uint8Array.of(ip.length + 2, ...ip, port >> 8, port & 255))}`;
    };
    const fields = address("00", from) + address("01", to);
    const expectedBytes = 1 + 16 + fields.length / 2;
    const open = hex(await soon("OPEN", readExactly(stream, 2 + expectedBytes)));
    assertEquals(open.slice(0, 6), `02${hex(Uint8Array.of(expectedBytes))}01`);
    assertEquals(open.slice(6 + 32), fields);
    // And nothing else, before the client has something to say.
    await sendText(client, "x");
    assertEquals(hex(await soon("DATA", readExactly(stream, 3))), "000178");
    await client.closeWrite();
    assertEquals(hex(await soon("END", readToEnd(stream))), "0100");
  });
}

test("runServer() tells the IPv4 address of a client of an IPv6 listener as one", async (net) => {
  const { server, agent } = await net.serverAndAgent({ listenTcp: [{ hostname: "::", port: 0 }] });
  const { from } = await net.clientWithAddresses(server);
  const { open } = await agent.tunnel();
  assertEquals(open.client, addressOf(from));
  assertEquals(open.listener, { ip: ipBytes("127.0.0.1")!, port: server.tcpPort });
});

test("runServer() gives each tunnel an id of its own, which its log has, too", async (net) => {
  using lines = logLines(2);
  const { server, agent } = await net.serverAndAgent();
  const ids = new Set<string>();
  for (let i = 0; i < 20; i++) {
    const { client, from } = await net.clientWithAddresses(server);
    const { open, stream } = await agent.tunnel();
    const id = hex(open.tunnelId!);
    ids.add(id);
    const logged = linesWith(lines, '"accepted tcp connection"', ` tunnel=${id} `);
    assertEquals(logged.length, 1);
    assertMatch(logged[0]!, new RegExp(` client=127\\.0\\.0\\.1:${from.port} front=tcp$`));
    client.abort();
    stream.abort();
  }
  assertEquals(ids.size, 20);
});

// ---- Results, and who is tried next ----

/** Reads what a tunnel's client sends, and answers with that. */
async function echo({ carrier, connected }: IncomingTunnel): Promise<void> {
  connected();
  const bytes = await readToEnd(carrier);
  await sendText(carrier, "echo:");
  await writeAll(carrier, bytes);
  await carrier.closeWrite();
}

test("a client gets what its agent has sent right before it left", async (net) => {
  const server = await net.server({ retryOn: [] });
  for (let i = 0; i < 10; i++) {
    const agent = await net.scriptedAgent(server);
    const client = await net.client(server);
    await sendText(client, "hello");
    await client.closeWrite();
    const { carrier, connected, stream } = await agent.tunnel();
    assertEquals(await soon("the client's bytes", readToEnd(carrier)), utf8.encode("hello"));
    connected();
    const bytes = pattern(5_000, i);
    await writeAll(carrier, bytes);
    await carrier.closeWrite();
    // The end of the connection arrives together with all that, while the server is busy.
    agent.connection.flush();
    agent.connection.close(100);
    agent.connection.flush();
    block(5);
    assertSameBytes(await soon("the agent's bytes", readToEnd(client)), bytes);
    stream.abort();
  }
});

/** A handler that refuses every tunnel, with an answer for the client. */
function refuse(code: FailureCode, answer = `answer of one that is ${code}`) {
  return (tunnel: IncomingTunnel) => tunnel.failed({ code, text: "scripted" }, utf8.encode(answer));
}

for (
  const [what, retryOn] of [
    ["draining and overloaded", undefined],
    ["nothing", []],
    ["what it is told", ["refused", "timeout", "internal-error"]],
    ["everything", failureCodes],
  ] as const
) {
  test(`runServer() has another agent tried when the first says ${what}`, async (net) => {
    const retried: readonly string[] = retryOn ?? ["draining", "overloaded"];
    for (const code of failureCodes) {
      const { server, agent: first } = await net.serverAndAgent({
        agentWaitMs: 0,
        ...(retryOn && { retryOn }),
      });
      const second = await net.scriptedAgent(server);
      const served = second.serve(echo);
      const client = await net.client(server);
      await sendText(client, "hello");
      await refuse(code)(await first.tunnel());
      await client.closeWrite();
      assertEquals(
        await soon("the client's end", readUntilOver(client)),
        retried.includes(code) ? "echo:hello" : `answer of one that is ${code}`,
      );
      assertEquals(served.length, retried.includes(code) ? 1 : 0);
    }
  });
}

test("runServer() makes each attempt with the same OPEN", async (net) => {
  using lines = logLines(2);
  const server = await net.server();
  const agents = [];
  for (let i = 0; i < 3; i++) agents.push(await net.scriptedAgent(server));
  const client = await net.client(server);
  await sendText(client, "hello");
  const opens: string[] = [];
  for (const agent of agents) {
    const stream = await agent.stream();
    opens.push(hex(await soon("OPEN and DATA", readExactly(stream, 2 + 33 + 2 + 5))));
    await writeAll(stream, frames.result("overloaded"));
  }
  assertEquals(opens, [opens[0], opens[0], opens[0]]);
  const tunnel = ` tunnel=${opens[0]!.slice(6, 38)} `;
  await eventually(
    "each is logged",
    () => linesWith(lines, ' DBG server "', tunnel, " code=overloaded").length === 3,
  );
});

test("runServer() takes a result that it does not know for internal-error", async (net) => {
  const { server, agent: first } = await net.serverAndAgent({ retryOn: ["internal-error"] });
  const second = await net.scriptedAgent(server);
  second.serve(echo);
  const asking = exchange(net, server, "hello");
  const stream = await first.stream();
  // Code 0x100, and a field of a later version.
  await writeAll(stream, Uint8Array.of(3, 7, 0x41, 0x00, 0, 5, 2, 0xab, 0xcd));
  assertEquals(await asking, "echo:hello");
});

/** A second agent gets everything that the client has sent before and after the first has failed, its end included. */
async function assertCarriedOn(
  net: ScriptedNetwork,
  fail: (agent: ScriptedPeer, stream: QuicStream) => Promise<void> | void,
  options: { secondAlpn?: string; withinMs?: number } = {},
): Promise<void> {
  const { server, agent: first } = await net.serverAndAgent({ agentWaitMs: 0 });
  const second = await net.scriptedAgent(server, { alpn: [options.secondAlpn ?? QRHT_ALPN] });
  second.serve(echo);
  const client = await net.client(server);
  await sendText(client, "before");
  const { open, stream, carrier } = await first.tunnel();
  assert(open.tunnelId);
  await assertReads(carrier, "before");
  const since = performance.now();
  await fail(first, stream);
  await sendText(client, ", after");
  await client.closeWrite();
  assertEquals(await readText(client), "echo:before, after");
  const tookMs = performance.now() - since;
  assertLess(tookMs, options.withinMs ?? 2_000, "until the client was served");
  client.abort();
}

const waysToFail: Readonly<
  Record<string, (agent: ScriptedPeer, stream: QuicStream) => Promise<void> | void>
> = {
  "closes its connection": (agent) => agent.connection.close(0, "scripted"),
  "leaves with code 100": (agent) => agent.connection.close(100, "agent stopped"),
  "resets the stream": (_, stream) => stream.reset(7),
  "aborts the stream": (_, stream) => stream.abort(7),
  "ends the stream without a RESULT": (_, stream) => stream.closeWrite(),
  "ends the stream and reads no more": async (_, stream) => {
    stream.stop(0);
    await stream.closeWrite();
  },
  "sends garbage": (_, stream) => writeAll(stream, garbage),
  "sends DATA before RESULT": (_, stream) => writeAll(stream, frames.data("HTTP/1.1 200 OK")),
  "ends the stream within RESULT": (_, stream) =>
    stream.finish(frames.result("connected").slice(0, 3)),
  "sends a RESULT that ends too early": (_, stream) =>
    writeAll(stream, Uint8Array.of(3, 3, 0, 2, 0x61)),
};

for (const [how, fail] of Object.entries(waysToFail)) {
  test(`runServer() carries a tunnel on elsewhere when its agent ${how}`, async (net) => {
    await assertCarriedOn(net, fail);
  });
}

test("runServer() carries a tunnel on elsewhere when its agent vanishes", async (net) => {
  // Idling, for 5 s, is all that tells.
  await assertCarriedOn(net, (agent) => agent.vanish(), { withinMs: 6_500 });
});

test("runServer() carries a tunnel on with an agent of the raw dialect", async (net) => {
  await assertCarriedOn(net, (_, stream) => writeAll(stream, frames.result("overloaded")), {
    secondAlpn: RAW_ALPN,
  });
});

test("runServer() tells the first agent that the tunnel goes on elsewhere", async (net) => {
  const { server, agent: first } = await net.serverAndAgent();
  const second = await net.scriptedAgent(server);
  const client = await net.client(server);
  const { stream } = await first.tunnel();
  await writeAll(stream, frames.result("overloaded"));
  const { connected, carrier } = await second.tunnel();
  connected();
  await sendText(carrier, "here");
  await assertReads(client, "here");
  const error = await soon("its end", readToEnd(stream).catch((error) => error));
  assert(error instanceof StreamResetError, String(error));
  assertEquals(error.code, 3);
  const stopped = await eventually(
    "it is stopped, too",
    () =>
      Promise.try(() => writeAll(stream, frames.data("x"))).then(() => undefined, (error) => error),
  );
  assert(stopped instanceof StreamStoppedError, String(stopped));
  assertEquals(stopped.code, 3);
});

test("runServer() leaves it at the first agent that is gone where it is told to", async (net) => {
  const { server, agent: first } = await net.serverAndAgent({ retryOn: ["overloaded"] });
  const second = await net.scriptedAgent(server);
  const served = second.serve(echo);
  const asking = exchange(net, server, "hello");
  (await first.stream()).abort();
  assertEquals(await asking, "");
  assertEquals(served.length, 0);
});

for (const waitsFor of ["a RESULT", "another agent", "another agent's RESULT"] as const) {
  test(`runServer() stops while a tunnel waits for ${waitsFor}`, async (net) => {
    using lines = logLines(2);
    const { server, agent: first } = await net.serverAndAgent({ agentWaitMs: 20_000 });
    const client = await net.client(server);
    await sendText(client, "hello");
    const { stream } = await first.tunnel();
    if (waitsFor !== "a RESULT") {
      first.connection.close(100, "agent stopped");
      await lineWith(lines, '"agent disconnected"');
    }
    if (waitsFor === "another agent's RESULT") {
      await (await net.scriptedAgent(server)).tunnel();
    }
    await server.stop();
    assertEquals(await soon("the client's end", readUntilOver(client)), "");
    await soon("the stream's end", readUntilOver(stream));
  });
}

test("runServer() gives up a tunnel whose client is reset while it waits for another agent", async (net) => {
  using lines = logLines(2);
  const { server, agent: first } = await net.serverAndAgent({ agentWaitMs: 20_000 });
  const client = net.own(await ResettableTcp.connect(server.tcpPort));
  await sendText(client, "hello");
  const { carrier } = await first.tunnel();
  await assertReads(carrier, "hello");
  first.connection.close(100, "agent stopped");
  await lineWith(lines, '"agent disconnected"');
  client.abort();
  await lineWith(lines, ' server "tunnel ended" ');
  // Who comes now may see a stream, but not for long.
  const second = await net.scriptedAgent(server);
  const served = second.serve(echo);
  assertEquals(await exchange(net, server, "next"), "echo:next");
  await eventually("no stream is left", () => live.streams === 0);
  assert(served.length <= 2);
});

test("runServer() ends a client when its only agent fails without an answer", async (net) => {
  const { server, agent: only } = await net.serverAndAgent({ agentWaitMs: 20 });
  for (const fail of Object.values(waysToFail).slice(2)) {
    const asking = exchange(net, server, "hello");
    await fail(only, await only.stream());
    assertEquals(await asking, "");
  }
  // Without an answer in it, a failure is an end as well.
  const asking = exchange(net, server, "hello");
  const stream = await only.stream();
  await writeAll(stream, frames.result("refused"));
  await stream.finish(frames.end);
  assertEquals(await asking, "");
});

test("runServer() hands on the answer of an agent that is overloaded at once when there is no other", async (net) => {
  const { server, agent } = await net.serverAndAgent({ agentWaitMs: 20_000 });
  agent.serve(refuse("overloaded"));
  // Sooner than an agent would be waited for.
  assertEquals(await exchange(net, server, "hello"), "answer of one that is overloaded");
});

test("runServer() hands on the last answer when the agents after it are gone", async (net) => {
  const server = await net.server({ agentWaitMs: 0, maxAttempts: 5 });
  const handlers = [
    refuse("overloaded", "first"),
    refuse("overloaded", "second"),
    (_: IncomingTunnel, stream: QuicStream) => stream.abort(),
    (_: IncomingTunnel, stream: QuicStream) => stream.closeWrite(),
  ];
  for (const handler of handlers) (await net.scriptedAgent(server)).serve(handler);
  assertEquals(await exchange(net, server, "hello"), "second");
});

for (const maxAttempts of [1, 2, 3, 5, 6]) {
  test(`runServer() makes at most ${maxAttempts} attempts with 5 agents that fail`, async (net) => {
    using lines = logLines(2);
    const server = await net.server({ agentWaitMs: 0, maxAttempts });
    const served = [];
    for (let i = 0; i < 5; i++) {
      const agent = await net.scriptedAgent(server);
      served.push(agent.serve(refuse("overloaded", `agent ${i + 1}`)));
    }
    const attempts = Math.min(5, maxAttempts);
    assertEquals(await exchange(net, server, "hello"), `agent ${attempts}`);
    assertEquals(served.map(({ length }) => length), [1, 1, 1, 1, 1].fill(0, attempts));
    const ended = await lineWith(lines, ' DBG server "tunnel ended"');
    assertEquals(/ attempts=(\d+)/.exec(ended!)?.[1], attempts > 1 ? `${attempts}` : undefined);
  });
}

// ---- What is kept for another attempt ----

for (const [length, isRepeated] of [[64 << 10, true], [200_000, false]] as const) {
  const attempts = isRepeated ? "another attempt" : "no other attempt";
  test(`runServer() makes ${attempts} when the client has sent ${length} bytes`, async (net) => {
    const { server, agent: first } = await net.serverAndAgent({ agentWaitMs: 0 });
    const second = await net.scriptedAgent(server);
    const served = second.serve(echo);
    const client = await net.client(server);
    const bytes = pattern(length);
    const sending = Promise.try(() => writeAll(client, bytes)).then(() => client.closeWrite());
    const tunnel = await first.tunnel();
    assertSameBytes(await readToEnd(tunnel.carrier), bytes);
    await sending;
    await refuse("overloaded", "too much to carry on")(tunnel);
    const answer = await readToEnd(client);
    const echoed = concat([utf8.encode("echo:"), bytes]);
    assertSameBytes(answer, isRepeated ? echoed : utf8.encode("too much to carry on"));
    assertEquals(served.length, isRepeated ? 1 : 0);
  });
}

test("runServer() loses nothing of a large upload that begins before RESULT", async (net) => {
  const { server, agent } = await net.serverAndAgent();
  const client = await net.client(server);
  const bytes = pattern(3_000_000);
  const sending = Promise.try(() => writeAll(client, bytes)).then(() => client.closeWrite());
  const { carrier, connected } = await agent.tunnel();
  const start = await readExactly(carrier, 150_000);
  connected();
  const answering = Promise.try(() => writeAll(carrier, bytes)).then(() => carrier.closeWrite());
  const receiving = readToEnd(client);
  assertSameBytes(new Uint8Array([...start, ...await readToEnd(carrier)]), bytes);
  assertSameBytes(await receiving, bytes);
  await Promise.all([sending, answering]);
});

test("runServer() holds back a client's bytes while its agent reads none before RESULT", async (net) => {
  const { server, agent } = await net.serverAndAgent({}, {
    streamWindowBytes: 16 << 10,
    maxStreamWindowBytes: 16 << 10,
  });
  const client = await net.client(server);
  const bytes = pattern(8 << 20);
  let sent = 0;
  const sending = (async () => {
    while (sent < bytes.length) sent += await client.write(bytes.subarray(sent, sent + 65536));
    await client.closeWrite();
  })();
  const { carrier, connected } = await agent.tunnel();
  let before = -1;
  await eventually("the client is held up", async () => {
    await new Promise((resolve) => setTimeout(resolve, 100));
    return before === sent || (before = sent, false);
  });
  connected();
  await carrier.closeWrite();
  assertSameBytes(await soon("all bytes", readToEnd(carrier)), bytes);
  await sending;
});

test("runServer() carries on many clients at a time, with every piece in its place", async (net) => {
  const { server, agent: first } = await net.serverAndAgent({ agentWaitMs: 0 });
  const second = await net.scriptedAgent(server);
  first.serve(refuse("overloaded"));
  second.serve(echo);
  const messages = Array.from(
    { length: 100 },
    (_, i) => i === 0 ? "" : `${i} ${"x".repeat(i * 37)}`,
  );
  const answers = await Promise.all(messages.map((message) => exchange(net, server, message)));
  assertEquals(answers, messages.map((message) => `echo:${message}`));
});

test("runServer() lets go of the agent when a client is gone before RESULT", async (net) => {
  const { server, agent } = await net.serverAndAgent();
  const { client } = await net.clientWithAddresses(server);
  const { stream, carrier, connected } = await agent.tunnel();
  await sendText(client, "hello");
  await assertReads(carrier, "hello");
  client.abort();
  // An orderly end at first, as a client's close looks like that; the target's bytes then find nobody.
  assertEquals(await soon("END", readText(carrier)), "");
  connected();
  const failure = await eventually(
    "the agent's bytes are refused",
    () => sendText(carrier, "is anybody there?").then(() => undefined, (error) => error),
  );
  assert(failure instanceof StreamStoppedError, String(failure));
  stream.abort();
});

// ---- DRAIN ----

/** Has an agent say that it drains, and waits until the server knows. */
async function drain(agent: ScriptedPeer, lines: readonly string[]): Promise<void> {
  await agent.control(frames.hello(), frames.drain, frames.drain);
  await lineWith(lines, ' INF server "agent is draining"');
}

test("runServer() sends no further clients to an agent that drains, and ends none", async (net) => {
  using lines = logLines(0);
  const { server, agent: draining } = await net.serverAndAgent();
  const { client } = await net.clientWithAddresses(server);
  const running = await draining.tunnel();
  running.connected();
  const other = await net.scriptedAgent(server);
  const atOther = other.serve(echo);
  const streams = draining.serve(echo);
  await drain(draining, lines);
  for (let i = 0; i < 5; i++) assertEquals(await exchange(net, server, `${i}`), `echo:${i}`);
  assertEquals([streams.length, atOther.length], [0, 5]);
  assertMatch(linesWith(lines, '"agent is draining"')[0]!, / agent=agent-1 .* agents=1$/);
  await sendText(client, "still");
  await assertReads(running.carrier, "still");
  await sendText(running.carrier, "here");
  await running.carrier.closeWrite();
  assertEquals(await readText(client), "here");
  await client.closeWrite();
  assertEquals(await readText(running.carrier), "");
  assertEquals(draining.connection.closeInfo, undefined);
});

test("runServer() has clients wait when its only agent drains", async (net) => {
  using lines = logLines(0);
  const { server, agent: draining } = await net.serverAndAgent({ agentWaitMs: 5_000 });
  const streams = draining.serve(echo);
  await drain(draining, lines);
  const asking = exchange(net, server, "patience");
  const other = await net.scriptedAgent(server);
  other.serve(echo);
  assertEquals(await asking, "echo:patience");
  assertEquals(streams.length, 0);
});

test("runServer() refuses clients after agentWaitMs when its only agent drains", async (net) => {
  using lines = logLines(0);
  const { server, agent: draining } = await net.serverAndAgent({ agentWaitMs: 200 });
  draining.serve(echo);
  await drain(draining, lines);
  const since = performance.now();
  assertEquals(await exchange(net, server, "patience"), "");
  assertLess(performance.now() - since, 1_500);
});

test("runServer() has a stream that crosses with DRAIN carried on elsewhere", async (net) => {
  using lines = logLines(0);
  const { server, agent: draining } = await net.serverAndAgent({ agentWaitMs: 5_000 });
  const asking = exchange(net, server, "crossing");
  const tunnel = await draining.tunnel();
  await drain(draining, lines);
  await refuse("draining")(tunnel);
  // There is no other agent yet: the wait for one begins anew.
  const other = await net.scriptedAgent(server);
  other.serve(echo);
  assertEquals(await asking, "echo:crossing");
});

test("runServer() opens no stream to an agent that drains, also for who waits for its credit", async (net) => {
  using lines = logLines(2);
  const { server, agent: draining } = await net.serverAndAgent({
    agentWaitMs: 5_000,
    openTimeoutMs: 3_000,
  }, { maxStreams: 1 });
  const { client } = await net.clientWithAddresses(server);
  const running = await draining.tunnel();
  running.connected();
  const streams = draining.serve(refuse("draining"));
  const asking = exchange(net, server, "hello");
  await eventually(
    "the second client is accepted",
    () => linesWith(lines, '"accepted tcp connection"').length === 2,
  );
  await drain(draining, lines);
  const other = await net.scriptedAgent(server);
  other.serve(echo);
  assertEquals(await asking, "echo:hello");
  assertEquals(streams.length, 0);
  client.abort();
});

// ---- Agents that violate the dialect ----

/** Two of what control_test.ts has all of. */
const controlViolations: Readonly<Record<string, readonly [bytes: Uint8Array, logged: string]>> = {
  "garbage": [garbage, "the first frame has type"],
  "HELLO twice": [Uint8Array.of(...frames.hello(), ...frames.hello()), "HELLO twice"],
};

for (const [what, [bytes, logged]] of Object.entries(controlViolations)) {
  test(`runServer() closes the connection of an agent whose control stream has ${what}`, async (net) => {
    using lines = logLines(0);
    const { server, agent } = await net.serverAndAgent();
    await net.scriptedAgent(server).then((other) => other.serve(echo));
    await agent.control(bytes);
    const { by, application, code } = await agent.closed();
    assertEquals({ by, application, code }, { by: "peer", application: true, code: 101 });
    const [line, more] = linesWith(lines, ' ERR server "agent violates the protocol"');
    assert(line?.includes(`error="${logged}`), line);
    assertEquals(more, undefined);
    assertMatch(line!, / agent=agent-1 remote=127\.0\.0\.1:\d+ connection=\d+ /);
    assertEquals(await exchange(net, server, "others go on"), "echo:others go on");
  });

  test(`runAgent() closes the connection of a server whose control stream has ${what}`, async (net) => {
    using lines = logLines(0);
    const server = net.scriptedServer();
    net.agent(server);
    const peer = await server.accept();
    await peer.control(bytes);
    const { by, application, code } = await peer.closed();
    assertEquals({ by, application, code }, { by: "peer", application: true, code: 101 });
    const [line, more] = linesWith(lines, ' ERR agent "server violates the protocol"');
    assert(line?.includes(`error="${logged}`), line);
    assertEquals(more, undefined);
    // It comes back, which need not be seen each time.
    if (what === "garbage") await server.accept();
  });
}

/** Two of what tunnel_stream_test.ts has all of. */
const afterResult: Readonly<Record<string, Uint8Array>> = {
  "a RESULT again": frames.result("connected"),
  "bytes after END": Uint8Array.of(...frames.end, ...frames.data("x")),
};

for (const [what, bytes] of Object.entries(afterResult)) {
  test(`runServer() ends the tunnel, and no other, whose agent sends ${what}`, async (net) => {
    using lines = logLines(2);
    const { server, agent } = await net.serverAndAgent();
    const clients = [await net.client(server), await net.client(server)] as const;
    const tunnels = [await agent.tunnel(), await agent.tunnel()] as const;
    for (const [i, { connected, carrier }] of tunnels.entries()) {
      connected();
      await sendText(carrier, `ready ${i}`);
    }
    // Streams come in the order in which they were opened.
    for (const [i, client] of clients.entries()) await assertReads(client, `ready ${i}`);
    await writeAll(tunnels[0].stream, bytes);
    assertEquals(await soon("the client's end", readUntilOver(clients[0])), "");
    const error = await soon("the stream's end", readToEnd(tunnels[0].stream)).then(
      () => undefined,
      (error) => error,
    );
    assert(error instanceof StreamResetError, String(error));
    assertEquals(error.code, 2);
    await eventually("it is logged", () => {
      const ended = linesWith(
        lines,
        ' DBG server "tunnel ended"',
        " by=agent reason=protocol-error ",
      );
      return ended.length === 1;
    });
    await sendText(clients[1], "hello");
    await assertReads(tunnels[1].carrier, "hello");
    await tunnels[1].carrier.closeWrite();
    assertEquals(await readText(clients[1]), "");
  });
}

test("runServer() tells a client's end from an agent that cuts the tunnel off", async (net) => {
  using lines = logLines(2);
  const { server, agent } = await net.serverAndAgent();
  const client = await net.client(server);
  const { stream } = await agent.tunnel();
  await writeAll(stream, frames.result("connected"));
  await writeAll(stream, frames.data("half of it"));
  // FIN without END.
  await stream.closeWrite();
  assertEquals(await soon("the client's end", readUntilOver(client)), "half of it");
  await lineWith(lines, '"tunnel ended"', "the stream ends without END");
});

test("runServer() gives streams back whose END comes without FIN", async (net) => {
  const { server, agent } = await net.serverAndAgent({}, { maxStreams: 3 });
  agent.serve(async ({ carrier, connected }, stream) => {
    connected();
    await writeAll(carrier, await readToEnd(carrier));
    await writeAll(stream, frames.end);
  });
  for (let i = 0; i < 20; i++) assertEquals(await exchange(net, server, `${i}`), `${i}`);
});

test("runServer() outlives an agent that has left when its handshake arrives", async (net) => {
  const server = await net.server();
  for (let i = 0; i < 5; i++) {
    const giveUp = new AbortController();
    // A network that holds back the end of the handshake until the agent has closed the connection.
    const toServer = Deno.listenDatagram({ transport: "udp", ...loopback(0) });
    const toAgent = Deno.listenDatagram({ transport: "udp", ...loopback(0) });
    const agent = Promise.withResolvers<Deno.Addr>();
    const there = { transport: "udp", ...loopback(server.quicPort) } as const;
    const pumps = [
      (async () => {
        const buffer = new Uint8Array(2_000);
        const [first, from] = await toAgent.receive(buffer);
        agent.resolve(from);
        const held = [first.slice()];
        await toServer.send(held[0]!, there);
        for (let taken = 0; taken < 2; taken++) {
          held.push((await toAgent.receive(buffer))[0].slice());
          giveUp.abort();
        }
        const sent = held.map((packet) => toServer.send(packet, there));
        block(5);
        await Promise.all(sent);
      })(),
      (async () => {
        const buffer = new Uint8Array(2_000);
        for (;;) await toAgent.send((await toServer.receive(buffer))[0], await agent.promise);
      })().catch(() => {}),
    ];
    const endpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
    const { port } = toAgent.addr as Deno.NetAddr;
    const options = { tls: clientTls, alpn: [QRHT_ALPN] };
    const connecting = endpoint.connect(
      { hostname: "127.0.0.1", port },
      "quic-tunnel-server",
      options,
      giveUp.signal,
    ).catch(() => {});
    await soon("what the agent sends", pumps[0]!);
    await connecting;
    await endpoint.close();
    toServer.close();
    toAgent.close();
    await pumps[1];
  }
  let failed: unknown;
  server.done.catch((error) => failed = error);
  await delay(20);
  assertEquals(failed, undefined);
  const agent = await net.scriptedAgent(server);
  agent.serve(echo);
  assertEquals(await exchange(net, server, "hello"), "echo:hello");
});

test("runServer() outlives agents that send it anything at all", async (net) => {
  const server = await net.server({ agentWaitMs: 0, maxAttempts: 2, connectTimeoutMs: 1_000 });
  const good = await net.scriptedAgent(server);
  good.serve(echo);
  const mad = await net.scriptedAgent(server);
  let seed = 0;
  const random = (length: number) => pattern(length, ++seed * 7919);
  mad.connection.closed.then(() => {});
  const acceptAll = async () => {
    for (;;) {
      const stream = await mad.connection.acceptStream();
      const kind = seed % 4;
      const bytes = [
        random(1 + seed % 50),
        Uint8Array.of(...frames.result("connected"), ...random(40)),
        Uint8Array.of(...frames.result("overloaded"), ...random(4)),
        Uint8Array.of(3, ...random(8)),
      ][kind]!;
      await Promise.try(() => writeAll(stream, bytes)).catch(() => {});
      // Some day it ends each: a tunnel that is connected may be silent for as long as it likes.
      if (seed++ % 3 === 0) await Promise.try(() => stream.closeWrite()).catch(() => {});
      else stream.abort(seed);
    }
  };
  acceptAll().catch(() => {});
  await Promise.all(Array.from({ length: 120 }, () => exchange(net, server, "hello")));
  mad.connection.close(0);
  const other = await net.scriptedAgent(server);
  other.serve(echo);
  for (let i = 0; i < 4; i++) assertEquals(await exchange(net, server, "hello"), "echo:hello");
});

// ---- The PROXY protocol in front of the server ----

const trusted = [parseCidr("127.0.0.0/8")];
for (const version of [1, 2] as const) {
  for (const [family, addresses] of Object.entries(elsewhere)) {
    test(`runServer() tells agents what a PROXY header of version ${version} says (${family})`, async (net) => {
      using lines = logLines(2);
      const { server, agent } = await net.serverAndAgent({ acceptProxyProtocol: trusted });
      const { client, from } = await net.clientWithAddresses(server);
      const header = formatProxyHeader(version, addresses);
      // Cut in two, with the first byte of the client's in the second half.
      await writeAll(client, header.subarray(0, 9));
      await writeAll(client, Uint8Array.of(...header.subarray(9), ...utf8.encode("hello")));
      await client.closeWrite();
      const { open, carrier } = await agent.tunnel();
      assertEquals([open.client, open.listener], [addresses.client, addresses.listener]);
      assertEquals(await readText(carrier), "hello");
      const [line] = linesWith(
        lines,
        '"accepted tcp connection"',
        ` tunnel=${hex(open.tunnelId!)}`,
      );
      assertMatch(line!, new RegExp(` via=127\\.0\\.0\\.1:${from.port}$`));
    });
  }

  test(`runServer() tells agents the load balancer's own address when a PROXY header of version ${version} has none`, async (net) => {
    const { server, agent } = await net.serverAndAgent({ acceptProxyProtocol: trusted });
    const { client, from, to } = await net.clientWithAddresses(server);
    await writeAll(client, formatProxyHeader(version, {}));
    const { open } = await agent.tunnel();
    assertEquals(open.client, addressOf(from));
    assertEquals(open.listener, addressOf(to));
  });
}

test("runServer() opens no tunnel for a trusted source without a right header", async (net) => {
  const { server, agent } = await net.serverAndAgent({ acceptProxyProtocol: trusted });
  const streams = agent.serve(echo);
  assertEquals(await exchange(net, server, "GET / HTTP/1.1\r\n\r\n"), "");
  assertEquals(await exchange(net, server, ""), "");
  assertEquals(await exchange(net, server, "PROXY TCP4 1.2.3.4"), "");
  const untrusting = await net.server({ acceptProxyProtocol: [parseCidr("10.0.0.0/8")] });
  const other = await net.scriptedAgent(untrusting);
  other.serve(echo);
  assertEquals(
    await exchange(net, untrusting, "PROXY UNKNOWN\r\n"),
    "echo:PROXY UNKNOWN\r\n",
  );
  assertEquals(streams.length, 0);
});
