// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the programs do in `qrht/1` with peers that follow a script: good ones, and others. */

import { assert, assertEquals, assertLess, assertMatch, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async/delay";
import { parseCidr } from "../lib/cidr.ts";
import { QRHT_ALPN, RAW_ALPN } from "../lib/dialect.ts";
import { tcpDuplex, writeAll } from "../lib/duplex.ts";
import { ipBytes, socketAddress } from "../lib/ip_address.ts";
import { formatProxyHeader } from "../lib/proxy_protocol.ts";
import { encodeFrame, FrameType } from "../lib/qrht/frame.ts";
import { encodeOpen, type Open, type ResultCode, resultCodes } from "../lib/qrht/messages.ts";
import {
  live,
  QuicEndpoint,
  type QuicStream,
  StreamResetError,
  StreamStoppedError,
} from "../lib/quic/mod.ts";
import { acceptTunnel, type FailureCode, type IncomingTunnel, openTunnel } from "../lib/tunnel.ts";
import { eventually } from "./support/eventually.ts";
import { readExactly, readToEnd } from "./support/memory_duplex.ts";
import {
  assertReads,
  assertSameBytes,
  logLines,
  loopback,
  NOBODY,
  OK,
  pattern,
  readText,
  readUntilOver,
  requestFor,
  sendText,
  type Server,
  soon,
  type Target,
  utf8,
} from "./support/network.ts";
import { clientTls } from "./support/quic.ts";
import {
  frames,
  hex,
  linesWith,
  readAgentFrames,
  type ScriptedNetwork,
  type ScriptedPeer,
  scriptedTest as test,
} from "./support/scripted_peer.ts";
import { ResettableTcp } from "./support/tcp_pair.ts";
import { UdpRelay } from "./support/udp_relay.ts";

// ---- What the server tells an agent ----

const addressOf = (addr: Deno.NetAddr) => socketAddress(addr.hostname, addr.port)!;

for (const hostname of ["127.0.0.1", "::1"]) {
  test(`runServer() tells an agent of a client at once, and who it is (${hostname})`, async (net) => {
    const server = await net.server({ listenTcp: { hostname, port: 0 } });
    const agent = await net.scriptedAgent(server);
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
  const server = await net.server({ listenTcp: { hostname: "::", port: 0 } });
  const agent = await net.scriptedAgent(server);
  const { from } = await net.clientWithAddresses(server);
  const { open } = await agent.tunnel();
  assertEquals(open.client, addressOf(from));
  assertEquals(open.listener, { ip: ipBytes("127.0.0.1")!, port: server.tcpPort });
});

test("runServer() gives each tunnel an id of its own, which its log has, too", async (net) => {
  using lines = logLines(2);
  const server = await net.server();
  const agent = await net.scriptedAgent(server);
  const ids = new Set<string>();
  for (let i = 0; i < 20; i++) {
    const { client, from } = await net.clientWithAddresses(server);
    const { open, stream } = await agent.tunnel();
    const id = hex(open.tunnelId!);
    ids.add(id);
    const logged = linesWith(lines, '"accepted tcp connection"', ` tunnel=${id} `);
    assertEquals(logged.length, 1);
    assertMatch(logged[0]!, new RegExp(` client=127\\.0\\.0\\.1:${from.port}$`));
    client.abort();
    stream.abort();
  }
  assertEquals(ids.size, 20);
});

// ---- Results, and who is tried next ----

/** Reads what a tunnel's client sends, and answers with that. */
async function echo({ carrier, connected }: IncomingTunnel): Promise<void> {
  await connected();
  const bytes = await readToEnd(carrier);
  await sendText(carrier, "echo:");
  await writeAll(carrier, bytes);
  await carrier.closeWrite();
}

/** A handler that refuses every tunnel, with an answer for the client. */
function refuse(code: FailureCode, answer = `answer of one that is ${code}`) {
  return (tunnel: IncomingTunnel) => tunnel.failed({ code, text: "scripted" }, utf8.encode(answer));
}

/** What a client gets that sends a message and its end. */
async function exchange(net: ScriptedNetwork, server: Server, message: string): Promise<string> {
  const client = await net.client(server);
  await sendText(client, message);
  await client.closeWrite();
  const answer = await soon("the client's end", readUntilOver(client));
  client.abort();
  return answer;
}

const failures = (Object.keys(resultCodes) as ResultCode[])
  .filter((code): code is FailureCode => code !== "connected");

for (
  const [what, retryOn] of [
    ["draining and overloaded", undefined],
    ["nothing", []],
    ["what it is told", ["refused", "timeout", "internal-error"]],
    ["everything", failures],
  ] as const
) {
  test(`runServer() has another agent tried when the first says ${what}`, async (net) => {
    const retried: readonly string[] = retryOn ?? ["draining", "overloaded"];
    for (const code of failures) {
      const server = await net.server({ agentWaitMs: 0, ...(retryOn && { retryOn }) });
      const first = await net.scriptedAgent(server);
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
  const server = await net.server({ retryOn: ["internal-error"] });
  const first = await net.scriptedAgent(server);
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
  const server = await net.server({ agentWaitMs: 0 });
  const first = await net.scriptedAgent(server);
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

const garbage = Uint8Array.of(0xff, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);

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
  "sends a HTTP answer without frames": (_, stream) => sendText(stream, OK),
  "sends DATA before RESULT": (_, stream) => writeAll(stream, frames.data("HTTP/1.1 200 OK")),
  "sends END before RESULT": (_, stream) => writeAll(stream, frames.end),
  "sends an OPEN of its own": (_, stream) =>
    writeAll(
      stream,
      encodeFrame(FrameType.Open, encodeOpen({ tunnelId: new Uint8Array(16) })),
    ),
  "ends the stream within RESULT": (_, stream) =>
    stream.finish(frames.result("connected").slice(0, 3)),
  "sends a RESULT that ends too early": (_, stream) =>
    writeAll(stream, Uint8Array.of(3, 3, 0, 2, 0x61)),
  "sends a RESULT of more than 4096 bytes": (_, stream) =>
    writeAll(stream, Uint8Array.of(3, 0x50, 1, 0)),
  "sends an unknown frame before RESULT": (_, stream) => writeAll(stream, Uint8Array.of(0x3f, 0)),
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
  const server = await net.server();
  const first = await net.scriptedAgent(server);
  const second = await net.scriptedAgent(server);
  const client = await net.client(server);
  const { stream } = await first.tunnel();
  await writeAll(stream, frames.result("overloaded"));
  const { connected, carrier } = await second.tunnel();
  await connected();
  await sendText(carrier, "here");
  await assertReads(client, "here");
  const error = await soon("its end", readToEnd(stream).catch((error) => error));
  assert(error instanceof StreamResetError, String(error));
  assertEquals(error.code, 3);
  const stopped = await eventually(
    "it is stopped, too",
    () => writeAll(stream, frames.data("x")).then(() => undefined, (error) => error),
  );
  assert(stopped instanceof StreamStoppedError, String(stopped));
  assertEquals(stopped.code, 3);
});

test("runServer() has the client's bytes wait for OPEN where a stream has little room", async (net) => {
  const server = await net.server();
  // Not even OPEN fits.
  const agent = await net.scriptedAgent(server, { streamWindowBytes: 16 });
  const client = await net.client(server);
  await sendText(client, "hello");
  await client.closeWrite();
  const stream = await agent.stream();
  // Long enough for the bytes to come while OPEN is on its way.
  await delay(100);
  const tunnel = await soon("OPEN", acceptTunnel(stream, QRHT_ALPN));
  await soon("the client's bytes", echo(tunnel!));
  assertEquals(await soon("the client's end", readUntilOver(client)), "echo:hello");
});

test("runServer() leaves it at the first agent that is gone where it is told to", async (net) => {
  const server = await net.server({ retryOn: ["overloaded"] });
  const first = await net.scriptedAgent(server);
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
    const server = await net.server({ agentWaitMs: 20_000 });
    const first = await net.scriptedAgent(server);
    const client = await net.client(server);
    await sendText(client, "hello");
    const { stream } = await first.tunnel();
    if (waitsFor !== "a RESULT") {
      first.connection.close(100, "agent stopped");
      await eventually("it is gone", () => linesWith(lines, '"agent disconnected"').length === 1);
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
  const server = await net.server({ agentWaitMs: 20_000 });
  const first = await net.scriptedAgent(server);
  const client = net.own(await ResettableTcp.connect(server.tcpPort));
  await sendText(client, "hello");
  const { carrier } = await first.tunnel();
  await assertReads(carrier, "hello");
  first.connection.close(100, "agent stopped");
  await eventually("it is gone", () => linesWith(lines, '"agent disconnected"').length === 1);
  client.abort();
  await eventually("it is over", () => linesWith(lines, ' server "tunnel ended" ').length === 1);
  // Who comes now may see a stream, but not for long.
  const second = await net.scriptedAgent(server);
  const served = second.serve(echo);
  assertEquals(await exchange(net, server, "next"), "echo:next");
  await eventually("no stream is left", () => live.streams === 0);
  assert(served.length <= 2);
});

test("runServer() hands on the first agent's answer when there is no other", async (net) => {
  const server = await net.server({ agentWaitMs: 0 });
  const only = await net.scriptedAgent(server);
  only.serve(refuse("overloaded"));
  assertEquals(await exchange(net, server, "hello"), "answer of one that is overloaded");
});

test("runServer() ends a client when its only agent fails without an answer", async (net) => {
  const server = await net.server({ agentWaitMs: 20 });
  const only = await net.scriptedAgent(server);
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

test("runServer() hands on the last answer when the agents after it are gone", async (net) => {
  const server = await net.server({ agentWaitMs: 0, maxAttempts: 5 });
  const handlers = [
    refuse("overloaded", "first"),
    refuse("overloaded", "second"),
    (_: IncomingTunnel, stream: QuicStream) => Promise.resolve(stream.abort()),
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
    const [ended] = await eventually("the tunnel has ended", () => {
      const ended = linesWith(lines, ' DBG server "tunnel ended"');
      return ended.length === 1 && ended;
    });
    assertEquals(/ attempts=(\d+)/.exec(ended!)?.[1], attempts > 1 ? `${attempts}` : undefined);
  });
}

test("runServer() ends a client whose agents do not say a RESULT in time", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ connectTimeoutMs: 300 });
  const agent = await net.scriptedAgent(server);
  const client = await net.client(server);
  await sendText(client, "hello");
  const { stream, carrier } = await agent.tunnel();
  const since = performance.now();
  await assertReads(carrier, "hello");
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  const tookMs = performance.now() - since;
  assert(tookMs > 250 && tookMs < 1_500, `${tookMs} ms`);
  assert(
    (await soon("the stream's end", readToEnd(stream).catch((error) => error))) instanceof
      StreamResetError,
  );
  await eventually(
    "the cause is logged",
    () => linesWith(lines, "no agent has connected the tunnel within 300 ms").length === 1,
  );
});

test("runServer() has connectTimeoutMs cover all attempts together", async (net) => {
  const server = await net.server({ connectTimeoutMs: 500, agentWaitMs: 20_000 });
  const agent = await net.scriptedAgent(server);
  const client = await net.client(server);
  await agent.tunnel();
  const since = performance.now();
  agent.connection.close(100, "agent stopped");
  // Now it waits for another agent, of which there is none.
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  assertLess(performance.now() - since, 1_500);
});

// ---- What is kept for another attempt ----

test("runServer() makes no other attempt once the client has sent more than 64 KiB", async (net) => {
  const server = await net.server({ agentWaitMs: 0 });
  const first = await net.scriptedAgent(server);
  const second = await net.scriptedAgent(server);
  const served = second.serve(echo);
  const client = await net.client(server);
  const bytes = pattern(200_000);
  const sending = writeAll(client, bytes).then(() => client.closeWrite());
  const tunnel = await first.tunnel();
  assertSameBytes(await readToEnd(tunnel.carrier), bytes);
  await sending;
  await refuse("overloaded", "too much to carry on")(tunnel);
  assertEquals(await readText(client), "too much to carry on");
  assertEquals(served.length, 0);
});

test("runServer() carries on a client that has sent 64 KiB", async (net) => {
  const server = await net.server({ agentWaitMs: 0 });
  const first = await net.scriptedAgent(server);
  const second = await net.scriptedAgent(server);
  second.serve(echo);
  const client = await net.client(server);
  const bytes = pattern(64 << 10);
  await writeAll(client, bytes);
  await client.closeWrite();
  const tunnel = await first.tunnel();
  assertSameBytes(await readToEnd(tunnel.carrier), bytes);
  await refuse("overloaded")(tunnel);
  const answer = await readToEnd(client);
  assertSameBytes(answer.subarray(5), bytes);
});

test("runServer() loses nothing of a large upload that begins before RESULT", async (net) => {
  const server = await net.server();
  const agent = await net.scriptedAgent(server);
  const client = await net.client(server);
  const bytes = pattern(3_000_000);
  const sending = writeAll(client, bytes).then(() => client.closeWrite());
  const { carrier, connected } = await agent.tunnel();
  const start = await readExactly(carrier, 150_000);
  await connected();
  const answering = writeAll(carrier, bytes).then(() => carrier.closeWrite());
  const receiving = readToEnd(client);
  assertSameBytes(new Uint8Array([...start, ...await readToEnd(carrier)]), bytes);
  assertSameBytes(await receiving, bytes);
  await Promise.all([sending, answering]);
});

test("runServer() holds back a client's bytes while its agent reads none before RESULT", async (net) => {
  const server = await net.server();
  const agent = await net.scriptedAgent(server, {
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
  await connected();
  await carrier.closeWrite();
  assertSameBytes(await soon("all bytes", readToEnd(carrier)), bytes);
  await sending;
});

test("runServer() carries on many clients at a time, with every piece in its place", async (net) => {
  const server = await net.server({ agentWaitMs: 0 });
  const first = await net.scriptedAgent(server);
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
  const server = await net.server();
  const agent = await net.scriptedAgent(server);
  const { client } = await net.clientWithAddresses(server);
  const { stream, carrier, connected } = await agent.tunnel();
  await sendText(client, "hello");
  await assertReads(carrier, "hello");
  client.abort();
  // An orderly end at first, as a client's close looks like that; the target's bytes then find nobody.
  assertEquals(await soon("END", readText(carrier)), "");
  await connected();
  const failure = await eventually(
    "the agent's bytes are refused",
    () => sendText(carrier, "is anybody there?").then(() => undefined, (error) => error),
  );
  assert(failure instanceof StreamStoppedError, String(failure));
  stream.abort();
});

// ---- DRAIN ----

async function drained(lines: readonly string[], count = 1): Promise<void> {
  await eventually(
    "the server knows",
    () => linesWith(lines, ' INF server "agent drains"').length === count,
  );
}

test("runServer() sends no further clients to an agent that drains, and ends none", async (net) => {
  using lines = logLines(0);
  const server = await net.server();
  const draining = await net.scriptedAgent(server);
  const { client } = await net.clientWithAddresses(server);
  const running = await draining.tunnel();
  await running.connected();
  const other = await net.scriptedAgent(server);
  const atOther = other.serve(echo);
  const streams = draining.serve(echo);
  await draining.control(frames.hello(), frames.drain);
  await drained(lines);
  for (let i = 0; i < 5; i++) assertEquals(await exchange(net, server, `${i}`), `echo:${i}`);
  assertEquals([streams.length, atOther.length], [0, 5]);
  assertMatch(linesWith(lines, '"agent drains"')[0]!, / agent=agent-1 .* agents=1$/);
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
  const server = await net.server({ agentWaitMs: 5_000 });
  const draining = await net.scriptedAgent(server);
  const streams = draining.serve(echo);
  await draining.control(frames.hello(), frames.drain);
  await drained(lines);
  const asking = exchange(net, server, "patience");
  const other = await net.scriptedAgent(server);
  other.serve(echo);
  assertEquals(await asking, "echo:patience");
  assertEquals(streams.length, 0);
});

test("runServer() refuses clients after agentWaitMs when its only agent drains", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ agentWaitMs: 200 });
  const draining = await net.scriptedAgent(server);
  draining.serve(echo);
  await draining.control(frames.hello(), frames.drain, frames.drain);
  await drained(lines, 2);
  const since = performance.now();
  assertEquals(await exchange(net, server, "patience"), "");
  assertLess(performance.now() - since, 1_500);
});

test("runServer() has a stream that crosses with DRAIN carried on elsewhere", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ agentWaitMs: 5_000 });
  const draining = await net.scriptedAgent(server);
  const asking = exchange(net, server, "crossing");
  const tunnel = await draining.tunnel();
  await draining.control(frames.hello(), frames.drain);
  await drained(lines);
  await refuse("draining")(tunnel);
  // There is no other agent yet: the wait for one begins anew.
  const other = await net.scriptedAgent(server);
  other.serve(echo);
  assertEquals(await asking, "echo:crossing");
});

test("runServer() opens no stream to an agent that drains, also for who waits for its credit", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ agentWaitMs: 5_000, openTimeoutMs: 3_000 });
  const draining = await net.scriptedAgent(server, { maxStreams: 1 });
  const { client } = await net.clientWithAddresses(server);
  const running = await draining.tunnel();
  await running.connected();
  const streams = draining.serve(refuse("draining"));
  const asking = exchange(net, server, "hello");
  await eventually(
    "the second client is accepted",
    () => linesWith(lines, '"accepted tcp connection"').length === 2,
  );
  await draining.control(frames.hello(), frames.drain);
  await drained(lines);
  const other = await net.scriptedAgent(server);
  other.serve(echo);
  assertEquals(await asking, "echo:hello");
  assertEquals(streams.length, 0);
  client.abort();
});

// ---- Agents that violate the dialect ----

const controlViolations: Readonly<Record<string, readonly [bytes: Uint8Array, logged: string]>> = {
  "garbage": [garbage, "the first frame has type"],
  "DRAIN before HELLO": [frames.drain, "the first frame has type 17, not 16"],
  "HELLO twice": [Uint8Array.of(...frames.hello(), ...frames.hello()), "HELLO twice"],
  "DATA": [Uint8Array.of(...frames.hello(), ...frames.data("x")), "DATA on a control stream"],
  "END": [Uint8Array.of(...frames.hello(), ...frames.end), "a frame of type 1 on a control stream"],
  "a HELLO of another version": [Uint8Array.of(0x10, 1, 2), "HELLO has version 2, not 1"],
  "a HELLO that ends too early": [Uint8Array.of(0x10, 3, 1, 0, 9), "HELLO ends too early"],
  "a HELLO with a text that is no UTF-8": [
    Uint8Array.of(0x10, 4, 1, 0, 1, 0xff),
    "HELLO has a text that is not UTF-8",
  ],
  "too long a HELLO": [Uint8Array.of(0x10, 0x50, 1), "a frame of type 16 has 4097 bytes"],
  "33 features": [
    Uint8Array.of(0x10, 0x40, 1 + 33 * 3, 1, ...Array(33).fill([3, 1, 0x61]).flat()),
    "HELLO names 33 features",
  ],
  "a wrong DRAIN": [
    Uint8Array.of(...frames.hello(), 0x11, 2, 0x40, 0x40),
    "DRAIN ends too early",
  ],
};

for (const [what, [bytes, logged]] of Object.entries(controlViolations)) {
  test(`runServer() closes the connection of an agent whose control stream has ${what}`, async (net) => {
    using lines = logLines(0);
    const server = await net.server();
    const agent = await net.scriptedAgent(server);
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
    net.agentOf(server);
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

test("the programs take a control stream that ends, is reset, or says what they do not know", async (net) => {
  const server = await net.server();
  const harmless: ((agent: ScriptedPeer) => Promise<unknown>)[] = [
    async (agent) => (await agent.control()).finish(frames.hello()),
    async (agent) => (await agent.control(frames.hello())).reset(5),
    async (agent) => (await agent.control(frames.hello().slice(0, 2))).reset(5),
    async (agent) => (await agent.control(frames.hello().slice(0, 2))).closeWrite(),
    (agent) => agent.control(Uint8Array.of(0x10, 1, 1, 0x3f, 3, 1, 2, 3, ...frames.end.slice(2))),
    // Further streams are ignored, whatever they say.
    async (agent) => {
      await agent.control(frames.hello());
      for (let i = 0; i < 5; i++) {
        const further = await eventually("there is credit", () => agent.connection.openUniStream());
        await writeAll(further, garbage);
        await further.finish(garbage);
      }
    },
  ];
  for (const say of harmless) {
    const agent = await net.scriptedAgent(server);
    await say(agent);
    agent.serve(echo);
    assertEquals(await exchange(net, server, "hello"), "echo:hello");
    assertEquals(agent.connection.closeInfo, undefined);
    agent.connection.close(100);
  }
});

const afterResult: Readonly<Record<string, Uint8Array>> = {
  "a RESULT again": frames.result("connected"),
  "an OPEN": encodeFrame(FrameType.Open, encodeOpen({ tunnelId: new Uint8Array(16) })),
  "a HELLO": frames.hello(),
  "a DRAIN": frames.drain,
  "an END with a payload": Uint8Array.of(1, 1, 0),
  "bytes after END": Uint8Array.of(...frames.end, ...frames.data("x")),
  "DATA of 2^30 bytes": Uint8Array.of(0, 0xc0, 0, 0, 0, 0x40, 0, 0, 0),
};

for (const [what, bytes] of Object.entries(afterResult)) {
  test(`runServer() ends the tunnel, and no other, whose agent sends ${what}`, async (net) => {
    using lines = logLines(2);
    const server = await net.server();
    const agent = await net.scriptedAgent(server);
    const clients = [await net.client(server), await net.client(server)] as const;
    const tunnels = [await agent.tunnel(), await agent.tunnel()] as const;
    for (const [i, { connected, carrier }] of tunnels.entries()) {
      await connected();
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
      const ended = linesWith(lines, ' DBG server "tunnel ended"', " reason=error by=agent ");
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
  const server = await net.server();
  const agent = await net.scriptedAgent(server);
  const client = await net.client(server);
  const { stream } = await agent.tunnel();
  await writeAll(stream, frames.result("connected"));
  await writeAll(stream, frames.data("half of it"));
  // FIN without END.
  await stream.closeWrite();
  assertEquals(await soon("the client's end", readUntilOver(client)), "half of it");
  await eventually(
    "it is logged",
    () => linesWith(lines, '"tunnel ended"', "the stream ends without END").length === 1,
  );
});

test("runServer() takes END for the end, whether or not FIN comes", async (net) => {
  const server = await net.server();
  const agent = await net.scriptedAgent(server);
  const client = await net.client(server);
  const { stream, carrier } = await agent.tunnel();
  await writeAll(stream, frames.result("connected"));
  await writeAll(stream, Uint8Array.of(...frames.data("all of it"), ...frames.end));
  assertEquals(await soon("the client's end", readText(client)), "all of it");
  await sendText(client, "late");
  await client.closeWrite();
  assertEquals(await soon("the other end", readText(carrier)), "late");
});

test("runServer() gives streams back whose END comes without FIN", async (net) => {
  const server = await net.server();
  const agent = await net.scriptedAgent(server, { maxStreams: 3 });
  agent.serve(async ({ carrier, connected }, stream) => {
    await connected();
    const bytes = await readToEnd(carrier);
    await writeAll(
      stream,
      Uint8Array.of(...frames.data(new TextDecoder().decode(bytes)), ...frames.end),
    );
  });
  for (let i = 0; i < 20; i++) assertEquals(await exchange(net, server, `${i}`), `${i}`);
});

test("runServer() takes frames however they are cut", async (net) => {
  const server = await net.server();
  const agent = await net.scriptedAgent(server);
  const client = await net.client(server);
  const { stream } = await agent.tunnel();
  const bytes = Uint8Array.of(
    ...frames.result("connected", "a text"),
    ...frames.data("piece by "),
    // An unknown frame, and empty DATA.
    0x40,
    0x77,
    2,
    1,
    2,
    0,
    0,
    ...frames.data("piece"),
    ...frames.end,
  );
  const receiving = readText(client);
  for (const byte of bytes) {
    await stream.write(Uint8Array.of(byte));
    await new Promise((resolve) => setTimeout(resolve));
  }
  await client.closeWrite();
  assertEquals(await soon("the client's end", receiving), "piece by piece");
});

/** Sends nothing and takes nothing for a while, so that what arrives meanwhile is found all at once. */
function block(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

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
      { host: "127.0.0.1", port },
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

test("runAgent() outlives a server that leaves the moment it has connected", async (net) => {
  const server = net.scriptedServer();
  const program = net.agentOf(server);
  for (let i = 0; i < 3; i++) {
    const { connection } = await server.accept();
    // The end of the handshake goes out, and the end of the connection right behind it.
    connection.flush();
    connection.close(7, "scripted");
    connection.flush();
    block(5);
  }
  const target = net.servingTarget((connection) => sendText(connection, "here"));
  const { carrier } = await connect(await server.accept(), target.authority);
  assertEquals(await readText(carrier), "here");
  await program.stop();
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
      await writeAll(stream, bytes).catch(() => {});
      // Some day it ends each: a tunnel that is connected may be silent for as long as it likes.
      if (seed++ % 3 === 0) await stream.closeWrite().catch(() => {});
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
const elsewhere: Readonly<Record<string, Pick<Open, "client" | "listener">>> = {
  "IPv4": {
    client: { ip: ipBytes("192.0.2.7")!, port: 1234 },
    listener: { ip: ipBytes("198.51.100.1")!, port: 443 },
  },
  "IPv6": {
    client: { ip: ipBytes("2001:db8::7")!, port: 65_535 },
    listener: { ip: ipBytes("2001:db8::1")!, port: 8443 },
  },
};

for (const version of [1, 2] as const) {
  for (const [family, addresses] of Object.entries(elsewhere)) {
    test(`runServer() tells agents what a PROXY header of version ${version} says (${family})`, async (net) => {
      using lines = logLines(2);
      const server = await net.server({ acceptProxyProtocol: trusted });
      const agent = await net.scriptedAgent(server);
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
    const server = await net.server({ acceptProxyProtocol: trusted });
    const agent = await net.scriptedAgent(server);
    const { client, from, to } = await net.clientWithAddresses(server);
    await writeAll(client, formatProxyHeader(version, {}));
    const { open } = await agent.tunnel();
    assertEquals(open.client, addressOf(from));
    assertEquals(open.listener, addressOf(to));
  });
}

test("runServer() opens no tunnel for a trusted source without a right header", async (net) => {
  const server = await net.server({ acceptProxyProtocol: trusted });
  const agent = await net.scriptedAgent(server);
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

// ---- What agents do at a scripted server ----

const id = Uint8Array.from({ length: 16 }, (_, i) => 0xa0 + i);
const open: Open = {
  tunnelId: id,
  client: { ip: ipBytes("192.0.2.7")!, port: 50_000 },
  listener: { ip: ipBytes("198.51.100.1")!, port: 8443 },
};
const openFrame = encodeFrame(FrameType.Open, encodeOpen(open));

/** A stream to an agent that begins with OPEN, and has this much behind it. */
async function ask(agent: ScriptedPeer, ...messages: string[]): Promise<QuicStream> {
  const stream = await agent.open();
  await writeAll(stream, openFrame);
  for (const message of messages) await writeAll(stream, frames.data(message));
  return stream;
}

/** A stream on which a tunnel to a target is connected. */
async function connect(agent: ScriptedPeer, authority: string) {
  const stream = await agent.open();
  const tunnel = openTunnel(stream, QRHT_ALPN, open);
  await sendText(tunnel.carrier, requestFor(authority));
  assertEquals((await soon("RESULT", tunnel.result)).code, "connected");
  await assertReads(tunnel.carrier, OK);
  return { stream, carrier: tunnel.carrier };
}

/** The codes with which a stream is reset and stopped, both. */
async function endOf(stream: QuicStream): Promise<{ reset: unknown; stopped: unknown }> {
  const codeOf = (error: unknown) =>
    error instanceof StreamResetError || error instanceof StreamStoppedError ? error.code : error;
  const reset = await soon("the stream's end", readToEnd(stream).catch(codeOf));
  const stopped = await eventually(
    "the stream is stopped",
    () => writeAll(stream, frames.data("x")).then(() => undefined, codeOf),
  ).catch((error) => error === 0 ? 0 : Promise.reject(error));
  return { reset, stopped };
}

/** What an agent says to a request for which there is no tunnel. */
const refusals: readonly {
  readonly request: string;
  readonly result: FailureCode;
  readonly answer: RegExp;
}[] = [
  {
    request: requestFor(NOBODY),
    result: "refused",
    answer: /^HTTP\/1\.1 502 127\.0\.0\.1:1: connection refused\r\n/,
  },
  {
    request: requestFor("no-such-host.invalid:80"),
    result: "unknown-name",
    answer: /^HTTP\/1\.1 502 no-such-host\.invalid:80: name does not resolve\r\n/,
  },
  {
    request: requestFor("255.255.255.255:80"),
    result: "unreachable",
    answer: /^HTTP\/1\.1 502 255\.255\.255\.255:80: .+\r\n/,
  },
  {
    request: "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    result: "bad-request",
    answer: /^HTTP\/1\.1 405 /,
  },
  { request: "\x16\x03\x01\x02\x00", result: "bad-request", answer: /^HTTP\/1\.1 400 TLS bytes/ },
  { request: "nonsense\r\n\r\n", result: "bad-request", answer: /^HTTP\/1\.1 400 / },
];

test("runAgent() tells the server and the client, once each, why there is no tunnel", async (net) => {
  const server = net.scriptedServer();
  net.agentOf(server);
  const agent = await server.accept();
  for (const { request, result, answer } of refusals) {
    const stream = await ask(agent, request);
    const { result: said, data, ended } = await readAgentFrames(stream);
    assertEquals([said.code, ended], [result, true], request);
    assertMatch(data, answer);
    assertEquals(data.split("HTTP/1.1").length, 2, "one answer");
    assert(data.endsWith("\r\n\r\n"), data);
    assertEquals(said.text, /^HTTP\/1\.1 \d+ (.*?)\r\n/.exec(data)![1]);
  }
});

// How a full queue is dealt with differs from system to system.
const onlyOnLinux = Deno.build.os === "linux" ? test : () => {};

/** A target whose system answers no attempt to connect, until what waits in its queue has been accepted. */
async function silentTarget(net: ScriptedNetwork): Promise<Target> {
  const target = net.target({ tcpBacklog: 1 });
  // One more than the backlog says.
  for (let i = 0; i < 2; i++) net.own(tcpDuplex(await Deno.connect(loopback(target.port))));
  return target;
}

/** Asserts that connections which come through at last, when nobody wants them any more, are closed. */
async function lateAreClosed(target: Target, count: number): Promise<void> {
  for (let i = 0; i < 2; i++) await target.accept();
  for (let i = 0; i < count; i++) {
    const late = await soon("an attempt that comes through", target.accept());
    assertEquals(await soon("its end", readUntilOver(late)), "");
  }
}

onlyOnLinux("the agents tell the server that a target does not answer in time", async (net) => {
  const target = await silentTarget(net);
  const server = net.scriptedServer();
  net.agentOf(server, { dialTimeoutMs: 50 });
  const agent = await server.accept();
  const asked = await readAgentFrames(await ask(agent, requestFor(target.authority)));
  assertEquals(asked.result, { code: "timeout", text: `${target.authority}: no answer in 50 ms` });
  assertMatch(asked.data, /^HTTP\/1\.1 504 /);
  const other = net.scriptedServer();
  net.passthroughOf(other, target.port, { dialTimeoutMs: 50 });
  const passthrough = await other.accept();
  assertEquals(await readAgentFrames(await ask(passthrough)), {
    result: { code: "timeout", text: `${target.authority}: no answer in 50 ms` },
    data: "",
    ended: true,
  });
  await lateAreClosed(target, 2);
});

test("runPassthrough() tells the server why there is no tunnel, and the client nothing", async (net) => {
  const server = net.scriptedServer();
  net.passthroughOf(server, 1);
  const agent = await server.accept();
  assertEquals(await readAgentFrames(await ask(agent, "hello")), {
    result: { code: "refused", text: `${NOBODY}: connection refused` },
    data: "",
    ended: true,
  });
});

test("runAgent() tells the server of a client that has left without a request", async (net) => {
  const server = net.scriptedServer();
  net.agentOf(server);
  const agent = await server.accept();
  const stream = await ask(agent);
  await stream.finish(frames.end);
  const { result, data, ended } = await readAgentFrames(stream);
  assertEquals([result.code, data, ended], ["bad-request", "", true]);
  const within = await ask(agent, "CONNECT ");
  await within.finish(frames.end);
  const answer = await readAgentFrames(within);
  assertEquals([answer.result.code, answer.ended], ["bad-request", true]);
  assertMatch(answer.data, /^HTTP\/1\.1 400 the request ends within its head\r\n/);
});

test("runAgent() says RESULT, the answer to CONNECT and the target's bytes, in this order", async (net) => {
  const server = net.scriptedServer();
  net.agentOf(server);
  const agent = await server.accept();
  const target = net.servingTarget(async (connection) => {
    await sendText(connection, "greeting, ");
    await writeAll(connection, await readToEnd(connection));
    await connection.closeWrite();
  });
  // A request in pieces, and the client's own bytes right behind it.
  const request = requestFor(target.authority);
  const stream = await ask(agent, request.slice(0, 9), `${request.slice(9)}early`, ", late");
  await stream.finish(frames.end);
  assertEquals(await readAgentFrames(stream), {
    result: { code: "connected", text: "" },
    data: `${OK}greeting, early, late`,
    ended: true,
  });
});

test("runPassthrough() lets an upstream speak that speaks first", async (net) => {
  const server = net.scriptedServer();
  const upstream = net.target();
  net.passthroughOf(server, upstream.port);
  const agent = await server.accept();
  const stream = await ask(agent);
  const atUpstream = await soon("the dial", upstream.accept());
  await sendText(atUpstream, "220 ready");
  const { carrier, result } = framed(stream);
  assertEquals((await soon("RESULT", result)).code, "connected");
  await soon("the greeting", assertReads(carrier, "220 ready"));
  await stream.finish(Uint8Array.of(...frames.data("QUIT"), ...frames.end));
  assertEquals(await soon("the client's bytes", readText(atUpstream)), "QUIT");
  await atUpstream.closeWrite();
  assertEquals(await soon("the end", readText(carrier)), "");
});

/** The server's end of a stream whose OPEN was sent by hand. */
function framed(stream: QuicStream) {
  return openTunnel(
    Object.assign(Object.create(stream) as QuicStream, {
      read: (buffer: Uint8Array) => stream.read(buffer),
      write: (bytes: Uint8Array) => Promise.resolve(bytes.length),
      abort: (code: number) => stream.abort(code),
      stop: (code: number) => stream.stop(code),
    }),
    QRHT_ALPN,
    open,
  );
}

const wrongOpens: Readonly<Record<string, readonly [bytes: Uint8Array, logged: string]>> = {
  "garbage": [garbage, "the first frame has type"],
  "a HTTP request": [utf8.encode(requestFor(NOBODY)), "the first frame has type"],
  "DATA": [frames.data("x"), "the first frame has type 0, not 2"],
  "a RESULT": [frames.result("connected"), "the first frame has type 3, not 2"],
  "an unknown frame": [Uint8Array.of(0x3f, 0), "the first frame has type 63, not 2"],
  "an OPEN of another version": [
    Uint8Array.of(2, 17, 2, ...new Uint8Array(16)),
    "OPEN has version 2, not 1",
  ],
  "an OPEN that ends in its id": [Uint8Array.of(2, 3, 1, 0, 1), "OPEN ends too early"],
  "an address of 5 bytes": [
    Uint8Array.of(2, 24, 1, ...new Uint8Array(16), 0, 5, 1, 2, 3, 4, 5),
    "OPEN has an address of 5 bytes",
  ],
  "two clients": [
    Uint8Array.of(
      2,
      33,
      1,
      ...new Uint8Array(16),
      ...Array(2).fill([0, 6, 1, 2, 3, 4, 5, 6]).flat(),
    ),
    "OPEN has field 0 twice",
  ],
  "too long an OPEN": [Uint8Array.of(2, 0x50, 1), "a frame of type 2 has 4097 bytes"],
};

for (const program of ["agent", "passthrough"] as const) {
  const start = (net: ScriptedNetwork, quicPort: number, upstreamPort: number) =>
    program === "agent" ? net.agentOf({ quicPort }) : net.passthroughOf({ quicPort }, upstreamPort);

  test(`the ${program} resets a stream that does not begin with OPEN, and no other`, async (net) => {
    using lines = logLines(0);
    const server = net.scriptedServer();
    const target = net.target();
    start(net, server.quicPort, target.port);
    const agent = await server.accept();
    for (const [what, [bytes, logged]] of Object.entries(wrongOpens)) {
      const stream = await agent.open();
      await writeAll(stream, bytes);
      assertEquals(await endOf(stream), { reset: 2, stopped: 2 }, what);
      const { length } = linesWith(
        lines,
        ` WRN ${program} "stream refused"`,
        ` stream=${stream.id} `,
        `error="${logged}`,
      );
      assertEquals(length, 1, what);
    }
    // An end within OPEN, one before it, and resets.
    const cut = await agent.open();
    await cut.finish(openFrame.slice(0, 20));
    assertEquals((await soon("its end", readToEnd(cut).catch((error) => error))).code, 2);
    const silent = await agent.open();
    await silent.closeWrite();
    await soon("its end", readToEnd(silent).catch(() => {}));
    for (const bytes of [openFrame.slice(0, 1), openFrame.slice(0, 20), openFrame]) {
      const stream = await agent.open();
      await writeAll(stream, bytes);
      stream.abort(9);
    }
    assertEquals(agent.connection.closeInfo, undefined);
    const good = await ask(agent, requestFor(target.authority));
    assertEquals((await soon("RESULT", framed(good).result)).code, "connected");
  });

  test(`the ${program} ends a tunnel, and no other, that goes on with what has no place there`, async (net) => {
    const server = net.scriptedServer();
    const target = net.target();
    start(net, server.quicPort, target.port);
    const agent = await server.accept();
    const wrong = {
      "OPEN again": openFrame,
      "a RESULT": frames.result("connected"),
      "a DRAIN": frames.drain,
      "an END with a payload": Uint8Array.of(1, 1, 0),
      "bytes after END": Uint8Array.of(...frames.end, ...frames.data("x")),
    };
    const request = program === "agent" ? [requestFor(target.authority)] : [];
    const other = await ask(agent, ...request);
    const atOther = await soon("its connection", target.accept());
    for (const [what, bytes] of Object.entries(wrong)) {
      const stream = await ask(agent, ...request, "hello");
      const atTarget = await soon("its connection", target.accept());
      await assertReads(atTarget, "hello");
      await writeAll(stream, bytes);
      assertEquals(await soon("the target's end", readUntilOver(atTarget)), "", what);
      assertEquals(await endOf(stream), { reset: 2, stopped: 2 }, what);
      atTarget.abort();
    }
    await writeAll(other, frames.data("still here"));
    await assertReads(atOther, "still here");
    assertEquals(agent.connection.closeInfo, undefined);
  });

  test(`the ${program} ends a tunnel at the target when its stream is reset`, async (net) => {
    const server = net.scriptedServer();
    const target = net.target();
    start(net, server.quicPort, target.port);
    const agent = await server.accept();
    const request = program === "agent" ? [requestFor(target.authority)] : [];
    for (
      const cut of [
        (stream: QuicStream) => stream.abort(3),
        (stream: QuicStream) => stream.reset(0),
        // FIN without END.
        (stream: QuicStream) => stream.closeWrite(),
      ]
    ) {
      const stream = await ask(agent, ...request, "hello");
      const atTarget = await soon("its connection", target.accept());
      await assertReads(atTarget, "hello");
      await cut(stream);
      assertEquals(await soon("the target's end", readUntilOver(atTarget)), "");
      atTarget.abort();
      stream.abort();
    }
  });

  onlyOnLinux(
    `the ${program} lets go of a target when the stream was reset in the dial`,
    async (net) => {
      using lines = logLines(4);
      const target = await silentTarget(net);
      const server = net.scriptedServer();
      start(net, server.quicPort, target.port);
      const agent = await server.accept();
      const stream = await ask(agent, requestFor(target.authority));
      await eventually(
        "the stream has been accepted",
        () => linesWith(lines, "stream accepted").length === 1,
      );
      // Time for the dial to begin.
      await delay(50);
      stream.abort(3);
      for (let i = 0; i < 2; i++) {
        await target.accept();
      }
      const late = await soon("the attempt that comes through", target.accept());
      assertEquals(await soon("its end", readUntilOver(late)), "");
      // And it serves others.
      const good = await ask(agent, requestFor(target.authority));
      assertEquals((await soon("RESULT", framed(good).result)).code, "connected");
    },
  );

  test(`the ${program} logs tunnel and client of each tunnel`, async (net) => {
    using lines = logLines(4);
    const server = net.scriptedServer();
    const target = net.servingTarget((connection) => readUntilOver(connection).then(() => {}));
    start(net, server.quicPort, target.port);
    const agent = await server.accept();
    const stream = await ask(agent, requestFor(target.authority));
    await stream.finish(frames.end);
    assertEquals((await readAgentFrames(stream)).result.code, "connected");
    await eventually("it is logged", () =>
      linesWith(
        lines,
        ` DBG ${program} "tunnel ended" stream=${stream.id} tunnel=${
          hex(id)
        } client=192.0.2.7:50000 `,
      ).length === 1);
    // Without a word about the client there is none in the log.
    const anonymous = await agent.open();
    await writeAll(anonymous, encodeFrame(FrameType.Open, encodeOpen({ tunnelId: id })));
    await writeAll(anonymous, frames.data(requestFor(NOBODY)));
    await anonymous.finish(frames.end);
    await readAgentFrames(anonymous);
    await eventually("it is logged", () => {
      const [line] = linesWith(lines, `"tunnel `, ` stream=${anonymous.id} tunnel=${hex(id)} `);
      return line && !line.includes(" client=192");
    });
  });
}

test("acceptTunnel() resets a stream whose OPEN does not come to its end in time", async (net) => {
  const server = await net.server();
  const agent = await net.scriptedAgent(server);
  // The stream of another agent than the program, so that the time is the test's own.
  const scripted = net.scriptedServer();
  const [peer, there] = await Promise.all([scripted.accept(), net.scriptedAgent(scripted)]);
  const stream = await peer.open();
  await writeAll(stream, openFrame.slice(0, 30));
  const accepted = await there.stream();
  const error = await acceptTunnel(accepted, QRHT_ALPN, 50).catch((error) => error);
  assertStringIncludes(String(error), "the first frame is not complete in 50 ms");
  assertEquals(await endOf(stream), { reset: 2, stopped: 2 });
  assertEquals(agent.connection.closeInfo, undefined);
});

test("runAgent() takes no notice of many streams whose OPEN never comes to its end", async (net) => {
  const server = net.scriptedServer();
  const agentProgram = net.agentOf(server);
  const agent = await server.accept();
  for (let i = 0; i < 200; i++) {
    await writeAll(await agent.open(), openFrame.slice(0, 1 + i % openFrame.length - 1));
  }
  const target = net.servingTarget((connection) => sendText(connection, "here"));
  const { carrier } = await connect(agent, target.authority);
  assertEquals(await readText(carrier), "here");
  // They do not hold it up when it is to stop, either.
  await agentProgram.stop();
  assertEquals((await agent.closed()).code, 100);
});

// ---- Agents that drain ----

/** Reads DRAIN from the agent's control stream, behind HELLO. */
async function drains(agent: ScriptedPeer): Promise<void> {
  const control = await soon("the control stream", agent.connection.acceptUniStream());
  let seen = "";
  const buffer = new Uint8Array(1024);
  await eventually("DRAIN", async () => {
    seen += hex(buffer.subarray(0, (await soon("more", control.read(buffer)))!));
    return seen.endsWith("1100");
  });
}

for (const program of ["agent", "passthrough"] as const) {
  test(`the ${program} drains: it ends what it has, takes nothing more, and leaves`, async (net) => {
    using lines = logLines(0);
    const server = net.scriptedServer();
    const target = net.target();
    const running = program === "agent"
      ? net.agentOf(server, { drainTimeoutMs: 20_000 })
      : net.passthroughOf(server, target.port, { drainTimeoutMs: 20_000 });
    const agent = await server.accept();
    await agent.control(frames.hello());
    await eventually("HELLO", () => linesWith(lines, '"server says hello"').length === 1);
    const stream = await ask(agent, ...(program === "agent" ? [requestFor(target.authority)] : []));
    const { carrier, result } = framed(stream);
    assertEquals((await soon("RESULT", result)).code, "connected");
    if (program === "agent") await assertReads(carrier, OK);
    const atTarget = await soon("the connection", target.accept());
    running.abort();
    await drains(agent);
    assertEquals(linesWith(lines, '"draining"', " tunnels=1 drainTimeoutMs=20000").length, 1);
    for (let i = 0; i < 3; i++) {
      const crossing = await readAgentFrames(await ask(agent, requestFor(target.authority)));
      assertEquals([crossing.result.code, crossing.ended], ["draining", true]);
      const answer = program === "agent" ? /^HTTP\/1\.1 503 / : /^$/;
      assertMatch(crossing.data, answer);
    }
    await writeAll(stream, frames.data("still there?"));
    await assertReads(atTarget, "still there?");
    await sendText(atTarget, "yes");
    await assertReads(carrier, "yes");
    await writeAll(stream, frames.end);
    assertEquals(await soon("the client's end", readText(atTarget)), "");
    assertEquals(agent.connection.closeInfo, undefined);
    await atTarget.closeWrite();
    const { by, application, code, reason } = await agent.closed();
    assertEquals([by, application, code, reason], ["peer", true, 100, "agent stopped"]);
    await soon("the program's end", running.done);
  });

  test(`the ${program} that drains delivers the last bytes of its last tunnel, and its end`, async (net) => {
    const lastBytes = pattern(20_000);
    for (let i = 0; i < 3; i++) {
      const server = net.scriptedServer();
      const target = net.target();
      const running = program === "agent"
        ? net.agentOf(server, { drainTimeoutMs: 20_000 })
        : net.passthroughOf(server, target.port, { drainTimeoutMs: 20_000 });
      const agent = await server.accept();
      const request = program === "agent" ? [requestFor(target.authority)] : [];
      const stream = await ask(agent, ...request);
      const { carrier, result } = framed(stream);
      assertEquals((await soon("RESULT", result)).code, "connected");
      if (program === "agent") await assertReads(carrier, OK);
      const atTarget = await soon("the connection", target.accept());
      await stream.finish(frames.end);
      assertEquals(await soon("the client's end", readText(atTarget)), "");
      running.abort();
      await writeAll(atTarget, lastBytes);
      await atTarget.closeWrite();
      assertSameBytes(await soon("the target's bytes", readToEnd(carrier)), lastBytes);
      assertEquals((await agent.closed()).code, 100);
      await soon("the program's end", running.done);
    }
  });
}

test("runAgent() delivers the last bytes before it leaves, also when packets were lost", async (net) => {
  const server = net.scriptedServer();
  await using relay = new UdpRelay({ host: "127.0.0.1", port: server.quicPort });
  const target = net.target();
  const running = net.agentOf({ quicPort: relay.addr.port }, { drainTimeoutMs: 20_000 });
  const agent = await server.accept();
  const { stream, carrier } = await connect(agent, target.authority);
  const atTarget = await target.accept();
  await stream.finish(frames.end);
  assertEquals(await soon("the client's end", readText(atTarget)), "");
  running.abort();
  await sendText(atTarget, "first, ");
  await assertReads(carrier, "first, ");
  relay.cut("toServer");
  const { cut } = relay.counters.toServer;
  await sendText(atTarget, "last");
  await atTarget.closeWrite();
  await eventually("the last bytes are lost", () => relay.counters.toServer.cut > cut);
  await delay(50);
  relay.restore();
  assertEquals(await soon("the target's end", readText(carrier)), "last");
  assertEquals((await agent.closed()).code, 100);
  await soon("the program's end", running.done);
});

test("runAgent() ends its tunnels when the time to drain is over", async (net) => {
  const server = net.scriptedServer();
  const target = net.target();
  const running = net.agentOf(server, { drainTimeoutMs: 300 });
  const agent = await server.accept();
  const { carrier } = await connect(agent, target.authority);
  const atTarget = await target.accept();
  const since = performance.now();
  running.abort();
  await sendText(carrier, "still");
  await assertReads(atTarget, "still");
  assertEquals((await agent.closed()).code, 100);
  const tookMs = performance.now() - since;
  assert(tookMs > 290 && tookMs < 1_500, `${tookMs} ms`);
  assertEquals(await soon("the target's end", readUntilOver(atTarget)), "");
  await soon("the program's end", running.done);
});

test("runAgent() leaves at once when it has no tunnel, or is not told to drain", async (net) => {
  for (const [drainTimeoutMs, busy] of [[20_000, false], [0, true], [0, false]] as const) {
    const server = net.scriptedServer();
    const target = net.target();
    const running = net.agentOf(server, { drainTimeoutMs });
    const agent = await server.accept();
    if (busy) await connect(agent, target.authority);
    // It is not only the server that believes them to be connected.
    await soon("HELLO", agent.connection.acceptUniStream());
    const since = performance.now();
    await running.stop();
    assertEquals((await agent.closed()).code, 100);
    assertLess(performance.now() - since, 1_000);
  }
});

test("runAgent() sends DRAIN to nobody that has not said that it understands it", async (net) => {
  using lines = logLines(0);
  for (const hello of [[], ["other", "draining"]]) {
    const server = net.scriptedServer();
    const target = net.target();
    const running = net.agentOf(server, { drainTimeoutMs: 20_000 });
    const agent = await server.accept();
    await agent.control(frames.hello(hello));
    const control = await soon("the control stream", agent.connection.acceptUniStream());
    const { carrier } = await connect(agent, target.authority);
    const atTarget = await target.accept();
    await eventually("HELLO", () => linesWith(lines, '"server says hello"').length > 0);
    lines.length = 0;
    running.abort();
    await eventually("it drains", () => linesWith(lines, '"draining"').length === 1);
    const refused = await readAgentFrames(await ask(agent, requestFor(target.authority)));
    assertEquals(refused.result.code, "draining");
    atTarget.abort();
    await carrier[Symbol.asyncDispose]();
    let seen = "";
    const buffer = new Uint8Array(1024);
    const reading = (async () => {
      for (let n; (n = await control.read(buffer)) !== null;) seen += hex(buffer.subarray(0, n));
    })();
    await agent.closed();
    await reading.catch(() => {});
    assertEquals(seen.slice(0, 2), "10");
    assert(!seen.endsWith("1100"), seen);
  }
});

test("the server goes on with others while an agent drains, and no client notices", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ agentWaitMs: 5_000 });
  const upstream = net.servingTarget(async (connection) => {
    await sendText(connection, "here:");
    await writeAll(connection, await readToEnd(connection));
    await connection.closeWrite();
  });
  const start = () => net.passthrough(server, upstream.port, { drainTimeoutMs: 10_000 });
  let agent = start();
  await eventually("it is there", () => linesWith(lines, '"agent connected"').length === 1);
  let going = true;
  let served = 0;
  const asking = Promise.all(Array.from({ length: 8 }, async (_, i) => {
    for (let n = 0; going; n++, served++) {
      const message = `${i}.${n} `.repeat(200);
      const answer = await exchange(net, server, message);
      assert(
        answer === `here:${message}`,
        `${message.length} bytes were answered ${answer.length}`,
      );
    }
  }));
  asking.catch(() => {});
  for (let round = 2; round < 8; round++) {
    const before = served;
    await eventually("clients are served", () => served > before + 20);
    const next = start();
    await eventually(
      "the next is there",
      () => linesWith(lines, '"agent connected"').length === round,
    );
    agent.abort();
    await soon("it has drained", agent.done);
    agent = next;
  }
  going = false;
  await asking;
});

// ---- The PROXY protocol behind an agent ----

for (
  const [name, told, v1, v2] of [
    [
      "IPv4",
      open,
      "PROXY TCP4 192.0.2.7 198.51.100.1 50000 8443\r\n",
      `2111001f${"c0000207"}${"c6336401"}${"c350"}${"20fb"}`,
    ],
    [
      "IPv6",
      {
        client: { ip: ipBytes("2001:db8::7")!, port: 1 },
        listener: { ip: ipBytes("2001:db8::1")!, port: 65_535 },
      },
      "PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n",
      `21210037${"20010db8000000000000000000000007"}${"20010db8000000000000000000000001"}0001ffff`,
    ],
    [
      "a client of which nothing is told",
      { listener: { ip: ipBytes("198.51.100.1")!, port: 8443 } },
      "PROXY UNKNOWN\r\n",
      "21000013",
    ],
  ] as const
) {
  test(`runPassthrough() introduces clients to the upstream by the PROXY protocol (${name})`, async (net) => {
    const signature = "0d0a0d0a000d0a515549540a";
    const uniqueId = `050010${hex(id)}`;
    for (
      const [proxyProtocol, expected] of [
        ["v1", hex(utf8.encode(v1))],
        ["v2", `${signature}${v2}${uniqueId}`],
        ["off", ""],
      ] as const
    ) {
      const server = net.scriptedServer();
      const upstream = net.target();
      net.passthroughOf(server, upstream.port, { proxyProtocol });
      const agent = await server.accept();
      const stream = await agent.open();
      const tunnel = openTunnel(stream, QRHT_ALPN, { ...told, tunnelId: id });
      const atUpstream = await soon("the dial", upstream.accept());
      // The header comes before the client has sent anything.
      const header = await soon("the header", readExactly(atUpstream, expected.length / 2));
      assertEquals(hex(header), expected);
      await sendText(tunnel.carrier, "hello");
      await tunnel.carrier.closeWrite();
      assertEquals(await soon("the client's bytes", readText(atUpstream)), "hello");
      await atUpstream.closeWrite();
      assertEquals((await soon("RESULT", tunnel.result)).code, "connected");
      assertEquals(await soon("the end", readText(tunnel.carrier)), "");
    }
  });
}

test("the PROXY protocol goes from a load balancer to the upstream", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ acceptProxyProtocol: trusted });
  const upstream = net.target();
  net.passthrough(server, upstream.port, { proxyProtocol: "v2" });
  const client = await net.client(server);
  await writeAll(client, formatProxyHeader(1, elsewhere["IPv6"]!));
  const atUpstream = await soon("the dial", upstream.accept());
  const [line] = await eventually("the client is logged", () => {
    const found = linesWith(lines, ' server "accepted tcp connection" ');
    return found.length > 0 && found;
  });
  const tunnelId = / tunnel=([0-9a-f]{32}) /.exec(line!)![1]!;
  const uniqueId = Uint8Array.from(tunnelId.match(/../g)!, (pair) => parseInt(pair, 16));
  const expected = formatProxyHeader(2, { ...elsewhere["IPv6"]!, uniqueId });
  assertEquals(hex(await readExactly(atUpstream, expected.length)), hex(expected));
  await client.closeWrite();
  await atUpstream.closeWrite();
  assertEquals(await readText(client), "");
});
