// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the agents do in `qrht/1` at a server that follows a script: a good one, and others. */

import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import { delay } from "@std/async/delay";
import type { AgentConfig } from "../../lib/agent/session.ts";
import { parseCidr } from "../../lib/net/cidr.ts";
import { QRHT_ALPN } from "../../lib/qrht/dialect.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { ipBytes } from "../../lib/net/ip_address.ts";
import { formatProxyHeader } from "../../lib/tunnel/proxy_protocol.ts";
import { encodeFrame, FrameType } from "../../lib/qrht/frame.ts";
import { decodeResult, encodeOpen, type Open, type Result } from "../../lib/qrht/messages.ts";
import { type QuicStream, StreamResetError, StreamStoppedError } from "../../lib/quic/mod.ts";
import { openTunnel } from "../../lib/qrht/tunnel.ts";
import { TunnelStream } from "../../lib/qrht/tunnel_stream.ts";
import type { FailureCode } from "../../lib/tunnel/failure.ts";
import { eventually } from "../support/eventually.ts";
import { readExactly, readToEnd } from "../support/memory_duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import {
  assertGivenUp,
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
  silentTarget,
  soon,
  type Target,
  utf8,
} from "../support/network.ts";
import {
  block,
  elsewhere,
  exchange,
  frames,
  hex,
  readAgentFrames,
  scriptedAgentTest as test,
  type ScriptedNetwork,
  type ScriptedPeer,
} from "../support/scripted_peer.ts";
import { UdpRelay } from "../support/udp_relay.ts";

const id = Uint8Array.from({ length: 16 }, (_, i) => 0xa0 + i);
const open: Open = {
  tunnelId: id,
  client: { ip: ipBytes("192.0.2.7")!, port: 50_000 },
  listener: { ip: ipBytes("198.51.100.1")!, port: 8443 },
};
const openFrame = encodeFrame(FrameType.Open, encodeOpen(open));

/** A stream to an agent that begins with OPEN, and has this much behind it. */
async function ask(agent: ScriptedPeer, ...messages: string[]): Promise<QuicStream> {
  const stream = agent.open();
  await writeAll(stream, openFrame);
  for (const message of messages) await writeAll(stream, frames.data(message));
  return stream;
}

/** One of the two agents, connected to a scripted server. */
function start(
  net: ScriptedNetwork,
  program: "agent" | "passthrough",
  upstreamPort: number,
  config: Partial<AgentConfig> = {},
) {
  return program === "agent"
    ? net.agentAtServer(config)
    : net.passthroughAtServer(upstreamPort, config);
}

/** A stream on which a tunnel to a target is connected. */
async function connect(agent: ScriptedPeer, authority: string) {
  const stream = agent.open();
  const tunnel = openTunnel(stream, QRHT_ALPN, open);
  await sendText(tunnel.carrier, requestFor(authority));
  assertEquals((await soon("RESULT", tunnel.result)).code, "connected");
  await assertReads(tunnel.carrier, OK);
  return { stream, carrier: tunnel.carrier };
}

/** How an agent ends a stream on which the server violates the dialect. */
function violation({ isOnDeno }: ScriptedNetwork): { reset: unknown; stopped: unknown } {
  // Deno's QUIC has no RESET_STREAM: FIN is where END has to come first, and the other code is 0.
  return isOnDeno ? { reset: new Uint8Array(0), stopped: 0 } : { reset: 2, stopped: 2 };
}

/** The codes with which a stream is reset and stopped, both. */
async function endOf(stream: QuicStream): Promise<{ reset: unknown; stopped: unknown }> {
  const codeOf = (error: unknown) =>
    error instanceof StreamResetError || error instanceof StreamStoppedError ? error.code : error;
  const reset = await soon("the stream's end", readToEnd(stream).catch(codeOf));
  const stopped = await eventually(
    "the stream is stopped",
    () => Promise.try(() => writeAll(stream, frames.data("x"))).then(() => undefined, codeOf),
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
  const { agent } = await net.agentAtServer();
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

onlyOnLinux("the agents tell the server that a target does not answer in time", async (net) => {
  const target = await silentTarget(net);
  const { agent } = await net.agentAtServer({ dialTimeoutMs: 50 });
  const asked = await readAgentFrames(await ask(agent, requestFor(target.authority)));
  assertEquals(asked.result, {
    code: "timeout",
    text: `${target.authority}: no answer within 50 ms`,
  });
  assertMatch(asked.data, /^HTTP\/1\.1 504 /);
  const other = net.scriptedServer();
  net.passthrough(other, target.port, { dialTimeoutMs: 50 });
  const passthrough = await other.accept();
  assertEquals(await readAgentFrames(await ask(passthrough)), {
    result: { code: "timeout", text: `${target.authority}: no answer within 50 ms` },
    data: "",
    ended: true,
  });
  await assertGivenUp(net, target);
});

test("runPassthrough() tells the server why there is no tunnel, and the client nothing", async (net) => {
  const { agent } = await net.passthroughAtServer(1);
  assertEquals(await readAgentFrames(await ask(agent, "hello")), {
    result: { code: "refused", text: `${NOBODY}: connection refused` },
    data: "",
    ended: true,
  });
});

test("runAgent() tells the server of a client that has left without a request", async (net) => {
  const { agent } = await net.agentAtServer();
  const stream = await ask(agent);
  await stream.finish(frames.end);
  const { result, data, ended } = await readAgentFrames(stream);
  assertEquals([result.code, data, ended], ["bad-request", "", true]);
  const within = await ask(agent, "CONNECT ");
  await within.finish(frames.end);
  const answer = await readAgentFrames(within);
  assertEquals([answer.result.code, answer.ended], ["bad-request", true]);
  assertMatch(answer.data, /^HTTP\/1\.1 400 the connection ends within the request head\r\n/);
});

test("runAgent() says RESULT, the answer to CONNECT and the target's bytes, in this order", async (net) => {
  const { agent } = await net.agentAtServer();
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
  const upstream = net.target();
  const { agent } = await net.passthroughAtServer(upstream.port);
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
function framed(stream: QuicStream): { carrier: TunnelStream; result: Promise<Result> } {
  const carrier = new TunnelStream(stream, FrameType.Result);
  const receive = async () => decodeResult((await carrier.receiveFirst())!);
  return { carrier, result: receive() };
}

/** A tunnel of either agent that is connected to a target. */
async function tunnelOf(agent: ScriptedPeer, program: "agent" | "passthrough", target: Target) {
  const stream = await ask(agent, ...(program === "agent" ? [requestFor(target.authority)] : []));
  const { carrier, result } = framed(stream);
  assertEquals((await soon("RESULT", result)).code, "connected");
  if (program === "agent") await assertReads(carrier, OK);
  return { stream, carrier, atTarget: await soon("the connection", target.accept()) };
}

/** Some of what tunnel_stream_test.ts has all of. */
const wrongOpens: Readonly<Record<string, readonly [bytes: Uint8Array, logged: string]>> = {
  "a HTTP request": [utf8.encode(requestFor(NOBODY)), "the first frame has type"],
  "DATA": [frames.data("x"), "the first frame has type 0, not 2"],
  "an OPEN that ends in its id": [Uint8Array.of(2, 3, 1, 0, 1), "OPEN ends too early"],
};

test("a server that opens nothing but wrong streams cannot have an agent log a warning for each", async (net) => {
  using lines = logLines(2);
  const target = net.target();
  const { agent } = await start(net, "agent", target.port);
  const count = 200;
  for (let i = 0; i < count; i++) {
    const stream = agent.open();
    await writeAll(stream, frames.data("x"));
    assertEquals(await endOf(stream), violation(net));
  }
  const warnings = linesWith(lines, ' WRN agent "stream refused"').length;
  assert(warnings >= 10 && warnings < count / 2, `${warnings} warnings`);
  const others = linesWith(lines, ' DBG agent "stream refused"').length;
  assertEquals(warnings + others, count);
});

for (const program of ["agent", "passthrough"] as const) {
  test(`the ${program} resets a stream that does not begin with OPEN, and no other`, async (net) => {
    using lines = logLines(0);
    const target = net.target();
    const { agent } = await start(net, program, target.port);
    for (const [what, [bytes, logged]] of Object.entries(wrongOpens)) {
      const stream = agent.open();
      await writeAll(stream, bytes);
      assertEquals(await endOf(stream), violation(net), what);
      const { length } = linesWith(
        lines,
        ` WRN ${program} "stream refused"`,
        ` stream=${stream.id} `,
        `error="${logged}`,
      );
      assertEquals(length, 1, what);
    }
    // An end within OPEN, one before it, and resets.
    const cut = agent.open();
    await cut.finish(openFrame.slice(0, 20));
    const end = await soon("its end", readToEnd(cut).catch((error) => error.code));
    assertEquals(end, violation(net).reset);
    const silent = agent.open();
    await silent.closeWrite();
    await soon("its end", readToEnd(silent).catch(() => {}));
    for (const bytes of [openFrame.slice(0, 1), openFrame.slice(0, 20), openFrame]) {
      const stream = agent.open();
      await writeAll(stream, bytes);
      stream.abort(9);
    }
    assertEquals(agent.connection.closeInfo, undefined);
    const good = await ask(agent, requestFor(target.authority));
    assertEquals((await soon("RESULT", framed(good).result)).code, "connected");
  });

  test(`the ${program} ends a tunnel at its target, and no other, when its stream is cut off or wrong`, async (net) => {
    const target = net.target();
    const { agent } = await start(net, program, target.port);
    const writes = (bytes: Uint8Array) => (stream: QuicStream) => writeAll(stream, bytes);
    const wrong: Readonly<Record<string, (stream: QuicStream) => Promise<void> | void>> = {
      "OPEN again": writes(openFrame),
      "a RESULT": writes(frames.result("connected")),
      "a DRAIN": writes(frames.drain),
      "an END with a payload": writes(Uint8Array.of(1, 1, 0)),
      "bytes after END": writes(Uint8Array.of(...frames.end, ...frames.data("x"))),
    };
    const cuts: typeof wrong = {
      "an abort": (stream) => stream.abort(3),
      "a reset": (stream) => stream.reset(0),
      "FIN without END": (stream) => stream.closeWrite(),
    };
    const other = await tunnelOf(agent, program, target);
    for (const [what, act] of Object.entries({ ...wrong, ...cuts })) {
      const { stream, atTarget } = await tunnelOf(agent, program, target);
      await writeAll(stream, frames.data("hello"));
      await assertReads(atTarget, "hello");
      await act(stream);
      assertEquals(await soon("the target's end", readUntilOver(atTarget)), "", what);
      if (what in wrong) assertEquals(await endOf(stream), violation(net), what);
      atTarget.abort();
      stream.abort();
    }
    await writeAll(other.stream, frames.data("still here"));
    await assertReads(other.atTarget, "still here");
    assertEquals(agent.connection.closeInfo, undefined);
  });

  onlyOnLinux(
    `the ${program} lets go of a target when the stream was reset in the dial`,
    async (net) => {
      using lines = logLines(4);
      const target = await silentTarget(net);
      const { agent } = await start(net, program, target.port);
      const stream = await ask(agent, requestFor(target.authority));
      await lineWith(lines, "stream accepted");
      // Time for the dial to begin.
      await delay(50);
      stream.abort(3);
      for (let i = 0; i < 2; i++) {
        await target.accept();
      }
      // A passthrough may hand on what it had got before. A reset may come before the target has accepted.
      const late = target.accept().then(readUntilOver, (error) => {
        if (error instanceof Deno.errors.NotConnected) return "";
        throw error;
      });
      const got = await soon("the attempt that comes through, and its end", late);
      assert(program === "passthrough" ? requestFor(target.authority).startsWith(got) : got === "");
      // And it serves others.
      const good = await ask(agent, requestFor(target.authority));
      assertEquals((await soon("RESULT", framed(good).result)).code, "connected");
    },
  );

  test(`the ${program} logs tunnel and client of each tunnel`, async (net) => {
    using lines = logLines(4);
    const target = net.servingTarget((connection) => readUntilOver(connection).then(() => {}));
    const { agent } = await start(net, program, target.port);
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
    const anonymous = agent.open();
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

test("runAgent() takes no notice of many streams whose OPEN never comes to its end", async (net) => {
  const { program: agentProgram, agent } = await net.agentAtServer();
  for (let i = 0; i < 200; i++) {
    await writeAll(agent.open(), openFrame.slice(0, 1 + i % openFrame.length - 1));
  }
  const target = net.greeter();
  const { carrier } = await connect(agent, target.authority);
  assertEquals(await readText(carrier), "here");
  // They do not hold it up when it is to stop, either.
  await agentProgram.stop();
  assertEquals((await agent.closed()).code, 100);
});

test("runAgent() outlives a server that leaves the moment it has connected", async (net) => {
  const server = net.scriptedServer();
  const program = net.agent(server);
  for (let i = 0; i < 3; i++) {
    const { connection } = await server.accept();
    // The end of the handshake goes out, and the end of the connection right behind it.
    connection.flush();
    connection.close(7, "scripted");
    connection.flush();
    block(5);
  }
  const target = net.greeter();
  const { carrier } = await connect(await server.accept(), target.authority);
  assertEquals(await readText(carrier), "here");
  await program.stop();
});

// ---- Agents that drain ----

for (const program of ["agent", "passthrough"] as const) {
  test(`the ${program} drains: it ends what it has, takes nothing more, and leaves`, async (net) => {
    using lines = logLines(0);
    const target = net.target();
    const { program: running, agent } = await start(net, program, target.port, {
      drainTimeoutMs: 20_000,
    });
    await agent.control(frames.hello());
    await lineWith(lines, '"hello from server"');
    const { stream, carrier, atTarget } = await tunnelOf(agent, program, target);
    running.abort();
    await agent.readDrain();
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
      const target = net.target();
      const { program: running, agent } = await start(net, program, target.port, {
        drainTimeoutMs: 20_000,
      });
      const { stream, carrier, atTarget } = await tunnelOf(agent, program, target);
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
  await using relay = new UdpRelay({ hostname: "127.0.0.1", port: server.quicPort });
  const target = net.target();
  const running = net.agent({ quicPort: relay.addr.port }, { drainTimeoutMs: 20_000 });
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

test("runAgent() leaves at once when it has no tunnel, or is not told to drain", async (net) => {
  for (const [drainTimeoutMs, busy] of [[20_000, false], [0, true], [0, false]] as const) {
    const server = net.scriptedServer();
    const target = net.target();
    const running = net.agent(server, { drainTimeoutMs });
    const agent = await server.accept();
    if (busy) await connect(agent, target.authority);
    // It is not only the server that believes them to be connected.
    await soon("HELLO", agent.connection.acceptUniStream());
    const since = performance.now();
    await running.stop();
    assertEquals((await agent.closed()).code, 100);
    // On Deno's QUIC, a server that answers no PING has a second for what it has sent.
    assertLess(performance.now() - since, net.isOnDeno ? 2_000 : 1_000);
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
  await lineWith(lines, '"agent connected"');
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

const trusted = [parseCidr("127.0.0.0/8")];

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
      const upstream = net.target();
      const { agent } = await net.passthroughAtServer(upstream.port, { proxyProtocol });
      const stream = agent.open();
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
  const line = await lineWith(lines, ' server "accepted tcp connection" ');
  const tunnelId = / tunnel=([0-9a-f]{32}) /.exec(line!)![1]!;
  const uniqueId = Uint8Array.from(tunnelId.match(/../g)!, (pair) => parseInt(pair, 16));
  const expected = formatProxyHeader(2, { ...elsewhere["IPv6"]!, uniqueId });
  assertEquals(hex(await readExactly(atUpstream, expected.length)), hex(expected));
  await client.closeWrite();
  await atUpstream.closeWrite();
  assertEquals(await readText(client), "");
});
