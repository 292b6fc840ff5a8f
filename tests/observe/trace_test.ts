// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Spans of tunnels: none by default, and from programs that were told to make some. */
import { assert, assertEquals, assertMatch, assertObjectMatch } from "@std/assert";
import { startTunnelSpan } from "../../lib/observe/trace.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { eventually } from "../support/eventually.ts";
import {
  assertReads,
  loopback,
  NOBODY,
  OK,
  readUntilOver,
  requestFor,
  sendText,
} from "../support/network.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { OtlpReceiver, type ReceivedSpan } from "../support/otlp_receiver.ts";
import { agentFlags, anyPort, serverFlags, startProgram } from "../support/processes.ts";
import { Site } from "../support/site.ts";

/** Kinds and codes of OTLP. */
const KIND = { server: 2, client: 3 };
const STATUS = { ok: 1, error: 2 };

Deno.test({
  name: "startTunnelSpan() makes no span when Deno records none, and needs no permission to know",
  permissions: "none",
  fn() {
    const tunnelId = new Uint8Array(16).fill(1);
    assertEquals(startTunnelSpan("server", { tunnelId }), undefined);
    assertEquals(startTunnelSpan("agent", {}), undefined);
  },
});

/** A server and an agent whose spans go to a receiver. */
async function startTraced(
  site: Site,
  receiver: OtlpReceiver,
  flags: Record<string, string> = {},
  upstream?: string,
) {
  const common = { v: 2, ...flags };
  const server = site.use(
    startProgram("server", { ...anyPort, ...serverFlags(site.dir), ...common }, receiver.env),
  );
  const [, tcp] = await server.line(/tcp listener on 127\.0\.0\.1:(\d+)/, 30_000);
  const [, quic] = await server.line(/quic listener on (127\.0\.0\.1:\d+)/);
  const agent = site.use(
    startProgram(upstream ? "passthrough" : "agent", {
      server: quic!,
      ...agentFlags(site.dir),
      ...common,
      ...(upstream && { upstream }),
    }, receiver.env),
  );
  await agent.line(/"connected to quic server"/, 30_000);
  return { server, agent, tcpPort: Number(tcp) };
}

async function spansOf(
  receiver: OtlpReceiver,
): Promise<{ server: ReceivedSpan; agent: ReceivedSpan }> {
  return await eventually("both spans", () => {
    const [server, agent] = ["tunnel server", "tunnel agent"].map((name) =>
      receiver.spans.find((span) => span.name === name)
    );
    return server && agent && { server, agent };
  }, 20_000);
}

const eventsOf = (span: ReceivedSpan) => span.events.map(({ name }) => name);

Deno.test("server and agent have a span each for a tunnel, in the trace of its id", async () => {
  await using receiver = new OtlpReceiver();
  await using site = await Site.start();
  const { server: serverProgram, agent: agentProgram, tcpPort } = await startTraced(site, receiver);
  const connection = await Deno.connect(loopback(tcpPort));
  const { port } = connection.localAddr;
  const client = tcpDuplex(connection);
  await sendText(client, requestFor(site.origin));
  await assertReads(client, OK);
  const request = `GET / HTTP/1.1\r\nHost: ${site.origin}\r\nConnection: close\r\n\r\n`;
  await sendText(client, request);
  const answer = await readToEnd(client);
  await client.closeWrite();
  client.abort();

  const { server, agent } = await spansOf(receiver);
  const ended = /"tunnel ended" .*tunnel=([0-9a-f]{32}) /;
  const [, id] = await serverProgram.line(ended);
  const [, sameId] = await agentProgram.line(ended);
  assertEquals([server.traceId, agent.traceId, sameId], [id, id, id]);
  assertEquals([server.parentSpanId, agent.parentSpanId], [id!.slice(16), id!.slice(16)]);
  assertEquals([server.kind, agent.kind], [KIND.server, KIND.client]);
  assertEquals([server.status.code, agent.status.code], [STATUS.ok, STATUS.ok]);

  const [host, originPort] = site.origin.split(":") as [string, string];
  const target = { "server.address": host, "server.port": Number(originPort) };
  const peer = { "network.peer.address": host, "network.peer.port": Number(originPort) };
  const both = {
    "network.transport": "tcp",
    "client.address": "127.0.0.1",
    "client.port": port,
    "qrht.by": "target",
    "qrht.reason": "end",
    "qrht.received": answer.length,
  };
  const head = requestFor(site.origin).length;
  assertObjectMatch(agent.attributes, { ...both, ...target, "qrht.sent": request.length });
  assertObjectMatch(server.attributes, {
    ...both,
    "qrht.received": answer.length + OK.length,
    "qrht.sent": request.length + head,
  });
  assertEquals(agent.events, [
    { name: "dial", attributes: target },
    { name: "connected", attributes: peer },
  ]);
  assertEquals(eventsOf(server), ["wait for an agent", "stream opened", "connected"]);
  const opened = server.events[1]!.attributes;
  const [, cid] = await agentProgram.line(/"connected to quic server" .* cid=([0-9a-f]+)/);
  assertEquals(opened["qrht.cid"], cid);
  assertMatch(String(opened["qrht.agent"]), /./);
  assertEquals(opened["network.peer.address"], "127.0.0.1");
});

Deno.test("spans of a tunnel whose target refuses have an error status, and say why", async () => {
  await using receiver = new OtlpReceiver();
  await using site = await Site.start();
  const { tcpPort } = await startTraced(site, receiver);
  const nobody = Deno.listen(loopback(0));
  const { port } = nobody.addr as Deno.NetAddr;
  nobody.close();
  const client = tcpDuplex(await Deno.connect(loopback(tcpPort)));
  await sendText(client, requestFor(`127.0.0.1:${port}`));
  const answer = new TextDecoder().decode(await readToEnd(client));
  assertMatch(answer, /^HTTP\/1\.1 502 /);
  await client.closeWrite();
  client.abort();

  const { server, agent } = await spansOf(receiver);
  assertEquals(server.traceId, agent.traceId);
  for (const span of [server, agent]) {
    assertEquals(span.status.code, STATUS.error);
    assertObjectMatch(span.attributes, {
      "error.type": "refused",
      "qrht.by": "target",
      "qrht.reason": "refused",
      "qrht.result": "refused",
    });
  }
  assertEquals(agent.status.message, `127.0.0.1:${port}: connection refused`);
  assertEquals(eventsOf(agent), ["dial"]);
  assertEquals(eventsOf(server), ["wait for an agent", "stream opened", "not connected"]);
  assertObjectMatch(server.events[2]!.attributes, { "error.type": "refused" });
});

Deno.test("the span of an agent of the raw dialect, which learns no id, has a trace of its own", async () => {
  await using receiver = new OtlpReceiver();
  await using site = await Site.start();
  const { tcpPort } = await startTraced(site, receiver, { alpn: "quic-echo-example" });
  const client = await site.request(tcpPort, 1000);
  await readToEnd(client);
  await client.closeWrite();
  client.abort();
  const { server, agent } = await spansOf(receiver);
  assert(server.traceId !== agent.traceId);
  assertEquals(agent.parentSpanId, "");
  const opened = server.events.find(({ name }) => name === "stream opened")!.attributes;
  assertEquals(agent.attributes["qrht.cid"], opened["qrht.cid"], "what tells that they are one");
  assertEquals(agent.attributes["qrht.stream"], opened["qrht.stream"]);
  assertEquals(agent.status.code, STATUS.ok);
});

Deno.test("proxy-passthrough has a span for a tunnel as well, whether its upstream answers or not", async () => {
  for (const isThere of [true, false]) {
    await using receiver = new OtlpReceiver();
    await using site = await Site.start();
    const upstream = isThere ? site.origin : NOBODY;
    const { tcpPort } = await startTraced(site, receiver, {}, upstream);
    const client = tcpDuplex(await Deno.connect(loopback(tcpPort)));
    await sendText(client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    await readUntilOver(client);
    await client.closeWrite().catch(() => {});
    client.abort();
    const { server, agent } = await spansOf(receiver);
    assertEquals(server.traceId, agent.traceId);
    assertEquals(agent.status.code, isThere ? STATUS.ok : STATUS.error);
    assertEquals(eventsOf(agent), isThere ? ["dial", "connected"] : ["dial"]);
    assertEquals(agent.attributes["qrht.reason"], isThere ? "end" : "refused");
  }
});
