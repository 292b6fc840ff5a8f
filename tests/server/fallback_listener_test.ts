// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The listener for agents whose networks block UDP, with carriers of the agents' own code. */
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { UsageError } from "../../lib/errors.ts";
import { parseCidr } from "../../lib/net/cidr.ts";
import { refuseHeaders } from "../../lib/server/listeners.ts";
import { describeClose } from "../../lib/quic/mod.ts";
import { ALPN, assertNothingLive, clientTls } from "../support/quic.ts";
import { eventually } from "../support/eventually.ts";
import { FallbackScene } from "../support/fallback_scene.ts";
import { loopback, soon, utf8 } from "../support/network.ts";
import { TcpRelay } from "../support/tcp_relay.ts";
import { TestCa } from "../support/tls.ts";

/** A test with a listener of its own. */
function sceneTest(
  name: string,
  options: ConstructorParameters<typeof FallbackScene>[0],
  body: (scene: FallbackScene) => Promise<void>,
): void {
  Deno.test(name, async () => {
    {
      await using scene = new FallbackScene(options);
      await body(scene);
    }
    assertNothingLive();
  });
}

sceneTest("FallbackListener carries the datagrams of an agent's connection", {}, async (scene) => {
  await using agent = await scene.connect();
  assertEquals([agent.client.isCarried, agent.server.isCarried], [true, true]);
  assertEquals(agent.server.remoteAddr.hostname, "127.0.0.1");
  await agent.transfer(4 << 20);
  assertEquals(agent.client.path.largestReceived, agent.server.path.datagramBytes);
  await eventually(
    "it is known",
    () => scene.count(/DBG.*"agent carrier connected" client=127/) === 1,
  );
  assertEquals(scene.listener.carriers, 1);
  agent.client.close(7, "bye");
  const info = await soon("the end", agent.server.closed);
  assertEquals(describeClose(info), "connection closed by the peer: code 7 (bye)");
});

sceneTest("FallbackListener logs the end of a carrier, and its cause", {}, async (scene) => {
  {
    await using _ = await scene.connect();
    await scene.line(/"agent carrier connected"/);
  }
  await scene.line(
    /"agent carrier ended" client=\S+ durationMs=\d+ reason="the peer has ended the carrier"/,
  );
  assertEquals(scene.listener.carriers, 0);
});

sceneTest("FallbackListener makes no warning of connections that break", {}, async (scene) => {
  await using relay = new TcpRelay(loopback(scene.port));
  await using agent = await scene.connect({ port: relay.addr.port });
  await scene.line(/"agent carrier connected"/);
  relay.cut();
  await scene.line(
    /"agent carrier ended" .*reason="the peer has ended the carrier without close_notify"/,
  );
  await agent.transfer(1 << 20);
  assertEquals(scene.lines.filter((line) => line.includes(" WRN ")), []);
});

sceneTest("FallbackListener lets in no agent of another CA", {}, async (scene) => {
  const foreign = await (await TestCa.create()).client({}, await TestCa.create());
  const tls = { ...foreign, ca: clientTls.ca };
  await assertRejects(() => scene.connect({ tls }), Error, "alert");
  assertEquals(scene.failures.length, 1);
});

sceneTest("FallbackListener takes a connection over from another carrier", {}, async (scene) => {
  await using agent = await scene.connect();
  const { port } = agent.server.remoteAddr;
  await agent.transfer(4 << 20, async () => {
    await eventually("some came", () => agent.client.path.largestReceived > 0);
    agent.cut();
  });
  assert(agent.server.remoteAddr.port !== port);
  assertEquals(agent.server.closeInfo, undefined);
});

const trusting = { acceptProxyProtocol: [parseCidr("127.0.0.0/8")] };

sceneTest("FallbackListener knows the address behind a load balancer", trusting, async (scene) => {
  await using proxy = scene.relay("PROXY TCP4 192.0.2.7 192.0.2.1 5555 443\r\n");
  await using agent = await scene.connect({ port: proxy.port });
  assertEquals(agent.server.remoteAddr.hostname, "192.0.2.7");
  assertEquals(agent.server.remoteAddr.port, 5555);
  await scene.line(/"agent carrier connected" client=192\.0\.2\.7:5555 via=127\.0\.0\.1:\d+/);
  await using plain = await scene.open();
  await plain.tcp.write(utf8.encode("GET / HTTP/1.1\r\n"));
  await scene.line(/WRN.*"agent carrier refused".*PROXY/);
  assertEquals(scene.refusals, ["proxy-header"]);
});

sceneTest(
  "FallbackListener answers health checks, and refuses other requests",
  {},
  async (scene) => {
    const answerTo = (request: string) => scene.request(`${request}\r\nHost: lb\r\n\r\n`);
    assertMatch(await answerTo("GET / HTTP/1.1"), /^HTTP\/1\.1 200 OK\r\n/);
    assertMatch(await answerTo("HEAD /livez HTTP/1.1"), /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n$/);
    (await scene.open())[Symbol.asyncDispose]();
    await scene.secure().then((tls) => tls.close());
    await eventually("all are counted", () => scene.refusals.length === 4);
    assertEquals(new Set(scene.refusals.splice(0)), new Set(["health-check"]));
    assertEquals(scene.lines.filter((line) => line.includes(" WRN ")), []);

    const path = "/.well-known/masque/udp/192.0.2.1/53/";
    assertMatch(await answerTo(`GET ${path} HTTP/1.1`), /^HTTP\/1\.1 426 .*\r\n[^]*connect-udp/);
    assertMatch(await answerTo("GET /admin HTTP/1.1"), /^HTTP\/1\.1 404 /);
    assertMatch(await answerTo("\x16\x03 HTTP/1.1"), /^HTTP\/1\.1 400 /);
    await scene.line(/WRN.*"agent carrier refused" client=127.* reason="404: /);
    await eventually("all are counted", () => scene.refusals.length === 3);
    assertEquals(new Set(scene.refusals), new Set(["request"]));
  },
);

const balanced = { acceptProxyProtocol: [] };

sceneTest(
  "FallbackListener answers HTTP without TLS with what it expects",
  balanced,
  async (scene) => {
    await using plain = await scene.open();
    await plain.tcp.write(utf8.encode("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assertMatch(await plain.rest(), /400 Bad Request[^]*this port expects TLS/);
    await scene.line(/WRN.*"agent carrier refused".*reason="client speaks HTTP without TLS"/);
  },
);

sceneTest("FallbackListener uses new certificates for new carriers", {}, async (scene) => {
  await using agent = await scene.connect();
  const renewed = await TestCa.create("renewed");
  scene.tls.current = await renewed.server({ dnsNames: ["localhost"] }, scene.ca);
  const connect = () => scene.secure().then((tls) => tls.close());
  await eventually("they are", () => assertRejects(connect, Error, "UnknownIssuer"));
  (await scene.secure(renewed)).close();
  await agent.transfer(1 << 20);
});

const quick = { handshakeTimeoutMs: 600, idleTimeoutMs: 600 };

sceneTest(
  "FallbackListener closes carriers that no agent connects through",
  quick,
  async (scene) => {
    await using carrier = await scene.upgrade();
    assertEquals(scene.listener.carriers, 1);
    await soon("the end", carrier.closed);
    await scene.line(/DBG.*"agent carrier refused".*handshake not complete within 600 ms/);
    await eventually("it is gone", () => scene.listener.carriers === 0);
  },
);

sceneTest("FallbackListener closes carriers whose connection is over", quick, async (scene) => {
  await using agent = await scene.connect();
  await scene.line(/"agent carrier connected"/);
  await agent.transfer(1 << 10, () => new Promise((resolve) => setTimeout(resolve, 1_500)));
  agent.client.close(0);
  await scene.line(/"agent carrier ended".*reason="no connection through it for 600 ms"/);
});

const few = { maxCarriers: 2, maxHandshakes: 2 };

sceneTest("FallbackListener takes no more carriers than it may", few, async (scene) => {
  const known = (agents: number) =>
    eventually(`${agents} connected`, () => scene.count(/"agent carrier connected"/) === agents);
  await using one = await scene.connect();
  await known(1);
  await using two = await scene.connect();
  await known(2);
  await assertRejects(() => scene.secure());
  await scene.line(/WRN.*"agent carrier refused".*reason="2 carriers are already connected"/);
  assertEquals(scene.refusals, ["limit"]);
  await one.transfer(1 << 10);
  await two.transfer(1 << 10);
});

Deno.test("FallbackListener ends its carriers with the endpoint", async () => {
  const scene = new FallbackScene();
  const agent = await scene.connect();
  await scene[Symbol.asyncDispose]();
  assertEquals((await soon("the end", agent.client.closed)).by, "peer");
  await agent[Symbol.asyncDispose]();
  assertEquals(ALPN, [agent.client.alpn]);
});

Deno.test("refuseHeaders() refuses PROXY headers on runtimes that read nothing ahead of TLS", () => {
  const acceptProxyProtocol = [parseCidr("192.0.2.0/24")];
  refuseHeaders({ acceptProxyProtocol }, "2.9.6");
  refuseHeaders({ acceptProxyProtocol: [] }, "2.7.11");
  assertThrows(
    () => refuseHeaders({ acceptProxyProtocol }, "2.7.11"),
    UsageError,
    "needs Deno 2.9",
  );
});
