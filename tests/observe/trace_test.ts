// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Spans of tunnels: none by default, and from programs that were told to make some. */
import { assert, assertEquals, assertMatch, assertObjectMatch } from "@std/assert";
import { startTunnelSpan } from "../../lib/observe/trace.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { eventually } from "../support/eventually.ts";
import { loopback, NOBODY, OK, readUntilOver, requestFor, sendText } from "../support/network.ts";
import { OtlpReceiver, type ReceivedSpan } from "../support/otlp_receiver.ts";
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

/** The spans of one tunnel through programs of a site, and what is known of it beside. */
async function trace(
  site: Site,
  request: string,
  { alpn = "qrht/1", upstream }: { readonly alpn?: string; readonly upstream?: string } = {},
) {
  await using receiver = new OtlpReceiver();
  const { env } = receiver;
  const flags = { v: 2, alpn };
  const { program: server, quic, tcpPort } = await site.server(flags, env);
  const agent = upstream === undefined
    ? await site.agent(quic, flags, env)
    : await site.agent(quic, { ...flags, upstream }, env, "passthrough");
  const connection = await Deno.connect(loopback(tcpPort));
  const { port } = connection.localAddr;
  const client = tcpDuplex(connection);
  await sendText(client, request);
  const answer = await readUntilOver(client);
  await Promise.try(() => client.closeWrite()).catch(() => {});
  client.abort();
  const spanOf = (name: string) =>
    eventually(name, () => receiver.spans.find((span) => span.name === name), 20_000);
  return {
    server: await spanOf("tunnel server"),
    agent: await spanOf("tunnel agent"),
    programs: { server, agent },
    port,
    answer,
  };
}

const eventsOf = (span: ReceivedSpan) => span.events.map(({ name }) => name);
const GET = "GET / HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n";

Deno.test("server and agent have a span each for a tunnel, in the trace of its id", async () => {
  await using site = await Site.start();
  const head = requestFor(site.origin);
  const { server, agent, programs, port, answer } = await trace(site, head + GET);
  const ended = /"tunnel ended" .*tunnel=([0-9a-f]{32}) /;
  const [, id] = await programs.server.line(ended);
  const [, sameId] = await programs.agent.line(ended);
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
  };
  assertObjectMatch(agent.attributes, {
    ...both,
    ...target,
    "qrht.sent": GET.length,
    "qrht.received": answer.length - OK.length,
  });
  assertObjectMatch(server.attributes, {
    ...both,
    "qrht.sent": head.length + GET.length,
    "qrht.received": answer.length,
  });
  assertEquals(agent.events, [
    { name: "dial", attributes: target },
    { name: "connected", attributes: peer },
  ]);
  assertEquals(eventsOf(server), ["wait for an agent", "stream opened", "connected"]);
  const opened = server.events[1]!.attributes;
  const [, cid] = await programs.agent.line(/"connected to quic server" .* cid=([0-9a-f]+)/);
  assertEquals(opened["qrht.cid"], cid);
  assertMatch(String(opened["qrht.agent"]), /./);
  assertEquals(opened["network.peer.address"], "127.0.0.1");
});

Deno.test("spans of a tunnel whose target refuses have an error status, and say why", async () => {
  await using site = await Site.start();
  const { server, agent, answer } = await trace(site, requestFor(NOBODY));
  assertMatch(answer, /^HTTP\/1\.1 502 /);
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
  assertEquals(agent.status.message, `${NOBODY}: connection refused`);
  assertEquals(eventsOf(agent), ["dial"]);
  assertEquals(eventsOf(server), ["wait for an agent", "stream opened", "not connected"]);
  assertObjectMatch(server.events[2]!.attributes, { "error.type": "refused" });
});

Deno.test("the span of an agent of the raw dialect, which learns no id, has a trace of its own", async () => {
  await using site = await Site.start();
  const request = requestFor(site.origin) + GET;
  const { server, agent } = await trace(site, request, { alpn: "quic-echo-example" });
  assert(server.traceId !== agent.traceId);
  assertEquals(agent.parentSpanId, "");
  const opened = server.events.find(({ name }) => name === "stream opened")!.attributes;
  assertEquals(agent.attributes["qrht.cid"], opened["qrht.cid"], "what tells that they are one");
  assertEquals(agent.attributes["qrht.stream"], opened["qrht.stream"]);
  assertEquals(agent.status.code, STATUS.ok);
});

Deno.test("proxy-passthrough has a span for a tunnel as well, whether its upstream answers or not", async () => {
  await using site = await Site.start();
  for (const upstream of [site.origin, NOBODY]) {
    const isThere = upstream !== NOBODY;
    const { server, agent } = await trace(site, GET, { upstream });
    assertEquals(server.traceId, agent.traceId);
    assertEquals(agent.status.code, isThere ? STATUS.ok : STATUS.error);
    assertEquals(eventsOf(agent), isThere ? ["dial", "connected"] : ["dial"]);
    assertEquals(agent.attributes["qrht.reason"], isThere ? "end" : "refused");
  }
});
