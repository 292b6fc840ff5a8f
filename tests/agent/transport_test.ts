// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Agents in networks that block UDP, or do so for a time. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { createHash } from "node:crypto";
import type { ConnectAgentConfig } from "../../agent.ts";
import { Monitor } from "../../lib/observe/monitor.ts";
import type { ServerConfig } from "../../lib/server/config.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { sleep } from "../../lib/wait.ts";
import { pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import {
  assertServed,
  linesWith,
  lineWith,
  logLines,
  loopback,
  type Network,
  type Running,
  type Server,
  soon,
  test as networkTest,
} from "../support/network.ts";
import { answering, carrierToNowhere, proxyTo, tcpListener } from "../support/carrier_server.ts";
import { HttpProxy } from "../../lib/connect_udp/http_proxy.ts";
import { parseNoProxy } from "../../lib/connect_udp/no_proxy.ts";
import { Resolver } from "../../lib/net/resolver.ts";
import { TcpRelay } from "../support/tcp_relay.ts";
import { UdpRelay } from "../support/udp_relay.ts";

/** A server that agents reach over UDP and TCP, through a network each. */
interface Scene {
  readonly net: Network;
  readonly server: Server & { readonly fallbackPort: number };
  readonly udp: UdpRelay;
  readonly tcp: TcpRelay;
  readonly lines: readonly string[];
  readonly monitor: Monitor;
  /** Starts an agent. */
  agent(config?: Partial<ConnectAgentConfig>): Running;
  /** What the agent's connections go over. */
  transports(): string[];
  /** The changes that the log tells. */
  changes(): string[];
}

/** UDP is tried again soon. */
const eager = {
  transportTimes: { firstTrialMs: 200, maxTrialMs: 400 },
  udpTrialMs: 300,
  drainedIdleMs: 300,
  backoff: { minMs: 5, maxMs: 50 },
};

function test(
  name: string,
  body: (scene: Scene) => Promise<void>,
  { config = {}, only = ["qrht/1"] }: {
    config?: Partial<ServerConfig>;
    only?: readonly string[];
  } = {},
): void {
  networkTest(name, async (net) => {
    using lines = logLines(2);
    const server = await net.server({ listenFallback: loopback(0), ...config });
    await using udp = new UdpRelay(loopback(server.quicPort));
    await using tcp = new TcpRelay(loopback(server.fallbackPort));
    const monitor = new Monitor("proxy-agent");
    let agent: Running | undefined;
    try {
      await body({
        net,
        server,
        udp,
        tcp,
        lines,
        monitor,
        agent: (config = {}) =>
          agent = net.agent(
            server,
            { servers: [udp.addr], fallback: { server: tcp.addr }, ...config },
            monitor,
          ),
        transports: () => Array.from(monitor.peers, ({ transport }) => transport),
        changes: () =>
          linesWith(lines, '"transport changed"').map((line) =>
            /from=\S+ to=\S+/.exec(line)![0].replace(/from=(\S+) to=/, "$1-")
          ),
      });
    } finally {
      await agent?.stop();
    }
  }, only);
}

/** Bytes that go both ways through a tunnel until it is told to end, at a pace. */
class Exchange {
  bytes = 0;
  readonly #ways: Promise<void>[];
  #isOver = false;

  constructor({ client, atTarget }: { client: Duplex; atTarget: Duplex }) {
    this.#ways = [this.#send(client, atTarget, 1), this.#send(atTarget, client, 2)];
    for (const way of this.#ways) way.catch(() => {});
  }

  async #send(from: Duplex, to: Duplex, seed: number): Promise<void> {
    const [sent, got] = [createHash("sha256"), createHash("sha256")];
    const write = async () => {
      for (let i = 0; !this.#isOver; i++) {
        const bytes = pattern(50_000, seed + i);
        sent.update(bytes);
        await writeAll(from, bytes);
        await sleep(1);
      }
      await from.closeWrite();
    };
    const writing = write();
    writing.catch(() => {});
    const buffer = new Uint8Array(64 << 10);
    for (let n; (n = await to.read(buffer)) !== null;) {
      got.update(buffer.subarray(0, n));
      this.bytes += n;
    }
    await writing;
    assertEquals(got.digest("hex"), sent.digest("hex"));
  }

  /** Both ends have got all of it. */
  async end(): Promise<void> {
    this.#isOver = true;
    await soon("the end of both ways", Promise.all(this.#ways));
    assert(this.bytes > 100_000, `${this.bytes} bytes`);
  }
}

/** Waits until the agent's only connection that takes tunnels is over a transport. */
function movesTo(transport: "udp" | "tcp", { monitor }: Scene, ms = 5_000): Promise<unknown> {
  return eventually(`it is over ${transport}`, () => {
    const serving = [...monitor.peers].filter(({ isDraining }) => !isDraining);
    return serving.length === 1 && serving[0]!.transport === transport;
  }, ms);
}

test("runAgent() makes no TCP connection where UDP gets through", async (scene) => {
  const { net, server, tcp } = scene;
  scene.agent(eager);
  await assertServed(net, server);
  await sleep(1_600);
  assertEquals([scene.transports(), tcp.accepted, scene.changes()], [["udp"], 0, []]);
});

test("runAgent() serves over TCP within 3 s where UDP is blocked", async (scene) => {
  const { net, server, udp, lines, monitor } = scene;
  const changes: string[] = [];
  monitor.observe({ transportChanged: (to) => changes.push(to) });
  udp.cut();
  const since = performance.now();
  scene.agent();
  await assertServed(net, server);
  const tookMs = performance.now() - since;
  assert(tookMs > 1_400 && tookMs < 3_000, `${tookMs} ms`);
  assertEquals([scene.transports(), scene.changes(), changes], [["tcp"], ["udp-tcp"], ["tcp"]]);
  assertMatch(linesWith(lines, '"transport changed"')[0]!, /INF .* reason="UDP is silent"$/);
  assertEquals(linesWith(lines, 'server "agent connected"').length, 1);
  const [peer] = monitor.peers;
  const inMs = peer!.nextUdpTrialAt! - Date.now();
  assert(inMs > 13_000 && inMs <= 15_000, `${inMs} ms`);
}, { only: ["qrht/1", "raw"] });

test("runAgent() serves over TCP at once where UDP is refused", async (scene) => {
  const { net, server, lines } = scene;
  const since = performance.now();
  scene.agent({ servers: [loopback(1)] });
  await assertServed(net, server);
  const tookMs = performance.now() - since;
  assert(tookMs < 1_000, `${tookMs} ms`);
  assertMatch(linesWith(lines, '"transport changed"')[0]!, /to=tcp reason=".*closed.*"$/);
});

test(
  "runAgent() moves to UDP when it works again, and back, and no byte is lost",
  async (scene) => {
    const { net, server, udp, lines } = scene;
    udp.cut();
    scene.agent(eager);
    const exchange = new Exchange(await net.tunnel(server));
    await movesTo("tcp", scene);
    udp.restore();
    await movesTo("udp", scene);
    // The tunnel goes on where it is.
    const before = exchange.bytes;
    await eventually("more bytes", () => exchange.bytes > before + 100_000);
    const later = new Exchange(await net.tunnel(server));
    await exchange.end();
    await later.end();
    await eventually(
      "the carrier has ended",
      () => scene.transports().join() === "udp",
      5_000,
    );
    assertEquals(scene.changes(), ["udp-tcp", "tcp-udp"]);
    assertEquals(linesWith(lines, 'agent "disconnected', "WRN"), []);
    udp.cut();
    await movesTo("tcp", scene, 9_000);
    await assertServed(net, server);
    assertEquals(scene.changes(), ["udp-tcp", "tcp-udp", "udp-tcp"]);
  },
  { only: ["qrht/1", "raw"] },
);

test("runAgent() does not move to UDP that does not last", async (scene) => {
  const { net, server, udp, lines } = scene;
  udp.cut();
  scene.agent({ ...eager, udpTrialMs: 8_000 });
  await movesTo("tcp", scene);
  udp.restore();
  await lineWith(lines, '"hello from agent"', "connection=");
  // Each attempt gets through, and then does not.
  const tried = () => linesWith(lines, 'server "agent connected"').length;
  await eventually("an attempt", () => tried() > 1);
  const failures = () => linesWith(lines, 'DBG agent "udp does not work yet"').length;
  const before = failures();
  udp.cut();
  await eventually("it is seen", () => failures() > before);
  await assertServed(net, server);
  assertEquals([scene.transports(), scene.changes()], [["tcp"], ["udp-tcp"]]);
});

test("runAgent() gets no tunnels by the connection that tries UDP", async (scene) => {
  const { net, server, udp, lines } = scene;
  udp.cut();
  scene.agent({ ...eager, udpTrialMs: 1_000 });
  await movesTo("tcp", scene);
  udp.restore();
  const over = () => linesWith(lines, 'server "agent disconnected"', "UDP was tried").length > 0;
  for (let served = 0; !over() || served < 20; served++) await assertServed(net, server);
  assertEquals(linesWith(lines, 'server "tunnel ended"', "reason=end").length > 20, true);
  assertEquals(linesWith(lines, "WRN"), []);
});

test("runAgent() replaces UDP that falls silent", async (scene) => {
  const { net, server, udp } = scene;
  scene.agent();
  await assertServed(net, server);
  udp.cut();
  const since = performance.now();
  await movesTo("tcp", scene, 8_000);
  const tookMs = performance.now() - since;
  // The idle timeout, a pause, and the shorter head start of UDP.
  assert(tookMs < 6_500, `${tookMs} ms`);
  await assertServed(net, server);
});

test("runAgent() gives UDP its head start after an outage of TCP as well", async (scene) => {
  const { net, server, udp, tcp, lines } = scene;
  scene.agent({ transportTimes: { headStartMs: 4_000, shortHeadStartMs: 0 } });
  await assertServed(net, server);
  tcp.isSilent = true;
  udp.cut();
  await eventually("TCP is tried", () => tcp.accepted > 0, 8_000);
  tcp.cut();
  await lineWith(lines, '"cannot connect to the server"', "over TCP");
  udp.restore();
  udp.impair({ delayMs: 300 });
  tcp.isSilent = false;
  await assertServed(net, server);
  assertEquals(scene.changes(), []);
});

test("runAgent() uses only what it is told to use", async (scene) => {
  const { net, server, udp, tcp, lines } = scene;
  const overTcp = scene.agent({ transport: "tcp" });
  await assertServed(net, server);
  assertEquals(udp.counters.toServer.received, 0);
  await overTcp.stop();
  const before = tcp.accepted;
  udp.cut();
  const overUdp = scene.agent({ transport: "udp", backoff: { minMs: 5, maxMs: 50 } });
  const line = await lineWith(lines, 'WRN agent "cannot connect to the server"');
  assertEquals(line.includes("TCP"), false);
  udp.restore();
  await assertServed(net, server);
  assertEquals(tcp.accepted, before);
  await overUdp.stop();
  assertEquals(scene.changes(), []);
});

test("runAgent() tells the causes of both when neither UDP nor TCP leads to the server", async (scene) => {
  const { udp, lines } = scene;
  udp.cut();
  scene.agent({ fallback: { server: loopback(1) }, backoff: { minMs: 5, maxMs: 50 } });
  const line = await lineWith(lines, 'WRN agent "cannot connect to the server"');
  assertMatch(
    line,
    /error="connection timed out: no answer after 2000 ms; over TCP: 127\.0\.0\.1:1: connection refused"/,
  );
});

test("runAgent() says what is wrong with a carrier that leads to no server", async (scene) => {
  await using deadEnd = carrierToNowhere();
  scene.agent({ transport: "tcp", fallback: { server: loopback(deadEnd.port) } });
  const line = await lineWith(scene.lines, 'WRN agent "cannot connect to the server"');
  assertMatch(line, /error="connection timed out: no answer after \d+ ms" hint="[^"]*datagrams/);
  assertEquals(line.includes("UDP"), false);
});

test("runAgent() does not take a verdict of the server's for a blocked network", async (scene) => {
  const { tcp, lines } = scene;
  scene.agent({ backoff: { minMs: 5, maxMs: 50 } });
  await eventually("three verdicts", () => linesWith(lines, "not admitted by the").length >= 3);
  assertEquals(tcp.accepted, 0);
}, { config: { agentNames: ["nobody"] } });

test(
  "runAgent() is soon back at a server that is started anew, even if its TCP port is filtered",
  async (scene) => {
    const { net, server, tcp, lines } = scene;
    tcp.isSilent = true;
    scene.agent({ servers: [loopback(server.quicPort)] });
    await assertServed(net, server);
    await server.stop();
    await eventually("it tries", () => tcp.accepted > 0);
    await lineWith(lines, '"cannot connect to the server"', "over TCP");
    const again = await net.server({ listenQuic: loopback(server.quicPort) });
    const since = performance.now();
    await assertServed(net, again);
    const tookMs = performance.now() - since;
    assert(tookMs < 1_500, `${tookMs} ms`);
    assertEquals(scene.changes(), []);
  },
);

test("runAgent() goes on over another TCP connection when one is cut", async (scene) => {
  const { net, server, tcp, lines } = scene;
  scene.agent({ transport: "tcp" });
  const exchange = new Exchange(await net.tunnel(server));
  for (let i = 1; i <= 3; i++) {
    const before = exchange.bytes;
    await eventually("bytes", () => exchange.bytes > before + 200_000);
    tcp.cut();
    await eventually("it is dialled again", () => tcp.accepted > i);
  }
  await exchange.end();
  assertEquals(linesWith(lines, 'agent "connected to quic server"').length, 1);
});

if (Deno.build.os === "linux") {
  test("runAgent() leaves out an address of a fallback that is dead, and stays at the one that works", async (scene) => {
    const { net, server, tcp } = scene;
    const { port } = tcp.addr;
    const dead = Deno.listen({ hostname: "127.0.0.2", port });
    using _ = dead;
    const ends: Deno.Conn[] = [];
    const accept = async () => {
      for await (const connection of dead) ends.push(connection);
    };
    const accepting = accept();
    const addresses = ["127.0.0.2", "127.0.0.1"];
    const since = performance.now();
    scene.agent({
      transport: "tcp",
      fallback: { server: { hostname: "fallback.example", port } },
      serverResolver: new Resolver({ lookup: () => Promise.resolve(addresses) }),
    });
    const exchange = new Exchange(await net.tunnel(server));
    const tookMs = performance.now() - since;
    assert(tookMs > 4_900 && tookMs < 7_000, `${tookMs} ms`);
    const before = exchange.bytes;
    await eventually("bytes", () => exchange.bytes > before + 200_000);
    tcp.cut();
    await exchange.end();
    assertEquals(ends.length, 1);
    for (const end of ends) end.close();
    dead.close();
    await accepting;
  });
}

test("runAgent() loses nothing when TCP stalls for 3 s", async (scene) => {
  const { net, server, tcp, lines } = scene;
  scene.agent({ transport: "tcp" });
  const exchange = new Exchange(await net.tunnel(server));
  await eventually("bytes", () => exchange.bytes > 200_000);
  tcp.stall();
  await sleep(3_000);
  tcp.resume();
  await exchange.end();
  assertEquals(linesWith(lines, 'agent "disconnected').length, 0);
});

test("runAgent() is back within 2 s after TCP has stalled for 10 s", async (scene) => {
  const { net, server, tcp } = scene;
  scene.udp.cut();
  scene.agent();
  await assertServed(net, server);
  // So that the session counts as healthy.
  await sleep(5_000);
  tcp.stall();
  await sleep(10_000);
  tcp.resume();
  const since = performance.now();
  await assertServed(net, server);
  const tookMs = performance.now() - since;
  assert(tookMs < 2_000, `${tookMs} ms`);
});

for (const transport of ["tcp", "auto"] as const) {
  test(`runAgent() has an HTTP proxy resolve the server's name with --transport=${transport}`, async (scene) => {
    const { net, server, tcp, lines } = scene;
    const heads: string[] = [];
    await using proxy = proxyTo(tcp.addr.port, heads);
    const lookups: string[] = [];
    const lookup = (name: string) => {
      lookups.push(name);
      return Promise.reject(new Error("no name servers here"));
    };
    const name = "server.example";
    const config = {
      transport,
      servers: [{ hostname: name, port: 443 }],
      fallback: undefined,
      proxy: new HttpProxy(loopback(proxy.port)),
      serverResolver: new Resolver({ lookup }),
    };
    const agent = scene.agent(config);
    await assertServed(net, server);
    assertMatch(
      heads[0]!,
      /^CONNECT server\.example:443 HTTP\/1\.1\r\nHost: server\.example:443\r/,
    );
    assertEquals(lookups.length > 0, transport === "auto");
    await lineWith(lines, 'agent "connected to quic server"', "server=server.example:443");
    await agent.stop();

    // Elsewhere it is not the proxy's.
    const connects = heads.length;
    scene.agent({ ...config, noProxy: parseNoProxy(name) });
    await lineWith(lines, 'WRN agent "cannot resolve the server"', "known=0 retryInMs=");
    assertEquals(heads.length, connects);
  });
}

test("runAgent() verifies the certificate of a server whose name it leaves to a proxy", async (scene) => {
  await using proxy = proxyTo(scene.tcp.addr.port, []);
  scene.agent({
    transport: "tcp",
    servers: [{ hostname: "server.example", port: 443 }],
    fallback: undefined,
    proxy: new HttpProxy(loopback(proxy.port)),
    serverName: "server.example",
  });
  await lineWith(scene.lines, '"cannot connect to the server"', "the certificate is not for");
});

test("runAgent() goes through an HTTP proxy, and says what that wants", async (scene) => {
  const { net, server, tcp, lines } = scene;
  const heads: string[] = [];
  await using proxy = proxyTo(tcp.addr.port, heads);
  const wants = "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
  await using refusing = tcpListener(answering(wants));
  const user = (port: number) => new HttpProxy(loopback(port), "agent", "secret");
  const refused = scene.agent({ transport: "tcp", proxy: user(refusing.port) });
  await lineWith(
    lines,
    'WRN agent "cannot connect to the server"',
    "407 Proxy",
    'hint="the proxy does not accept the user name and password"',
  );
  await refused.stop();
  scene.agent({ transport: "tcp", proxy: user(proxy.port) });
  await assertServed(net, server);
  const { hostname, port } = tcp.addr;
  assertMatch(heads[0]!, new RegExp(`^CONNECT ${hostname}:${port} HTTP/1.1\\r\\n`));
  assertMatch(heads[0]!, new RegExp(`Proxy-Authorization: Basic ${btoa("agent:secret")}\\r\\n`));
  assertEquals(linesWith(lines, "secret"), []);
});
