// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Which dialect two ends speak, and what they tell each other of themselves. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async/delay";
import { QRHT_ALPN, RAW_ALPN } from "../../lib/qrht/dialect.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { encodeFrame, FrameType } from "../../lib/qrht/frame.ts";
import { encodeHello, encodeOpen } from "../../lib/qrht/messages.ts";
import { version } from "../../lib/version.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import {
  ask,
  assertReads,
  linesWith,
  lineWith,
  logLines,
  OK,
  readText,
  requestFor,
  sendText,
  soon,
} from "../support/network.ts";
import { frames, hex, readAgentFrames, scriptedTest as test } from "../support/scripted_peer.ts";

const OTHER = "some other/2";

/** What is spoken, by what the server accepts and what the agent offers; undefined where there is nothing in common. */
const table: readonly [server: string[], agent: string[], spoken: string | undefined][] = [
  [[QRHT_ALPN, RAW_ALPN], [QRHT_ALPN, RAW_ALPN], QRHT_ALPN],
  [[QRHT_ALPN, RAW_ALPN], [RAW_ALPN, QRHT_ALPN], RAW_ALPN],
  [[QRHT_ALPN, RAW_ALPN], [QRHT_ALPN], QRHT_ALPN],
  [[QRHT_ALPN, RAW_ALPN], [RAW_ALPN], RAW_ALPN],
  [[QRHT_ALPN, RAW_ALPN], [OTHER], undefined],
  [[QRHT_ALPN, RAW_ALPN], [OTHER, RAW_ALPN, QRHT_ALPN], RAW_ALPN],
  [[RAW_ALPN, QRHT_ALPN], [QRHT_ALPN, RAW_ALPN], QRHT_ALPN],
  [[RAW_ALPN, QRHT_ALPN], [RAW_ALPN, QRHT_ALPN], RAW_ALPN],
  [[QRHT_ALPN], [QRHT_ALPN, RAW_ALPN], QRHT_ALPN],
  [[QRHT_ALPN], [RAW_ALPN, QRHT_ALPN], QRHT_ALPN],
  [[QRHT_ALPN], [QRHT_ALPN], QRHT_ALPN],
  [[QRHT_ALPN], [RAW_ALPN], undefined],
  [[QRHT_ALPN], [OTHER], undefined],
  [[RAW_ALPN], [QRHT_ALPN, RAW_ALPN], RAW_ALPN],
  [[RAW_ALPN], [RAW_ALPN, QRHT_ALPN], RAW_ALPN],
  [[RAW_ALPN], [QRHT_ALPN], undefined],
  [[RAW_ALPN], [RAW_ALPN], RAW_ALPN],
  [[RAW_ALPN], [OTHER], undefined],
  [[OTHER], [OTHER], OTHER],
  [[OTHER], [QRHT_ALPN, RAW_ALPN], undefined],
  [[OTHER], [QRHT_ALPN, OTHER], OTHER],
  [[QRHT_ALPN, OTHER], [OTHER, QRHT_ALPN], OTHER],
  [[QRHT_ALPN, OTHER], [QRHT_ALPN, OTHER], QRHT_ALPN],
  // Names that are like others.
  [["qrht/1"], ["qrht/10", "qrht/", "QRHT/1", "qrht/1 "], undefined],
  [["qrht/10"], ["qrht/1", "qrht/10"], "qrht/10"],
  [["x".repeat(255)], ["x".repeat(254), "x".repeat(255)], "x".repeat(255)],
];

const listOf = (names: readonly string[]) =>
  names.map((name) => name.length > 20 ? `${name.length} x` : name).join(",");

for (const [serverAlpn, agentAlpn, spoken] of table) {
  const what = spoken === undefined ? "nothing" : listOf([spoken]);
  test(`server ${listOf(serverAlpn)} and agent ${listOf(agentAlpn)} speak ${what}`, async (net) => {
    using lines = logLines(2);
    const server = await net.server({ alpn: serverAlpn });
    const agent = net.agent(server, { alpn: agentAlpn });
    if (spoken === undefined) {
      const refused = await lineWith(lines, ' WRN server "agent refused" ');
      const alert = "TLS alert 120, no common ALPN protocol";
      assertStringIncludes(refused!, `reason="connection closed: ${alert}`);
      assertMatch(refused!, / remote=127\.0\.0\.1:\d+ /);
      const failed = await lineWith(lines, ' WRN agent "cannot connect to the server" ');
      assertStringIncludes(failed!, `error="connection closed by the peer: ${alert}`);
      assertEquals(linesWith(lines, "agent connected"), []);
      assertEquals(linesWith(lines, "connected to quic server"), []);
      return await agent.stop();
    }
    const target = net.greeter();
    assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
    const alpn = /^[\w/-]+$/.test(spoken) ? spoken : JSON.stringify(spoken);
    const [atServer, moreAtServer] = linesWith(lines, ' INF server "agent connected" ');
    assert(atServer!.endsWith(` alpn=${alpn} agents=1`), atServer);
    assertEquals(moreAtServer, undefined);
    const [atAgent, moreAtAgent] = linesWith(lines, ' INF agent "connected to quic server" ');
    assert(atAgent!.endsWith(` alpn=${alpn}`), atAgent);
    assertEquals(moreAtAgent, undefined);
    // Only the own dialect tells agents of clients.
    const ended = await lineWith(lines, ' DBG agent "tunnel ended" ');
    assertEquals(
      / tunnel=[0-9a-f]{32} client=127\.0\.0\.1:\d+ /.test(ended!),
      spoken === QRHT_ALPN,
    );
    const hellos = () => linesWith(lines, "hello from ").length;
    if (spoken === QRHT_ALPN) await eventually("both have said hello", () => hellos() === 2);
    else assertEquals(hellos(), 0);
  });
}

test("the server logs how many agents there are, whatever they speak", async (net) => {
  using lines = logLines(0);
  const server = await net.server();
  const connected = () => linesWith(lines, '"agent connected"');
  const joins = async (alpn: string) => {
    const count = connected().length;
    const program = net.agent(server, { alpn: [alpn] });
    await eventually("it is there", () => connected().length > count);
    return program;
  };
  const first = await joins(QRHT_ALPN);
  await joins(RAW_ALPN);
  await first.stop();
  const line = await lineWith(lines, '"agent disconnected"');
  assertStringIncludes(line!, " agents=1");
  await joins(QRHT_ALPN);
  assertEquals(connected().map((line) => / agents=(.*)$/.exec(line)![1]), ["1", "2", "2"]);
  assertEquals(linesWith(lines, '"waiting for new quic client session"').length, 1);
});

// ---- HELLO ----

for (
  const [config, name] of [
    [{}, ""],
    [{ name: "eu-1" }, " name=eu-1"],
    [{ name: 'x" agents=99\nERR ü' }, ' name="x\\" agents=99\\nERR \\u00fc"'],
    [{ name: "ü".repeat(127) }, ` name="${"\\u00fc".repeat(127)}"`],
  ] as const
) {
  for (const program of ["agent", "passthrough"] as const) {
    test(`server and ${program} tell each other what they are, with the name ${config.name?.slice(0, 10).replace("\n", " ")}`, async (net) => {
      using lines = logLines(0);
      const server = await net.server(config);
      if (program === "agent") net.agent(server, config);
      else net.passthrough(server, 1, config);
      await eventually("both have heard it", () => linesWith(lines, "hello from ").length === 2);
      const says = (who: string) =>
        ` program=${who} version=${version}${name} features=drain,arrived,ping`;
      const [atServer] = linesWith(lines, ' INF server "hello from agent" ');
      assert(atServer!.endsWith(says(`proxy-${program}`)), atServer);
      assertMatch(
        atServer!,
        / agent=agent-1 remote=127\.0\.0\.1:\d+ connection=\d+ cid=[0-9a-f]{16} program=/,
      );
      const [atAgent] = linesWith(lines, ` INF ${program} "hello from server" `);
      assert(atAgent!.endsWith(says("proxy-server")), atAgent);
      for (const line of lines) assert(!line.includes("\n"), line);
    });
  }
}

test("the programs send HELLO, first and alone, on one unidirectional stream", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ name: "s" });
  const scripted = net.scriptedServer();
  net.agent(scripted, { name: "a" });
  const peers = [await net.scriptedAgent(server), await scripted.accept()];
  for (const [i, peer] of peers.entries()) {
    const stream = await soon("a control stream", peer.connection.acceptUniStream());
    const expected = encodeFrame(
      FrameType.Hello,
      encodeHello({
        program: ["proxy-server", "proxy-agent"][i]!,
        version,
        name: ["s", "a"][i]!,
        features: ["drain", "arrived", "ping"],
      }),
    );
    const buffer = new Uint8Array(1000);
    let read = "";
    while (read.length < expected.length * 2) {
      read += hex(buffer.subarray(0, (await soon("HELLO", stream.read(buffer)))!));
    }
    assertEquals(read, hex(expected));
    let more = false;
    void Promise.allSettled([
      peer.connection.acceptUniStream().then(() => more = true),
      Promise.try(() => stream.read(buffer)).then(() => more = true),
    ]);
    // The peer's HELLO has been read, and there is still nothing more.
    await peer.control(frames.hello());
    await eventually("HELLO has arrived", () => linesWith(lines, "hello from ").length === i + 1);
    await delay(20);
    assertEquals(more, false);
  }
});

test("what an agent says of itself is in the log as it is, and nothing more", async (net) => {
  using lines = logLines(0);
  const server = await net.server();
  const says = async (hello: Uint8Array) => {
    const before = linesWith(lines, "hello from agent").length;
    const agent = await net.scriptedAgent(server);
    await agent.control(hello);
    const line = await eventually(
      "it is logged",
      () => linesWith(lines, "hello from agent")[before],
    );
    agent.connection.close(100);
    return line.replace(/^.* connection=\d+ cid=[0-9a-f]{16}/, "");
  };
  assertEquals(await says(frames.hello([])), ' features=""');
  assertEquals(await says(Uint8Array.of(0x10, 1, 1)), ' features=""');
  assertEquals(await says(frames.hello(["a", "b c", "drain"])), ' features="a,b c,drain"');
  const hello = { program: "x agents=1", version: "\x1b[2J", name: '"\r\n', features: [] };
  assertEquals(
    await says(encodeFrame(FrameType.Hello, encodeHello(hello))),
    ' program="x agents=1" version="\\u001b[2J" name="\\"\\r\\n" features=""',
  );
});

// ---- Peers without control streams ----

test("runServer() serves an agent of qrht/1 that has no control stream and lets it have none", async (net) => {
  const server = await net.server();
  const agent = await net.scriptedAgent(server, { maxUniStreams: 0 });
  for (let i = 0; i < 3; i++) {
    const client = await net.client(server);
    await sendText(client, "hello");
    const { carrier, connected, open } = await agent.tunnel();
    assertEquals(open.tunnelId?.length, 16);
    await assertReads(carrier, "hello");
    connected();
    await sendText(carrier, "answer");
    await carrier.closeWrite();
    assertEquals(await readText(client), "answer");
    await client.closeWrite();
    assertEquals((await readToEnd(carrier)).length, 0);
  }
  assertEquals(agent.connection.closeInfo, undefined);
});

for (const drainTimeoutMs of [0, 5_000]) {
  test(`runAgent() serves a server of qrht/1 without control streams, and leaves it, after ${drainTimeoutMs} ms at most`, async (net) => {
    const server = net.scriptedServer({ maxUniStreams: 0 });
    const program = net.agent(server, { drainTimeoutMs });
    const agent = await server.accept();
    const target = net.greeter();
    for (let i = 0; i < 3; i++) {
      const stream = agent.open();
      const open = encodeOpen({ tunnelId: new Uint8Array(16).fill(i) });
      await writeAll(stream, encodeFrame(FrameType.Open, open));
      await writeAll(stream, frames.data(requestFor(target.authority)));
      await stream.finish(frames.end);
      const { result, data, ended } = await readAgentFrames(stream);
      assertEquals([result.code, data, ended], ["connected", `${OK}here`, true]);
    }
    await program.stop();
    assertEquals((await agent.closed()).code, 100);
  });
}
