// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Clients of a front that is known to speak CONNECT: each gets one answer, whoever gives it. */
import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import { delay } from "@std/async/delay";
import { Monitor } from "../../lib/observe/monitor.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import {
  assertReads,
  linesWith,
  lineWith,
  logLines,
  type Network,
  NOBODY,
  OK,
  readUntilOver,
  requestFor,
  sendText,
  type Server,
  soon,
  test,
} from "../support/network.ts";
import { RAW_ALPN } from "../../lib/qrht/dialect.ts";
import { frames, scriptedTest } from "../support/scripted_peer.ts";

const BOTH = ["qrht/1", "raw"];

/** What kube-apiserver sends. */
const REQUEST = "CONNECT target.example:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

const connectMode = { mode: "http-connect", agentWaitMs: undefined } as const;

/** All that a client reads which waits for the answer before it does anything, and then leaves. */
async function answerFor(client: Duplex, request = REQUEST): Promise<string> {
  await sendText(client, request);
  const answer = await soon("the answer", readUntilOver(client));
  client.abort();
  return answer;
}

const ask = async (net: Network, server: Server, request?: string) =>
  await answerFor(await net.client(server), request);

/** Asserts that there is one answer, and nothing else. */
function assertAnswer(answer: string, line: RegExp): void {
  const [first, ...fields] = answer.split("\r\n");
  assertMatch(first!, line);
  assertMatch(fields[0]!, /^Proxy-Status: quic-tunnel-(server|agent); /);
  assertEquals(fields.slice(1), ["Content-Length: 0", "Connection: close", "", ""]);
}

test(
  "runServer() answers at once when there is no agent, unless it is told to wait",
  async (net) => {
    using lines = logLines(0);
    const server = await net.server(connectMode);
    const since = performance.now();
    assertAnswer(await ask(net, server), /^HTTP\/1\.1 503 no agent is connected$/);
    assertLess(performance.now() - since, 1_000);
    assertMatch(
      linesWith(lines, '"client refused"')[0]!,
      /reason=no-agent error="no agent is connected" hint=/,
    );
    const patient = await net.server({ ...connectMode, agentWaitMs: 50 });
    assertAnswer(await ask(net, patient), /^HTTP\/1\.1 503 no agent is connected within 50 ms$/);
    const waiting = await net.server({ ...connectMode, agentWaitMs: 10_000 });
    const client = await net.client(waiting);
    await sendText(client, requestFor(net.greeter().authority));
    net.agent(waiting);
    await assertReads(client, `${OK}here`);
  },
  BOTH,
);

test("runServer() says nothing on a front in mode raw", async (net) => {
  using _ = logLines(0);
  assertEquals(await ask(net, await net.server({ agentWaitMs: 0 })), "");
}, ["qrht/1"]);

test(
  "runServer() passes the answers of agents and the bytes of targets on unchanged",
  async (net) => {
    const server = await net.server(connectMode);
    net.agent(server);
    await soon(
      "a tunnel",
      eventually(
        "the agent",
        async () =>
          (await ask(net, server, requestFor(NOBODY))).startsWith("HTTP/1.1 502 127.0.0.1:1: ") ||
          undefined,
      ),
    );
    assertAnswer(
      await ask(net, server, requestFor("169.254.1.1:80")),
      /^HTTP\/1\.1 403 169\.254\.1\.1:80: denied/,
    );
    assertAnswer(await ask(net, server, "CONNECT HTTP/1.1\r\n\r\n"), /^HTTP\/1\.1 400 /);
    const client = await net.client(server);
    await sendText(client, requestFor(net.greeter().authority));
    await assertReads(client, `${OK}here`);
  },
  BOTH,
);

test("runServer() answers for a passthrough agent that cannot reach its upstream", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ ...connectMode, agentWaitMs: 10_000 });
  net.passthrough(server, 1);
  const answer = await ask(net, server);
  if (net.isRaw) assertAnswer(answer, /^HTTP\/1\.1 502 the agent has not connected the target: /);
  else assertAnswer(answer, /^HTTP\/1\.1 502 127\.0\.0\.1:1: connection refused$/);
  assertMatch(await lineWith(lines, ' server "tunnel ended"'), / by=(agent|target) reason=refused/);
}, BOTH);

test("runServer() answers for an upstream that ends without an answer of its own", async (net) => {
  const server = await net.server({ ...connectMode, agentWaitMs: 10_000 });
  const upstream = net.servingTarget(async (connection) => {
    await connection.read(new Uint8Array(1_000));
  });
  net.passthrough(server, upstream.port);
  assertAnswer(await ask(net, server), /^HTTP\/1\.1 502 the tunnel ended without an answer$/);
}, BOTH);

test(
  "runServer() answers clients beyond --max-connections, as many as it may at a time",
  async (net) => {
    using lines = logLines(0);
    const monitor = new Monitor("proxy-server");
    const server = await net.server(
      { ...connectMode, agentWaitMs: 10_000, maxConnections: 1 },
      monitor,
    );
    const held = await net.client(server);
    await eventually("it is served", () => monitor.tunnels.size === 1);
    assertAnswer(await ask(net, server), /^HTTP\/1\.1 503 1 clients are already connected$/);
    // These do not close their connections: they have 2 s.
    const clients = await Promise.all(Array.from({ length: 40 }, () => net.client(server)));
    const answers = await Promise.all(
      clients.map((client) => soon("the end", readUntilOver(client))),
    );
    const answered = answers.filter((answer) => answer.startsWith("HTTP/1.1 503 1 clients"));
    assertEquals([answered.length, answers.filter((answer) => answer === "").length], [32, 8]);
    assert(linesWith(lines, "clients refused").length < 10);
    held.abort();
  },
  ["qrht/1"],
);

test("runServer() ends with clients that it has answered and that stay", async (net) => {
  using _ = logLines(0);
  const server = await net.server({ ...connectMode });
  const client = await net.client(server);
  await assertReads(client, "HTTP/1.1 503 ");
  await soon("its stop", server.stop());
}, ["qrht/1"]);

test(
  "runServer() gives its answer also to a client that has sent much, and to one that sends nothing",
  async (net) => {
    using _ = logLines(0);
    const server = await net.server(connectMode);
    const eager = await net.client(server);
    await writeAll(eager, pattern(200_000));
    assertAnswer(await soon("the answer", readUntilOver(eager)), /^HTTP\/1\.1 503 /);
    const silent = await net.client(server);
    assertAnswer(await soon("the answer", readUntilOver(silent)), /^HTTP\/1\.1 503 /);
    // It is not there for long.
    await soon(
      "the end",
      (async () => {
        for (;;) await silent.write(pattern(10)), await delay(50);
      })().catch(() => {}),
    );
  },
  ["qrht/1"],
);

for (const [dialect, options] of [["qrht/1", {}], ["raw", { alpn: [RAW_ALPN] }]] as const) {
  const isRaw = dialect === "raw";
  scriptedTest(
    `runServer() answers 504 after --connect-timeout to an agent that is silent (${dialect})`,
    async (net) => {
      using lines = logLines(2);
      const { server, agent } = await net.serverAndAgent(
        { ...connectMode, connectTimeoutMs: 200 },
        options,
      );
      const answer = ask(net, server);
      const stream = await agent.stream();
      assertAnswer(
        await answer,
        /^HTTP\/1\.1 504 no agent connected the client to its target within 200 ms$/,
      );
      assertMatch(
        await lineWith(lines, ' server "tunnel ended"'),
        / by=agent reason=connect-timeout/,
      );
      stream.abort();
    },
  );

  scriptedTest(
    `runServer() answers when an agent resets a tunnel that has no answer (${dialect})`,
    async (net) => {
      using lines = logLines(2);
      const { server, agent } = await net.serverAndAgent(connectMode, options);
      const answer = ask(net, server);
      const stream = await agent.stream();
      await stream.read(new Uint8Array(1_000));
      if (!isRaw) await writeAll(stream, frames.result("connected"));
      stream.abort(7);
      assertAnswer(await answer, /^HTTP\/1\.1 502 the agent has ended the tunnel: .*code 7$/);
      assertMatch(await lineWith(lines, ' server "tunnel ended"'), / by=target reason=reset/);
    },
  );

  scriptedTest(
    `runServer() answers when the agent of a tunnel leaves before its answer (${dialect})`,
    async (net) => {
      using _ = logLines(0);
      const { server, agent } = await net.serverAndAgent(connectMode, options);
      const answer = ask(net, server);
      await (await agent.stream()).read(new Uint8Array(1_000));
      agent.connection.close(100);
      assertAnswer(await answer, /^HTTP\/1\.1 503 the agent has left: /);
    },
  );

  scriptedTest(
    `runServer() has no answer behind the first byte of another (${dialect})`,
    async (net) => {
      using _ = logLines(0);
      const { server, agent } = await net.serverAndAgent(
        { ...connectMode, connectTimeoutMs: 300 },
        options,
      );
      for (const end of ["reset", "close"] as const) {
        const client = await net.client(server);
        await sendText(client, REQUEST);
        const stream = await agent.stream();
        await stream.read(new Uint8Array(1_000));
        if (!isRaw) await writeAll(stream, frames.result("connected"));
        await writeAll(
          stream,
          isRaw ? new TextEncoder().encode("HTTP/1.1 2") : frames.data("HTTP/1.1 2"),
        );
        await assertReads(client, "HTTP/1.1 2");
        // The time for the answer is over, and does not matter any more.
        await delay(350);
        if (end === "reset") stream.abort();
        else agent.connection.close(100);
        assertEquals(await soon("the end", readUntilOver(client)), "");
      }
    },
  );
}

scriptedTest("runServer() answers when no agent has a free stream", async (net) => {
  using _ = logLines(0);
  const { server, agent } = await net.serverAndAgent({ ...connectMode, openTimeoutMs: 50 }, {
    maxStreams: 1,
  });
  const first = await net.client(server);
  await sendText(first, REQUEST);
  const stream = await agent.stream();
  assertAnswer(await ask(net, server), /^HTTP\/1\.1 503 no agent has a free stream within 50 ms$/);
  stream.abort();
});

scriptedTest(
  "runServer() answers once when one agent after the other cannot connect",
  async (net) => {
    using _ = logLines(0);
    const { server, agent: first } = await net.serverAndAgent(connectMode);
    const second = await net.scriptedAgent(server);
    const gone = [first, second].map(async (agent) => {
      const stream = await agent.stream();
      await stream.read(new Uint8Array(1_000));
      agent.connection.close(100);
    });
    assertAnswer(await ask(net, server), /^HTTP\/1\.1 503 the agent has left: /);
    await Promise.all(gone);
  },
);

test("runServer() has a client of mode http-connect leave whenever it likes", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ ...connectMode, agentWaitMs: 10_000 });
  const upstream = net.target();
  net.passthrough(server, upstream.port);
  for (const how of ["abort", "end"] as const) {
    const client = await net.client(server);
    await sendText(client, REQUEST);
    const atUpstream = await upstream.accept();
    if (how === "abort") client.abort();
    else await client.closeWrite();
    assertEquals(await soon("the request", readUntilOver(atUpstream)), REQUEST);
    atUpstream.abort();
  }
  await eventually(
    "both have ended",
    () => linesWith(lines, ' server "tunnel ended"').length === 2,
  );
}, BOTH);
